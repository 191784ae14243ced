"""Starting the served ensemble: what is wrong is said in one line before anything is deployed."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import Any

import openai
import pytest
from serve.app import Refused, build, checked, main
from serve.config import Config

ROOT = Path(__file__).parents[2]
NANO = (ROOT / "serve" / "configs" / "nano.toml").read_text(encoding="utf-8")


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    """A config like the shipped one, with some of its text replaced."""

    def write(*changes: tuple[str, str]) -> str:
        text = NANO
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file = tmp_path / "ensemble.toml"
        file.write_text(text, encoding="utf-8")
        return str(file)

    return write


@pytest.fixture
def foreign(tmp_path: Path, make_tiny: Callable[..., Path]) -> Path:
    """A model whose tokenizer has two tokens exchanged."""
    folder = tmp_path / "foreign"
    shutil.copytree(make_tiny(), folder)
    tokenizer = folder / "tokenizer.json"
    text = tokenizer.read_text(encoding="utf-8")
    tokenizer.write_text(
        text.replace('": 900,', '": 901_,').replace('": 901,', '": 900,').replace("901_", "901"), "utf-8"
    )
    assert tokenizer.read_text(encoding="utf-8") != text
    return folder


SMALL = 'source = "nano:small"'
REFUSALS = {
    "an unknown key": (("[batch]", "[batch]\nsize = 3"), "batch.size"),
    "a missing model": ((SMALL, 'source = "./nowhere"'), "model ./nowhere: no such folder"),
    "another vocabulary": ((SMALL, 'source = "FOREIGN"'), "different vocabularies"),
    "an alpha that is not finite": (("alpha = 1.0", "alpha = nan"), "pairs.tuned.alpha"),
    "open to all": (('base = "large"', 'base = "large"\nhost = "0.0.0.0"'), "without keys"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_served_is_refused_before_deployment(
    case: str, written: Callable[..., str], foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (old, new), said = REFUSALS[case]
    config = written((old, new.replace("FOREIGN", str(foreign))))
    with pytest.raises(Refused, match=re.escape(said)) as refused:
        build({"config": config})
    assert refused.value.exit_code == 2
    assert main([config]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert said in captured.err
    assert len(captured.err.splitlines()) <= 2


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(Refused, match="gamma"):
        build({"config": "serve/configs/nano.toml", "gamma": "4"})


def test_folders_are_named_from_the_root_for_replicas_elsewhere(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "platform" / "earnest" / "models" / "nano" / "small", tmp_path / "mine")
    (tmp_path / "turns.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    mine = config.models["small"].model_copy(update={"source": "mine", "chat_template": "turns.jinja"})
    found = checked(config.model_copy(update={"models": {**config.models, "small": mine}})).models
    assert found["small"].source == str(tmp_path / "mine")
    assert found["small"].chat_template == str(tmp_path / "turns.jinja")
    assert found["large"] == config.models["large"]


def serve_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command: list[Any] = [Path(sys.executable).with_name("serve"), "run", "serve.app:build", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_ray_serves_own_command_line_says_it_in_one_line_too() -> None:
    done = serve_command("config=nowhere.toml")
    assert done.returncode == 2
    assert "error: nowhere.toml: no such config" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_more_gpus_than_there_are_is_said_and_not_waited_for(written: Callable[..., str]) -> None:
    asked = written(('source = "nano:large"', 'source = "nano:large"\ngpus = 64'))
    done = subprocess.run(
        [sys.executable, "-m", "serve.app", asked], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 2
    assert "the models ask for 64 GPUs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_what_only_the_loaded_models_tell_is_said_too(written: Callable[..., str]) -> None:
    asked = written(("rows = 32", "rows = 32\nkv_bytes = 1000"))
    command = [sys.executable, "-m", "serve.app", asked, "--port", str(free_port())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 2
    assert "error: the ensemble could not be deployed: batch.kv_bytes 1000 hold no text: one takes" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_command_says_where_it_answers_takes_another_alpha_over_and_ends_when_told(
    written: Callable[..., str], tmp_path: Path
) -> None:
    file = Path(written())
    command = [sys.executable, "-m", "serve.app", str(file), "--port", str(free_port())]
    errors = tmp_path / "errors"
    with errors.open("w") as said, subprocess.Popen(command, cwd=ROOT, stdout=PIPE, stderr=said, text=True) as process:
        assert process.stdout is not None
        address, key = (process.stdout.readline().split()[-1] for _ in range(2))
        assert address.startswith("http://127.0.0.1:")
        steered, alone = (first_words(address, key, model) for model in ("earnest", "large"))
        assert steered != alone
        file.write_text(file.read_text(encoding="utf-8").replace("alpha = 1.0", "alpha = 0.0"), encoding="utf-8")
        deadline = time.monotonic() + 60
        while "was taken over" not in errors.read_text(encoding="utf-8"):
            assert time.monotonic() < deadline, errors.read_text(encoding="utf-8")
            time.sleep(0.2)
        assert first_words(address, key, "earnest") == alone
        with openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0) as client:
            pieces = client.completions.create(
                model="earnest", prompt="Tell me about", max_tokens=200, n=8, logit_bias={"2": -100}, stream=True
            )
            first = next(pieces)
            process.send_signal(signal.SIGTERM)
            reasons = Counter(piece.choices[0].finish_reason for piece in (first, *pieces))
        assert reasons["length"] == 8
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert key not in errors.read_text(encoding="utf-8")


def free_port() -> int:
    """A port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def first_words(address: str, key: str, model: str) -> str:
    """What a model writes first about the town."""
    with openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0) as client:
        answer = client.completions.create(model=model, prompt="Tell me about the town.", temperature=0, max_tokens=12)
    return answer.choices[0].text
