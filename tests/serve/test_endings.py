"""How requests are counted that end otherwise than whole, and what a draining server answers."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from serve.config import Config
from serve.ensemble import Ensemble
from serve.gateway import make_app

LONG: dict[str, Any] = {"model": "earnest", "prompt": "The", "max_tokens": 250, "logit_bias": {"2": -100}, "n": 8}


@pytest.fixture(scope="module")
def app(config: Config, ensemble: Ensemble) -> Any:
    return make_app(config, ensemble)


@pytest.fixture(scope="module")
def http(app: Any, serving: Callable[..., Any]) -> Iterator[httpx.Client]:
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as found:
        yield found


def counted(http: httpx.Client, status: int) -> float:
    """How many completions were counted with a status."""
    wanted = f'route="/v1/completions",status="{status}"'
    lines = [line for line in http.get("/metrics").text.splitlines() if wanted in line and "_total" in line]
    return sum(float(line.split()[-1]) for line in lines)


def until(promise: Callable[[], bool]) -> None:
    for _ in range(600):
        if promise():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it did not come true")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_counted_as_499(http: httpx.Client, stream: bool) -> None:
    before = {status: counted(http, status) for status in (200, 499, 500)}
    body = json.dumps({**LONG, "stream": stream}).encode()
    place = urlsplit(str(http.base_url))
    with socket.create_connection((place.hostname, place.port)) as client:
        head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        if stream:
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        else:
            until(lambda: "earnest_batch_running" in http.get("/metrics").text)
    until(lambda: counted(http, 499) == before[499] + 1)
    assert counted(http, 500) == before[500]
    assert counted(http, 200) == before[200]


def test_while_draining_new_requests_are_sent_elsewhere_and_running_ones_end_whole(
    http: httpx.Client, app: Any, config: Config
) -> None:
    reasons: list[str] = []
    with http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as stream:
        lines = stream.iter_lines()
        next(lines)
        app.state.configure(config.with_settings({"draining": True}))
        answers = {
            path: http.get(path) for path in ("/health", "/ready", "/v1/models", "/", "/metrics", "/nowhere")
        } | {"ask": http.post("/v1/completions", json=LONG)}
        reasons = [line for line in lines if '"finish_reason":"length"' in line or "DONE" in line]
    app.state.configure(config)
    assert {path: answer.status_code for path, answer in answers.items()} == {
        "/health": 200, "/metrics": 200, "/ready": 503, "/v1/models": 503, "/": 503, "/nowhere": 503, "ask": 503,
    }  # fmt: skip
    assert all(int(answer.headers["Retry-After"]) for answer in answers.values() if answer.status_code == 503)
    assert answers["ask"].json()["error"]["code"] == "draining"
    assert len(reasons) == LONG["n"] + 1
    assert http.post("/v1/completions", json={**LONG, "n": 1, "max_tokens": 1}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/v1/models", "/v1/models/earnest", "/metrics"])
def test_head_is_get_without_its_body(http: httpx.Client, path: str) -> None:
    head, get = http.head(path), http.get(path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]
    assert http.head("/v1/completions").status_code == 405


@pytest.mark.parametrize(("headers", "named"), [
    ({"Content-Type": "text/plain"}, "text/plain"),
    ({"Content-Type": "application/x-www-form-urlencoded"}, "application/x-www-form-urlencoded"),
    ({}, "no content type"),
    ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, "gzip"),
])  # fmt: skip
def test_a_wrong_content_type_is_named(http: httpx.Client, headers: dict[str, str], named: str) -> None:
    answer = http.post("/v1/completions", content=json.dumps({**LONG, "max_tokens": 1}), headers=headers)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/vnd.api+json", "Application/JSON"])
def test_json_by_its_other_names_is_read(http: httpx.Client, kind: str) -> None:
    content = json.dumps({**LONG, "n": 1, "max_tokens": 1})
    assert http.post("/v1/completions", content=content, headers={"Content-Type": kind}).status_code == 200
