"""From a body to the requests that the ensemble runs: every rule that takes more than the body to check.

Which model is meant, how it is steered and whether this key may, whether prompts and answers have room.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from earnest.decoding.grammar import json_grammar
from earnest.decoding.requests import Chunk, Mixture, Request, Steering
from earnest.decoding.tokens import TokenTexts
from serve.answers import ChatShape, CompletionShape, ProxyReport, Shape
from serve.asked import ChatBody, Common, CompletionBody, ProxyOptions
from serve.config import Alpha, Config, Key
from serve.errors import ApiError
from serve.prompts import Prompts

DEFAULT_COMPLETION = 16
"""OpenAI's max_tokens of completions that name none; chats go on as long as they may."""


@dataclass(frozen=True)
class Order:
    """A body, checked: its choices as requests, and how they are told. `prompts` are the distinct prompts' tokens.

    Of every `best_of` choices that follow each other, the likeliest `n` are told.
    """

    body: Common
    requests: tuple[Request, ...]
    prompts: tuple[int, ...]
    shape: Shape
    report: ProxyReport | None
    n: int = 1
    best_of: int = 1

    def told(self, choices: Sequence[Chunk]) -> list[Chunk]:
        """Of all choices at their end those that are told, in order: the best by log-probability per token."""
        found: list[Chunk] = []
        for begin in range(0, len(choices), self.best_of):
            of = choices[begin : begin + self.best_of]
            found += sorted(of, key=_per_token, reverse=True)[: self.n] if self.best_of > self.n else of
        return found


def _per_token(choice: Chunk) -> float:
    values = [one.raw.chosen for one in choice.logprobs]
    return sum(values) / max(1, len(values))


@dataclass(frozen=True)
class Clerk:
    """Takes orders under one config; `context` is the most tokens of a text, prompt included."""

    config: Config
    prompts: Prompts
    tokens: TokenTexts
    context: int

    def completion(self, body: CompletionBody, key: Key) -> Order:
        """An order for /v1/completions. Raises ApiError for what cannot be served."""
        if body.max_tokens == 0 and not body.echo:
            message = "max_tokens 0: should be greater than or equal to 1, but for what echo gives back"
            raise ApiError(400, message, param="max_tokens")
        mixture, report = self._mixture(body, key)
        rows = self._rows(body.prompt)
        first = self._request(body, key, mixture, max(map(len, rows)), body.max_tokens, DEFAULT_COMPLETION)
        n, best_of = body.n or 1, body.best_of or body.n or 1
        known = 0 if best_of > n and body.logprobs is None else body.logprobs
        settings = [body.sampling(_seed(), known) for _ in rows]
        first = replace(first, prompt_logprobs=_scored(body))
        asked = [replace(first, prompt=row, sampling=own) for row, own in zip(rows, settings, strict=True)]
        every = self._choices(asked, best_of, key)
        echoes = self._echoes(body, rows) if body.echo else {}
        shape = CompletionShape(self.tokens, body.logprobs, echoes)
        return Order(body, every, tuple(map(len, rows)), shape, report, n, best_of)

    def chat(self, body: ChatBody, key: Key) -> Order:
        """An order for /v1/chat/completions. Raises ApiError for what cannot be served."""
        mixture, report = self._mixture(body, key)
        messages = [{"role": message.role, "content": message.text} for message in body.messages]
        prompt, forms = self.prompts.read_conversation(messages, mixture)
        longest = max(map(len, (prompt, *forms.values())))
        wanted = body.max_completion_tokens or body.max_tokens
        first = self._request(body, key, mixture, longest, wanted, self.context)
        top = (body.top_logprobs or 0) if body.logprobs else None
        closing = () if first.grammar else self.config.chat_stop  # JSON says itself where it ends
        stops = tuple(dict.fromkeys((*first.stops, *closing)))
        request = replace(
            first, prompt=prompt, forms=forms, stops=stops, sampling=body.sampling(_seed(), top), answer=True
        )
        n = body.n or 1
        every = self._choices([request], n, key)
        return Order(body, every, (len(prompt),), ChatShape(self.tokens, top), report, n, n)

    def _rows(self, prompt: str | list[str] | list[int] | list[list[int]]) -> list[tuple[int, ...]]:
        """The token ids of every prompt."""
        given: Sequence[str | int | list[int]] = [prompt] if isinstance(prompt, str) else prompt
        if len(given) > self.config.limits.choices and not isinstance(given[0], int):
            raise self._too_many(len(given), self.config.limits.choices)
        texts = [one for one in given if isinstance(one, str)]
        if texts:
            return self.prompts.read_texts(texts)
        rows = [tuple(one) for one in given if isinstance(one, list)]
        rows = rows or [tuple(token for token in given if isinstance(token, int))]
        for row in rows:
            self.prompts.check_ids(row)
        return rows

    def _choices(self, requests: Sequence[Request], n: int, key: Key) -> tuple[Request, ...]:
        """Every prompt n times, each choice with a seed of its own."""
        most = min(self.config.limits.choices, key.rows or self.config.limits.choices)
        if n * len(requests) > most:
            raise self._too_many(n * len(requests), most)
        return tuple(
            replace(request, sampling=request.sampling.nth(number)) for request in requests for number in range(n)
        )

    @staticmethod
    def _too_many(choices: int, most: int) -> ApiError:
        return ApiError(400, f"n: {choices} choices (prompts x n) are more than {most}; ask for fewer", param="n")

    def _request(
        self, body: Common, key: Key, mixture: Mixture, prompt: int, wanted: int | None, default: int
    ) -> Request:
        """A request without its prompt, with the tokens there is room for."""
        self._check_ids(body)
        room = self.context - prompt
        if room < (wanted != 0):
            message = f"the prompt has {prompt} tokens, but the context of {self.context} must hold the answer too"
            raise ApiError(400, f"{message}; shorten it", code="context_length_exceeded")
        most = min(self.config.limits.max_tokens, key.max_tokens or self.config.limits.max_tokens)
        if wanted is None or self.config.limits.clamp:
            wanted = min(default if wanted is None else wanted, room, most)
        if wanted > most:
            raise ApiError(400, f"max_tokens {wanted} is more than {most}; ask for fewer", param="max_tokens")
        if wanted > room:
            message = f"a prompt of {prompt} tokens and max_tokens {wanted} are more than the context of {self.context}"
            raise ApiError(
                400, f"{message}; ask for at most {room}", param="max_tokens", code="context_length_exceeded"
            )
        account = body.proxy.candidates if body.proxy else None
        return Request(
            (),
            mixture,
            max_tokens=wanted,
            stops=body.stops,
            account=account,
            owner=key.name,
            stop_token_ids=tuple(body.stop_token_ids or ()),
            ignore_eos=bool(body.ignore_eos),
            min_tokens=min(body.min_tokens or 0, wanted),
            grammar=_grammar(body),
        )

    def _check_ids(self, body: Common) -> None:
        for param, ids in (("logit_bias", body.logit_bias or {}), ("stop_token_ids", body.stop_token_ids or ())):
            unknown = [token for token in ids if not self.prompts.is_token(int(token))]
            if unknown:
                raise ApiError(400, f"{param}: token {unknown[0]} is not in the vocabulary", param=param)

    def _mixture(self, body: Common, key: Key) -> tuple[Mixture, ProxyReport | None]:
        """Which models speak, and what is told of it where `proxy` was given."""
        options = body.proxy or ProxyOptions()
        pairs: tuple[str, ...] = ()
        steering: tuple[Steering, ...] = ()
        if body.model == self.config.name:
            steered_by = self.config.steered_by
            pairs = options.pairs or ((steered_by,) if steered_by else ())
            steering = tuple(self._steering(name, options.alpha, key) for name in dict.fromkeys(pairs))
        elif body.model not in self.config.models:
            names = ", ".join((self.config.name, *self.config.models))
            raise ApiError(
                404, f"model {body.model!r} is not served; there are {names}", param="model", code="model_not_found"
            )
        elif options.pairs or options.alpha is not None:
            raise ApiError(400, f"proxy: {body.model!r} speaks alone; ask {self.config.name!r}", param="proxy")
        lead = self.config.base if body.model == self.config.name else body.model
        report = ProxyReport(pairs, tuple(one.alpha for one in steering), options.candidates is not None)
        return Mixture(lead, steering), report if body.proxy else None

    def _steering(self, name: str, alpha: Alpha | None, key: Key) -> Steering:
        pair = self.config.pairs.get(name)
        if pair is None:
            names = ", ".join(self.config.pairs) or "none"
            raise ApiError(
                400, f"pair {name!r} is not served; there are: {names}", param="proxy.pair", code="pair_not_found"
            )
        alpha = pair.alpha if alpha is None else alpha
        _check_permission(key, name, alpha)
        return Steering(pair.expert, pair.antiexpert, alpha)

    def _echoes(self, body: CompletionBody, rows: Sequence[tuple[int, ...]]) -> dict[int, str]:
        """The prompts' texts by choice."""
        given = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        texts = [one for one in given if isinstance(one, str)] or [self.prompts.text(row) for row in rows]
        n = body.n or 1
        return {place * n + number: text for place, text in enumerate(texts) for number in range(n)}


def _scored(body: CompletionBody) -> int | None:
    """How much is told of each token of a prompt; where nothing is to be written, at least that it was read."""
    return (0 if body.max_tokens == 0 else None) if body.logprobs is None else body.logprobs if body.echo else None


def _grammar(body: Common) -> str | None:
    """The grammar of what is asked for; None for plain text. Raises ApiError for a schema that is none."""
    schema = body.response_format.schema_asked if body.response_format else None
    if schema is None:
        return None
    try:
        return json_grammar(schema)
    except ValueError as error:
        message = f"response_format: the schema is not understood: {error}"
        raise ApiError(400, message, param="response_format") from None


def _check_permission(key: Key, pair: str, alpha: Alpha) -> None:
    """Raise a 403 unless the key may steer with this pair, so strongly."""
    allowed = key.pairs is None or pair in key.pairs
    if not allowed:
        raise _forbidden(f"key {key.name} may not use the pair {pair!r}")
    if isinstance(alpha, str):
        if not key.adaptive:
            raise _forbidden(f"key {key.name} may not use an adaptive alpha; give a number")
    elif key.alphas is not None and not key.alphas[0] <= alpha <= key.alphas[1]:
        raise _forbidden(f"key {key.name} may use alphas from {key.alphas[0]:g} to {key.alphas[1]:g}, not {alpha:g}")


def _forbidden(message: str) -> ApiError:
    return ApiError(403, message, headers={"WWW-Authenticate": 'Bearer realm="earnest", error="insufficient_scope"'})


def _seed() -> int:
    return secrets.randbits(62)
