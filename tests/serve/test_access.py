"""Lines about requests on the terminal, and pages of other origins: both where they are set."""

import asyncio
import logging
import os
from typing import Any

import httpx
import pytest
from serve.access import ACCESS, FILE, begin, followed
from serve.config import Config, read_config
from serve.ensemble import Ensemble
from serve.gateway import make_app
from serve.keys import digest, new_key

from earnest.specs import UserError

KEY = new_key()
ORIGIN = "https://app.example.org"
BODY: dict[str, Any] = {"model": "earnest", "prompt": "The secret town", "max_tokens": 1}


@pytest.fixture
def keyed(config: Config) -> Config:
    return config.with_settings({"keys": [{"name": "ann", "sha256": digest(KEY)}]})


def asked(app: Any, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
    async def all_of_them() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return [await client.request(method, path, **sent) for method, path, sent in requests]

    return asyncio.run(all_of_them())


def test_requests_are_lines_on_the_terminal(
    keyed: Config, ensemble: Ensemble, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = ACCESS.handlers, ACCESS.level, ACCESS.propagate
    headers = {"Authorization": f"Bearer {KEY}"}
    with followed():
        begin()
        try:
            asked(
                make_app(keyed, ensemble),
                ("POST", "/v1/completions?password=hidden", {"json": BODY, "headers": headers}),
                ("GET", "/v1/models", {}),
                ("GET", "/forged%0Aline", {"headers": headers}),
            )
        finally:
            for handler in ACCESS.handlers:
                handler.close()
            ACCESS.handlers, ACCESS.level, ACCESS.propagate = kept
    lines = capfd.readouterr().err.splitlines()
    told = [line for line in lines if "127.0.0.1 " in line]
    assert ['ann "POST /v1/completions" 200' in told[0], '- "GET /v1/models" 401' in told[1]] == [True, True]
    assert '"GET /forged%0Aline" 404' in told[2]
    assert len(told) == 3
    for secret in (KEY, "hidden", "secret town"):
        assert not any(secret in line for line in lines)
    assert FILE not in os.environ


def test_without_a_terminal_nothing_is_written(keyed: Config, ensemble: Ensemble, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        asked(make_app(keyed, ensemble), ("GET", "/v1/models", {}))
    assert "GET /v1/models" not in caplog.text


PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}


@pytest.mark.parametrize("allowed", [(ORIGIN,), ("*",)])
def test_pages_of_allowed_origins_may_ask(keyed: Config, ensemble: Ensemble, allowed: tuple[str, ...]) -> None:
    app = make_app(keyed.model_copy(update={"cors": allowed}), ensemble)
    origin = {"Origin": ORIGIN}
    preflight, refused, right, foreign = asked(
        app,
        ("OPTIONS", "/v1/chat/completions", {"headers": PREFLIGHT}),
        ("POST", "/v1/completions", {"json": BODY, "headers": origin}),
        ("POST", "/v1/completions", {"json": BODY, "headers": {**origin, "Authorization": f"Bearer {KEY}"}}),
        ("OPTIONS", "/v1/completions", {"headers": {**PREFLIGHT, "Origin": "https://evil.example"}}),
    )
    assert preflight.status_code == 200
    assert "authorization" in preflight.headers["Access-Control-Allow-Headers"]
    assert [refused.status_code, right.status_code] == [401, 200]
    for answer in (preflight, refused, right):
        assert answer.headers["Access-Control-Allow-Origin"] in (ORIGIN, "*")
    assert ("Access-Control-Allow-Origin" in foreign.headers) is (allowed == ("*",))


def test_without_the_setting_no_other_page_may(keyed: Config, ensemble: Ensemble) -> None:
    preflight, get = asked(
        make_app(keyed, ensemble), ("OPTIONS", "/v1/completions", {"headers": PREFLIGHT}),
        ("GET", "/health", {"headers": {"Origin": ORIGIN}}),
    )  # fmt: skip
    assert preflight.status_code in (401, 405)
    assert not any(name.startswith("access-control") for name in (*preflight.headers, *get.headers))


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/path", "https://*.example.org", "null"])
def test_an_origin_that_is_none_is_refused(config: Config, tmp_path: Any, origin: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'base = "a"\ncors = ["{origin}"]\n[models.a]\nsource = "nano:large"\n', encoding="utf-8")
    with pytest.raises(UserError, match="cors"):
        read_config(file)
