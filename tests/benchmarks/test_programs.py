"""The benchmark programs run, at a size of seconds; what they measure is not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEYS = {"work", "ours", "peer", "ratio", "unit", "n", "spread", "allowed", "reached"}


def rows(file: Path, *options: str, program: str = "proxy_decode.py") -> list[dict[str, object]]:
    command = [sys.executable, str(ROOT / "benchmarks" / program), "--json", str(file), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=300)
    found: list[dict[str, object]] = json.loads(file.read_text())
    return found


@pytest.mark.slow
def test_proxy_decoding_is_measured_against_its_peers(tmp_path: Path) -> None:
    found = rows(
        tmp_path / "rows.json", "--only", "peers", "predicted", "--repeat", "1", "--texts", "2", "--clock", "cpu"
    )
    assert all(row.keys() == KEYS for row in found)
    for row in found:
        if row["peer"] is not None:
            better = (row["ours"], row["peer"]) if row["unit"] == "tokens/s" else (row["peer"], row["ours"])
            assert row["ratio"] == pytest.approx(better[0] / better[1])
    assert any("static batch" in str(row["work"]) for row in found)
    assert any("70B" in str(row["work"]) for row in found)


@pytest.mark.slow
def test_serving_is_measured_and_no_text_changes_under_load(tmp_path: Path) -> None:
    found = rows(tmp_path / "rows.json", "--only", "spread", "gateway", "--repeat", "1", "--texts", "2")
    works = [str(row["work"]) for row in found]
    assert any(work.startswith("gateway, 32 streams") for work in works)
    assert any(work.startswith("spread, 2 texts") for work in works)


@pytest.mark.gpu
def test_steps_are_measured_on_a_gpu(tmp_path: Path) -> None:
    found = rows(tmp_path / "rows.json", "--gpu", "--repeat", "1")
    assert any("7B" in str(row["work"]) for row in found)
    assert all(float(str(row["ours"])) > 0 for row in found)


@pytest.mark.slow
def test_an_evaluation_is_measured_against_lm_eval_where_that_is_installed(tmp_path: Path) -> None:
    if not (ROOT / ".venv-lm-eval" / "bin" / "python").is_file():
        pytest.skip("lm-eval has no environment here; infra/lm_eval.sh makes one")
    found = rows(tmp_path / "rows.json", "--only", "closed_book", "--repeat", "1", program="evaluation.py")
    assert [row["unit"] for row in found] == ["s", "tokens"]  # it ends where answers differ
    assert all(row.keys() == KEYS for row in found)


@pytest.mark.slow
def test_random_models_are_scored_without_a_gpu_too() -> None:
    from gpu_evaluation import on_gpu
    from roofline import Shape

    shape = Shape(layers=1, hidden=16, inner=32, heads=2, kv_heads=1, vocabulary=50)
    found = list(on_gpu(1, shape, questions=2))
    assert [row.unit for row in found] == ["tokens/s", "share"]
    assert all(row.ours > 0 for row in found)
