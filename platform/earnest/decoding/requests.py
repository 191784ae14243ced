"""What is asked of a running batch, and what it answers: requests in, chunks out. The batch itself is `batcher`.

Models are named here as the batch knows its members; nothing in this module holds a tensor, so that all of it may
travel between processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from earnest.decoding.account import TokenAccount
from earnest.decoding.generation import Finish
from earnest.decoding.logprobs import TokenLogprobs
from earnest.decoding.sampling import GREEDY, Sampling
from earnest.specs import Alpha


class QueueFullError(Exception):
    """More requests wait than may; come back in `retry_after` seconds."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(waiting, retry_after)
        self.waiting, self.retry_after = waiting, retry_after

    def __str__(self) -> str:
        return f"{self.waiting} requests wait already; come back in {self.retry_after:.0f} s"


@dataclass(frozen=True)
class Steering:
    """A pair by its members' names, and how strongly it steers; without an antiexpert the lead stands there."""

    expert: str
    antiexpert: str | None = None
    alpha: Alpha = 1.0


@dataclass(frozen=True)
class Mixture:
    """Which members speak: logits = lead + sum of alpha * (expert - antiexpert). No steering is the lead alone."""

    lead: str
    steering: tuple[Steering, ...] = ()


@dataclass(frozen=True)
class Request:
    """One text to continue.

    `prompt` is what the lead reads; `forms` hold, by member, what others read in its place (another chat template).
    `account` asks for each token's account with so many candidates of every model. `owner` shares the batch fairly:
    owners hold as many rows as each other. `draft` False decodes without speculation; the text is the same.
    `prompt_logprobs` asks for the log-probability of each token of the prompt, with so many likeliest ones; all members
    then read one prompt. `max_tokens` may then be 0: nothing is written.
    `stop_token_ids` end the text as its end tokens do, `ignore_eos` has these written like any other, and neither comes
    before `min_tokens` others. `answer`: it answers in a chat, and its text begins as one does. `grammar` is
    what the text must be of (`grammar.json_grammar`), and ends it.
    """

    prompt: tuple[int, ...]
    mixture: Mixture
    max_tokens: int = 64
    stops: tuple[str, ...] = ()
    sampling: Sampling = GREEDY
    forms: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    account: int | None = None
    owner: str = ""
    draft: bool = True
    prompt_logprobs: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    grammar: str | None = None
    answer: bool = False


@dataclass(frozen=True)
class Usage:
    """What a finished request took: tokens read of its prompt, of these from the prefix cache, and how it was drafted.

    `seconds_queued` until it had a row, `seconds_to_first` until its first token, both from when it came.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    drafted: int
    accepted: int
    rounds: int
    seconds_queued: float
    seconds_to_first: float
    seconds: float


@dataclass(frozen=True)
class Chunk:
    """A piece of a continuation, in order.

    `text` is what may be shown: never a part of a stop string or of a character, so tokens may come before their text.
    `logprobs` and `accounts` have one entry per token of `ids` where they were asked for. The last chunk has `finish`,
    or `error` where the batch could not go on with this text, and `usage`; `end` is what was known of an end token.
    `prompt_logprobs` come with the first chunk, one per token of the prompt; of its first one nothing is known: NaN.
    """

    ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()
    accounts: tuple[TokenAccount, ...] = ()
    finish: Finish | None = None
    error: str | None = None
    usage: Usage | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    end: TokenLogprobs | None = None

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return self.finish is not None or self.error is not None
