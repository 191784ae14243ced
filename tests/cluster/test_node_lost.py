"""A node goes down in mid-sweep with its workers and what they ran: the other node does the rest."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.plans import Traced, compress, evaluate
from earnest.cluster.events import StepRetried, WorkerReady


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


def test_steps_of_a_lost_node_run_again_elsewhere(two_nodes: tuple[Any, Any], traced: Traced) -> None:
    cluster, doomed = two_nodes
    first = [evaluate(f"task-{n}", meet="2", sleep="1") for n in range(2)]
    made = [compress(f"method-{n}") for n in range(3)]
    steps = [*first, *made, *(evaluate("task-0", step) for step in made)]
    loser = threading.Thread(target=lose_the_node, args=(cluster, doomed, traced.trace))
    loser.start()
    outcome = traced.run(steps)
    loser.join()
    assert outcome.complete
    assert sorted(traced.times(step) for step in first) == [1, 2]
    assert len(traced.of(StepRetried)) == 1
    assert len({event.device.node for event in traced.of(WorkerReady)}) == 2


def lose_the_node(cluster: Any, doomed: Any, trace: Path) -> None:
    """Take the node away as soon as both nodes run a step."""
    while not trace.is_dir() or sum(1 for _ in trace.iterdir()) < 2:
        time.sleep(0.05)
    cluster.remove_node(doomed, allow_graceful=False)
