"""The head of the cluster is lost in mid-sweep: the driver ends with one line, and the next one goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.plans import Traced, small_sweep
from cluster.test_driver_killed import SWEEP_HERE, finish, start, wait_until_finished
from earnest.store import Store

pytestmark = pytest.mark.slow

STEPS = small_sweep(methods=2, tasks=3)


@pytest.fixture
def cluster() -> Any:
    """A head without CPUs, and a node."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False})
    made.add_node(num_cpus=2)
    yield made
    made.shutdown()


def test_a_driver_without_a_head_ends_with_one_line_and_the_next_one_goes_on(cluster: Any, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    command = [sys.executable, str(SWEEP_HERE), str(tmp_path / "store"), str(tmp_path / "trace"), "0.5", "3"]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        wait_until_finished(store, count=2)
        for head in cluster.head_node.all_processes["gcs_server"]:
            os.kill(head.process.pid, signal.SIGKILL)
        _, said = run.communicate(timeout=120)
    assert run.returncode == 1
    assert said.count("\n") == 1
    assert said.startswith(f"error: the head of the Ray cluster at {cluster.address} has not answered for 3 s")
    assert list((Path(store.root) / "drivers").iterdir()) == []
    finished = {step.digest for step in STEPS if store.has(step.kind, step.digest)}

    second = finish(start(tmp_path, sleep=0.0, home=tmp_path))
    assert set(second["cached"]) >= finished
    assert set(second["done"]) | set(second["cached"]) == {step.digest for step in STEPS}
    undisturbed = Traced(Store(str(tmp_path / "calm")), tmp_path / "calm-trace")
    undisturbed.run_alone(STEPS)
    assert Traced(store, tmp_path / "trace").contents() == undisturbed.contents()
