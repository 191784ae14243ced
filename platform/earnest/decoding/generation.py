"""Generation in batches: every row with its own settings, stop strings and limit; finished rows leave the batch.

Works on any next-token distribution, a single model or an ensemble. How a token is chosen belongs to `sampling`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal

import torch

from earnest.decoding.detokenizing import Anchor, anchor_of, answer_of, decoded, text_behind
from earnest.decoding.distribution import ModelDistribution, NextTokens
from earnest.decoding.encoding import encode
from earnest.decoding.logprobs import TokenLogprobs
from earnest.decoding.sampling import GREEDY, NO_TOKEN, Draw, Sampling, choose
from earnest.models.loading import LoadedModel
from earnest.specs import UserError

LEAVE_WHEN = 0.75
MOST_REMEMBERED = 1 << 16

Finish = Literal["stop", "end", "length", "not_finite"]


@dataclass(frozen=True)
class Prompt:
    """Token ids to continue, the strings that end the continuation, its most tokens, and how they are chosen.

    `forms` is the prompt as each steering model of an ensemble reads it (`Ensemble.steering`), such as in its own chat
    template; empty where all read `ids`. The continuation is shared. `ends` are the tokens that end it where these are
    not the model's own. `answer`: it answers in a chat, and its text begins as one does (`detokenizing.answer_of`).
    """

    ids: tuple[int, ...]
    stops: tuple[str, ...] = ()
    max_tokens: int = 64
    forms: tuple[tuple[int, ...], ...] = ()
    sampling: Sampling = GREEDY
    ends: frozenset[int] | None = None
    answer: bool = False


@dataclass(frozen=True)
class Generation:
    """A continuation: its text up to the first stop string, its tokens (the stop's included), why it ended.

    `finish` is "not_finite" where the model's logits were, and the text means nothing from there on.
    `cut` counts the prompt's tokens that were left out on the left because the prompt was too long; where it has forms,
    those of the form that lost most. `logprobs` has one entry per token where the prompt's sampling asks for them.
    """

    text: str
    ids: tuple[int, ...]
    finish: Finish
    cut: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass
class Row:
    """One prompt on its way; `finish` is None until it ends, and `end` is what is known of the token that ended it."""

    number: int
    prompt: Prompt
    room: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    text: str = ""
    finish: Finish | None = None
    end: TokenLogprobs | None = None
    draw: Draw = field(init=False)
    anchor: Anchor | None = None

    def __post_init__(self) -> None:
        self.draw = Draw(self.prompt.sampling, self.start, self.ids)

    @property
    def start(self) -> tuple[int, ...]:
        """What is read of the prompt: its end, as far as there is room."""
        return self.prompt.ids[-self.room :]

    @property
    def forms(self) -> tuple[tuple[int, ...], ...]:
        """What steering models read of theirs."""
        return tuple(form[-self.room :] for form in self.prompt.forms)

    @property
    def read(self) -> int:
        """How many tokens of the prompt are read, by the model that reads most."""
        return max(map(len, (self.start, *self.forms)))

    @property
    def cut(self) -> int:
        """How many tokens the prompt lost, or the form of it that lost most."""
        return max(0, max(map(len, (self.prompt.ids, *self.prompt.forms))) - self.room)

    def generation(self) -> Generation:
        """What came of it."""
        return Generation(self.text, tuple(self.ids), self.finish or "length", self.cut, tuple(self.logprobs))


def generate(
    subject: LoadedModel | NextTokens,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    stop: tuple[str, ...] = (),
    sampling: Sampling = GREEDY,
) -> list[Generation]:
    """Continue each text with a model or an ensemble, greedily by default, up to one of the strings in `stop`.

    Raises:
        ValueError: `max_tokens` is below 1 or as much as the model can hold, or a stop string is empty.
    """
    distribution = ModelDistribution(subject) if isinstance(subject, LoadedModel) else subject
    rows = encode(distribution.tokenizer, prompts)
    asked = [Prompt(tuple(row), stop, max_tokens, sampling=sampling) for row in rows]
    return continue_prompts(distribution, asked, distribution.budget)


def continue_prompts(
    distribution: NextTokens,
    prompts: Sequence[Prompt],
    budget: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """Continue each prompt as its sampling says, greedily by default, until a stop string, an end token or its limit.

    What a row gets does not depend on the rows beside it, beyond the rounding of logits.

    Args:
        distribution: where logits come from.
        prompts: what to continue; longer than the model allows minus `max_tokens`, they lose tokens on the left.
        budget: tokens of a batch at most: rows × (prompt + max_tokens).
        progress: told how many prompts are finished, and of how many.

    Raises:
        ValueError: a prompt or a stop string is empty, or a prompt asks for no token or for as many as the model can
            hold.
    """
    rows = [row_of(number, prompt, distribution.max_length) for number, prompt in enumerate(prompts)]
    reader, done = Reader(distribution.tokenizer, distribution.ends), 0
    for batch in _batches(rows, budget):
        _continue(distribution, batch, reader)
        done += len(batch)
        if progress is not None:
            progress(done, len(rows))
    return [row.generation() for row in rows]


def continue_samples(
    distribution: NextTokens,
    prompts: Sequence[Prompt],
    count: int,
    budget: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Generation]]:
    """Several samples of each prompt, each with a seed of its own; the first is what `continue_prompts` gives.

    Raises:
        ValueError: `count` is less than 1, or `continue_prompts` refuses a prompt.
    """
    if count < 1:
        raise ValueError(f"count {count}: ask for at least one sample of each prompt")
    every = [replace(prompt, sampling=prompt.sampling.nth(n)) for prompt in prompts for n in range(count)]
    found = continue_prompts(distribution, every, budget, progress)
    return [found[begin : begin + count] for begin in range(0, len(found), count)]


def row_of(number: int, prompt: Prompt, max_length: int) -> Row:
    """A prompt before its first token, cut to what a model of `max_length` tokens has room for."""
    room = max_length - prompt.max_tokens
    if not all((prompt.ids, *prompt.forms)):
        raise ValueError(f"prompt {number} is empty; give it at least one token, such as the one that begins texts")
    if prompt.max_tokens < 1:
        raise ValueError(f"max_tokens {prompt.max_tokens}: nothing to generate; ask for at least 1")
    if "" in prompt.stops:
        raise ValueError("stop '': an empty string ends every text; give at least one character, or no stop string")
    if room < 1:
        raise UserError(
            f"max_tokens {prompt.max_tokens}: the model holds {max_length} tokens, prompt included; ask for fewer"
        )
    return Row(number, prompt, room)


def _batches(rows: Sequence[Row], budget: int) -> Iterator[list[Row]]:
    """Rows of like length together, within the budget."""
    batch: list[Row] = []
    longest = 0
    for row in sorted(rows, key=lambda row: (row.read + row.prompt.max_tokens, row.number)):
        longest = row.read + row.prompt.max_tokens
        if batch and (len(batch) + 1) * longest > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@torch.inference_mode()
def _continue(distribution: NextTokens, batch: list[Row], reader: Reader) -> None:
    """Generate a batch of rows to their ends."""
    session = distribution.open([row.start for row in batch], [row.forms for row in batch])
    active = batch
    for step in count(1):
        chosen, known = choose(session.logits, [row.draw for row in active])
        for row, token, logprobs in zip(active, chosen, known, strict=True):
            if row.finish is None:
                reader.append(row, token, logprobs)
        going = [i for i, row in enumerate(active) if row.finish is None]
        if not going:
            return
        # A finished row may stay a while, because leaving copies the cache, but not beyond the model's last position.
        full = max(row.read for row in active) + step >= distribution.max_length
        tokens = torch.tensor(chosen, device=session.logits.device).clamp(min=0)  # a row without a token has ended
        if len(going) <= LEAVE_WHEN * len(active) or (full and len(going) < len(active)):
            kept = torch.tensor(going, device=tokens.device)
            session.keep(kept)
            tokens, active = tokens[kept], [active[i] for i in going]
        session.advance(tokens)


class Reader:
    """Turns tokens into text and sees where a row ends."""

    def __init__(self, tokenizer: Any, ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._ends = ends
        self._completes: dict[tuple[tuple[str, ...], int], bool] = {}
        self._closing: dict[tuple[str, ...], frozenset[int]] = {}

    def append(self, row: Row, token: int, logprobs: TokenLogprobs | None = None) -> None:
        """Give a row its next token, or `NO_TOKEN`; set its text and why it ended if it does."""
        if token == NO_TOKEN:
            row.text, row.finish = self._text(row), "not_finite"
            return
        if token in (self._ends if row.prompt.ends is None else row.prompt.ends):
            row.text, row.finish, row.end = self._text(row), "end", logprobs
            return
        row.ids.append(token)
        if logprobs is not None:
            row.logprobs.append(logprobs)
        if self._may_complete(row.prompt.stops, token):
            text = self._text(row)
            at = min((p for p in map(text.find, row.prompt.stops) if p >= 0), default=-1)
            if at >= 0:
                row.text, row.finish = text[:at], "stop"
                self._learn(row.prompt.stops, token)
                return
        if len(row.ids) == row.prompt.max_tokens:
            row.text, row.finish = self._text(row), "length"

    def closing(self, prompt: Prompt) -> frozenset[int]:
        """Tokens that end a continuation of this prompt: end tokens, and those seen to bring a whole stop string."""
        ends = self._ends if prompt.ends is None else prompt.ends
        seen = self._closing.get(prompt.stops)
        return ends if seen is None else ends | seen

    def _learn(self, stops: tuple[str, ...], token: int) -> None:
        known = self._closing.get(stops, frozenset())
        text = decoded(self._tokenizer, [token])
        if token not in known and any(stop in text for stop in stops):
            if len(self._closing) >= MOST_REMEMBERED:
                self._closing.clear()
            self._closing[stops] = known | {token}

    def _text(self, row: Row) -> str:
        row.anchor = row.anchor or anchor_of(self._tokenizer, row.prompt.ids)
        text = text_behind(self._tokenizer, row.anchor, row.ids)
        return answer_of(self._tokenizer, text) if row.prompt.answer else text

    def _may_complete(self, stops: tuple[str, ...], token: int) -> bool:
        """Whether a stop string can end with this token: only then is the row's whole text looked at.

        A token that decodes to nothing, to a part of a character, or perhaps to a space that decoding eats, may.
        """
        key = (stops, token)
        if key not in self._completes:
            if len(self._completes) >= MOST_REMEMBERED:  # anybody may send new stop strings
                self._completes.clear()
            text = decoded(self._tokenizer, [token])
            lasts = {stop[-1] for stop in stops}
            self._completes[key] = bool(stops) and (
                not text or " " in lasts or any(c in text for c in (*lasts, "\ufffd"))
            )
        return self._completes[key]
