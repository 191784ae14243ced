"""SIGTERM and Ctrl-C: running steps are handed back, Ray goes, the exit code says which, and nothing else is said."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.plans import small_sweep
from cluster.test_driver_killed import SWEEP_HERE, finish, start, wait_until_finished
from earnest.store import Store

STEPS = small_sweep(methods=2, tasks=3)
BOTH = pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])


@pytest.mark.slow
@BOTH
def test_a_sweep_that_is_told_to_end_hands_its_steps_back_and_the_next_one_goes_on(
    tmp_path: Path, sent: signal.Signals
) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_AUTH_MODE", "RAY_ADDRESS")}
    command = [sys.executable, str(SWEEP_HERE), str(tmp_path / "store"), str(tmp_path / "trace"), "0.4"]
    store = Store(str(tmp_path / "store"))
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        wait_until_finished(store, count=2)
        time.sleep(0.1)  # the next steps are running
        run.send_signal(sent)
        said, _ = run.communicate(timeout=60)
    assert run.returncode == 128 + sent, said
    assert said == ""
    finished = {step.digest for step in STEPS if store.has(step.kind, step.digest)}
    assert 2 <= len(finished) < len(STEPS)
    assert list((Path(store.root) / "drivers").iterdir()) == []
    assert [path for kind in ("compress", "evaluate") for path in (Path(store.root) / kind).glob(".*")] == []

    if sent == signal.SIGINT:  # the same is left behind
        return
    second = finish(start(tmp_path, sleep=0.0, home=tmp_path))
    assert set(second["cached"]) == finished
    assert set(second["done"]) | finished == {step.digest for step in STEPS}


@pytest.mark.slow
@BOTH
def test_a_command_without_a_sweep_ends_as_it_is_told(tmp_path: Path, sent: signal.Signals) -> None:
    command = [sys.executable, "-m", "earnest.cli", "evaluate", "nano:small", "--task", "closed_book"]
    with subprocess.Popen([*command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, text=True) as run:
        wait_for_torch(run.pid)
        run.send_signal(sent)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + sent
    assert "Traceback" not in said
    assert "***" not in said


def wait_for_torch(pid: int) -> None:
    deadline = time.monotonic() + 90
    while "libtorch" not in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
