"""The graph on one machine: gateways listen themselves, without Serve's proxies, and Serve watches over all of it."""

import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "disabled"

import httpx
import pytest
import ray
from ray import serve
from serve.config import Batch, Config, Key, Limits, Settings
from serve.deployments import graph
from serve.keys import digest, new_key
from serve.starting import start, with_free_port

pytestmark = pytest.mark.slow

APP = f"direct-{os.getpid()}"
KEY = new_key()
HEADERS = {"Authorization": f"Bearer {KEY}"}
WAIT_S = 180
ASKED: dict[str, Any] = {"model": "earnest", "prompt": "Tell me about the town.", "temperature": 0, "max_tokens": 24}
LONG: dict[str, Any] = {
    **ASKED, "n": 8, "temperature": 0.7, "seed": 3, "max_tokens": 400, "logit_bias": {"2": -100}, "stream": True
}  # fmt: skip


@pytest.fixture(scope="module")
def small(config: Config) -> Config:
    """The nano ensemble with few rows, on a free port, and a key that only comes with the settings."""
    models = {name: config.models[name] for name in ("large", "small-tuned", "small")}
    changes = {"batch": Batch(rows=8), "limits": Limits(max_tokens=400), "models": models, "port": 0}
    return with_free_port(config.model_copy(update=changes))


@pytest.fixture(scope="module")
def http(small: Config) -> Iterator[httpx.Client]:
    """A client of the graph on a Ray of its own."""
    folder = tempfile.mkdtemp(prefix="es-", dir="/tmp")
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=80 * 2**20, _temp_dir=folder,
    )  # fmt: skip
    assert start(small)
    deploy(small)
    with httpx.Client(base_url=f"http://127.0.0.1:{small.port}", headers=HEADERS, timeout=WAIT_S) as client:
        yield client
    serve.shutdown()
    ray.shutdown()
    shutil.rmtree(Path(folder), ignore_errors=True)


def deploy(config: Config, **settings: Any) -> None:
    keys = (Key(name="tests", sha256=digest(KEY), metrics=True),)
    serve.run(graph(config, Settings(keys=keys, **settings), direct=True), name=APP, route_prefix="/")


def text_of(http: httpx.Client, **fields: Any) -> str:
    answer = http.post("/v1/completions", json={**ASKED, **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def again(http: httpx.Client) -> str:
    """What is written as soon as something is."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        try:
            answer = http.post("/v1/completions", json=ASKED)
        except httpx.TransportError:
            time.sleep(0.1)
            continue
        if answer.status_code == 200:
            return str(answer.json()["choices"][0]["text"])
        assert answer.status_code == 503, answer.text
        time.sleep(0.1)
    raise AssertionError("nothing answers")


def kill(deployment: str) -> None:
    """End a replica's process without a warning."""
    from ray._private.state import actors

    (pid,) = [
        one["Pid"]
        for one in actors().values()
        if one["State"] == "ALIVE" and one["ActorClassName"] == f"ServeReplica:{APP}:{deployment}"
    ]
    os.kill(int(pid), signal.SIGKILL)


def streamed(http: httpx.Client, meanwhile: Callable[[], object]) -> list[dict[str, Any] | None]:
    """The events of a long stream, None for its regular end; `meanwhile` is done once it has begun."""
    events: list[dict[str, Any] | None] = []
    with http.stream("POST", "/v1/completions", json=LONG) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                said = line.removeprefix("data: ")
                events.append(None if said == "[DONE]" else json.loads(said))
                if len(events) == 1:
                    meanwhile()
    return events


def test_no_proxy_stands_between(http: httpx.Client) -> None:
    status = serve.status()
    assert status.proxies == {}
    assert {*status.applications[APP].deployments} == {"gateway", "ensemble"}
    assert text_of(http)


def test_nobody_is_served_before_the_keys_of_the_settings_are_known(http: httpx.Client) -> None:
    assert httpx.post(f"{http.base_url}/v1/completions", json=ASKED).status_code == 401


def test_another_alpha_is_taken_over_by_the_gateway_that_listens(http: httpx.Client, small: Config) -> None:
    steered, alone = text_of(http), text_of(http, model="large")
    assert steered != alone
    deploy(small, alphas={"tuned": 0.0})
    assert text_of(http) == alone
    deploy(small, alphas={"tuned": 1.0})
    assert text_of(http) == steered


def test_a_killed_ensemble_ends_streams_with_an_error_and_requests_with_503_until_it_is_replaced(
    http: httpx.Client,
) -> None:
    before = text_of(http)
    last = streamed(http, lambda: kill("ensemble"))[-1]
    assert last is not None
    assert last["error"]["code"] == "ensemble_lost"
    refused = http.post("/v1/completions", json=ASKED)  # far sooner than models are loaded
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "ensemble_lost")
    assert int(refused.headers["Retry-After"]) > 0
    assert http.get("/health").status_code == 200
    assert http.get("/ready").status_code == 503
    assert again(http) == before


def test_a_killed_gateway_is_replaced_on_the_same_port_before_the_same_ensemble(http: httpx.Client) -> None:
    before, written = text_of(http), http.get("/metrics").text
    kill("gateway")
    assert again(http) == before
    name = "earnest_batch_rounds"
    rounds = [
        max(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))
        for page in (written, http.get("/metrics").text)
    ]
    assert rounds[1] > rounds[0]  # it went on counting


def test_while_the_graph_is_taken_down_a_stream_ends_whole_and_new_requests_are_sent_away(http: httpx.Client) -> None:
    found: list[int] = []
    taking = threading.Thread(target=lambda: serve.delete(APP))

    def take_down() -> None:
        taking.start()
        while not found or found[-1] == 200:
            found.append(httpx.get(f"{http.base_url}/v1/models", headers=HEADERS).status_code)
            time.sleep(0.05)

    events = streamed(http, take_down)
    taking.join()
    assert events[-1] is None
    reasons = [choice["finish_reason"] for one in events if one for choice in one["choices"]]
    assert reasons.count("length") == LONG["n"]
    assert found[-1] == 503
