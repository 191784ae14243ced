"""Getting to a cluster, or being told at once why not."""

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
