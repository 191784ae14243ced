"""What clients get: chunks of a continuation in the shapes of OpenAI's two APIs, and the extension `proxy`."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from math import isnan
from typing import Any, Protocol

from earnest.decoding.detokenizing import GrowingText
from earnest.decoding.logprobs import Likeliest, TokenLogprobs
from earnest.decoding.requests import Chunk, Usage
from earnest.decoding.tokens import TokenTexts

LEAST_LOGPROB = -9999.0
"""What OpenAI writes where a probability is 0: JSON has no infinity."""

Json = dict[str, Any]


class Shape(Protocol):
    """How one API writes choices; one object per request, because it keeps count."""

    kind: str
    stream_kind: str

    def opening(self, index: int) -> Json | None:
        """A stream's first piece of a choice, before any token; None where there is none."""

    def piece(self, index: int, chunk: Chunk) -> Json:
        """A stream's next piece of a choice."""

    def whole(self, index: int, chunk: Chunk) -> Json:
        """A choice, all its chunks joined into one."""


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks of one continuation as one."""
    if len(chunks) == 1:
        return chunks[0]
    last = chunks[-1]
    return Chunk(
        tuple(token for chunk in chunks for token in chunk.ids),
        "".join(chunk.text for chunk in chunks),
        tuple(one for chunk in chunks for one in chunk.logprobs),
        tuple(one for chunk in chunks for one in chunk.accounts),
        last.finish,
        last.error,
        last.usage,
        chunks[0].prompt_logprobs,
        last.end,
    )


def finish_reason(chunk: Chunk) -> str | None:
    """Why a choice ended, in OpenAI's words."""
    return {None: None, "length": "length"}.get(chunk.finish, "stop")


@dataclass
class CompletionShape:
    """The shape of /v1/completions; `echoes` are the prompts' texts where they were asked for.

    With log-probabilities, echoed tokens have theirs, the first one none; then the token that ended a text has its own,
    too, so that behind a prompt there stand as many tokens as were chosen.
    """

    tokens: TokenTexts
    logprobs: int | None
    echoes: Mapping[int, str] = field(default_factory=dict)
    kind: str = "text_completion"
    stream_kind: str = "text_completion"
    _texts: dict[int, GrowingText] = field(default_factory=dict)
    _ids: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def opening(self, index: int) -> Json | None:
        """The prompt, where it is echoed."""
        if index not in self.echoes or self.logprobs is not None:  # with log-probabilities it must be read before
            return None
        return {"index": index, "text": self.echoes[index], "logprobs": None, "finish_reason": None}

    def piece(self, index: int, chunk: Chunk) -> Json:
        """Some text and its tokens."""
        echo = self.echoes.get(index, "") if chunk.prompt_logprobs and self.logprobs is not None else ""
        return {
            "index": index,
            "text": echo + chunk.text,
            "logprobs": None if self.logprobs is None else self._logprobs(index, self._told(index, chunk)),
            "finish_reason": finish_reason(chunk),
        }

    def whole(self, index: int, chunk: Chunk) -> Json:
        """All text and its tokens."""
        choice = self.piece(index, chunk)
        echo = "" if self.logprobs is not None else self.echoes.get(index, "")
        return choice | {"text": echo + choice["text"]}

    def _told(self, index: int, chunk: Chunk) -> Sequence[TokenLogprobs]:
        end = (chunk.end,) if chunk.end is not None and index in self.echoes else ()
        return (*chunk.prompt_logprobs, *chunk.logprobs, *end)

    def _logprobs(self, index: int, found: Sequence[TokenLogprobs]) -> Json:
        names = [self.tokens.name(one.token) for one in found]
        text = self._texts.setdefault(index, self.tokens.growing(begun=index not in self.echoes))
        offsets = []
        for one in found:
            offsets.append(len(text.text))
            self._ids[index].append(one.token)
            text.grow(self._ids[index])
        return {
            "tokens": names,
            "token_logprobs": [None if isnan(one.raw.chosen) else _finite(one.raw.chosen) for one in found],
            "top_logprobs": [
                None if isnan(one.raw.chosen) else self._top(name, one.raw)
                for name, one in zip(names, found, strict=True)
            ],
            "text_offset": offsets,
        }

    def _top(self, name: str, raw: Likeliest) -> dict[str, float]:
        """The likeliest tokens by name; the chosen one is always among them."""
        return {self.tokens.name(token): value for token, value in raw.top[: self.logprobs]} | {
            name: _finite(raw.chosen)
        }


@dataclass
class ChatShape:
    """The shape of /v1/chat/completions; `top_logprobs` is None where no log-probabilities were asked for."""

    tokens: TokenTexts
    top_logprobs: int | None
    kind: str = "chat.completion"
    stream_kind: str = "chat.completion.chunk"

    def opening(self, index: int) -> Json | None:
        """Who speaks."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, chunk: Chunk) -> Json:
        """Some text and its tokens; the last piece of a choice may have no text."""
        delta = {"content": chunk.text} if chunk.text or chunk.finish is None else {}
        return {"index": index, "delta": delta, **self._rest(chunk)}

    def whole(self, index: int, chunk: Chunk) -> Json:
        """All text and its tokens."""
        message = {"role": "assistant", "content": chunk.text, "refusal": None}
        return {"index": index, "message": message, **self._rest(chunk)}

    def _rest(self, chunk: Chunk) -> Json:
        found = None if self.top_logprobs is None else [self._token(one) for one in chunk.logprobs]
        return {
            "logprobs": None if found is None else {"content": found, "refusal": None},
            "finish_reason": finish_reason(chunk),
        }

    def _token(self, one: TokenLogprobs) -> Json:
        top = [self._candidate(token, value) for token, value in one.raw.top[: self.top_logprobs]]
        return self._candidate(one.token, one.raw.chosen) | {"top_logprobs": top}

    def _candidate(self, token: int, value: float) -> Json:
        raw = self.tokens.raw(token)
        return {
            "token": self.tokens.name(token),
            "logprob": _finite(value),
            "bytes": None if raw is None else list(raw),
        }


@dataclass
class ProxyReport:
    """What is told of the steering: with each piece its tokens' accounts, with the last one how it was steered."""

    pairs: tuple[str, ...]
    alphas: tuple[float | str, ...]
    accounted: bool
    _seen: Counter[int] = field(default_factory=Counter)
    _changed: Counter[int] = field(default_factory=Counter)

    def of(self, index: int, chunk: Chunk) -> Json:
        """The part `proxy` of a choice; `changed` is the share of tokens whose likeliest one the pairs changed."""
        part: Json = {}
        if self.accounted:
            self._seen[index] += len(chunk.accounts)
            self._changed[index] += sum(one.changed for one in chunk.accounts)
            part["tokens"] = [plain(one) for one in chunk.accounts]
        if chunk.last:
            part |= {"pair": _one_or_all(self.pairs), "alpha": _one_or_all(self.alphas)}
            if self.accounted:
                part["changed"] = self._changed[index] / max(1, self._seen[index])
        return part


def usage_of(prompts: Sequence[int], usages: Sequence[Usage], told: bool) -> Json:
    """What a finished request took, all choices together; `told` adds how it was drafted and how long it took.

    Args:
        prompts: tokens of each distinct prompt. Like OpenAI, several choices of one prompt count it once; what the
            first of them found in the prefix cache is what the cache saved.
        usages: one per choice, in order.
        told: whether the extension was asked for.
    """
    completion = sum(usage.completion_tokens for usage in usages)
    n = max(1, len(usages) // len(prompts))
    found: Json = {
        "prompt_tokens": sum(prompts),
        "completion_tokens": completion,
        "total_tokens": sum(prompts) + completion,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in usages[::n])},
    }
    if told:
        found["proxy"] = {name: sum(getattr(usage, name) for usage in usages) for name in DRAFTING} | {
            name: max((getattr(usage, name) for usage in usages), default=0.0) for name in SECONDS
        }
    return found


DRAFTING = ("drafted", "accepted", "rounds")
SECONDS = ("seconds_queued", "seconds_to_first", "seconds")


def plain(value: Any) -> Any:
    """Frozen dataclasses as JSON; what is not finite is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    return [plain(one) for one in value] if isinstance(value, tuple) else value


def _finite(log_prob: float) -> float:
    return max(log_prob, LEAST_LOGPROB)


def _one_or_all(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else list(values) or None
