"""An OpenAI-compatible endpoint, asked for the likeliest next tokens or for a reply.

A text whose next tokens are asked for goes out as token ids, so that the endpoint reads just those, and one token is
asked for and ignored. What passes by itself (too many requests, a server that restarts) is waited for; all else is one
clear error. The key comes from an environment variable and stands in no message.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, Field, ValidationError

from earnest.specs import UserError

ATTEMPTS = 5
FIRST_WAIT = 0.5
LONGEST_WAIT = 60.0
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
BANNED = -100.0
MOST_SAID = 300  # characters of what an endpoint says

A = TypeVar("A", bound=BaseModel)


@dataclass(frozen=True)
class Said:
    """A reply, and how many tokens were read and written for it, as the endpoint counts them."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class Endpoint:
    """A model behind /v1/completions and /v1/chat/completions; may be asked from several threads.

    Args:
        url: where the API begins, as in `http://127.0.0.1:8000/v1`.
        model: the model's name there.
        key_env: the environment variable that holds the endpoint's key, if it wants one.
        timeout: seconds to wait for an answer.

    Raises:
        UserError: the URL is none, or the environment variable is not set.
    """

    def __init__(self, url: str, model: str, *, key_env: str | None = None, timeout: float = 60.0) -> None:
        _check_url(url)
        self.model, self.name = model, f"{url.rstrip('/')}#{model}"
        self._key_env, self._key = key_env, _key_of(key_env)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.Client(base_url=url.rstrip("/") + "/", headers=headers, timeout=timeout)

    def likeliest(self, text: Sequence[int], count: int, ends: Iterable[int]) -> tuple[dict[str, float], int]:
        """The likeliest tokens after a text, and how many requests that took.

        Where it drew the end of the text some endpoints show nothing of that step, so it is asked again with the end
        banned from being drawn. What they tell must be what the model says before any ban, or the end is lost.

        Args:
            text: token ids.
            count: how many tokens to ask for; one more may come.
            ends: the tokens that end a text.

        Returns:
            Log-probabilities in nats by the tokens' names.

        Raises:
            UserError: the endpoint cannot be reached, refuses, or tells no log-probabilities.
        """
        body: dict[str, Any] = {
            "model": self.model, "prompt": list(text), "max_tokens": 1, "temperature": 1, "logprobs": count,
        }  # fmt: skip
        choice, requests = self._choice(body), 1
        if choice.ended_unseen:
            choice, requests = self._choice(body | {"logit_bias": {str(end): BANNED for end in ends}}), 2
        if not choice.top:
            raise UserError(f"{self.name}: returned no log-probabilities; name an endpoint that returns top_logprobs")
        return choice.top, requests

    def chat(self, messages: Sequence[Mapping[str, str]], *, temperature: float, max_tokens: int) -> Said:
        """A reply to a conversation.

        Raises:
            UserError: the endpoint cannot be reached, refuses, or replies with no text.
        """
        body = {
            "model": self.model, "messages": list(messages), "temperature": temperature, "max_tokens": max_tokens,
        }  # fmt: skip
        answer = self._answer("chat/completions", body, _Chat)
        usage = answer.usage or _Usage()
        return Said(answer.choices[0].message.content, usage.prompt_tokens, usage.completion_tokens)

    def _choice(self, body: dict[str, Any]) -> _Choice:
        return self._answer("completions", body, _Completion).choices[0]

    def _answer(self, path: str, body: dict[str, Any], kind: type[A]) -> A:
        response = self._post(path, body)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"]))
            raise UserError(f"{self.name}: not an answer of /v1/{path}: {place} {problem['msg']}") from error

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Post until an answer comes; what passes by itself is waited for, as long as the endpoint says."""
        for attempt in range(1, ATTEMPTS + 1):
            wait = FIRST_WAIT * 2 ** (attempt - 1)
            try:
                response = self._client.post(path, json=body)
            except httpx.RequestError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return response
                problem = f"{response.status_code}: {_message(response)}"
                if response.status_code not in PASSING:
                    break
                wait = _retry_after(response, wait)
            if attempt == ATTEMPTS or wait > LONGEST_WAIT:
                problem += f" (after {attempt} attempts)"
                break
            time.sleep(wait)
        if problem.startswith("401"):
            problem += f"; is the key in {self._key_env} right?" if self._key_env else "; name the key's variable"
        raise UserError(f"{self.name}: {problem.replace(self._key, '[key]') if self._key else problem}")


def _message(response: httpx.Response) -> str:
    """What the endpoint says went wrong."""
    try:
        said = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = response.text
    return " ".join(str(said).split())[:MOST_SAID] or response.reason_phrase


class _Logprobs(BaseModel):
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(BaseModel):
    """A choice of /v1/completions, as far as it is read."""

    logprobs: _Logprobs | None = None
    finish_reason: str | None = None

    @property
    def top(self) -> dict[str, float] | None:
        """The likeliest first tokens by their names, if any are told."""
        told = self.logprobs.top_logprobs if self.logprobs else None
        return told[0] if told else None

    @property
    def ended_unseen(self) -> bool:
        """Whether nothing is told because the text ended."""
        return not self.top and self.finish_reason == "stop"


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


class _Message(BaseModel):
    content: str


class _Turn(BaseModel):
    message: _Message


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chat(BaseModel):
    """An answer of /v1/chat/completions, as far as it is read."""

    choices: list[_Turn] = Field(min_length=1)
    usage: _Usage | None = None


def _check_url(url: str) -> None:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        address = httpx.URL()
    if address.scheme not in {"http", "https"} or not address.host:
        raise UserError(f"{url}: not the address of an API; write it as in http://127.0.0.1:8000/v1")


def _key_of(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise UserError(f"{variable}: holds no key; put the endpoint's into this environment variable")
    return key


def _retry_after(response: httpx.Response, otherwise: float) -> float:
    """Seconds to wait: what Retry-After says, as a number or a date, else `otherwise`."""
    said = response.headers.get("Retry-After", "").strip()
    if not said:
        return otherwise
    if said.isdecimal():
        return float(said)
    try:
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return otherwise
