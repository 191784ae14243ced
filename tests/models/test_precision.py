"""A CPU without fast bfloat16 computes in float32; the choice is made once per CPU model; weights stay as stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from earnest.models import precision
from earnest.models.loading import load
from earnest.models.precision import auto_on, bfloat16_pays, cpu_traits, has_bfloat16_units, stored_dtype
from earnest.models.source import resolve
from earnest.specs import UserError
from earnest.specs.dtypes import compute_dtype

Make = Callable[..., Path]


@pytest.fixture
def amx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A CPU with bfloat16 units, and an empty cache."""
    monkeypatch.setattr(precision, "cpu_traits", lambda: {"name": "A CPU", "flags": "avx2 amx_bf16"})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in precision._LIMITS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("asked", "stored", "auto", "computes"),
    [
        ("auto", "bfloat16", "float32", "float32"),
        ("auto", "float16", "float32", "float32"),
        ("auto", "bfloat16", "bfloat16", "bfloat16"),
        ("auto", "float16", "bfloat16", "float32"),
        ("auto", "float32", "bfloat16", "float32"),
        ("auto", "bfloat16", "stored", "bfloat16"),
        ("auto", "float16", "stored", "float16"),
        ("stored", "bfloat16", "float32", "bfloat16"),
        ("float16", "bfloat16", "float32", "float16"),
    ],
)
def test_what_is_asked_and_stored_and_where_it_runs_decide_the_dtype(
    asked: str, stored: str, auto: precision.Auto, computes: str
) -> None:
    assert compute_dtype(asked, stored, auto) == computes


def test_an_unknown_dtype_is_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"dtype 'fp8': use one of auto, stored, float32, bfloat16, float16"):
        compute_dtype("fp8", "bfloat16", "float32")


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("sse4_2 avx2 fma f16c avx_vnni", False),  # a laptop
        ("avx2 avx512f avx512bw avx512_vnni", False),  # Cascade Lake
        ("avx512f avx512_bf16", True),
        ("avx512f amx_tile amx_bf16", True),
        ("fp asimd bf16 i8mm", True),  # Arm
        ("fp asimd svebf16", False),  # another unit than torch's products use
    ],
)
def test_bfloat16_units_are_read_from_the_cpu_features(flags: str, has: bool) -> None:
    assert has_bfloat16_units(flags) is has


def test_linux_tells_the_cpus_name_and_features(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2\n\nmodel name : Other\n")
    assert cpu_traits(file) == {"name": "Some CPU @ 2 GHz", "flags": "fpu avx2"}
    file.write_text("processor : 0\nFeatures : fp bf16\nCPU implementer : 0x41\nCPU part : 0xd40\nCPU variant : 0x1\n")
    assert cpu_traits(file) == {"name": "0x41 0xd40 0x1", "flags": "fp bf16"}
    assert cpu_traits(tmp_path / "none") == {"name": "", "flags": ""}


def test_a_cpu_without_units_is_not_even_measured(amx: pytest.MonkeyPatch) -> None:
    amx.setattr(precision, "cpu_traits", lambda: {"name": "A CPU", "flags": "avx2"})
    amx.setattr(precision, "_speed_ratios", lambda: pytest.fail("measured"))
    assert auto_on("cpu") == "float32"
    assert auto_on("cuda:1") == "stored"


@pytest.mark.parametrize(("ratios", "pays"), [([4.0, 3.0, 1.5], True), ([4.0, 3.0, 1.49], False)])
def test_bfloat16_must_be_clearly_faster_in_every_product(
    ratios: list[float], pays: bool, amx: pytest.MonkeyPatch
) -> None:
    amx.setattr(precision, "_speed_ratios", lambda: ratios)
    assert bfloat16_pays() is pays
    assert auto_on("cpu") == ("bfloat16" if pays else "float32")


def test_what_was_measured_once_is_kept_per_cpu_model(amx: pytest.MonkeyPatch, tmp_path: Path) -> None:
    amx.setattr(precision, "_speed_ratios", lambda: [3.0])
    assert bfloat16_pays()
    amx.setattr(precision, "_speed_ratios", lambda: [0.2])
    assert bfloat16_pays()
    assert json.loads((tmp_path / "earnest" / "bfloat16.json").read_text()) == {"A CPU": 3.0}
    amx.setattr(precision, "cpu_traits", lambda: {"name": "Another", "flags": "amx_bf16"})
    assert not bfloat16_pays()
    amx.setattr(precision, "cpu_traits", lambda: {"name": "A CPU", "flags": "amx_bf16"})
    amx.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not bfloat16_pays()


def test_where_the_choice_cannot_be_kept_it_is_the_one_that_never_changes(
    amx: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "earnest").write_text("a file where the cache's folder should be")
    amx.setattr(precision, "_speed_ratios", lambda: [9.0])
    assert not bfloat16_pays()


def test_a_damaged_cache_is_measured_anew(amx: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "earnest").mkdir()
    (tmp_path / "earnest" / "bfloat16.json").write_text('["not", "a", "table"]')
    amx.setattr(precision, "_speed_ratios", lambda: [9.0])
    assert bfloat16_pays()


def test_the_probe_times_each_number_of_rows() -> None:
    assert len(precision._speed_ratios()) == len(precision.ROWS)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_stored_weights_are_widened_without_loss(make_tiny: Make, dtype: str) -> None:
    folder = make_tiny("Llama", dtype)
    loaded = load(resolve(str(folder)), dtype="float32")
    files = load_file(folder / "model.safetensors")
    assert (loaded.dtype, loaded.stored_dtype) == (torch.float32, getattr(torch, dtype))
    assert all(torch.equal(loaded.model.state_dict()[name], tensor.float()) for name, tensor in files.items())


def test_the_files_say_what_is_stored_and_not_the_config(make_tiny: Make) -> None:
    folder = make_tiny("Llama", "float32")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16", "torch_dtype": "bfloat16"}))
    files = load_file(folder / "model.safetensors")
    loaded = load(resolve(str(folder)), dtype="stored")
    assert loaded.dtype == torch.float32
    assert all(torch.equal(loaded.model.state_dict()[name], tensor) for name, tensor in files.items())


def test_a_few_wider_tensors_do_not_make_a_model_wide(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(64, 64, dtype=torch.bfloat16), "norm": torch.zeros(64)}, tmp_path / "a.safetensors")
    save_file({"codes": torch.zeros(64, 640, dtype=torch.int32)}, tmp_path / "b.safetensors")
    assert stored_dtype(tmp_path) == "bfloat16"
