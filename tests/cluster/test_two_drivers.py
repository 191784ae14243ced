"""Several drivers on one store: no step runs twice, whatever sweep it belongs to, and none is lost with a driver."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.plans import Traced, compress, evaluate, small_sweep
from earnest.cluster.driver import Outcome
from earnest.cluster.events import StepElsewhere, StepFinished, StepStarted
from earnest.store import Store

pytestmark = pytest.mark.slow

HALF = {"gpus_per_worker": 0, "cpus_per_worker": 0.5, "compressors": 1, "evaluators": 1}


@pytest.fixture(autouse=True, scope="module")
def two_cpus(ensure_ray: Callable[[], None]) -> None:
    ensure_ray()


def test_two_sweeps_at_a_time_run_the_steps_that_they_share_once(traced: Traced) -> None:
    mine, theirs = small_sweep(methods=3, tasks=2, sleep="0.2"), small_sweep(methods=2, tasks=3, sleep="0.2")
    other = Traced(Store(traced.store.root), traced.trace)
    outcomes: list[Outcome] = []
    there = threading.Thread(target=lambda: outcomes.append(other.run(theirs, **HALF)))
    there.start()
    outcome = traced.run(mine, **HALF)
    there.join()
    every = {step.digest: step for step in (*mine, *theirs)}
    assert {traced.times(step) for step in every.values()} == {1}
    assert outcome.complete
    assert outcomes[0].complete
    assert outcome.done.keys() | outcomes[0].done.keys() == every.keys()
    assert not outcome.done.keys() & outcomes[0].done.keys()
    assert all(name.split("/")[0] in ("compress", "evaluate") for name in traced.contents())


def test_a_step_that_another_driver_gives_back_is_run_here(traced: Traced) -> None:
    made = compress("made")
    other = traced.store.leases("other")
    other.start()
    assert other.take(made.digest)
    run = threading.Thread(target=traced.run, args=([made, evaluate("task", made), evaluate("task")],), kwargs=HALF)
    run.start()
    wait_until(lambda: bool(traced.of(StepElsewhere)) and len(traced.of(StepFinished)) == 1)
    assert traced.times(made) == 0
    other.give_back(made.digest)
    run.join(timeout=60)
    assert not run.is_alive()
    assert traced.times(made) == 1
    other.end()


def test_what_another_driver_publishes_is_waited_for_and_not_run(traced: Traced, tmp_path: Path) -> None:
    made = compress("made")
    other = traced.store.leases("other")
    other.start()
    assert other.take(made.digest)
    run = threading.Thread(target=traced.run, args=([made, evaluate("task", made)],), kwargs=HALF)
    run.start()
    wait_until(lambda: bool(traced.of(StepElsewhere)))
    Traced(Store(traced.store.root), tmp_path / "other-trace").run_alone([made])
    run.join(timeout=60)
    assert not run.is_alive()
    other.end(finished=[made.digest])
    assert traced.times(made) == 0
    assert [event.step.label for event in traced.of(StepStarted)] == ["evaluate task"]


def test_an_output_that_was_damaged_since_it_was_cached_is_made_again(traced: Traced) -> None:
    steps = small_sweep(methods=1, tasks=2)
    traced.run(steps, **HALF)
    before = traced.contents()
    for number, step in enumerate(steps):
        folder = Path(traced.store.root) / step.kind / step.digest
        (folder / "output.bin").write_bytes(b"") if number % 2 else (folder / "step.json").write_text("{")
    outcome = traced.run(steps, **HALF)
    assert (len(outcome.done), outcome.complete) == (len(steps), True)
    assert traced.contents() == before


def wait_until(holds: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
