"""What all tests share: the reference data beside the checkout, and tiny models made on the spot."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # beside other load, workers get their share

import pytest

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU checks, saying so, where there is no CUDA device."""
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference results and real data beside the checkout; skips where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the reference data beside the checkout (../shared) is absent")
    return folder


@pytest.fixture(scope="session")
def make_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save a tiny random Llama or Qwen3 with the nano tokenizer, and give its folder."""
    import torch
    import transformers

    tokenizer = ROOT / "platform" / "earnest" / "models" / "nano" / "large"

    def make(family: str = "Llama", dtype: str = "float32", **changes: object) -> Path:
        sizes: dict[str, object] = {
            "vocab_size": 1536, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 2048,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
        }  # fmt: skip
        config = getattr(transformers, f"{family}Config")(**{**sizes, **changes})
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config).to(getattr(torch, dtype))
        folder = tmp_path_factory.mktemp(f"tiny-{family.lower()}")
        model.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokenizer / name, folder / name)
        return folder

    return make


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command in this process; it must be refused as a user's mistake, and what it says on stderr is given."""
    from earnest.cli import main

    def run(*command: object) -> str:
        monkeypatch.setattr(sys, "argv", ["earnest", *map(str, command)])
        capsys.readouterr()  # what was said before is not the command's
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert ended.value.code == 2, said.err
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert "Traceback" not in said.err
        return said.err

    return run
