"""Traces of requests in MLflow: complete, without keys, and never in the way."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest
from serve.asked import CompletionBody
from serve.config import Config, Traces
from serve.ensemble import Ensemble
from serve.gateway import make_app
from serve.keys import digest, new_key
from serve.traces import WAITING, Told, Tracer

KEY = new_key()
BODY: dict[str, Any] = {"model": "earnest", "prompt": "The town", "max_tokens": 6, "temperature": 0}


@pytest.fixture(autouse=True)
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database of our own; what MLflow is set to is the whole process's, so it is set back."""
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)  # MLflow puts what a database does not hold into the working folder
    yield f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow.set_tracking_uri(before)


def ask(config: Config, ensemble: Ensemble, *bodies: dict[str, Any]) -> list[httpx.Response]:
    """Serve some requests and end the server in order, so that what waits is written."""

    async def asked() -> list[httpx.Response]:
        app = make_app(config, ensemble, replica="r-1")
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client,
        ):
            return [await client.post("/v1/completions", json=body) for body in bodies]

    return asyncio.run(asked())


def traced(config: Config, uri: str, rate: float = 1.0) -> Config:
    keys = [{"name": "somebody", "sha256": digest(KEY)}]
    traces = Traces(rate=rate, uri=uri, experiment="served")
    return config.with_settings({"keys": keys}).model_copy(update={"traces": traces})


@pytest.mark.slow
def test_a_request_is_one_span_with_its_usage_and_account(config: Config, ensemble: Ensemble, tracking: str) -> None:
    mlflow.set_tracking_uri(tracking)
    mlflow.create_experiment("served")
    (first, second) = ask(
        traced(config, tracking), ensemble, {**BODY, "proxy": {"account": 2, "alpha": 0.5}}, {**BODY, "stream": True}
    )
    assert (first.status_code, second.status_code) == (200, 200)
    experiment = mlflow.get_experiment_by_name("served")
    found = mlflow.search_traces(locations=[experiment.experiment_id], return_type="list")
    assert len(found) == 2
    (span,) = next(one.data.spans for one in found if one.data.spans[0].attributes["alpha"] == [0.5])
    assert span.attributes["model"] == "earnest"
    assert span.attributes["key"] == "somebody"
    assert span.attributes["usage"]["completion_tokens"] == first.json()["usage"]["completion_tokens"]
    assert span.outputs["texts"] == [first.json()["choices"][0]["text"]]
    assert span.outputs["accounts"][0][0]["base"]["model"] == "large"
    everything = str([one.to_dict() for one in found])
    assert KEY not in everything
    assert digest(KEY) not in everything


def test_tracking_that_is_gone_costs_a_request_nothing(config: Config, ensemble: Ensemble) -> None:
    began = time.perf_counter()
    answers = ask(traced(config, "http://127.0.0.1:9"), ensemble, BODY, BODY)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert time.perf_counter() - began < 15


def test_what_is_ignored_stands_in_no_trace() -> None:
    """It may be anything, such as what no encoding can write."""
    body = CompletionBody.model_validate({**BODY, "user": {"\ud800": 1}})
    assert "user" not in body.model_dump(mode="json", exclude_none=True)


def test_traces_are_off_by_default(config: Config, ensemble: Ensemble) -> None:
    assert config.traces.rate == 0
    assert not any(Tracer(config.traces, "").draws(0.0) for _ in range(100))


def test_a_share_is_drawn() -> None:
    tracer = Tracer(Traces(), "")
    drawn = sum(tracer.draws(0.25) for _ in range(4000))
    assert 800 < drawn < 1200


def test_what_cannot_be_written_is_dropped_and_counted() -> None:
    tracer = Tracer(Traces(rate=1.0, uri="http://127.0.0.1:9"), "")
    told = Told("/", {}, {}, {}, None, 0, 1)
    began = time.perf_counter()
    for _ in range(WAITING + 50):
        tracer.offer(told)
    assert time.perf_counter() - began < 1
    tracer.close()
    assert tracer.dropped == WAITING + 50
