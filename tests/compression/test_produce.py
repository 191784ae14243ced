"""A compressed checkpoint is what was compressed, byte for byte and logit for logit, and says what it is."""

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from earnest.compression import produce
from earnest.compression.checkpoint import export_dense, load, verify
from earnest.compression.counting import count_tensors
from earnest.compression.probe import UnfaithfulCheckpointError, attention_of, check_logits, logits_digest
from earnest.compression.produce import compress_to_folder
from earnest.compression.walk import compress
from earnest.models.loading import LoadedModel
from earnest.models.loading import load as load_model
from earnest.models.source import resolve
from earnest.records import Manifest
from earnest.specs import UserError, read_method

Make = Callable[..., LoadedModel]

METHODS = {
    "random": {"method": "random", "sparsity": 0.3},
    "magnitude": {"method": "magnitude", "sparsity": 0.5},
    "wanda": {"method": "wanda", "sparsity": 0.7},
    "wanda-2:4": {"method": "wanda", "pattern": "2:4"},
    "sparsegpt": {"method": "sparsegpt", "sparsity": 0.5},
    "sparsegpt-joint": {"method": "sparsegpt", "sparsity": 0.5, "bits": 4},
    "sparsegpt-joint-groups": {"method": "sparsegpt", "pattern": "2:4", "bits": 3, "group_size": 16, "symmetric": True},
    "sparsegpt-joint-order": {"method": "sparsegpt", "sparsity": 0.5, "bits": 3, "group_size": 16, "act_order": True},
    "rtn": {"method": "rtn", "bits": 3, "group_size": 16},
    "rtn-rows": {"method": "rtn", "bits": 8, "group_size": -1, "symmetric": True},
    "gptq": {"method": "gptq", "bits": 4, "group_size": 32, "symmetric": True},
    "gptq-order": {"method": "gptq", "bits": 2, "group_size": 16, "act_order": True},
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*product(METHODS, ["bfloat16", "float32"]), ("wanda", "float16"), ("gptq", "float16")],
)
def test_every_weight_reads_back_bit_for_bit(
    name: str, dtype: str, make_model: Make, ids: Tensor, tmp_path: Path
) -> None:
    loaded = make_model(dtype=dtype)
    compress(loaded, read_method(METHODS[name]), ids)
    compress_to_folder(make_model(dtype=dtype), read_method(METHODS[name]), ids, tmp_path / "out")
    again = load(tmp_path / "out", dtype="stored")
    assert again.dtype == getattr(torch, dtype)
    expected, found = loaded.model.state_dict(), again.model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key].view(torch.uint8), found[key].view(torch.uint8)) for key in expected)
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=ids).logits, again.model(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("family", "changes"),
    [("Qwen3", {}), ("Llama", {"tie_word_embeddings": True}), ("Llama", {"attention_bias": True})],
)
def test_other_families_and_tied_embeddings_read_back(
    family: str, changes: dict[str, object], make_model: Make, ids: Tensor, tmp_path: Path
) -> None:
    loaded = make_model(family, "bfloat16", **changes)
    compress(loaded, read_method(METHODS["gptq"]), ids)
    dense = make_model(family, "bfloat16", **changes)
    manifest = compress_to_folder(dense, read_method(METHODS["gptq"]), ids, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "compressed.safetensors")
    assert ("lm_head.weight" in stored) != bool(changes.get("tie_word_embeddings"))
    again = load(tmp_path / "out", dtype="stored")
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=ids).logits, again.model(input_ids=ids).logits)
    assert manifest.size.dense_file_bytes == (loaded.folder / "model.safetensors").stat().st_size


@pytest.mark.parametrize("name", ["random", "wanda", "sparsegpt-joint", "rtn", "gptq-order"])
def test_the_same_work_writes_the_same_bytes(name: str, make_model: Make, ids: Tensor, tmp_path: Path) -> None:
    for out in ("a", "b"):
        compress_to_folder(make_model(dtype="bfloat16"), read_method(METHODS[name]), ids, tmp_path / out)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert {"compressed.safetensors", "manifest.json", "config.json", "tokenizer.json"} <= set(files)
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    for file in files:
        a, b = (json_without_names(tmp_path / out / file) for out in "ab")
        assert a == b


def json_without_names(path: Path) -> object:
    """Each model comes from a folder of its own, so the manifest's `base` differs; all else may not."""
    if path.name != "manifest.json":
        return path.read_bytes()
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "base"}


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("computed", ["float32", "float16"])
def test_what_is_computed_in_another_dtype_is_stored_in_the_models_own(
    name: str, computed: str, make_model: Make, ids: Tensor, tmp_path: Path
) -> None:
    narrow = make_model(dtype="bfloat16")
    loaded = load_model(resolve(str(narrow.folder)), dtype=computed)
    manifest = compress_to_folder(loaded, read_method(METHODS[name]), ids, tmp_path / "out")
    assert (manifest.dtype, manifest.compute_dtype) == ("bfloat16", computed)
    other = manifest_of(name, make_model, ids, tmp_path / "narrow")  # rounds to zero elsewhere here and there
    assert manifest.size.stored_bytes == pytest.approx(other.size.stored_bytes, rel=0.001)
    again = load(tmp_path / "out", dtype="stored")
    assert again.dtype == torch.bfloat16
    for key, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[key].to(tensor.dtype))
    wide = load(tmp_path / "out", dtype=computed)
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=ids).logits, wide.model(input_ids=ids).logits)


def test_norms_that_are_stored_wider_keep_their_bits(make_model: Make, tmp_path: Path) -> None:
    folder = make_model(dtype="bfloat16").folder
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"] = torch.rand(32) + 0.5
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = load_model(resolve(str(folder)), dtype="float32")
    compress_to_folder(loaded, read_method(METHODS["magnitude"]), None, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "compressed.safetensors")
    assert torch.equal(stored["model.norm.weight"], state["model.norm.weight"])
    assert stored["model.embed_tokens.weight"].dtype == torch.bfloat16


def manifest_of(name: str, make_model: Make, ids: Tensor, folder: Path) -> Manifest:
    return compress_to_folder(make_model(dtype="bfloat16"), read_method(METHODS[name]), ids, folder)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("magnitude", 1 + 16 / 2),  # one mask bit, half of the values in bf16
        ("wanda-2:4", 1 + 16 / 2),
        ("rtn", 3 + (16 + 3) / 16),  # codes; a bf16 scale and a 3-bit zero per group of 16
        ("gptq", 4 + 16 / 32),  # symmetric: no zeros
        ("gptq-order", None),
    ],
)
def test_bits_per_weight_are_what_the_form_takes(
    name: str, bits: float | None, make_model: Make, ids: Tensor, tmp_path: Path
) -> None:
    size = manifest_of(name, make_model, ids, tmp_path / "out").size
    if bits is None:  # 2-bit codes, bf16 scales and 2-bit zeros per 16, and the group of each input in 16 bits
        inputs = 2 * (6 * 32 + 64)
        bits = 2 + (16 + 2) / 16 + 16 * inputs / weights_of(make_model)
    assert size.bits_per_weight == pytest.approx(bits)
    assert size.saved_of_touched == pytest.approx(1 - bits / 16)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("name", "bits"), [("magnitude", 1 + 16 / 2), ("rtn", 3 + (16 + 3) / 16), ("gptq", 4 + 16 / 32)]
)
def test_what_is_saved_is_told_of_the_file_and_of_the_touched_weights(
    name: str, bits: float, dtype: str, make_model: Make, ids: Tensor, tmp_path: Path
) -> None:
    loaded = make_model(dtype=dtype)
    dense = (loaded.folder / "model.safetensors").stat().st_size
    size = compress_to_folder(loaded, read_method(METHODS[name]), ids, tmp_path / "out").size
    compressed = (tmp_path / "out" / "compressed.safetensors").stat().st_size
    assert size.saved == pytest.approx(1 - compressed / dense)
    assert size.saved_of_touched == pytest.approx(1 - bits / 16)  # the dtype alone changes nothing
    assert size.compression_ratio == pytest.approx(16 / bits)
    assert 0 < size.saved < size.saved_of_touched  # the embeddings are stored as they were


def weights_of(make_model: Make) -> int:
    return sum(t.numel() for name, t in make_model().model.state_dict().items() if "_proj" in name)


@pytest.mark.parametrize("name", list(METHODS))
def test_the_manifest_counts_what_the_file_holds(name: str, make_model: Make, ids: Tensor, tmp_path: Path) -> None:
    manifest = manifest_of(name, make_model, ids, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "compressed.safetensors")
    assert (tmp_path / "out" / "compressed.safetensors").stat().st_mode & 0o444 == 0o444
    again = load(tmp_path / "out", dtype="stored").model.state_dict()
    for record in manifest.tensors:
        parts = [tensor for key, tensor in stored.items() if key.startswith(record.name + ".")]
        assert record.stored_bytes == sum(part.numel() * part.element_size() for part in parts)
        assert record.zeros == int((again[record.name] == 0).sum())
        assert record.dense_bytes == 2 * again[record.name].numel()
    assert manifest.size.file_bytes == (tmp_path / "out" / "compressed.safetensors").stat().st_size
    assert manifest.size.stored_bytes < manifest.size.file_bytes


@pytest.mark.parametrize(
    ("name", "sparsity"), [("magnitude", 0.5), ("random", 0.3), ("wanda-2:4", 0.5), ("sparsegpt", 0.5)]
)
def test_the_achieved_sparsity_is_the_one_asked(
    name: str, sparsity: float, make_model: Make, ids: Tensor, tmp_path: Path
) -> None:
    manifest = manifest_of(name, make_model, ids, tmp_path / "out")
    assert all(record.zeros == int(record.shape[0] * record.shape[1] * sparsity) for record in manifest.tensors)


def test_the_manifest_says_what_the_checkpoint_is(make_model: Make, ids: Tensor, tmp_path: Path) -> None:
    loaded = make_model()
    fields = {"samples": 12, "length": 32, "seed": 5}
    manifest = compress_to_folder(loaded, read_method(METHODS["gptq"]), ids, tmp_path / "out", calibration=fields)
    assert (manifest.base, manifest.base_digest) == (loaded.name, loaded.digest)
    assert manifest.method["bits"] == 4
    assert manifest.calibration == fields
    assert manifest.calibration_digest is not None
    assert (manifest.seed, manifest.dtype) == (5, "float32")
    assert {record.form for record in manifest.tensors} == {"packed"}
    assert set(manifest.files) == {path.name for path in (tmp_path / "out").iterdir()} - {"manifest.json"}
    assert verify(tmp_path / "out") == manifest


def test_a_model_that_was_sparse_already_cannot_claim_a_lower_sparsity(make_model: Make, tmp_path: Path) -> None:
    loaded = make_model()
    compress(loaded, read_method({"method": "magnitude", "sparsity": 0.6}))
    with pytest.raises(UserError, match=r"magnitude 50%: the saved weights are 60\.0% zeros"):
        compress_to_folder(loaded, read_method({"method": "magnitude", "sparsity": 0.5}), None, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_file_with_other_zeros_than_in_memory_is_an_error(make_model: Make, tmp_path: Path) -> None:
    """The count is taken from the file: here the file belongs to another compression."""
    lighter, heavier = make_model(), make_model()
    weights = compress(heavier, read_method({"method": "magnitude", "sparsity": 0.5}))
    compress_to_folder(lighter, read_method({"method": "magnitude", "sparsity": 0.4}), None, tmp_path / "out")
    with pytest.raises(UnfaithfulCheckpointError, match="zeros in the file"):
        count_tensors(tmp_path / "out", ["compressed.safetensors"], weights, torch.float32)


def test_a_checkpoint_that_reads_back_differently_is_an_error(make_model: Make, ids: Tensor, tmp_path: Path) -> None:
    """One weight of the model in memory is not as in the file: the comparison of logits must notice."""
    loaded = make_model()
    compress_to_folder(loaded, read_method(METHODS["wanda"]), ids, tmp_path / "out")
    with torch.no_grad():
        loaded.model.lm_head.weight[7, 3] += 0.01
    with pytest.raises(UnfaithfulCheckpointError, match="read back, its logits differ"):
        check_logits(load(tmp_path / "out", dtype="stored"), logits_digest(loaded), attention_of(loaded), "checkpoint")


def test_what_reads_back_differently_is_no_checkpoint_to_any_reader(
    make_model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(folder: Path, device: str, dtype: str) -> LoadedModel:
        again = load(folder, device=device, dtype=dtype)
        with torch.no_grad():
            again.model.lm_head.weight[7, 3] += 0.01
        return again

    monkeypatch.setattr(produce, "load", other)
    with pytest.raises(UnfaithfulCheckpointError, match="read back, its logits differ"):
        compress_to_folder(make_model(), read_method(METHODS["magnitude"]), None, tmp_path / "out")
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        load(tmp_path / "out")


def test_a_folder_that_is_not_empty_is_refused(make_model: Make, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        compress_to_folder(make_model(), read_method(METHODS["magnitude"]), None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_large_checkpoints_are_written_in_several_files(
    make_model: Make, ids: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(produce, "SHARD_BYTES", 20_000)
    loaded = make_model(dtype="bfloat16")
    manifest = compress_to_folder(loaded, read_method(METHODS["gptq"]), ids, tmp_path / "out")
    shards = sorted(name for name in manifest.files if name.endswith(".safetensors"))
    assert len(shards) > 1
    assert shards[0] == f"compressed-00001-of-{len(shards):05d}.safetensors"
    verify(tmp_path / "out")


@pytest.fixture(scope="module")
def checkpoint(make_model: Make, ids: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "gptq"
    compress_to_folder(make_model(dtype="bfloat16"), read_method(METHODS["gptq"]), ids, folder)
    return folder


@pytest.mark.parametrize("file", ["compressed.safetensors", "config.json", "tokenizer.json"])
def test_one_flipped_bit_is_found_and_the_file_named(file: str, checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)
    for read in (verify, load):
        with pytest.raises(UserError, match=rf"{file}: its bytes are not those of the manifest"):
            read(copy)


def test_missing_added_and_unreadable_files_are_named(checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    (copy / "stray.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"stray\.safetensors: is not in the manifest"):
        verify(copy)
    (copy / "stray.safetensors").unlink()
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: is missing"):
        verify(copy)
    (copy / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"manifest\.json: is damaged"):
        verify(copy)
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        verify(tmp_path)


def test_a_safetensors_file_that_is_cut_short_is_one_clear_line(checkpoint: Path, tmp_path: Path) -> None:
    """Even where the manifest was made to agree with it."""
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    file = copy / "compressed.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    manifest = json.loads((copy / "manifest.json").read_text())
    from earnest.compression.checkpoint import sha256_of

    manifest["files"][file.name] = sha256_of(file)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"compressed\.safetensors: is corrupted"):
        load(copy)


def test_programs_that_do_not_know_the_form_do_not_load_random_weights(checkpoint: Path) -> None:
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True)


@pytest.mark.parametrize("name", ["wanda", "gptq-order", "sparsegpt-joint"])
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}])
def test_an_export_is_a_plain_folder_with_equal_logits(
    name: str, changes: dict[str, object], make_model: Make, ids: Tensor, tmp_path: Path
) -> None:
    loaded = make_model(dtype="bfloat16", **changes)
    compress_to_folder(loaded, read_method(METHODS[name]), ids, tmp_path / "out")
    export_dense(tmp_path / "out", tmp_path / "dense")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", local_files_only=True, dtype="auto").eval()
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, loaded.model(input_ids=ids).logits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "out"]
    with pytest.raises(UserError, match="exists already"):
        export_dense(tmp_path / "out", tmp_path / "dense")


def test_another_dtype_is_cast_from_the_one_that_was_compressed(checkpoint: Path) -> None:
    narrow, wide = load(checkpoint, dtype="stored"), load(checkpoint, dtype="float32")
    assert wide.dtype == torch.float32
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(narrow.model.state_dict()[name].float(), wide.model.state_dict()[name])


@pytest.mark.parametrize("method", ["wanda", "gptq", "sparsegpt"])
def test_inputs_that_calibration_never_saw_are_counted_and_named(
    method: str, make_model: Make, ids: Tensor, tmp_path: Path
) -> None:
    loaded = make_model()
    with torch.no_grad():
        loaded.model.model.layers[1].input_layernorm.weight[:3] = 0.0
    manifest = compress_to_folder(loaded, read_method(METHODS[method]), ids, tmp_path / "out")
    names = [f"model.layers.1.self_attn.{part}_proj.weight" for part in "kqv"]
    assert manifest.unseen_inputs == dict.fromkeys(names, 3)
    assert "calibration never saw 9 inputs of 3 layers" in manifest.notes[0]
    assert verify(tmp_path / "out") == manifest


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "rtn", "bits": 4, "group_size": 16},
        {"method": "gptq", "bits": 8, "group_size": 16},
    ],
    ids=lambda fields: str(fields["method"]),
)
def test_a_sparse_model_that_loses_its_zeros_is_told(
    fields: dict[str, object], make_model: Make, ids: Tensor, tmp_path: Path
) -> None:
    loaded = make_model()
    weights = compress(loaded, read_method({"method": "random", "sparsity": 0.6}))
    zero = {name: loaded.model.state_dict()[name] == 0 for name in weights.tensors}
    manifest = compress_to_folder(loaded, read_method(fields), ids, tmp_path / "out")
    after = loaded.model.state_dict()
    lost = sum(int((zero[name] & (after[name] != 0)).sum()) for name in zero)
    assert (lost > 0) == (fields["method"] == "gptq")  # rounding to nearest leaves a zero where it is
    assert any(f"and {lost} of its" in note for note in manifest.notes) == (lost > 0)
    compress_to_folder(make_model(), read_method(fields), ids, tmp_path / "dense")
    assert not any("sparse already" in note for note in load_notes(tmp_path / "dense"))


def load_notes(folder: Path) -> list[str]:
    return list(verify(folder).notes)
