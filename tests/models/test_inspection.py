"""What is no causal language model in whole safetensors is refused in one clear line that says what it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from earnest.compression.walk import compress
from earnest.models import inspection
from earnest.models.inspected import InspectedModel
from earnest.models.loading import load, load_tokenizer
from earnest.models.source import FETCHED, NOT_FETCHED, digest_of_model, resolve
from earnest.preflight import check_model
from earnest.specs import UserError, read_method

Make = Callable[..., Path]


def edited(folder: Path, file: str = "config.json", **fields: object) -> Path:
    path = folder / file
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**known, **fields}))
    return folder


def refused(folder: Path, said: str) -> None:
    for work in (load, lambda source: check_model(InspectedModel(source))):
        with pytest.raises(UserError, match=said) as raised:
            work(resolve(str(folder)))
        assert len(str(raised.value).splitlines()) <= 2


CONFIGS = {
    "encoder and decoder": ({"is_encoder_decoder": True, "model_type": "t5"}, "t5 is an encoder with a decoder"),
    "encoder": (
        {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
        "BertForMaskedLM does not continue texts",
    ),
    "classifier": ({"architectures": ["LlamaForSequenceClassification"]}, "does not continue texts"),
    "gptq": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantised \(gptq\).*gptqmodel"),
    "awq": ({"quantization_config": {"quant_method": "awq"}}, r"quantised \(awq\), which needs the package gptqmodel"),
    "bitsandbytes": ({"quantization_config": {"load_in_4bit": True}}, r"quantised \(bitsandbytes\)"),
    "compressed-tensors": ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
    "unknown code": (
        {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}},
        r"code of its own \(mine\.py\)",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_no_causal_model_is_refused(make_tiny: Make, name: str) -> None:
    fields, said = CONFIGS[name]
    refused(edited(make_tiny(), **fields), said)


def test_a_model_that_reads_in_both_directions_is_refused(tmp_path: Path, make_tiny: Make) -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=1536, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.2,
    )  # fmt: skip
    folder = shutil.copytree(make_tiny(), tmp_path / "bert")
    transformers.BertLMHeadModel(config).save_pretrained(folder)
    with pytest.raises(UserError, match="reads in both directions"):
        load(resolve(str(folder)))


def test_an_adapter_is_told_from_a_model(tmp_path: Path, make_tiny: Make) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    edited(alone, "adapter_config.json", base_model_name_or_path="some/base")
    with pytest.raises(UserError, match="is an adapter of some/base, not a model; merge it"):
        resolve(str(alone))
    beside = edited(make_tiny(), "adapter_config.json", base_model_name_or_path="some/base")
    with pytest.raises(UserError, match="holds an adapter of some/base beside its weights"):
        resolve(str(beside))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.example/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer"),
        (b"\x10", "is corrupted"),
        (b"\xff" * 64, "is corrupted"),
        (b"\x08" + b"\0" * 7 + b"not json", "is corrupted: its header cannot be read"),
    ],
    ids=["pointer", "short", "length", "header"],
)
def test_a_damaged_file_is_named(make_tiny: Make, content: bytes, said: str) -> None:
    folder = make_tiny()
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, rf"model\.safetensors {said}")


def test_a_truncated_file_and_a_missing_shard_are_named(make_tiny: Make) -> None:
    folder = make_tiny()
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    refused(folder, rf"model\.safetensors is corrupted: {len(whole) - 100} bytes, and its header tells of {len(whole)}")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    placed = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    edited(folder, "model.safetensors.index.json", weight_map=placed)
    (folder / "model-00001-of-00002.safetensors").write_bytes(whole)
    refused(folder, r"model-00002-of-00002\.safetensors is missing")


def test_a_tied_head_that_is_stored_otherwise_is_refused(make_tiny: Make) -> None:
    folder = edited(make_tiny(), tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    load(resolve(str(folder)))
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"ties lm_head\.weight to model\.embed_tokens\.weight, and .* stores other values")


@pytest.mark.parametrize(
    "where", ["model.norm.weight", "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"]
)
def test_weights_that_are_no_numbers_are_not_compressed(make_tiny: Make, where: str) -> None:
    loaded = load(resolve(str(make_tiny())))
    with torch.no_grad():
        dict(loaded.model.named_parameters())[where].view(-1)[0] = float("nan")
    with pytest.raises(UserError, match=where.replace(".", r"\.")):
        compress(loaded, read_method({"method": "magnitude", "sparsity": 0.5}))


def test_a_copy_of_the_weights_in_another_format_is_left_alone(make_tiny: Make) -> None:
    folder = make_tiny()
    before = resolve(str(folder)).digest
    (folder / "consolidated.safetensors").write_bytes(b"another format of the same weights")
    assert resolve(str(folder)).digest == before
    load(resolve(str(folder)))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert resolve(str(folder)).digest != before


def test_the_hub_is_asked_for_templates_and_for_no_second_copy() -> None:
    there = [
        "config.json", "generation_config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
        "tokenizer.json", "tokenizer.model", "chat_template.jinja", "vocab.txt", "merges.txt",
        "consolidated.safetensors", "consolidated.00.pth", "original/params.json", "onnx/model.onnx",
        "original/consolidated.safetensors", "pytorch_model.bin", "modeling_mine.py", "README.md",
    ]  # fmt: skip
    assert list(filter_repo_objects(there, allow_patterns=FETCHED, ignore_patterns=NOT_FETCHED)) == there[:9]


def test_the_templates_in_their_own_folder_are_fetched_and_belong_to_the_digest(
    make_tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub that serves a folder: what is asked for is copied to where its commit lies."""
    hub, cache = make_tiny(), tmp_path / "snapshots" / "c0ffee"
    templates = hub / "additional_chat_templates"
    for name, text in (("additional_chat_templates/tools.jinja", "{{ tools }}"), ("original/config.json", "{}")):
        (hub / name).parent.mkdir()
        (hub / name).write_text(text)
    before = digest_of_model(hub)

    def serve(_name: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: Any = None) -> str:
        assert revision in (None, "c0ffee")
        there = [file.relative_to(hub).as_posix() for file in hub.rglob("*") if file.is_file()]
        for name in filter_repo_objects(there, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(hub / name, cache / name)
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", serve)
    source = resolve("some/model")
    assert source.digest == before
    assert not (cache / "original").exists()
    (hub / "chat_template.jinja").write_text("{{ messages }}")
    assert load_tokenizer(resolve("some/model").path, "some/model").chat_template["tools"] == "{{ tools }}"
    with_both = digest_of_model(hub)
    (templates / "tools.jinja").write_text("{{ messages }}")
    assert digest_of_model(hub) != with_both
    shutil.rmtree(templates)
    assert digest_of_model(hub) != with_both


def test_a_header_is_read_once_however_often_it_is_asked(make_tiny: Make) -> None:
    folder = make_tiny()
    before = inspection._read_header.cache_info().misses
    load(resolve(str(folder)))
    (file,) = inspection.weight_files(folder)
    assert inspection._read_header.cache_info().misses - before == 1
    file.write_bytes(file.read_bytes()[:-4])
    refused(folder, "is corrupted: .* bytes, and its header tells of")


def test_a_model_that_needs_images_is_not_told_to_use_another_dtype(make_tiny: Make, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "model_type": "opt", "hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": 1536, "word_embed_proj_dim": 16, "max_position_embeddings": 64,
    }  # fmt: skip
    config = transformers.Blip2Config(
        vision_config={**sizes, "image_size": 8, "patch_size": 4},
        qformer_config={**sizes, "encoder_hidden_size": 16, "vocab_size": 50},
        text_config=text,
    )
    transformers.Blip2ForConditionalGeneration(config).save_pretrained(tmp_path)
    for file in make_tiny().glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    with pytest.raises(UserError, match="it reads no text without pixel_values; name the language model inside it"):
        load(resolve(str(tmp_path)))
