"""A sweep computes in one dtype, settled when it is planned, and goes on in the one that it was begun in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from earnest import sweep as main_job
from earnest.cluster import dtypes
from earnest.plan import Inputs, Plan, Step
from earnest.planning import make_plan
from earnest.specs import Cluster, Sweep
from earnest.specs.dtypes import Auto
from earnest.store import Store
from earnest.sweep import settled_plan

SWEEP = Sweep.model_validate(
    {
        "name": "s",
        "model": "m",
        "compress": [{"method": "magnitude", "sparsity": 0.5}],
        "tasks": [{"task": "closed_book"}],
    }
)
INPUTS = Inputs(models={"m": ("m", "M")}, data={"nano|test": ("nano", "D")}, versions={}, stored={"m": "bfloat16"})


def plan_in(auto: Auto) -> Plan:
    return make_plan(SWEEP, replace(INPUTS, auto=auto))


def finish(store: Store, step: Step) -> None:
    with store.publish(step.kind, step.digest, step.spec) as folder:
        (folder / "out").write_text("done")


@pytest.mark.parametrize(("auto", "dtype"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("stored", "bfloat16")])
def test_a_new_sweep_takes_what_suits_its_workers(
    auto: Auto, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_job, "auto_of_workers", lambda *_: auto)
    made = settled_plan(SWEEP, INPUTS, Store(str(tmp_path)))
    assert {step.spec["dtype"] for step in made.steps.values()} == {dtype}


@pytest.mark.parametrize("begun", ["float32", "bfloat16"])
def test_a_sweep_that_was_begun_goes_on_in_its_dtype_on_any_machine(
    begun: Auto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_job, "auto_of_workers", lambda *_: pytest.fail("asked again"))
    store = Store(str(tmp_path))
    finish(store, next(iter(plan_in(begun).steps.values())))
    assert set(settled_plan(SWEEP, INPUTS, store).steps) == set(plan_in(begun).steps)


def test_a_dtype_that_the_sweep_names_is_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_job, "auto_of_workers", lambda *_: pytest.fail("asked"))
    made = settled_plan(SWEEP.model_copy(update={"dtype": "float16"}), INPUTS, Store(str(tmp_path)))
    assert {step.spec["dtype"] for step in made.steps.values()} == {"float16"}


@pytest.mark.parametrize(
    ("gpus", "address", "there", "auto"),
    [
        (None, None, False, "bfloat16"),  # this machine's CPUs
        (0, None, True, "bfloat16"),  # CPUs are asked for, GPUs or not
        (None, None, True, "stored"),
        (None, "head:6379", False, "float32"),  # CPUs of any kind
        (None, "head:6379", True, "stored"),
        (0, "head:6379", True, "float32"),
        (0.5, "head:6379", False, "stored"),
    ],
)
def test_what_auto_means_follows_from_the_workers(
    gpus: float | None, address: str | None, there: bool, auto: Auto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(dtypes, "auto_on", lambda device: "bfloat16")
    monkeypatch.setattr(dtypes, "_machine_has_gpus", lambda: there and address is None)
    monkeypatch.setattr(dtypes, "_cluster_has_gpus", lambda _: there)
    assert dtypes.auto_of_workers(Cluster(gpus_per_worker=gpus), address) == auto
