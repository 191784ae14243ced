"""No stream ends in silence: errors are events, time runs out, and who leaves gives the row back at once."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
import torch
from serve.colocated import Placed, colocated, load_model
from serve.config import Batch, Config
from serve.ensemble import Ensemble
from serve.gateway import make_app

from earnest.decoding.local import LocalMember
from earnest.decoding.requests import Chunk, Request

LONG: dict[str, Any] = {
    "model": "earnest", "prompt": "The town", "max_tokens": 256, "temperature": 0, "logit_bias": {"2": -100},
}  # fmt: skip
PATH = "/v1/completions"


@asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


def events(answer: httpx.Response) -> list[Any]:
    """The data of all events, [DONE] as it stands."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


class Ending:
    """An ensemble whose streams end as they should not: after one chunk, in silence or with an error of no kind."""

    def __init__(self, ensemble: Ensemble, error: Exception | None) -> None:
        self._ensemble, self._error = ensemble, error
        self.describe, self.gauges = ensemble.describe, ensemble.gauges

    async def stream(self, request: Request) -> AsyncGenerator[list[Chunk], None]:
        yield [Chunk(ids=(5,), text="begun")]
        if self._error is not None:
            raise self._error


@pytest.fixture
def own(config: Config) -> Any:
    """An ensemble of two rows that a test may break."""
    small = config.model_copy(update={"batch": Batch(rows=2, waiting=1, context=512)})
    running = Ensemble(colocated(small), small.batch)
    yield running
    running.close()


@pytest.mark.parametrize("error", [None, RuntimeError("broken")], ids=["silence", "error"])
def test_a_stream_that_breaks_ends_with_an_error_event(
    config: Config, ensemble: Ensemble, error: Exception | None
) -> None:
    async def asked() -> httpx.Response:
        async with client_of(make_app(config, Ending(ensemble, error))) as client:
            return await client.post(PATH, json={**LONG, "stream": True})

    *told, last = events(asyncio.run(asked()))
    assert told[0]["choices"][0]["text"] == "begun"
    assert last["error"]["type"] == "server_error"
    assert "broken" not in json.dumps(last)  # what went wrong inside is for the log


@pytest.mark.parametrize(("error", "status"), [(None, 503), (RuntimeError("broken"), 500)], ids=["silence", "error"])
def test_an_answer_that_breaks_is_an_error(
    config: Config, ensemble: Ensemble, error: Exception | None, status: int
) -> None:
    async def asked() -> httpx.Response:
        async with client_of(make_app(config, Ending(ensemble, error))) as client:
            return await client.post(PATH, json=LONG)

    answer = asyncio.run(asked())
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "server_error"


def test_a_model_that_breaks_is_an_error_and_no_end(config: Config) -> None:
    loaded = {name: load_model(model) for name, model in config.models.items()}
    loaded["small"].model.get_input_embeddings().weight[:] = torch.nan
    members = tuple(LocalMember(name, model, rows=2, slots=64) for name, model in loaded.items())
    ensemble = Ensemble(Placed(members, loaded["large"].tokenizer, frozenset({2})), Batch(rows=2))

    async def asked() -> list[httpx.Response]:
        async with client_of(make_app(config, ensemble)) as client:
            bodies = [{**LONG, "max_tokens": 8, "stream": stream} for stream in (False, True)]
            return [await client.post(PATH, json=body) for body in (*bodies, bodies[0] | {"model": "large"})]

    broken, streamed, sound = asyncio.run(asked())
    ensemble.close()
    for answer in (broken, streamed):
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "not_finite")
    assert sound.status_code == 200


def test_an_ensemble_lost_in_mid_stream_says_so_and_then_answers_503(
    config: Config, own: Ensemble, serving: Callable[..., Any]
) -> None:
    with serving(make_app(config, own)) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as ai:
        stream = ai.completions.create(stream=True, **LONG)
        next(stream)
        own.close()
        with pytest.raises(openai.APIError, match="cannot go on"):
            list(stream)
        with pytest.raises(openai.InternalServerError) as refused:
            ai.completions.create(**LONG)
        assert refused.value.status_code == 503
        assert refused.value.response.headers["Retry-After"]
        assert httpx.get(f"{url}/ready").status_code == 503
        assert httpx.get(f"{url}/health").status_code == 200
        assert "earnest_ensemble_up{" in httpx.get(f"{url}/metrics").text


def test_time_runs_out_as_a_504_and_as_an_event(config: Config, ensemble: Ensemble) -> None:
    brief = config.with_settings({"limits": {"timeout_s": 0.15, "max_tokens": 256}})

    async def asked() -> tuple[httpx.Response, httpx.Response, int]:
        async with client_of(make_app(brief, ensemble)) as client:
            # Several at a time take longer than that on any machine.
            whole = await client.post(PATH, json={**LONG, "n": 16})
            stream = await client.post(PATH, json={**LONG, "n": 16, "stream": True})
            return whole, stream, await rows_left(ensemble)

    whole, stream, left = asyncio.run(asked())
    assert whole.status_code == 504
    assert whole.json()["error"]["code"] == "timeout"
    if stream.status_code == 200:
        assert events(stream)[-1]["error"]["code"] == "timeout"
    else:
        assert stream.status_code == 504
    assert left == 0


async def rows_left(ensemble: Ensemble) -> int:
    """How many texts are in the batch, once it has had time to drop some."""
    for _ in range(200):
        gauges = await ensemble.gauges()
        if gauges.running + gauges.waiting == 0:
            return 0
        await asyncio.sleep(0.02)
    return gauges.running + gauges.waiting


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_leaves_gives_its_rows_back(
    config: Config, ensemble: Ensemble, serving: Callable[..., Any], stream: bool
) -> None:
    def leave(url: str) -> None:
        began = time.perf_counter()
        body = {**LONG, "n": 16, "stream": stream}
        with httpx.Client(timeout=0.3) as client, client.stream("POST", url + PATH, json=body) as answer:
            for _ in answer.iter_lines():
                if time.perf_counter() - began > 0.2:
                    raise httpx.ReadTimeout("enough")

    with serving(make_app(config, ensemble)) as url:
        with pytest.raises(httpx.ReadTimeout):
            leave(url)
        assert asyncio.run(rows_left(ensemble)) == 0


def test_more_than_may_wait_are_told_when_to_come_back(config: Config, own: Ensemble) -> None:
    async def asked() -> list[httpx.Response]:
        async with client_of(make_app(config, own)) as client:
            return await asyncio.gather(*(client.post(PATH, json={**LONG, "max_tokens": 64}) for _ in range(6)))

    answers = asyncio.run(asked())
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    for answer in refused:
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["error"]["code"] == "queue_full"


def test_a_choice_too_many_refuses_the_whole_request_and_frees_the_others(config: Config, own: Ensemble) -> None:
    async def asked() -> tuple[httpx.Response, int]:
        async with client_of(make_app(config, own)) as client:
            return await client.post(PATH, json={**LONG, "n": 8, "stream": True}), await rows_left(own)

    answer, left = asyncio.run(asked())
    assert answer.status_code == 429
    assert left == 0


def test_alpha_changes_between_requests_and_not_within_one(config: Config, ensemble: Ensemble) -> None:
    async def asked() -> list[str]:
        app = make_app(config, ensemble)
        plain = {**LONG, "max_tokens": 48, "logit_bias": None, "proxy": {}}
        async with client_of(app) as client:
            before = (await client.post(PATH, json=plain)).json()
            running = asyncio.create_task(client.post(PATH, json=plain))
            await asyncio.sleep(0.01)
            app.state.configure(config.with_settings({"alphas": {"tuned": 0.0}}))
            during, after = (await running).json(), (await client.post(PATH, json=plain)).json()
            alone = (await client.post(PATH, json={**plain, "model": "large"})).json()
        return [answer["choices"][0] for answer in (before, during, after, alone)]

    before, during, after, alone = asyncio.run(asked())
    assert before == during
    assert (before["proxy"]["alpha"], after["proxy"]["alpha"]) == (1.0, 0.0)
    assert after["text"] == alone["text"]
