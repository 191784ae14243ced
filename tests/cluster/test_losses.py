"""Workers die, steps fail, outputs rot: what is lost runs again, what cannot run is set aside, the rest goes on."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.plans import Traced, compress, evaluate, plan_of, small_sweep
from earnest.cluster.driver import run_plan
from earnest.cluster.events import (
    Event,
    Planned,
    StepBlocked,
    StepFinished,
    StepProgress,
    StepReopened,
    StepRetried,
    StepSetAside,
    WorkerReady,
)
from earnest.plan import COMPRESS
from earnest.specs import Cluster
from earnest.store import Store

pytestmark = pytest.mark.slow

CPUS = {"gpus_per_worker": 0}


@pytest.fixture(autouse=True, scope="module")
def two_cpus(ensure_ray: Callable[[], None]) -> None:
    ensure_ray()


def test_a_second_run_executes_nothing(traced: Traced) -> None:
    steps = small_sweep()
    first = traced.run(steps, **CPUS)
    second = traced.run(steps, **CPUS)
    assert (len(first.done), len(second.done), len(second.cached)) == (8, 0, 8)
    assert {traced.times(step) for step in steps} == {1}


def test_both_cpus_work_whatever_kind_is_left(traced: Traced) -> None:
    """Two steps of one kind wait for each other: they end only if two workers of that kind run at a time."""
    dense = [evaluate(f"task-{n}", meet="2") for n in range(2)]
    assert traced.run(dense, **CPUS).complete
    made = [compress(f"method-{n}", meet="4") for n in range(2)]
    assert traced.run([*dense, *made], **CPUS).complete


def test_a_killed_worker_costs_only_the_step_that_it_ran(traced: Traced, tmp_path: Path) -> None:
    steps = small_sweep(sleep="0.2")
    victim = replace(steps[-1], location={**steps[-1].location, "sleep": "1.5"})
    killer = threading.Thread(target=kill_whoever_runs, args=(traced, victim.digest))
    killer.start()
    outcome = traced.run([*steps[:-1], victim], **CPUS)
    killer.join()
    assert outcome.complete
    assert traced.times(victim) == 2
    assert {traced.times(step) for step in steps[:-1]} == {1}
    undisturbed = Traced(Store(str(tmp_path / "other")), tmp_path / "other-trace")
    undisturbed.run(steps, **CPUS)
    assert traced.contents() == undisturbed.contents()


def kill_whoever_runs(traced: Traced, digest: str) -> None:
    trace = traced.trace / digest
    while not trace.is_file() or not trace.read_text(encoding="utf-8"):
        time.sleep(0.02)
    os.kill(int(trace.read_text(encoding="utf-8").split()[0]), signal.SIGKILL)


def test_a_step_that_crashes_its_worker_is_set_aside_after_its_attempts(traced: Traced) -> None:
    poison = compress("poison", crash="yes")
    waiting, last = evaluate("task-0", poison), compress("fine")
    healthy = small_sweep(methods=1, tasks=1)
    outcome = traced.run([poison, waiting, *healthy, last], **CPUS, attempts=2)
    assert traced.times(poison) == 2
    assert "its worker died" in outcome.failed[poison.digest]
    assert "needs compress tiny poison" in outcome.blocked[waiting.digest]
    assert set(outcome.done) == {step.digest for step in [*healthy, last]}
    counts = [event.finished for event in traced.of((StepFinished, StepSetAside, StepBlocked))]
    assert counts == list(range(1, 7))


def test_a_step_that_kills_every_worker_at_once_runs_as_often_as_it_may(traced: Traced) -> None:
    poison = [compress(how, die=how) for how in ("exit", "abort", "sysexit")]
    outcome = traced.run([*poison, compress("fine")], **CPUS, attempts=3)
    assert {step.label: traced.times(step) for step in poison} == {step.label: 3 for step in poison}
    assert outcome.failed.keys() == {step.digest for step in poison}
    assert all(why.endswith("tried 3 times") for why in outcome.failed.values())


def test_an_error_that_passes_is_tried_again_and_one_that_cannot_pass_is_not(traced: Traced) -> None:
    steps = {
        "passes": compress("passes", **{"raise": "runtime", "times": "1"}),
        "stays": compress("stays", **{"raise": "runtime"}),
        "user": compress("user", **{"raise": "user"}),
        "stubborn": compress("stubborn", **{"raise": "stubborn", "times": "1"}),
    }
    outcome = traced.run(steps.values(), **CPUS, attempts=3)
    assert {name: traced.times(step) for name, step in steps.items()} == {
        "passes": 2, "stays": 3, "user": 1, "stubborn": 2,
    }  # fmt: skip
    assert outcome.failed == {
        steps["stays"].digest: "RuntimeError: the device hiccuped",
        steps["user"].digest: "gptq: group_size 48 does not divide 128; use 32",
    }


def test_memory_that_runs_out_gets_a_fresh_worker_once(traced: Traced) -> None:
    once = compress("once", **{"raise": "memory", "times": "1"})
    twice = compress("twice", **{"raise": "memory"})
    outcome = traced.run([once, twice], **CPUS, attempts=5, compressors=1)
    assert (traced.times(once), traced.times(twice)) == (2, 2)
    assert outcome.failed == {twice.digest: "out of memory twice: MemoryError: no room for 12 GiB"}
    assert len({event.device.pid for event in traced.of(WorkerReady)}) >= 3


def test_a_step_that_hangs_is_ended_and_set_aside(traced: Traced) -> None:
    hangs = compress("hangs", sleep="600")
    outcome = traced.run([hangs, compress("fine")], **CPUS, attempts=1, step_timeout_s=1.0)
    assert outcome.failed == {hangs.digest: "ran longer than 1 s; tried 1 times"}
    assert len(outcome.done) == 1


def test_a_checkpoint_that_rots_while_others_need_it_is_made_again(traced: Traced) -> None:
    made = compress("method")
    traced.run([made], **CPUS)
    before = traced.contents()
    output = traced.store.fetch(COMPRESS, made.digest) / "output.bin"
    traced.tell = lambda event: output.write_bytes(b"rotten") if isinstance(event, Planned) else None
    outcome = traced.run([made, evaluate("task-0", made), evaluate("task-1", made)], **CPUS)
    assert outcome.complete
    assert traced.times(made) == 2
    assert [event.step.digest for event in traced.of(StepReopened)] == [made.digest]
    assert traced.contents().items() >= before.items()


def test_events_tell_the_story_in_order(traced: Traced) -> None:
    slow = compress("slow", sleep="1.6", **{"raise": "runtime", "times": "1"})
    traced.run([slow], **CPUS)
    kinds: list[type[Event]] = [type(event) for event in traced.events]
    assert kinds[0] is Planned
    assert kinds.index(WorkerReady) < kinds.index(StepProgress) < kinds.index(StepRetried) < kinds.index(StepFinished)
    notes = [event.note for event in traced.of(StepProgress)]
    assert set(notes) == {"time 1", "time 2"}


def test_workers_that_cannot_start_end_the_run_with_the_reason(traced: Traced) -> None:
    made = compress("method")
    steps = plan_of([made, evaluate("task", made)])
    spec = Cluster(gpus_per_worker=0, cpus_per_worker=2)
    outcome = run_plan(steps, traced.store, spec, runner="earnest.nowhere:work")
    assert list(outcome.failed) == [made.digest]
    assert "no worker could start" in outcome.failed[made.digest]
    assert "No module named 'earnest.nowhere'" in outcome.failed[made.digest]
    assert len(outcome.blocked) == 1
