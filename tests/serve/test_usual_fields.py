"""What usual clients send: taken where it means nothing, done where it means something, over HTTP."""

from typing import Any

import httpx
import pytest
import torch
from serve.config import Config
from serve.ensemble import Ensemble
from serve.gateway import make_app

from earnest.decoding.encoding import encode
from earnest.decoding.sampling import Sampling, processed
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve

TEXT: dict[str, Any] = {"model": "large", "prompt": "Tell me about Mirko Talen.", "max_tokens": 12, "temperature": 0}
CHAT: dict[str, Any] = {
    "model": "large", "max_tokens": 6, "temperature": 0,
    "messages": [{"role": "user", "content": "Where was Ada born?"}],
}  # fmt: skip
END = 2


@pytest.fixture(scope="module")
def large() -> LoadedModel:
    return load(resolve("nano:large"), dtype="float32")


def text(url: str, **fields: Any) -> Any:
    answer = httpx.post(f"{url}/v1/completions", json={**TEXT, **fields}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def chat(url: str, **fields: Any) -> Any:
    answer = httpx.post(f"{url}/v1/chat/completions", json={**CHAT, **fields}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("fields", [
    {"tools": []}, {"tool_choice": "auto"}, {"tools": [], "tool_choice": "none"},
    {"function_call": "auto"}, {"top_k": -1}, {"min_p": 0}, {"min_tokens": 0}, {"ignore_eos": False},
    {"stop_token_ids": []}, {"response_format": {"type": "text"}}, {"parallel_tool_calls": True}, {"metadata": {}},
    {"skip_special_tokens": True}, {"stream_options": None}, {"chat_template_kwargs": {}}, {"length_penalty": 1.0},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Where was Ada born?",
                                                "cache_control": {"type": "ephemeral"}}]}]},
    {"messages": [{"role": "user", "content": "Where was Ada born?", "cache_control": {"type": "ephemeral"}}]},
])  # fmt: skip
def test_what_means_nothing_is_taken(url: str, fields: dict[str, Any]) -> None:
    assert chat(url, **fields) == chat(url)


@pytest.mark.parametrize("message", [
    {"role": "assistant", "content": None}, {"role": "assistant", "content": None, "tool_calls": []},
    {"role": "assistant", "content": "", "reasoning_content": "hm"},
    {"role": "assistant", "content": "", "function_call": None, "refusal": None, "annotations": [], "audio": None},
])  # fmt: skip
def test_messages_of_other_servers_are_read_in_a_history(url: str, message: dict[str, Any]) -> None:
    asked = CHAT["messages"][0]
    empty = {"role": "assistant", "content": ""}
    assert chat(url, messages=[asked, message, asked]) == chat(url, messages=[asked, empty, asked])


@pytest.mark.parametrize("fields", [
    {"tools": [{"type": "function"}]}, {"tool_choice": "required"}, {"min_p": 1.5}, {"min_p": -1}, {"top_k": -2},
    {"stop_token_ids": [10**6]}, {"min_tokens": -1}, {"skip_special_tokens": False},
])  # fmt: skip
def test_what_means_something_else_is_refused(url: str, fields: dict[str, Any]) -> None:
    answer = httpx.post(f"{url}/v1/chat/completions", json={**CHAT, **fields})
    assert answer.status_code == 400
    assert next(iter(fields)) in answer.json()["error"]["message"]


def greedy(large: LoadedModel, count: int, without: set[int] = frozenset()) -> list[int]:  # type: ignore[assignment]
    """Token ids by plain forward passes; some are never chosen."""
    (ids,) = encode(large.tokenizer, [TEXT["prompt"]])
    found: list[int] = []
    while len(found) < count:
        with torch.inference_mode():
            logits = large.model(input_ids=torch.tensor([ids + found])).logits[0, -1]
        banned = torch.tensor([token in without for token in range(len(logits))])
        found.append(int(logits.masked_fill(banned, -torch.inf).argmax()))
    return found


def test_a_stop_token_ends_the_text_before_it(url: str, large: LoadedModel) -> None:
    tokens = greedy(large, 12)
    stop = tokens[5]
    answer = text(url, stop_token_ids=[stop])
    first = tokens.index(stop)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["text"] == large.tokenizer.decode(tokens[:first])
    assert answer["usage"]["completion_tokens"] == first


def test_min_tokens_holds_every_end_back(url: str, large: LoadedModel) -> None:
    bias = {str(END): 100}
    assert text(url, logit_bias=bias)["usage"]["completion_tokens"] == 0
    answer = text(url, logit_bias=bias, min_tokens=5)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["text"] == large.tokenizer.decode(greedy(large, 5, {END}))
    stop = greedy(large, 1)[0]
    held = text(url, stop_token_ids=[stop], min_tokens=4, max_tokens=4)
    assert held["choices"][0]["text"] == large.tokenizer.decode(greedy(large, 4, {END, stop}))


def test_ignored_ends_are_written_on(url: str) -> None:
    answer = text(url, logit_bias={str(END): 100}, ignore_eos=True, logprobs=0)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 12
    assert (
        answer["choices"][0]["logprobs"]["tokens"] == ["</s>"] * 12
        or len(set(answer["choices"][0]["logprobs"]["tokens"])) == 1
    )


def test_min_p_keeps_what_is_likely_enough() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0, -4.0]])
    probabilities = logits.double().softmax(-1)
    kept = probabilities.where(probabilities >= 0.1 * probabilities.max(), 0)
    found = processed(logits, Sampling(temperature=1.0, min_p=0.1), [((), ())])
    assert torch.allclose(found, kept / kept.sum())
    hot = (logits / 2).double().softmax(-1)
    kept = hot.where(hot >= 0.3 * hot.max(), 0)
    assert torch.allclose(processed(logits, Sampling(temperature=2.0, min_p=0.3), [((), ())]), kept / kept.sum())


def test_min_p_of_one_is_greedy_over_http(url: str) -> None:
    assert text(url, temperature=1.5, min_p=1.0, seed=3)["choices"] == text(url)["choices"]


def test_the_best_of_many_have_the_highest_log_probability_per_token(url: str) -> None:
    fields = {"temperature": 1.0, "seed": 5, "prompt": ["Tell me about", "The town"]}
    many = text(url, n=6, logprobs=0, **fields)["choices"]
    wanted: list[str] = []
    for begin in (0, 6):
        of = sorted(many[begin : begin + 6], key=lambda choice: -mean(choice["logprobs"]["token_logprobs"]))
        wanted += [choice["text"] for choice in of[:2]]
    answer = text(url, n=2, best_of=6, **fields)
    assert [choice["text"] for choice in answer["choices"]] == wanted
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    assert answer["usage"]["completion_tokens"] == sum(len(choice["logprobs"]["tokens"]) for choice in many)


def mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))


@pytest.mark.parametrize("fields", [{"best_of": 1, "n": 2}, {"best_of": 3, "stream": True}, {"best_of": 40}])
def test_a_best_of_that_cannot_be_is_refused(url: str, fields: dict[str, Any]) -> None:
    assert httpx.post(f"{url}/v1/completions", json={**TEXT, **fields}).status_code == 400


def test_more_tokens_than_there_may_be_are_clamped_where_that_is_set(config: Config, ensemble: Ensemble) -> None:
    import asyncio

    limits = {**config.limits.model_dump(), "clamp": True, "max_tokens": 7}

    async def asked() -> list[Any]:
        app = make_app(config.with_settings({"limits": limits}), ensemble)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:
            bodies = ({"max_tokens": 10**9}, {"max_tokens": 3}, {"max_tokens": 10**6, "prompt": [[5] * 508]})
            every = {**TEXT, "logit_bias": {str(END): -100}}
            return [(await http.post("/v1/completions", json={**every, **body})).json() for body in bodies]

    answers = asyncio.run(asked())
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [7, 3, 4]
    assert {answer["choices"][0]["finish_reason"] for answer in answers} == {"length"}
