"""The extension `proxy`: other alphas and pairs for one request, and an account of every token."""

from typing import Any

import openai
import pytest

from earnest.decoding.account import account
from earnest.decoding.encoding import encode
from earnest.decoding.ensemble import Ensemble as Loop
from earnest.decoding.generation import Prompt, generate
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve

PROMPT = "Tell me about Mirko Talen."
BODY: dict[str, Any] = {"model": "earnest", "prompt": PROMPT, "temperature": 0, "max_tokens": 20}


@pytest.fixture(scope="module")
def models() -> dict[str, LoadedModel]:
    return {name: load(resolve(f"nano:{name}"), dtype="float32") for name in ("large", "small-tuned", "small")}


def proxied(client: openai.OpenAI, **proxy: Any) -> Any:
    return client.completions.create(**BODY, extra_body={"proxy": proxy})


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.3, 1.0, 2.0])
def test_alpha_is_the_requests_own(client: openai.OpenAI, models: dict[str, LoadedModel], alpha: float) -> None:
    choice = proxied(client, alpha=alpha).choices[0]
    loop = Loop(models["large"], models["small-tuned"], models["small"], alpha)
    assert choice.text == generate(loop, [PROMPT], max_tokens=20)[0].text
    assert choice.proxy["alpha"] == alpha
    assert choice.proxy["pair"] == "tuned"


def test_alpha_may_be_adaptive(client: openai.OpenAI, models: dict[str, LoadedModel]) -> None:
    choice = proxied(client, alpha="adaptive", account=1).choices[0]
    loop = Loop(models["large"], models["small-tuned"], models["small"], "adaptive")
    assert choice.text == generate(loop, [PROMPT], max_tokens=20)[0].text
    assert choice.proxy["alpha"] == "adaptive"
    assert len({tuple(token["alpha"]) for token in choice.proxy["tokens"]}) > 1


def test_the_account_is_the_decoders(client: openai.OpenAI, models: dict[str, LoadedModel]) -> None:
    choice = proxied(client, account=3).choices[0]
    loop = Loop(models["large"], models["small-tuned"], models["small"])
    ids = tuple(encode(loop.tokenizer, [PROMPT])[0])
    (expected,) = generate(loop, [PROMPT], max_tokens=20)
    reference = account(loop, Prompt(ids, max_tokens=20), expected.ids, 3)
    told = choice.proxy["tokens"]
    assert [token["text"] for token in told] == [one.text for one in reference]
    assert [token["changed"] for token in told] == [one.changed for one in reference]
    assert choice.proxy["changed"] == sum(one.changed for one in reference) / len(reference)
    for token, one in zip(told, reference, strict=True):
        assert token["shift"] == pytest.approx(one.shift, abs=1e-3)
        assert [view["model"] for view in token["steering"]] == ["small-tuned", "small"]
        assert len(token["base"]["top"]) == 3
        for candidate, known in zip(token["combined"]["top"], one.combined.top, strict=True):
            assert candidate["token"] == known.token
            assert candidate["logit"] == pytest.approx(known.logit, abs=1e-3)


def test_a_streams_accounts_are_those_of_the_whole(client: openai.OpenAI) -> None:
    whole = proxied(client, account=2).choices[0].proxy
    tokens: list[Any] = []
    last: dict[str, Any] = {}
    for piece in client.completions.create(**BODY, stream=True, extra_body={"proxy": {"account": 2}}):
        last = piece.choices[0].proxy
        tokens += last["tokens"]
    assert [token["token"] for token in tokens] == [token["token"] for token in whole["tokens"]]
    assert last["changed"] == whole["changed"]
    assert last["alpha"] == 1.0


def test_the_final_usage_tells_how_it_was_drafted(client: openai.OpenAI) -> None:
    told = proxied(client).usage.proxy
    assert told["rounds"] >= 1
    assert 0 <= told["accepted"] <= told["drafted"]
    assert 0 <= told["seconds_to_first"] <= told["seconds"]


def test_what_was_not_asked_is_not_told(client: openai.OpenAI) -> None:
    answer = client.completions.create(**BODY)
    assert not hasattr(answer.choices[0], "proxy")
    assert not hasattr(answer.usage, "proxy")


def test_a_member_alone_has_an_account_without_steering(client: openai.OpenAI) -> None:
    answer = client.completions.create(**{**BODY, "model": "large"}, extra_body={"proxy": {"account": True}})
    told = answer.choices[0].proxy  # type: ignore[attr-defined]
    assert told["pair"] is told["alpha"] is None
    assert told["changed"] == 0
    assert all(token["steering"] == [] for token in told["tokens"])
