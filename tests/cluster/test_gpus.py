"""GPU workers own the devices that they were given. Ray is told of four GPUs; no CUDA answers, so the CPU computes."""

from collections.abc import Callable

import pytest

from cluster.plans import Traced, evaluate
from earnest.cluster.events import WorkerReady
from earnest.specs import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def four_gpus(ensure_ray: Callable[[], None]) -> None:
    ensure_ray()


def owned(traced: Traced) -> list[tuple[str, ...]]:
    return sorted(event.device.gpus for event in traced.of(WorkerReady))


def test_four_workers_own_a_gpu_each_and_see_no_other(traced: Traced) -> None:
    outcome = traced.run([evaluate(f"task-{n}", meet="4") for n in range(4)])
    assert owned(traced) == [("0",), ("1",), ("2",), ("3",)]
    assert sorted(summary.gpus for summary in outcome.done.values()) == ["0", "1", "2", "3"]


def test_two_workers_of_half_a_gpu_share_one(traced: Traced) -> None:
    traced.run([evaluate(f"task-{n}", meet="2") for n in range(2)], gpus_per_worker=0.5, evaluators=2)
    assert len(owned(traced)) == 2
    assert len(set(owned(traced))) == 1


def test_two_workers_of_two_gpus_own_four_different_ones(traced: Traced) -> None:
    outcome = traced.run([evaluate(f"task-{n}", meet="2") for n in range(2)], gpus_per_worker=2)
    devices = owned(traced)
    assert [len(device) for device in devices] == [2, 2]
    assert len({gpu for device in devices for gpu in device}) == 4
    assert {summary.gpus for summary in outcome.done.values()} == {",".join(device) for device in devices}


def test_a_worker_without_gpus_sees_none_on_a_machine_that_has_some(traced: Traced) -> None:
    outcome = traced.run([evaluate("task")], gpus_per_worker=0)
    assert [summary.gpus for summary in outcome.done.values()] == [""]


def test_more_gpus_than_a_node_has_are_refused_at_once(traced: Traced) -> None:
    with pytest.raises(UserError, match=r"asked for 1 worker x 8 GPU; the cluster at .* has 4 GPUs, 2 CPUs on 1 node"):
        traced.run([evaluate("task")], gpus_per_worker=8)
