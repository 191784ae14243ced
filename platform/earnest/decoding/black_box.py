"""A base behind an OpenAI-compatible endpoint, of whose next-token distribution only the k likeliest tokens are told.

Proxy-tuning needs no more of the base than its logits (Liu et al. 2024, arXiv 2401.08565), and log-probabilities are
logits but for a constant. What is not returned counts as impossible here, so an ensemble chooses among returned tokens.

How far that may lead astray: a token that was not returned has at most the probability of the least returned one, and
at most what the returned ones leave, M; `most` is the logarithm of the smaller. With s = sum of alpha * (expert -
antiexpert), it would have reached at most `most` + s: where the best returned token beats that (`certain`), a greedy
choice is that of the whole distribution. A sampled one differs from it by a total variation of at most o / (o + i),
where o = M exp(largest s that was not returned) and i = sum over the returned of p exp(s). All this for given alphas;
adaptive ones are found on what was returned.

Every step sends each row's whole text (`endpoint`), the rows together. Tokens come back as strings, which need not name
one token: those that do not are left out and counted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from earnest.decoding.detokenizing import BROKEN
from earnest.decoding.distribution import Forms
from earnest.decoding.endpoint import Endpoint
from earnest.decoding.tokens import TokenTexts
from earnest.specs import UserError

AT_ONCE = 16
NO_LIMIT = 1 << 30
TOKEN_ID = re.compile(r"token_id:(\d+)")


@dataclass(frozen=True)
class Tally:
    """What an endpoint was asked and what it kept back, over all steps so far.

    `missing` is the probability that was not returned, summed over `answers`, and `most_missing` the most of one step.
    `unclear` counts returned strings that are no token of the vocabulary or may be several; they are part of `missing`.
    """

    answers: int = 0
    requests: int = 0
    missing: float = 0.0
    most_missing: float = 0.0
    unclear: int = 0

    @property
    def mean_missing(self) -> float:
        """The probability not returned, on average over the steps."""
        return self.missing / self.answers if self.answers else 0.0


class BlackBox:
    """The next-token distribution of a model behind an endpoint, as far as it is told.

    Args:
        url: where the API begins, as in `http://127.0.0.1:8000/v1`.
        model: the model's name there.
        tokenizer: the model's own, or one with the same tokens.
        top_k: how many tokens to ask for; many endpoints allow 5 or 20.
        key_env: the environment variable that holds the endpoint's key, if it wants one.
        max_length: the most tokens of a text; by default whatever the endpoint takes.
        timeout: seconds to wait for an answer.

    Raises:
        UserError: the URL is none, the environment variable is not set, or `top_k` is below 1.
    """

    def __init__(
        self,
        url: str,
        model: str,
        tokenizer: Any,
        *,
        top_k: int = 20,
        key_env: str | None = None,
        max_length: int = NO_LIMIT,
        timeout: float = 60.0,
    ) -> None:
        if top_k < 1:
            raise UserError(f"top_k {top_k}: ask the endpoint for at least one token; 20 is usual")
        self._endpoint = Endpoint(url, model, key_env=key_env, timeout=timeout)
        self.name = self._endpoint.name
        self.tokenizer, self.top_k, self.max_length = tokenizer, top_k, max_length
        self.vocabulary = max(tokenizer.get_vocab().values()) + 1
        self.ends = frozenset(token for token in [tokenizer.eos_token_id] if token is not None)
        self.budget = NO_LIMIT
        self.tokens_forwarded = 0
        self.tally = Tally()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="black-box")
        self._named = _tokens_by_name(tokenizer)

    def open(self, prompts: Sequence[Sequence[int]], forms: Forms = ()) -> BlackBoxSession:
        """Ask about the token after each prompt.

        Raises:
            ValueError: a row has forms for further models.
            UserError: the endpoint cannot be reached, refuses, or returns no log-probabilities.
        """
        if any(forms):
            raise ValueError("a prompt has forms for steering models, but this is one model; leave its forms empty")
        return BlackBoxSession(self, prompts)

    def ask(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """What the endpoint tells of the next token after each text.

        Returns:
            Log-probabilities [texts, vocabulary] in float32, -inf for tokens that were not returned; and the most that
            any of those can have [texts].
        """
        found = list(self._pool.map(self._next, texts))
        logits = torch.full((len(found), self.vocabulary), -torch.inf)
        for row, told in zip(logits, found, strict=True):
            row[list(told.log_probs)] = torch.tensor(list(told.log_probs.values()))
        missing = missing_mass(logits)
        before = self.tally
        self.tally = Tally(
            before.answers + len(found),
            before.requests + sum(told.requests for told in found),
            before.missing + float(missing.sum()),
            max(before.most_missing, float(missing.max())),
            before.unclear + sum(told.unclear for told in found),
        )
        self.tokens_forwarded += sum(map(len, texts))
        most = torch.tensor([told.most for told in found]).minimum(missing.log().float())
        return logits, most

    def _next(self, text: Sequence[int]) -> _Told:
        """What the endpoint tells of the token after a text."""
        top, requests = self._endpoint.likeliest(text, self.top_k, self.ends)
        # The drawn token is told too, and may be less likely than others that are not: only the best k count.
        likeliest = sorted(top.items(), key=lambda item: -item[1])[: self.top_k]
        clear = {token: value for name, value in likeliest if (token := self._token(name)) is not None}
        unclear = [value for name, value in likeliest if self._token(name) is None]
        if not clear:
            raise UserError(
                f"{self.name}: none of the returned tokens, such as {likeliest[0][0]!r}, names one token of the "
                "vocabulary; is it the model's own? vLLM tells ids with --return-tokens-as-token-ids"
            )
        return _Told(clear, max([likeliest[-1][1], *unclear]), requests, len(unclear))

    def _token(self, name: str) -> int | None:
        if matched := TOKEN_ID.fullmatch(name):
            token = int(matched[1])
            return token if token < self.vocabulary else None
        return self._named.get(name)


class BlackBoxSession:
    """Rows that the endpoint continues; it keeps nothing, so rows are lists of tokens here.

    `most` [rows] is the largest log-probability that a token not returned can have, about the next token as `logits`.
    """

    logits: Tensor
    most: Tensor

    def __init__(self, box: BlackBox, prompts: Sequence[Sequence[int]]) -> None:
        self._box = box
        self._rows = [list(prompt) for prompt in prompts]
        self.logits, self.most = box.ask(self._rows)

    @property
    def missing(self) -> Tensor:
        """The probability [rows] that was not returned for the next token."""
        return missing_mass(self.logits)

    def advance(self, tokens: Tensor) -> None:
        """Put one token per row [rows] behind the texts."""
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            row.append(token)
        self.logits, self.most = self._box.ask(self._rows)

    def read(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Put some tokens per row behind the texts; the log-probabilities after each [rows, longest, vocabulary]."""
        texts = [
            row + list(more[: n + 1]) for row, more in zip(self._rows, tokens, strict=True) for n in range(len(more))
        ]
        counts = [len(more) for more in tokens]
        found, most = (torch.split(told, counts) for told in self._box.ask(texts))
        self._rows = [row + list(more) for row, more in zip(self._rows, tokens, strict=True)]
        self.logits, self.most = (torch.stack([one[-1] for one in each]) for each in (found, most))
        return torch.nn.utils.rnn.pad_sequence(list(found), batch_first=True)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self._rows = [list(self._rows[row]) for row in rows.tolist()]
        self.logits, self.most = self.logits[rows], self.most[rows]


def missing_mass(log_probs: Tensor) -> Tensor:
    """The probability [...] that log-probabilities [..., vocabulary] leave to the tokens at -inf."""
    return (1 - log_probs.double().exp().sum(-1)).clamp(min=0)


def certain(log_probs: Tensor, most: Tensor, shifts: Tensor) -> Tensor:
    """Whether the best returned token is the best of all [rows].

    Args:
        log_probs: of the returned tokens [rows, vocabulary], -inf for the others.
        most: the largest log-probability that these can have [rows].
        shifts: the sum of alpha * (expert - antiexpert) [rows, vocabulary], -inf where there is no token at all.
    """
    returned = log_probs.isfinite()
    outside = most + shifts.masked_fill(returned, -torch.inf).amax(-1)
    return (log_probs + shifts).masked_fill(~returned, -torch.inf).amax(-1) >= outside


@dataclass(frozen=True)
class _Told:
    """Log-probabilities by token, the most that others have, how often was asked, how many strings were unclear."""

    log_probs: dict[int, float]
    most: float
    requests: int
    unclear: int


def _tokens_by_name(tokenizer: Any) -> dict[str, int]:
    """The tokens that a string names without doubt: in the middle of a text, alone, or by its bytes."""
    texts, named = TokenTexts(tokenizer), defaultdict(set)
    for token in tokenizer.get_vocab().values():
        for name in (texts.name(token), texts.alone(token)):
            named[name].add(token)
    return {name: next(iter(tokens)) for name, tokens in named.items() if len(tokens) == 1 and BROKEN not in name}
