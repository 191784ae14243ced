"""The benchmark programs run, at a size of seconds; what they measure is not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEYS = {"work", "ours", "peer", "ratio", "unit", "n", "spread"}


def rows(file: Path, *options: str) -> list[dict[str, object]]:
    command = [sys.executable, str(ROOT / "benchmarks" / "proxy_decode.py"), "--json", str(file), *options]
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
