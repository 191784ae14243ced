"""The driver is killed in mid-sweep: what it finished stays, the next one does the rest, and the store is as ever."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.plans import Traced, small_sweep
from earnest.store import Store

pytestmark = pytest.mark.slow

STEPS = small_sweep(methods=2, tasks=3)
SWEEP_HERE = Path(__file__).with_name("sweep_here.py")


def start(folder: Path, sleep: float, home: Path) -> "subprocess.Popen[str]":
    """A driver with a Ray of its own, as on a user's machine: no authentication mode chosen, an empty home."""
    environment = {**os.environ, "HOME": str(home)}
    environment.pop("RAY_AUTH_MODE", None)
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, str(SWEEP_HERE), str(folder / "store"), str(folder / "trace"), str(sleep)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def finish(driver: "subprocess.Popen[str]") -> dict[str, Any]:
    told, _ = driver.communicate(timeout=120)
    assert driver.returncode == 0
    answer: dict[str, Any] = json.loads(told.splitlines()[-1])
    return answer


def wait_until_finished(store: Store, count: int, limit_s: float = 90.0) -> None:
    deadline = time.monotonic() + limit_s
    while sum(len(store.digests(kind)) for kind in ("compress", "evaluate")) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_driver_loses_no_finished_step_and_the_next_one_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    disturbed, home = tmp_path / "disturbed", tmp_path / "home"
    home.mkdir()
    store = Store(str(disturbed / "store"))
    traced = Traced(store, disturbed / "trace")
    first = start(disturbed, sleep=0.3, home=home)
    wait_until_finished(store, count=3)
    first.send_signal(signal.SIGKILL)
    first.wait()
    finished = {step.digest for step in STEPS if store.has(step.kind, step.digest)}
    assert 3 <= len(finished) < len(STEPS)

    second = finish(start(disturbed, sleep=0.0, home=home))
    assert set(second["cached"]) >= finished
    assert set(second["done"]) | set(second["cached"]) == {step.digest for step in STEPS}
    assert {traced.times(step) for step in STEPS if step.digest in finished} == {1}
    assert (second["mode"], second["token_left_behind"]) == ("token", False)

    undisturbed = Traced(Store(str(tmp_path / "undisturbed")), tmp_path / "undisturbed-trace")
    undisturbed.run_alone(STEPS)
    assert traced.contents() == undisturbed.contents()
