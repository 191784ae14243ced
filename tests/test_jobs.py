"""The main job as users submit it: `ray job submit` to a head node that the test starts."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Ray head node with two CPUs and a dashboard; gives the environment in which to talk to it."""
    port, dashboard = free_port(), free_port()
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_TMPDIR": "/tmp/earnest-ray",
    }
    start = [
        BIN / "ray", "start", "--head", f"--port={port}", "--num-cpus=2", "--num-gpus=0", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}", "--object-store-memory=100000000", "--temp-dir=/tmp/earnest-ray", "--block",
    ]  # fmt: skip
    log = (tmp_path_factory.mktemp("ray") / "log").open("w")
    node = subprocess.Popen([str(part) for part in start], env=environment, stdout=log, stderr=log)
    try:
        wait_for(environment["RAY_API_SERVER_ADDRESS"])
        yield environment
    finally:
        node.terminate()
        node.wait(timeout=60)


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/api/jobs/", timeout=2).read()
    except OSError:
        return False
    return True


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 120
    while not answers(url):
        assert time.monotonic() < deadline, "the head node did not come up"
        time.sleep(0.5)


def submit(environment: dict[str, str], name: str, *arguments: object) -> tuple[int, dict[str, object]]:
    """Submit jobs/sweep.py, wait for its end, and give its exit code and what Ray knows of it."""
    command = [BIN / "ray", "job", "submit", "--submission-id", name, "--working-dir", ".", "--",
               sys.executable, "jobs/sweep.py", *arguments]  # fmt: skip
    folder = ROOT
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    url = f"{environment['RAY_API_SERVER_ADDRESS']}/api/jobs/{name}"
    return done.returncode, json.loads(urllib.request.urlopen(url, timeout=10).read())


def test_a_submitted_sweep_runs_through(head: dict[str, str], tmp_path: Path) -> None:
    config = ROOT / "jobs" / "configs" / "smoke.toml"
    code, job = submit(head, "smoke", config.relative_to(ROOT), "--store", tmp_path / "store")
    assert (code, job["status"]) == (0, "SUCCEEDED"), job
    assert len(list((tmp_path / "store" / "evaluate").glob("*/scores.json"))) == 4
    assert (tmp_path / "store" / "reports" / "smoke" / "report.html").is_file()


def test_a_submitted_sweep_refuses_a_store_that_vanishes_with_the_job(head: dict[str, str]) -> None:
    code, job = submit(head, "vanishing", "jobs/configs/smoke.toml")
    assert code != 0
    assert job["driver_exit_code"] == 2
    assert "thrown away" in str(job["message"])
