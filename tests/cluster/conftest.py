"""A real Ray for the tests of this folder: no dashboard, no token, a short folder for its sockets."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"
# Workers import the runners of these tests by name.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])

import pytest

from cluster.plans import Traced
from earnest.store import Store


@pytest.fixture(scope="package")
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    folder = Path(tempfile.mkdtemp(prefix="er-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Ray ends with the last test of this folder: such a folder keeps its fixtures to the very end."""
    if nextitem is None or item.path.parent != nextitem.path.parent:
        import ray

        ray.shutdown()


@pytest.fixture(scope="package")
def ensure_ray(short_folder: Path) -> Iterator[Callable[[], None]]:
    """Connects to a Ray that believes in two CPUs and four GPUs, started once for all tests of this folder."""
    import ray

    def ensure() -> None:
        if not ray.is_initialized():
            ray.init(
                num_cpus=2,
                num_gpus=4,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=80 * 2**20,
                _temp_dir=str(short_folder),
            )

    yield ensure
    ray.shutdown()


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    """A store, and a trace of every time that a step ran."""
    return Traced(Store(str(tmp_path / "store")), tmp_path / "trace")
