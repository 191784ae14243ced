"""Every mistake gets one clear error of the right status, in OpenAI's shape, and never a 5xx."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serve.replies import ErrorReply

TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello?"}]

TEXTS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"model": "nothing"}, 404, "model", "there are earnest, large"),
    ({"model": ""}, 400, "model", "at least 1 character"),
    ({"prompt": None}, 400, "prompt", "valid string"),
    ({"prompt": ""}, 400, "prompt", "at least 1 character"),
    ({"prompt": []}, 400, "prompt", "at least 1 item"),
    ({"prompt": [""]}, 400, "prompt", "at least 1 character"),
    ({"prompt": [[]]}, 400, "prompt", "at least 1 item"),
    ({"prompt": [1, "a"]}, 400, "prompt", "valid"),
    ({"prompt": [1, -2]}, 400, "prompt", "prompt.1: -2"),
    ({"prompt": [1, 99_999]}, 400, "prompt", "token 99999 is not in the vocabulary of 1536"),
    ({"prompt": [[1], [2**31]]}, 400, "prompt", "2147483648"),
    ({"prompt": "word " * 600}, 400, None, "the context of 512"),
    ({"prompt": ["a"] * 17}, 400, "n", "17 choices"),
    ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": -3}, 400, "max_tokens", "-3"),
    ({"max_tokens": 257}, 400, "max_tokens", "more than 256"),
    ({"max_tokens": 256, "prompt": "word " * 150}, 400, "max_tokens", "ask for at most"),
    ({"max_tokens": 2**70}, 400, "max_tokens", "max_tokens"),
    ({"max_tokens": "9"}, 400, "max_tokens", "valid integer"),
    ({"max_tokens": True}, 400, "max_tokens", "valid integer"),
    ({"n": 0}, 400, "n", "greater than or equal to 1"),
    ({"n": 17}, 400, "n", "more than 16"),
    ({"n": 9, "prompt": ["a", "b"]}, 400, "n", "18 choices"),
    ({"temperature": -1}, 400, "temperature", "-1"),
    ({"temperature": 2.1}, 400, "temperature", "2.1"),
    ({"top_p": 0}, 400, "top_p", "greater than 0"),
    ({"top_p": 1.1}, 400, "top_p", "less than or equal to 1"),
    ({"top_k": -2}, 400, "top_k", "-2"),
    ({"presence_penalty": 3}, 400, "presence_penalty", "less than or equal to 2"),
    ({"repetition_penalty": 0}, 400, "repetition_penalty", "greater than 0"),
    ({"seed": 2**63}, 400, "seed", "9223372036854775808"),
    ({"seed": 1.5}, 400, "seed", "integer"),
    ({"logprobs": 21}, 400, "logprobs", "less than or equal to 20"),
    ({"logit_bias": {"5": 101}}, 400, "logit_bias", "less than or equal to 100"),
    ({"logit_bias": {"5": "much"}}, 400, "logit_bias", "valid number"),
    ({"logit_bias": {"word": 1}}, 400, "logit_bias", "pattern"),
    ({"logit_bias": {"99999": 1}}, 400, "logit_bias", "not in the vocabulary"),
    ({"stop": ""}, 400, "stop", "at least 1 character"),
    ({"stop": ["a", ""]}, 400, "stop", "at least 1 character"),
    ({"stop": [str(n) for n in range(17)]}, 400, "stop", "at most 16"),
    ({"stream_options": {"include_usage": True}}, 400, None, "only with stream"),
    ({"stream": "yes"}, 400, "stream", "valid boolean"),
    ({"best_of": 0}, 400, "best_of", "greater than or equal to 1"),
    ({"suffix": "x"}, 400, "suffix", "not supported"),
    ({"nonsense": 1}, 400, "nonsense", "no such parameter"),
    ({"proxy": {"alpha": "strong"}}, 400, "proxy", "'adaptive'"),
    ({"proxy": {"alpha": 1000}}, 400, "proxy", "less than or equal to 100"),
    ({"proxy": {"pair": "nobody"}}, 400, "proxy.pair", "there are: tuned"),
    ({"proxy": {"account": 0}}, 400, "proxy", "greater than or equal to 1"),
    ({"proxy": {"account": 500}}, 400, "proxy", "less than or equal to 20"),
    ({"proxy": {"beta": 1}}, 400, "proxy", "no such parameter"),
    ({"proxy": {"alpha": 1}, "model": "large"}, 400, "proxy", "speaks alone"),
]
CHATS: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"messages": []}, 400, "messages", "at least 1 item"),
    ({"messages": [{"role": "wizard", "content": "a"}]}, 400, "messages", "messages.0.role"),
    ({"messages": [{"role": "user"}]}, 400, "messages", "Field required"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, 400, "messages", "'text'"),
    ({"messages": [{"role": "tool", "content": "a"}]}, 400, "messages", "role"),
    ({"messages": [{"role": "user", "content": "word " * 600}]}, 400, None, "the context of 512"),
    ({"tools": [{"type": "function"}]}, 400, "tools", "not supported"),
    ({"functions": []}, 400, "functions", "not supported"),
    ({"audio": {}}, 400, "audio", "not supported"),
    ({"response_format": {"type": "xml"}}, 400, "response_format", "'text'"),
    ({"modalities": ["audio"]}, 400, "modalities", "'text'"),
    ({"reasoning_effort": "high"}, 400, "reasoning_effort", "not supported"),
    ({"top_logprobs": 2}, 400, None, "only with logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "less than or equal to 20"),
    ({"logprobs": 3}, 400, "logprobs", "valid boolean"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, 400, None, "differ"),
]
CHAT_RAW: list[tuple[bytes, int, str]] = [
    (b'{"model": "earnest", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "unicode"),
    (
        b'{"model": "earnest", "messages": [{"role": "user", "content": [{"type": "text", "text": "\\ud800"}]}]}',
        400, "unicode",
    ),
]  # fmt: skip
RAW: list[tuple[bytes, int, str]] = [
    (b"", 400, "body"),
    (b"{", 400, "not valid JSON"),
    (b"[]", 400, "body"),
    (b"null", 400, "body"),
    (b'"text"', 400, "body"),
    (b"\xff\xfe", 400, "JSON"),
    (b'{"model": "earnest", "prompt": "\xff"}', 400, "UTF-8"),
    (b'{"model": "earnest", "prompt": "\\ud800"}', 400, "unicode"),
    (b'{"model": "earnest", "prompt": "a", "\\ud800": 1}', 400, "unicode"),
    (b'{"model": "\\ud800", "prompt": "a"}', 400, "unicode"),
    (b'{"model": "earnest", "prompt": "a", "temperature": NaN}', 400, "finite"),
    (b'{"model": "earnest", "prompt": "a", "top_p": Infinity}', 400, "finite"),
    (b'{"model": "earnest", "prompt": "a", "proxy": {"alpha": NaN}}', 400, "finite"),
    (b'{"model": "earnest", "prompt": "a", "proxy": {"alpha": -Infinity}}', 400, "finite"),
    (b'{"model": "earnest", "prompt": "a", "seed": ' + b"9" * 5000 + b"}", 400, "JSON"),
    (b'{"model": "earnest", "prompt": "a", "seed": ' + b"9" * 4000 + b"}", 400, "seed"),
    (b"[" * 200_000, 400, "JSON"),
    (b'{"model": "earnest", "prompt": "' + b"a" * (1 << 20) + b'"}', 413, "1048576 bytes"),
]


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as found:
        yield found


def refused(answer: httpx.Response, status: int, said: str) -> ErrorReply:
    assert answer.status_code == status, answer.text
    error = ErrorReply.model_validate_json(answer.content)
    assert said in error.error.message
    assert error.error.type == "invalid_request_error"
    return error


@pytest.mark.parametrize(("fields", "status", "param", "said"), TEXTS, ids=lambda value: str(value)[:40])
def test_a_bad_completion_is_refused(
    http: httpx.Client, fields: dict[str, Any], status: int, param: str | None, said: str
) -> None:
    body = {"model": "earnest", "prompt": "Hello", **fields}
    assert refused(http.post(TEXT, json=body), status, said).error.param == param


@pytest.mark.parametrize(("fields", "status", "param", "said"), CHATS, ids=lambda value: str(value)[:40])
def test_a_bad_chat_is_refused(
    http: httpx.Client, fields: dict[str, Any], status: int, param: str | None, said: str
) -> None:
    body = {"model": "earnest", "messages": HELLO, **fields}
    assert refused(http.post(CHAT, json=body), status, said).error.param == param


@pytest.mark.parametrize(("body", "status", "said"), RAW, ids=[str(body[:40]) for body, *_ in RAW])
@pytest.mark.parametrize("path", [TEXT, CHAT])
def test_a_bad_body_is_refused(http: httpx.Client, path: str, body: bytes, status: int, said: str) -> None:
    answer = http.post(path, content=body, headers={"Content-Type": "application/json"})
    refused(answer, status, "" if path == CHAT else said)


@pytest.mark.parametrize(("body", "status", "said"), CHAT_RAW, ids=["content", "part"])
def test_a_bad_conversation_is_refused(http: httpx.Client, body: bytes, status: int, said: str) -> None:
    refused(http.post(CHAT, content=body, headers={"Content-Type": "application/json"}), status, said)


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/v1/nothing", 404), ("GET", TEXT, 405), ("DELETE", "/v1/models", 405), ("GET", "/v1/models/none", 404),
    ("GET", "/%ff%00", 404), ("POST", "/health", 405),
])  # fmt: skip
def test_what_is_not_served_is_said_in_the_same_shape(http: httpx.Client, method: str, path: str, status: int) -> None:
    refused(http.request(method, path), status, "")


def test_a_body_that_hides_its_length_is_cut_off_at_the_limit(http: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield b"a" * 65_536

    refused(http.post(TEXT, content=endless(), headers={"Content-Type": "application/json"}), 413, "send less")


def test_text_that_is_odd_but_valid_is_served(http: httpx.Client) -> None:
    for prompt in ("a\0b", "\u202e\ufeff", "🦆 " * 20, "</s><s>", "  \n\n "):
        answer = http.post(TEXT, json={"model": "earnest", "prompt": prompt, "max_tokens": 2})
        assert answer.status_code == 200, answer.text


def test_a_page_in_some_browser_cannot_reach_a_server_without_keys(http: httpx.Client) -> None:
    assert http.get("/v1/models", headers={"Host": "rebound.example.org"}).status_code == 403
    plain = http.post(TEXT, content=b'{"model": "earnest", "prompt": "a"}', headers={"Content-Type": "text/plain"})
    assert plain.status_code == 400
