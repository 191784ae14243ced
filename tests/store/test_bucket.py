"""A store in a bucket, asked over HTTP: how many requests a look costs, and that leases are exclusive there."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from earnest.store import Leases, Store

moto_server = pytest.importorskip("moto.server", reason="needs moto, which answers as S3 does")
moto_models = pytest.importorskip("moto.s3.models")
s3fs = pytest.importorskip("s3fs", reason="needs s3fs")

OBJECTS = 3_000  # of which a request lists 1000


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of a local S3 with the bucket `earnest`."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }.items():
            environment.setenv(name, value)
        s3fs.S3FileSystem().mkdir("earnest")
        yield f"http://{host}:{port}"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def requests(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each call of S3 was made since."""
    del endpoint
    counted: Counter[str] = Counter()
    real = s3fs.S3FileSystem._call_s3

    async def counting(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        counted[method] += 1
        return await real(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counting)
    return counted


def test_looking_for_thousands_of_steps_takes_a_listing_and_no_request_per_object(
    requests: Counter[str], tmp_path: Path
) -> None:
    backend = next(iter(moto_models.s3_backends["123456789012"].values()))
    for number in range(OBJECTS // 2):
        for name in ("step.json", "scores.json"):
            backend.put_object("earnest", f"listed/evaluate/{number:032x}/{name}", b"{}")
    store = Store("s3://earnest/listed", cache=tmp_path / "cache")
    requests.clear()
    assert len(store.digests("evaluate")) == OBJECTS // 2
    assert len(store.digests("evaluate")) == OBJECTS // 2
    assert requests == {"list_objects_v2": OBJECTS // 1000}


def test_a_bucket_keeps_and_checks_outputs_as_a_folder_does(requests: Counter[str], tmp_path: Path) -> None:
    store = Store("s3://earnest/kept", cache=tmp_path / "cache")
    for name in ("d1", "d2", "d3"):
        with store.publish("compress", name, {}, {"seconds": 1.0}) as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "weights.bin").write_text("hello")
    store._fs.pipe("earnest/kept/compress/d2/deep/weights.bin", b"hallo")
    store._fs.rm("earnest/kept/compress/d3/deep/weights.bin")
    again = Store("s3://earnest/kept", cache=tmp_path / "cache")
    assert again.intact("compress", ["d1", "d2", "d3", "d4"]) == {"d1"}
    assert again.damaged("compress", ["d1", "d2", "d3", "d4"]) == {
        "d2": "the bytes of deep/weights.bin are not the ones published",
        "d3": "deep/weights.bin is missing",
    }
    assert (again.fetch("compress", "d1") / "deep" / "weights.bin").read_text(encoding="utf-8") == "hello"
    requests.clear()
    assert again.intact("compress", ["d1"]) == {"d1"}
    assert sum(requests.values()) == 0


def test_of_drivers_that_race_in_a_bucket_exactly_one_gets_each_lease(endpoint: str) -> None:
    del endpoint
    store = Store("s3://earnest/raced")
    drivers = [Leases(store._fs, store._base, f"driver-{n}") for n in range(3)]
    for driver in drivers:
        driver.start()

    def take_all(driver: Leases) -> list[str]:
        return [step for step in map(str, range(8)) if driver.take(step)]

    with ThreadPoolExecutor(3) as pool:
        taken = sorted(step for steps in pool.map(take_all, drivers) for step in steps)
    assert taken == [str(step) for step in range(8)]
    drivers[0].end()
    assert all(drivers[1].is_free(step) or drivers[2].is_free(step) for step in taken)


def test_requests_are_counted(requests: Counter[str], endpoint: str) -> None:
    """The counter above would see a request per object."""
    del endpoint
    fs: Callable[..., Any] = s3fs.S3FileSystem
    fs().exists("earnest/none")
    assert sum(requests.values()) >= 1
