"""The OpenAPI schema is true: what it says is what is served, and nothing it allows is a server's error."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from serve.config import Config
from serve.ensemble import Ensemble
from serve.gateway import make_app
from serve.replies import ChatReply, CompletionReply, ModelsReply


def test_answers_are_what_the_schema_says(url: str) -> None:
    text = {"model": "earnest", "prompt": "a", "max_tokens": 4, "n": 2, "logprobs": 2, "proxy": {"account": True}}
    chat = {"model": "earnest", "messages": [{"role": "user", "content": "Who?"}], "logprobs": True, "proxy": {}}
    CompletionReply.model_validate_json(httpx.post(f"{url}/v1/completions", json=text).content)
    CompletionReply.model_validate_json(httpx.post(f"{url}/v1/completions", json={**text, "proxy": None}).content)
    ChatReply.model_validate_json(httpx.post(f"{url}/v1/chat/completions", json=chat).content)
    ModelsReply.model_validate_json(httpx.get(f"{url}/v1/models").content)


def test_the_schema_says_no_422_and_names_the_key(url: str) -> None:
    schema = httpx.get(f"{url}/openapi.json").json()
    operations = [operation for path in schema["paths"].values() for operation in path.values()]
    assert all("422" not in operation["responses"] for operation in operations)
    assert schema["paths"]["/v1/completions"]["post"]["security"] == [{"key": []}]
    assert "ValidationError" not in schema["components"]["schemas"]


def test_nothing_is_loaded_from_elsewhere(url: str) -> None:
    assert httpx.get(f"{url}/docs").status_code == 404
    assert httpx.get(f"{url}/redoc").status_code == 404


@pytest.mark.slow
def test_whatever_the_schema_allows_or_forbids_is_answered_without_a_servers_error(
    config: Config, ensemble: Ensemble, serving: Callable[..., Any]
) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

    short = config.with_settings({"limits": {"max_tokens": 4, "timeout_s": 20}})
    checks = [not_a_server_error, status_code_conformance, response_schema_conformance]
    modes = st.sampled_from([GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    statuses: set[tuple[str, int]] = set()

    def check(operation: Any) -> None:
        @settings(
            max_examples=60 if operation.body else 5, deadline=None, database=None, derandomize=True,
            phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(data=st.data())
        def every_case(data: st.DataObject) -> None:
            case = data.draw(operation.as_strategy(generation_mode=data.draw(modes)))
            if isinstance(case.body, dict) and data.draw(st.booleans()):
                case.body["model"] = "earnest"  # a name made up would end most cases at once
            response = case.call(timeout=30)
            case.validate_response(response, checks=checks)
            statuses.add((operation.method, response.status_code))

        every_case()

    with serving(make_app(short, ensemble)) as url:
        for operation in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
            check(operation.ok())
    assert {("post", 200), ("post", 400), ("post", 404), ("get", 200)} <= statuses, sorted(statuses)
