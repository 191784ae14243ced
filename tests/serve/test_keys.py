"""Keys: made once, kept as hashes, bound by their limits, and in no log."""

import asyncio
import logging
import re
import threading
import tomllib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from serve.config import Config, Key
from serve.ensemble import Ensemble
from serve.gateway import make_app
from serve.keys import digest, holder, main, new_key

FULL, NARROW, SLOW, FEW, ONE = (new_key() for _ in range(5))
BODY: dict[str, Any] = {"model": "earnest", "prompt": "The town", "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def keyed(config: Config) -> Config:
    return config.with_settings({
        "keys": [
            {"name": "full", "sha256": digest(FULL), "metrics": True},
            {"name": "narrow", "sha256": digest(NARROW), "pairs": [], "max_tokens": 5},
            {"name": "slow", "sha256": digest(SLOW), "requests_per_minute": 2, "alphas": [0.0, 1.0], "adaptive": False},
            {"name": "few", "sha256": digest(FEW), "tokens_per_minute": 5},
            {"name": "one", "sha256": digest(ONE), "concurrent": 1},
        ]
    })  # fmt: skip


@pytest.fixture(scope="module")
def http(keyed: Config, ensemble: Ensemble, serving: Callable[..., Any]) -> Any:
    with serving(make_app(keyed, ensemble)) as url, httpx.Client(base_url=url) as found:
        yield found


def ask(http: httpx.Client, key: str, **fields: Any) -> httpx.Response:
    return http.post("/v1/completions", json={**BODY, **fields}, headers={"Authorization": f"Bearer {key}"})


def test_a_new_key_is_printed_once_with_a_config_that_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "somebody"]) == 0
    printed = capsys.readouterr().out
    key = re.search(r"key: (\S+)", printed)
    assert key is not None
    (entry,) = tomllib.loads(printed[printed.index("[[keys]]") :])["keys"]
    assert holder([Key(**entry)], key[1]) == Key(name="somebody", sha256=digest(key[1]))
    assert len(key[1]) >= 43


def test_a_name_that_cannot_stand_in_a_config_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "two words"]) == 2
    assert "two words" in capsys.readouterr().err


@pytest.mark.parametrize("header", [None, "", "Bearer", f"Basic {FULL}", FULL])
def test_without_a_key_nobody_is_served(http: httpx.Client, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for answer in (http.get("/v1/models", headers=headers), http.post("/v1/completions", json=BODY, headers=headers)):
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("key", ["wrong", FULL[:-1], FULL + "a", FULL.upper(), "\xe4\xf6"])
def test_a_wrong_key_is_refused(http: httpx.Client, key: str) -> None:
    answer = http.get("/v1/models", headers={"Authorization": f"Bearer {key}".encode("latin-1")})
    assert answer.status_code == 401
    assert "invalid_token" in answer.headers["WWW-Authenticate"]


def test_a_wrong_key_is_refused_before_its_body_is_read(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", content=b"{" * 2_000_000, headers={"Authorization": "Bearer wrong"})
    assert answer.status_code == 401


def test_a_right_key_is_served(http: httpx.Client) -> None:
    assert ask(http, FULL).status_code == 200
    assert http.get("/v1/models", headers={"Authorization": f"bearer {FULL}"}).status_code == 200


def test_health_needs_no_key_and_metrics_need_one_that_may(http: httpx.Client) -> None:
    assert http.get("/health").status_code == http.get("/ready").status_code == 200
    assert http.get("/metrics").status_code == 401
    assert http.get("/metrics", headers={"Authorization": f"Bearer {NARROW}"}).status_code == 403
    assert http.get("/metrics", headers={"Authorization": f"Bearer {FULL}"}).status_code == 200


def test_behind_a_prefix_keys_are_asked_for_all_the_same(keyed: Config, ensemble: Ensemble) -> None:
    async def asked() -> list[int]:
        transport = httpx.ASGITransport(make_app(keyed, ensemble), root_path="/behind")
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1/behind") as client:
            paths = ("/health", "/v1/models", "/metrics", "/nothing")
            return [(await client.get(path)).status_code for path in paths]

    assert asyncio.run(asked()) == [200, 401, 401, 401]


def test_a_key_steers_with_its_pairs_only(http: httpx.Client) -> None:
    answer = ask(http, NARROW)
    assert answer.status_code == 403
    assert "may not use the pair 'tuned'" in answer.json()["error"]["message"]
    assert "insufficient_scope" in answer.headers["WWW-Authenticate"]
    assert ask(http, NARROW, model="large").status_code == 200


def test_a_key_asks_for_its_tokens_at_most(http: httpx.Client) -> None:
    answer = ask(http, NARROW, model="large", max_tokens=6)
    assert answer.status_code == 400
    assert "more than 5" in answer.json()["error"]["message"]
    assert ask(http, NARROW, model="large", max_tokens=None).json()["usage"]["completion_tokens"] <= 5


def test_a_key_steers_as_strongly_as_it_may_and_so_many_times_a_minute(http: httpx.Client) -> None:
    assert ask(http, SLOW, proxy={"alpha": 1.5}).status_code == 403
    assert ask(http, SLOW, proxy={"alpha": "adaptive"}).status_code == 403
    assert [ask(http, SLOW, proxy={"alpha": 0.5}).status_code for _ in range(3)] == [200, 200, 429]
    answer = ask(http, SLOW)
    assert 1 <= int(answer.headers["Retry-After"]) <= 31
    assert answer.json()["error"]["type"] == "rate_limit_error"


def test_a_key_in_debt_for_tokens_waits(http: httpx.Client) -> None:
    assert ask(http, FEW, max_tokens=8).status_code == 200
    answer = ask(http, FEW)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 1


def test_a_key_has_so_many_requests_at_a_time(http: httpx.Client) -> None:
    long = {**BODY, "max_tokens": 256, "logit_bias": {"2": -100}, "stream": True}
    begun, statuses = threading.Event(), []

    def second() -> None:
        begun.wait()
        statuses.append(ask(http, ONE).status_code)

    thread = threading.Thread(target=second)
    thread.start()
    with http.stream("POST", "/v1/completions", json=long, headers={"Authorization": f"Bearer {ONE}"}) as stream:
        assert stream.status_code == 200, stream.read()
        lines = stream.iter_lines()
        next(lines)
        begun.set()
        thread.join()
    assert statuses == [429]
    assert ask_until(lambda: ask(http, ONE).status_code, 200) == 200


def ask_until(ask: Callable[[], int], wanted: int) -> int:
    for _ in range(100):
        if ask() == wanted:
            return wanted
        threading.Event().wait(0.02)
    return ask()


def test_keys_may_change_while_requests_run(keyed: Config, ensemble: Ensemble) -> None:
    async def changing() -> list[int]:
        app = make_app(keyed, ensemble)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            headers = {"Authorization": f"Bearer {FULL}"}
            before = (await client.get("/v1/models", headers=headers)).status_code
            app.state.configure(keyed.with_settings({"keys": [{"name": "new", "sha256": digest(ONE)}]}))
            return [before, (await client.get("/v1/models", headers=headers)).status_code]

    assert asyncio.run(changing()) == [200, 401]


def test_no_key_is_in_any_log(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        ask(http, FULL)
        ask(http, FULL, temperature=9)
        http.get("/v1/models", headers={"Authorization": "Bearer secret-but-wrong"})
    figures = http.get("/metrics", headers={"Authorization": f"Bearer {FULL}"}).text
    assert 'key="full"' in figures
    for secret in (FULL, digest(FULL), "secret-but-wrong"):
        assert secret not in caplog.text
        assert secret not in figures
