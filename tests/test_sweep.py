"""The main job from end to end: it runs whole, runs nothing twice, survives kills, and refuses mistakes at once."""

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]

SMALL = """
name = "small"
model = "nano:small"
store = "{store}"
[calibration]
samples = 8
length = 64
[[compress]]
method = "magnitude"
sparsity = [0.3, 0.5]
[[compress]]
method = "gptq"
bits = 4
group_size = 16
[[tasks]]
task = "closed_book"
limit = 24
[[tasks]]
task = "perplexity"
limit = 20
length = 128
"""


def write_config(tmp_path: Path, text: str = SMALL, store: str = "store", **replace: str) -> Path:
    text = text.format(store=tmp_path / store)
    for old, new in replace.items():
        text = text.replace(old, new)
    path = tmp_path / f"{store}.toml"
    path.write_text(text)
    return path


def earnest(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "earnest"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd or ROOT,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "COLUMNS": "200", **environment},
        timeout=400,
        check=False,
    )


def promised_bytes(store: Path) -> dict[str, str]:
    """Every file that finished steps promise, by name and sha256: all but the circumstances.

    Folders that begin with a dot are steps at work: a worker that outlives its driver still writes and removes them.
    """
    steps = [step for kind in ("compress", "evaluate") for step in (store / kind).glob("[!.]*")]
    files = [path for step in steps for path in step.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "run.json"
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """An undisturbed sweep: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("sweep")
    return folder, earnest("sweep", write_config(folder))


def test_a_sweep_runs_through_and_leaves_report_and_runs(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = finished
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 run" in done.stdout  # 3 compressions, 4 cells × 2 tasks
    report = folder / "store" / "reports" / "small"
    assert (report / "report.html").stat().st_size > 10_000
    assert pq.read_table(report / "cells.parquet").num_rows >= 4
    with sqlite3.connect(folder / "store" / "mlflow.db") as database:
        states = database.execute(
            "select r.status, count(*) from runs r join tags t on r.run_uuid = t.run_uuid "
            "where t.key = 'earnest.cell' group by r.status"
        ).fetchall()
    assert states == [("FINISHED", 4)]


def test_a_second_run_executes_nothing(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = finished
    before = promised_bytes(folder / "store")
    again = earnest("sweep", write_config(folder))
    assert again.returncode == 0, again.stderr
    assert "0 run, 11 already there" in again.stdout
    assert promised_bytes(folder / "store") == before


def test_plan_says_what_is_done(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = finished
    shown = earnest("plan", write_config(folder))
    assert "4 cells, 11 steps: 11 done, 0 to run" in shown.stdout


def test_a_sweep_whose_driver_is_killed_resumes_to_the_same_store(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    undisturbed, _ = finished
    config = write_config(tmp_path)
    driver = subprocess.Popen(
        [str(Path(sys.executable).parent / "earnest"), "sweep", str(config)],
        cwd=ROOT,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    steps = [tmp_path / "store" / kind for kind in ("compress", "evaluate")]
    deadline = time.monotonic() + 240
    while sum(len(list(kind.glob("[!.]*/step.json"))) for kind in steps) < 3:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    kept = promised_bytes(tmp_path / "store")
    resumed = earnest("sweep", config)
    assert resumed.returncode == 0, resumed.stderr
    assert "0 run" not in resumed.stdout
    after = promised_bytes(tmp_path / "store")
    assert kept.items() <= after.items()
    assert after == promised_bytes(undisturbed / "store")


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_a_model_folder_saved_by_transformers_runs_on_mmlu(
    family: str, make_tiny: Callable[..., Path], shared: Path, tmp_path: Path
) -> None:
    config = tmp_path / "mmlu.toml"
    config.write_text(
        f"""
name = "mmlu"
model = "{make_tiny(family, "bfloat16")}"
store = "{tmp_path / "store"}"
[calibration]
data = "nano"
samples = 4
length = 64
[[compress]]
method = "wanda"
pattern = "2:4"
[[tasks]]
task = "mmlu"
data = "{shared / "data" / "mmlu"}"
split = "validation"
shots = 5
subjects = ["anatomy", "virology"]
"""
    )
    done = earnest("sweep", config)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = [json.loads(path.read_text()) for path in (tmp_path / "store").glob("evaluate/*/scores.json")]
    assert [score["scored"] for score in scores] == [32, 32]


# What a model outside the almanac's family must name.
NAMED = {line: f'{line}\ndata = "nano"' for line in ("[calibration]", "limit = 24", "limit = 20")}


def stranger(folder: Path) -> str:
    """The small sweep on another model, its data named."""
    text = SMALL.replace("nano:small", str(folder))
    for before, after in NAMED.items():
        text = text.replace(before, after)
    return text


MISTAKES = {
    "an unknown key": ({"[[tasks]]": "colour = 1\n[[tasks]]"}, ["colour", "Extra inputs"]),
    "an unknown method": ({'"gptq"': '"gtpq"'}, ["gtpq", "gptq"]),
    "a sparsity above one": ({"[0.3, 0.5]": "[0.3, 1.2]"}, ["1.2", "less than 1"]),
    "a pattern that keeps more than there are": (
        {"sparsity = [0.3, 0.5]": 'pattern = "3:2"'},
        ["3:2", "N must be below M"],
    ),
    "a group size that does not divide": ({"group_size = 16": "group_size = 40"}, ["40", "does not divide"]),
    "a missing model folder": ({'"nano:small"': '"./absent"', **NAMED}, ["./absent", "no such folder"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line_and_nothing_is_written(
    mistake: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    replace, words = MISTAKES[mistake]
    text = SMALL
    for old, new in replace.items():
        assert old in text
        text = text.replace(old, new, 1)
    said = refused("sweep", write_config(tmp_path, text))
    for word in words:
        assert word in said
    assert list((tmp_path / "store").rglob("step.json")) == []


def test_gpus_that_are_not_there_are_said_on_one_clear_line(tmp_path: Path) -> None:
    text = SMALL.replace("[[tasks]]", "[cluster]\ngpus_per_worker = 1\n[[tasks]]", 1)
    done = earnest("sweep", write_config(tmp_path, text))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for word in ("error:", "GPU", "gpus_per_worker"):
        assert word in done.stderr
    assert list((tmp_path / "store").rglob("step.json")) == []


def mmlu_config(tmp_path: Path, data: Path) -> Path:
    text = SMALL.replace('task = "closed_book"\nlimit = 24', f'task = "mmlu"\ndata = "{data}"')
    return write_config(tmp_path, text)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"subject": ["a"], "question": ["q"], "answer": [0]}, ["choices", "answer, question, subject"]),
        ({"subject": [], "question": [], "choices": [], "answer": []}, ["empty"]),
    ],
    ids=["without the needed column", "empty"],
)
def test_data_that_cannot_be_used_is_refused_before_any_work(
    table: dict[str, list[object]], words: list[str], refused: Callable[..., str], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for split in ("dev", "test"):
        pq.write_table(pa.table(table), data / f"{split}.parquet")
    said = refused("sweep", mmlu_config(tmp_path, data))
    for word in words:
        assert word in said
    assert list((tmp_path / "store").rglob("step.json")) == []


def test_a_corrupted_or_foreign_model_is_refused_before_any_work(
    make_tiny: Callable[..., Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    broken = make_tiny()
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-64])
    assert "corrupted" in refused("sweep", write_config(tmp_path, stranger(broken)))
    small = make_tiny(vocab_size=512)
    assert "1536 tokens" in refused("sweep", write_config(tmp_path, stranger(small)))


def test_a_store_that_cannot_be_written_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file in the way")
    assert "cannot be written" in refused("sweep", write_config(tmp_path))


def test_a_tracking_server_that_is_down_costs_a_warning_and_no_result(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = finished
    done = earnest("sweep", write_config(folder), "--tracking-uri", "http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "tracking" in done.stdout
    assert list((folder / "store" / "outbox").rglob("*.json"))


def copied(finished: tuple[Path, subprocess.CompletedProcess[str]], folder: Path) -> Path:
    """The configuration of the finished sweep on a copy of its store."""
    shutil.copytree(finished[0] / "store", folder / "store")
    return write_config(folder)


def test_damaged_outputs_of_every_kind_are_told_in_a_line_each_and_made_again(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    config, store = copied(finished, tmp_path), tmp_path / "store"
    before = promised_bytes(store)
    truncated, emptied = sorted((store / "evaluate").iterdir())[:2]
    samples = truncated / "samples.parquet"
    samples.write_bytes(samples.read_bytes()[:-20])
    (emptied / "step.json").write_bytes(b"")
    next(min((store / "compress").iterdir()).glob("*.safetensors")).unlink()
    for command in (("plan", config), ("report", config), ("compare", "all", "dense", "--sweep", config)):
        done = earnest(*command, cwd=tmp_path)
        said = done.stderr.splitlines()
        assert done.returncode == 0 or said[3].startswith("error: "), done.stderr
        assert [line.partition(":")[0] for line in said[:3]] == ["damaged"] * 3
    again = earnest("sweep", config)
    assert again.returncode == 0, again.stderr
    assert "3 run, 8 already there" in again.stdout
    assert promised_bytes(store) == before


def test_a_store_that_is_read_only_is_planned_reported_and_compared(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Root may write everywhere, unless it gives that up."""
    as_root = os.geteuid() == 0
    if as_root and shutil.which("setpriv") is None:
        pytest.skip("runs as root and needs setpriv to give up writing everywhere")
    config, store = copied(finished, tmp_path), tmp_path / "store"
    for path in (*store.rglob("*"), store):
        path.chmod(path.stat().st_mode & 0o555)
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if as_root else []
    command = [*powerless, str(Path(sys.executable).parent / "earnest")]
    for arguments, word in (
        (["plan", config], "11 done, 0 to run"),
        (["report", config], f"Report   {tmp_path}/elsewhere/reports/small/report.html"),
        (["compare", "all", "dense", "--sweep", config], "magnitude"),
    ):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        done = subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path / "elsewhere", check=False
        )
        assert done.returncode == 0, done.stderr
        assert word in done.stdout
    refused = subprocess.run([*command, "sweep", str(config)], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "cannot be written" in refused.stderr
