"""Getting to a cluster, or being told at once why not."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.plans import Traced, small_sweep
from earnest.cluster.session import connected
from earnest.specs import UserError

pytestmark = pytest.mark.slow


def unused_address() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    import ray

    ray.shutdown()
    address = unused_address()
    with pytest.raises(UserError, match=f"no Ray cluster lets us in at {address}"), connected(address):
        pass


def test_nothing_to_do_does_not_even_import_ray(traced: Traced) -> None:
    traced.run_alone(small_sweep())
    program = (
        "import sys; from pathlib import Path; from cluster.plans import Traced, small_sweep; "
        "from earnest.store import Store; "
        "outcome = Traced(Store(sys.argv[1]), Path(sys.argv[2])).run(small_sweep()); "
        "assert len(outcome.cached) == 8, outcome; assert 'ray' not in sys.modules"
    )
    command = [sys.executable, "-c", program, traced.store.root, str(traced.trace)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1], timeout=60)


NICENESS = """
import os
from earnest.cluster.session import connected
os.nice(2)
with connected(None):
    import ray
    print(ray.get(ray.remote(lambda: os.nice(0)).remote()) - os.nice(0))
"""


@pytest.mark.parametrize(("asked", "nicer"), [({}, 0), ({"RAY_worker_niceness": "5"}, 5)])
def test_workers_of_a_local_ray_are_as_nice_as_the_caller_unless_told_otherwise(
    asked: dict[str, str], nicer: int
) -> None:
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_worker_niceness")
    }
    found = subprocess.run(
        [sys.executable, "-c", NICENESS], env={**inherited, **asked}, capture_output=True, text=True, check=True,
        timeout=120,
    )  # fmt: skip
    assert int(found.stdout) == nicer


def test_a_cluster_that_is_not_ours_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_worker_niceness", raising=False)
    with pytest.raises(UserError), connected(unused_address()):
        pass
    assert "RAY_worker_niceness" not in os.environ
