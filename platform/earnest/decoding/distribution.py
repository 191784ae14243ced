"""The distribution over the next token, as generation sees it: one model, whose past is kept where it can be.

What is asked of a distribution is small (`NextTokens`): open a session on prompts, look at the logits of the next
token, advance by one token per row, drop rows. An ensemble of models is another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from earnest.decoding.forward import Forward, Kept, token_budget
from earnest.decoding.packed import forward_for
from earnest.models.loading import LoadedModel

SHARED_PREFIX = 16

Forms = Sequence[Sequence[Sequence[int]]]


class Session(Protocol):
    """A batch of rows that are being continued; `logits` [rows, vocabulary] are float32 and about the next token."""

    logits: Tensor

    def advance(self, tokens: Tensor) -> None:
        """Read one token per row [rows]."""

    def read(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Read some tokens per row, at least one each; the logits after each [rows, longest, vocabulary].

        What stands behind a shorter row's end is nonsense. `logits` are then those after each row's last token.
        """

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows [kept] only, in this order."""


class NextTokens(Protocol):
    """A distribution over the next token, given the tokens so far."""

    @property
    def tokenizer(self) -> Any:
        """Turns tokens into text."""

    @property
    def max_length(self) -> int:
        """The most tokens of a row, prompt included."""

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a text."""

    @property
    def budget(self) -> int:
        """How many tokens a batch may hold."""

    @property
    def tokens_forwarded(self) -> int:
        """How many tokens have been read so far, by all models together, padding not counted."""

    def open(self, prompts: Sequence[Sequence[int]], forms: Forms = ()) -> Session:
        """Read prompts, one per row; `forms` hold for each row what further models of an ensemble read in its place."""


class Remote(NextTokens, Protocol):
    """A distribution whose weights lie elsewhere, which an ensemble may steer all the same."""

    @property
    def name(self) -> str:
        """How errors and accounts call it."""

    @property
    def vocabulary(self) -> int:
        """How wide its logits are."""


class ModelDistribution:
    """One model's next-token distribution."""

    def __init__(self, loaded: LoadedModel, forward: Forward | None = None) -> None:
        self.tokenizer = loaded.tokenizer
        self.max_length = loaded.max_length
        self.forward = forward or forward_for(loaded.model, loaded.max_length)
        self.ends = end_tokens(loaded)
        self.budget = token_budget(loaded.model)

    @property
    def tokens_forwarded(self) -> int:
        """How many tokens the model has read so far, padding not counted."""
        return self.forward.tokens_forwarded

    def open(self, prompts: Sequence[Sequence[int]], forms: Forms = ()) -> Session:
        """Read prompts, one per row; what all begin with is read once.

        Raises:
            ValueError: a row has forms for further models.
        """
        if any(forms):
            raise ValueError("a prompt has forms for steering models, but this is one model; leave its forms empty")
        return CachedSession(self.forward, prompts) if self.forward.cached else RereadingSession(self.forward, prompts)


def end_tokens(loaded: LoadedModel) -> frozenset[int]:
    """The tokens that end a text, by the tokenizer and by the model's generation config."""
    configured = getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*listed, loaded.tokenizer.eos_token_id] if token is not None)


class CachedSession:
    """Rows of a model that keeps its past."""

    logits: Tensor

    def __init__(self, forward: Forward, prompts: Sequence[Sequence[int]]) -> None:
        self._forward = forward
        past, shared = _read_shared(forward, prompts)
        tails = [prompt[shared:] for prompt in prompts]
        hidden, self._past = forward.extend(tails, past)
        self.logits = forward.logits(_after_last(hidden, tails))

    def advance(self, tokens: Tensor) -> None:
        """Read one token per row."""
        hidden, self._past = self._forward.extend(tokens[:, None].tolist(), self._past)
        self.logits = self._forward.logits(hidden[:, -1])

    def read(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Read some tokens per row; the logits after each."""
        hidden, self._past = self._forward.extend(tokens, self._past)
        logits = self._forward.logits(hidden.flatten(0, 1)).view(*hidden.shape[:2], -1)
        self.logits = _after_last(logits, tokens)
        return logits

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows from the cache."""
        assert self._past is not None
        self._past = self._past.rows(rows.tolist())
        self.logits = self.logits[rows]


def _after_last(found: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
    """Of hidden states or logits [rows, longest, width] those after each row's last token [rows, width]."""
    last = torch.tensor([len(row) - 1 for row in tokens], device=found.device)
    return found[torch.arange(len(last), device=found.device), last]


def _read_shared(forward: Forward, prompts: Sequence[Sequence[int]]) -> tuple[Kept | None, int]:
    """The past of what all prompts begin with, once per row; at least one token of each prompt stays unread."""
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    most = min(len(first), len(last), *(len(prompt) - 1 for prompt in prompts))
    shared = next((i for i in range(most) if first[i] != last[i]), most)
    if len(prompts) == 1 or shared < SHARED_PREFIX:
        return None, 0
    _, past = forward.extend([first[:shared]], None)
    assert past is not None
    return past.rows([0] * len(prompts)), shared


class RereadingSession:
    """Rows of a model whose past cannot be kept: every step reads them whole again."""

    logits: Tensor

    def __init__(self, forward: Forward, prompts: Sequence[Sequence[int]]) -> None:
        self._forward = forward
        self._rows = [list(prompt) for prompt in prompts]
        self._read()

    def _read(self) -> None:
        hidden, _ = self._forward.extend(self._rows, None, keep=False)
        self.logits = self._forward.logits(_after_last(hidden, self._rows))

    def advance(self, tokens: Tensor) -> None:
        """Append one token per row."""
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            row.append(token)
        self._read()

    def read(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append some tokens per row; the logits after each."""
        for row, new in zip(self._rows, tokens, strict=True):
            row.extend(new)
        hidden, _ = self._forward.extend(self._rows, None, keep=False)
        width = max(map(len, tokens))
        ends = torch.tensor([len(row) - len(new) for row, new in zip(self._rows, tokens, strict=True)])
        places = (ends[:, None] + torch.arange(width)).clamp(max=hidden.shape[1] - 1).to(hidden.device)
        chosen = hidden[torch.arange(len(places), device=hidden.device)[:, None], places]  # [rows, longest, width]
        logits = self._forward.logits(chosen.flatten(0, 1)).view(*chosen.shape[:2], -1)
        self.logits = _after_last(logits, tokens)
        return logits

    def keep(self, rows: Tensor) -> None:
        """Forget all other rows."""
        self._rows = [self._rows[row] for row in rows.tolist()]
        self.logits = self.logits[rows]
