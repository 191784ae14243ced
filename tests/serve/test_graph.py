"""The Serve graph as it runs: real replicas, real models, real HTTP; and what is left when parts of it are killed."""

import asyncio
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "disabled"

import httpx
import pytest
import ray
from ray import serve
from serve.config import Batch, Config, Key, Limits, Settings
from serve.deployments import graph
from serve.front import wanted
from serve.keys import digest, new_key

pytestmark = pytest.mark.slow

APP = f"graph-{os.getpid()}"
KEY = new_key()
WAIT_S = 180
CORES = sorted(os.sched_getaffinity(0))
STORY = "Tell me about the town."
LONG: dict[str, Any] = {"n": 12, "temperature": 0.7, "seed": 3, "max_tokens": 400, "logit_bias": {"2": -100}}
"""Some thousand tokens, so that there is time to interfere."""


@dataclass(frozen=True)
class Served:
    """Where the graph answers."""

    url: str

    def post(self, **fields: Any) -> httpx.Response:
        """Ask for a completion."""
        return httpx.post(f"{self.url}/v1/completions", json=body(**fields), headers=HEADERS, timeout=WAIT_S)

    def texts(self, **fields: Any) -> list[str]:
        """The whole texts of one request."""
        response = self.post(**fields)
        assert response.status_code == 200, response.text
        return texts_of(response)


HEADERS = {"Authorization": f"Bearer {KEY}"}


def body(**fields: Any) -> dict[str, Any]:
    """A completion, greedy and short unless it is said otherwise."""
    return {"model": "earnest", "prompt": STORY, "temperature": 0, "max_tokens": 24, **fields}


def texts_of(response: httpx.Response) -> list[str]:
    """Every choice's text."""
    return [choice["text"] for choice in response.json()["choices"]]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a Serve on a Ray that believes in four CPUs and four GPUs."""
    folder = Path(tempfile.mkdtemp(prefix="es-", dir="/tmp"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    wanted()
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=80 * 2**20,
        _temp_dir=str(folder),
    )
    serve.start(http_options={"host": "127.0.0.1", "port": number})
    yield number
    serve.shutdown()
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def small(config: Config) -> Config:
    """The nano ensemble with few rows, a key, and each model on a GPU of its own."""
    models = {
        name: config.models[name].model_copy(update={"gpus": 1.0, "cpus": 0.2})
        for name in ("large", "small-tuned", "small")
    }
    key = Key(name="tests", sha256=digest(KEY))
    changes = {"keys": (key,), "batch": Batch(rows=16), "limits": Limits(max_tokens=400), "keyless": False}
    return config.model_copy(update={"models": models, **changes})


@pytest.fixture(scope="module")
def served(port: int, small: Config) -> Served:
    """All models in the ensemble's replica."""
    serve.run(graph(small), name=APP, route_prefix="/")
    return Served(f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module")
def stories(served: Served) -> dict[str, str]:
    """What is written one at a time, by prompt."""
    prompts = [f"Tell me about {what}." for what in ("the town", "the guild", "Nada Orrin", "Mirko Talen")]
    return {prompt: served.texts(prompt=prompt)[0] for prompt in prompts}


@pytest.fixture(scope="module")
def long_texts(served: Served) -> list[str]:
    """What is written of `LONG` when nobody interferes."""
    return served.texts(**LONG)


def events(response: httpx.Response) -> Iterator[dict[str, Any] | None]:
    """The events of a stream; None for its regular end."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            said = line.removeprefix("data: ")
            yield None if said == "[DONE]" else json.loads(said)


def streamed(served: Served, meanwhile: Any, **fields: Any) -> tuple[list[str], Any]:
    """The texts of a stream and its last event; `meanwhile` is done, on a thread, once the first piece is there."""
    texts, last, thread = [""] * fields.get("n", 1), None, threading.Thread(target=meanwhile)
    with httpx.stream(
        "POST", f"{served.url}/v1/completions", json=body(stream=True, **fields), headers=HEADERS, timeout=WAIT_S
    ) as response:
        assert response.status_code == 200
        for last in events(response):
            if not any(texts):
                thread.start()
            for choice in (last or {}).get("choices", ()):
                texts[choice["index"]] += choice["text"]
    thread.join()
    return texts, last


def pid_of(actor_class: str, name: str = "") -> int:
    """The process of a living actor of our cluster."""
    from ray._private.state import actors

    (found,) = [
        actor
        for actor in actors().values()
        if actor["State"] == "ALIVE" and actor_class in actor["ActorClassName"] and name in actor["Name"]
    ]
    return int(found["Pid"])


def killer(actor_class: str, name: str = "") -> Any:
    """Kills a process without a warning."""
    pid = pid_of(actor_class, name)
    return lambda: os.kill(pid, signal.SIGKILL)


def gauges() -> Any:
    """How the ensemble's batch stands."""
    return serve.get_deployment_handle("ensemble", APP).gauges.remote().result(timeout_s=WAIT_S)


def until(promise: Any) -> None:
    """Wait for it, but not for ever."""
    deadline = time.monotonic() + WAIT_S
    while not promise():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def texts_again(served: Served, **fields: Any) -> list[str]:
    """The texts of the next request that is taken: until the new replica stands, requests are refused clearly."""
    found: list[str] = []

    def taken() -> bool:
        response = served.post(**fields)
        assert response.status_code in (200, 503), response.text
        found.extend(texts_of(response) if response.status_code == 200 else [])
        return bool(found)

    until(taken)
    return found


def test_a_stream_through_serve_has_the_texts_of_the_whole_answer(served: Served, long_texts: list[str]) -> None:
    texts, last = streamed(served, lambda: None, **LONG)
    assert texts == long_texts
    assert last is None


def test_a_wrong_key_is_refused(served: Served) -> None:
    answer = httpx.post(f"{served.url}/v1/completions", json=body(), headers={"Authorization": "Bearer no"})
    assert answer.status_code == 401


def test_200_concurrent_streams_through_http_equal_what_each_gets_alone(
    served: Served, stories: dict[str, str]
) -> None:
    async def one(client: httpx.AsyncClient, prompt: str) -> str:
        asked = body(stream=True, prompt=prompt)
        async with client.stream("POST", f"{served.url}/v1/completions", json=asked, headers=HEADERS) as response:
            assert response.status_code == 200
            lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
        assert lines[-1] == "[DONE]"
        pieces = [json.loads(line)["choices"][0]["text"] for line in lines[:-1]]
        return "".join(pieces)

    async def all_of_them() -> list[str]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=WAIT_S, limits=limits) as client:
            return await asyncio.gather(*(one(client, list(stories)[n % len(stories)]) for n in range(200)))

    texts = asyncio.run(all_of_them())
    assert texts == [list(stories.values())[n % len(stories)] for n in range(200)]


def test_a_client_that_leaves_gives_its_rows_back(served: Served) -> None:
    asked, before = body(stream=True, **LONG), gauges().tokens
    with httpx.stream("POST", f"{served.url}/v1/completions", json=asked, headers=HEADERS) as response:
        lines = response.iter_lines()  # forgotten, it would hang up
        next(lines)
        until(lambda: gauges().running == LONG["n"])
    until(lambda: gauges().running == 0)
    assert gauges().tokens - before < LONG["n"] * LONG["max_tokens"] / 2  # what nobody reads is not written


def test_another_alpha_is_taken_over_while_a_stream_goes_on(
    served: Served, small: Config, long_texts: list[str]
) -> None:
    steered, alone, before = served.texts(), served.texts(model="large"), pid_of("ensemble")
    assert steered != alone

    def reload() -> None:
        serve.run(graph(small, Settings(alphas={"tuned": 0.0})), name=APP, route_prefix="/")

    texts, last = streamed(served, reload, **LONG)
    assert texts == long_texts
    assert last is None
    assert served.texts() == alone
    serve.run(graph(small, Settings(alphas={"tuned": 1.0})), name=APP, route_prefix="/")
    until(lambda: served.texts() == steered)
    assert pid_of("ensemble") == before


def test_a_killed_ensemble_ends_its_streams_with_an_error_and_is_replaced(
    served: Served, long_texts: list[str]
) -> None:
    texts, last = streamed(served, killer("ensemble"), **LONG)
    assert all(whole.startswith(text) for whole, text in zip(long_texts, texts, strict=True))
    assert last["error"]["code"] == "ensemble_lost"
    assert texts_again(served, **LONG) == long_texts


def test_a_running_stream_ends_whole_when_the_graph_is_taken_down(
    served: Served, long_texts: list[str], stories: dict[str, str]
) -> None:
    del stories  # what is compared with later must be written before
    refused: list[httpx.Response] = []
    taking = threading.Thread(target=serve.delete, args=(APP,))

    def take_down() -> None:
        taking.start()
        until(lambda: refused.append(served.post(max_tokens=1)) or refused[-1].status_code != 200)
        refused.extend(httpx.get(f"{served.url}{path}") for path in ("/ready", "/health"))

    texts, last = streamed(served, take_down, **LONG)
    assert texts == long_texts
    assert last is None
    *_, asked, ready, health = refused
    assert [asked.status_code, ready.status_code, health.status_code] == [503, 503, 200]
    assert int(asked.headers["Retry-After"]) > 0
    assert asked.json()["error"]["type"] == "server_error"
    taking.join()  # left alone, it may see the next graph of that name, wait for its end, then start a Ray of its own
    assert APP not in serve.status().applications


def test_without_an_application_a_proxy_asks_to_come_again(served: Served) -> None:
    assert served.post().status_code == 503
    assert httpx.get(f"{served.url}/health").json() == {"status": "alive"}
    with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2])), timeout=30) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 70_000)
        assert client.recv(100).startswith(b"HTTP/1.1 431 ")


@pytest.fixture(scope="module")
def spread(served: Served, stories: dict[str, str], small: Config) -> Served:
    """Each model in a process of its own, the base on a core of its own, in place of the graph that was taken down."""
    del stories
    models = {**small.models, "large": small.models["large"].model_copy(update={"cores": (CORES[0],)})}
    config = small.model_copy(update={"placement": "spread", "models": models})
    serve.run(graph(config), name=APP, route_prefix="/")
    return served


def test_models_in_processes_of_their_own_write_the_same(spread: Served, stories: dict[str, str]) -> None:
    assert {prompt: spread.texts(prompt=prompt)[0] for prompt in stories} == stories


def whereabouts() -> dict[str, Any]:
    """Which process each model is, by its name."""
    named = [one for one in ray.util.list_named_actors(all_namespaces=True) if one["name"].startswith("earnest:")]
    processes = [ray.get_actor(**one) for one in named]
    found = ray.get([process.whereabouts.remote() for process in processes])
    return {one["name"].split(":")[1]: where for one, where in zip(named, found, strict=True)}


def test_each_model_sees_a_gpu_of_its_own(spread: Served) -> None:
    del spread
    found = whereabouts().values()
    assert len({one.gpus for one in found}) == len({one.pid for one in found}) == 3
    assert {one.gpus for one in found} <= {"0", "1", "2", "3"}


def test_a_model_keeps_to_its_cores_and_others_wander(spread: Served) -> None:
    del spread
    kept = {name: os.sched_getaffinity(one.pid) for name, one in whereabouts().items()}
    assert kept.pop("large") == {CORES[0]}
    assert [*kept.values()] == [{*CORES}] * 2


def test_a_killed_model_ends_the_streams_with_an_error_and_all_is_replaced(
    spread: Served, long_texts: list[str]
) -> None:
    assert spread.texts(**LONG) == long_texts
    texts, last = streamed(spread, killer("MemberProcess", "earnest:large:"), **LONG)
    assert all(whole.startswith(text) for whole, text in zip(long_texts, texts, strict=True))
    assert last["error"]["code"] == "ensemble_lost"
    assert "member large: its process is gone" in last["error"]["message"]
    assert texts_again(spread, **LONG) == long_texts
