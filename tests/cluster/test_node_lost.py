"""A node goes down in mid-sweep with its workers and what they ran: the other node does the rest."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.plans import Traced, compress, evaluate
from earnest.cluster.events import StepRetried, WorkerReady

pytestmark = pytest.mark.slow


@pytest.fixture
def two_nodes() -> Iterator[tuple[Any, Any]]:
    """A cluster of a head without GPUs and two nodes with one each, as (cluster, the node to lose)."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1, num_gpus=1)
    doomed = cluster.add_node(num_cpus=1, num_gpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster, doomed
    ray.shutdown()
    cluster.shutdown()


def test_steps_of_a_lost_node_run_again_elsewhere(two_nodes: tuple[Any, Any], traced: Traced, tmp_path: Path) -> None:
    cluster, doomed = two_nodes
    lost = tmp_path / "lost"
    first = [evaluate(f"task-{n}", until=str(lost)) for n in range(2)]
    made = [compress(f"method-{n}") for n in range(3)]
    steps = [*first, *made, *(evaluate("task-0", step) for step in made)]
    loser = threading.Thread(target=lose_the_node, args=(cluster, doomed, traced.trace, lost))
    loser.start()
    outcome = traced.run(steps, compressors=1)
    loser.join()
    assert outcome.complete
    assert sorted(traced.times(step) for step in first) == [1, 2]
    assert len(traced.of(StepRetried)) == 1
    assert len({event.device.node for event in traced.of(WorkerReady)}) == 2


def lose_the_node(cluster: Any, doomed: Any, trace: Path, lost: Path) -> None:
    """Take the node away while both nodes run a step, and say so when a worker died of it."""
    while len(pids := running(trace)) < 2:
        time.sleep(0.05)
    cluster.remove_node(doomed, allow_graceful=False)
    while all(map(is_alive, pids)):
        time.sleep(0.05)
    lost.touch()


def running(trace: Path) -> set[int]:
    """The workers that run the two steps which wait."""
    waiting = [evaluate(f"task-{n}").digest for n in range(2)]
    lines = [(trace / digest).read_text(encoding="utf-8") for digest in waiting if (trace / digest).is_file()]
    return {int(line.split()[0]) for line in lines if line}


def is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
