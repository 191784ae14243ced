"""What is loaded is what is on disk, all of it, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from earnest.models.inspected import InspectedModel
from earnest.models.loading import build, load, load_tokenizer
from earnest.models.source import Source, digest_of_model, resolve
from earnest.specs import UserError

Make = Callable[..., Path]
IDS = torch.arange(12)[None]


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_built_from_its_own_state_gives_equal_logits(make_tiny: Make, family: str, tied: bool) -> None:
    loaded = load(resolve(str(make_tiny(family, "bfloat16", tie_word_embeddings=tied))), dtype="stored")
    state = {k: v for k, v in loaded.model.state_dict().items() if not (tied and k == "lm_head.weight")}
    built = build(loaded.folder, state, name="again", digest="d", dtype=loaded.dtype)
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.model(IDS).logits, built.model(IDS).logits)


def test_a_missing_weight_is_named(make_tiny: Make) -> None:
    folder = make_tiny()
    state = load_file(folder / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"missing keys, the first is model\.norm\.weight"):
        load(resolve(str(folder)))
    with pytest.raises(UserError, match=r"model\.norm\.weight"):
        build(folder, state, name="x", digest="d", dtype=torch.float32)


def test_an_unexpected_weight_is_named(make_tiny: Make) -> None:
    folder = make_tiny()
    state = {**load_file(folder / "model.safetensors"), "stowaway": torch.zeros(2)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="unexpected keys, the first is stowaway"):
        load(resolve(str(folder)))


def test_a_corrupted_file_is_one_clear_line(make_tiny: Make) -> None:
    folder = make_tiny()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="corrupted"):
        load(resolve(str(folder)))


def test_a_tokenizer_larger_than_the_embeddings_is_refused(make_tiny: Make) -> None:
    folder = make_tiny(vocab_size=512)
    with pytest.raises(UserError, match="1536 tokens but the model only 512"):
        load(resolve(str(folder)))


def test_a_pickled_model_is_refused(make_tiny: Make) -> None:
    folder = make_tiny()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        resolve(str(folder))


@pytest.mark.parametrize("name", ["./absent", "/absent/folder", "nano:huge", "just-a-word"])
def test_a_model_that_is_not_there_is_one_clear_line(name: str) -> None:
    with pytest.raises(UserError, match="model"):
        resolve(name)


def test_the_digest_follows_the_weights_and_not_the_path(make_tiny: Make, tmp_path: Path) -> None:
    folder = make_tiny()
    moved = folder.rename(tmp_path / "moved")
    before = digest_of_model(moved)
    state = load_file(moved / "model.safetensors")
    state["model.norm.weight"][0] += 1
    save_file(state, moved / "model.safetensors", metadata={"format": "pt"})
    assert digest_of_model(moved) != before


def test_a_skeleton_has_shapes_and_no_memory(make_tiny: Make) -> None:
    model = InspectedModel(Source("tiny", make_tiny(), "d")).skeleton
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.get_input_embeddings().weight.shape == (1536, 32)


def test_remote_code_is_not_run(make_tiny: Make) -> None:
    folder = make_tiny()
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "unheard-of"
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UserError, match=r"code of its own \(evil\.py\), which is not run"):
        load(resolve(str(folder)))


def test_what_is_built_ends_texts_where_the_loaded_model_does(make_tiny: Make) -> None:
    folder = make_tiny()
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [2, 17]}))
    loaded = load(resolve(str(folder)))
    built = build(folder, loaded.model.state_dict(), name="x", digest="d", dtype=loaded.dtype)
    assert loaded.model.generation_config.eos_token_id == [2, 17]
    assert built.model.generation_config.eos_token_id == [2, 17]


@pytest.mark.parametrize("name", ["generation_config.json", "special_tokens_map.json"])
def test_the_digest_follows_whatever_decides_an_answer(make_tiny: Make, name: str) -> None:
    folder = make_tiny()
    before = digest_of_model(folder)
    (folder / name).write_text("{}")
    assert digest_of_model(folder) != before


@pytest.mark.parametrize(
    ("option", "value"), [("device", "nonsense"), ("device", "cuda:99"), ("device", "meta"), ("dtype", "int3")]
)
def test_a_device_or_dtype_that_is_not_there_is_refused(make_tiny: Make, option: str, value: str) -> None:
    with pytest.raises(UserError, match=f"{option} '{value}'"):
        load(resolve(str(make_tiny())), **{option: value})


def test_a_damaged_tokenizer_is_one_clear_error(make_tiny: Make) -> None:
    folder = make_tiny()
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "none of these"}}', encoding="utf-8")
    with pytest.raises(UserError, match="holds no tokenizer that can be loaded"):
        load_tokenizer(folder, "it")
