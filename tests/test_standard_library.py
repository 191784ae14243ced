"""The folder `platform/` never hides the standard library's `platform`: in a Ray worker and under `serve run`, too.

The plain interpreter and pytest are checked in `test_repository.py`.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

WORKER = """
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000)
@ray.remote
def system():
    import earnest, platform, sys
    return platform.system(), platform.__file__, [p for p in sys.path]
print(*ray.get(system.remote())[:2])
"""

APP = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class System:
    def __call__(self, request):
        import earnest, platform
        return f"{platform.system()} {platform.__file__}"

app = System.bind()
"""


def environment(**more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_TMPDIR": "/tmp/earnest-ray",
        **more,
    }


def test_in_a_ray_worker_started_from_the_root() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORKER],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Linux") or done.stdout.startswith("Darwin")
    assert str(ROOT / "platform") not in done.stdout


def test_under_serve_run_from_the_root(tmp_path: Path) -> None:
    (tmp_path / "system_app.py").write_text(APP)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "config.yaml").write_text(
        f"http_options: {{host: 127.0.0.1, port: {port}}}\n"
        "applications: [{name: system, route_prefix: /, import_path: 'system_app:app'}]\n"
    )
    command = [str(BIN / "serve"), "run", "--app-dir", str(tmp_path), str(tmp_path / "config.yaml")]
    log = (tmp_path / "log").open("w+")
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    server = subprocess.Popen(command, cwd=ROOT, env=environment(PYTHONPATH=paths), stdout=log, stderr=log)
    try:
        answer = wait_for_answer(f"http://127.0.0.1:{port}/", server, log.name)
    finally:
        server.terminate()
        server.wait(timeout=60)
    assert answer.split()[0] in ("Linux", "Darwin")
    assert str(ROOT / "platform") not in answer


def wait_for_answer(url: str, server: "subprocess.Popen[bytes]", log: str) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, Path(log).read_text()
        try:
            return str(urllib.request.urlopen(url, timeout=5).read().decode())
        except OSError:
            time.sleep(0.5)
    raise AssertionError(Path(log).read_text())
