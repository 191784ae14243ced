"""A model of the ensemble in a process of its own: `RemoteMember` where the batch is, `Host` where the model is.

Drafting is one question, however many tokens are proposed, and questions to several members are under way at once, so
a round of the batch waits for two exchanges. Nothing here knows Ray: what starts the processes is `placement`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import AuthenticationError
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from earnest.decoding.members import Drafted, Member, MemberLostError, Wanted
from earnest.decoding.sampling import Sampling
from earnest.specs import UserError
from serve.transport import Address, Wire, accept, dial, listener

T = TypeVar("T")


@dataclass(frozen=True)
class Card:
    """What can be said of a member without asking it, and where it answers."""

    name: str
    vocabulary: int
    rows: int
    slots: int
    row_bytes: int
    address: Address


class Line:
    """Questions to a member, several at a time; answers come in their order. For one thread, but for `lost`."""

    def __init__(self, name: str, wire: Wire) -> None:
        self._name, self._wire = name, wire
        self._open: deque[Answer[Any]] = deque()
        self._gone = False

    def ask(self, question: list[Any], read: Callable[[list[Any], Tensor], T]) -> Answer[T]:
        """Ask, and go on; `read` makes the answer of its fields and its tensor. Raises MemberLostError."""
        answer = Answer(self, read)
        self._open.append(answer)
        self.tell(question)
        return answer

    def tell(self, message: list[Any]) -> None:
        """Say what needs no answer. Raises MemberLostError."""
        with self._mourning():
            self._wire.send(message)

    def collect(self) -> None:
        """Receive the answer to the oldest open question. Raises MemberLostError."""
        with self._mourning():
            fields, tensor = self._wire.receive()
        self._open.popleft().settle(fields, tensor)

    @property
    def lost(self) -> bool:
        """Whether the other end is gone, as far as that shows without asking."""
        return self._gone or (not self._open and self._wire.hung_up())

    def close(self) -> None:
        """Hang up."""
        self._gone = True
        self._wire.close()

    @contextlib.contextmanager
    def _mourning(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            self._gone = True
            raise MemberLostError(f"member {self._name}: its process is gone ({error})") from error


class Answer(Generic[T]):
    """What a question will have brought."""

    def __init__(self, line: Line, read: Callable[[list[Any], Tensor], T]) -> None:
        self._line, self._read = line, read
        self._settled: tuple[list[Any], Tensor | None] | None = None

    def settle(self, fields: list[Any], tensor: Tensor | None) -> None:
        """Told by the line."""
        self._settled = fields, tensor

    def result(self) -> T:
        """Wait for it. Raises MemberLostError, or ValueError with what the member refused."""
        while self._settled is None:
            self._line.collect()
        fields, tensor = self._settled
        if tensor is None:
            raise ValueError(fields[0])
        return self._read(fields, tensor)


class RemoteMember:
    """A member that lives in another process (see `decoding.members.Member`)."""

    elsewhere = True

    def __init__(self, card: Card, secret: bytes) -> None:
        self._card = card
        self._line = Line(card.name, dial(card.address, secret))

    @property
    def name(self) -> str:
        """How requests call it."""
        return self._card.name

    @property
    def vocabulary(self) -> int:
        """How wide its logits are."""
        return self._card.vocabulary

    @property
    def rows(self) -> int:
        """How many texts it holds at a time."""
        return self._card.rows

    @property
    def slots(self) -> int:
        """How many tokens each of them has room for."""
        return self._card.slots

    @property
    def row_bytes(self) -> int:
        """What one row's past takes in its memory."""
        return self._card.row_bytes

    @property
    def lost(self) -> bool:
        """Whether its process is known to be gone; may be asked from any thread."""
        return self._line.lost

    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool = False
    ) -> Answer[Tensor]:
        """Ask for `Member.read`. Raises MemberLostError, as does the answer."""
        return self._line.ask(["read", list(rows), list(starts), [list(row) for row in tokens], last], _logits)

    def draft(self, rows: Sequence[int], starts: Sequence[int], wanted: Sequence[Wanted]) -> Answer[Drafted]:
        """Ask for `Member.draft`: all its steps in one exchange."""
        return self._line.ask(["draft", list(rows), list(starts), [_packed(row) for row in wanted]], _drafted)

    def copy(self, source: int, target: int, count: int) -> None:
        """Have `Member.copy` done before whatever is asked next."""
        self._line.tell(["copy", source, target, count])

    def close(self) -> None:
        """Hang up: the process may end."""
        self._line.close()


def _logits(_: list[Any], tensor: Tensor) -> Tensor:
    return tensor


def _drafted(fields: list[Any], tensor: Tensor) -> Drafted:
    steps, following, *rows = fields
    return Drafted(tuple(tuple(row) for row in rows), tensor, steps, tuple(following))


def _packed(wanted: Wanted) -> list[Any]:
    prompt = list(wanted.prompt) if wanted.sampling.penalises else []
    fields = [wanted.count, _spelled(wanted.sampling), prompt, list(wanted.written), wanted.least_chance, wanted.unsure]
    return [*fields, [*wanted.ends]]


def _unpacked(fields: list[Any]) -> Wanted:
    count, sampling, prompt, written, least_chance, unsure, ends = fields
    understood = _understood(sampling)
    return Wanted(count, understood, tuple(prompt), tuple(written), least_chance, unsure, frozenset(ends))


# The same few settings come with every round of a text.
@lru_cache(maxsize=1024)
def _spelled(sampling: Sampling) -> str:
    return sampling.model_dump_json()


@lru_cache(maxsize=1024)
def _understood(sampling: str) -> Sampling:
    return Sampling.model_validate_json(sampling)


class Host:
    """Has a member answer the one caller who knows the secret, on a thread of its own."""

    def __init__(self, member: Member, secret: bytes, host: str | None) -> None:
        """`host` is the interface that callers on other machines reach; None lets this machine's only."""
        self._member = member
        self._listening = listener(host, secret)
        self.card = Card(
            member.name, member.vocabulary, member.rows, member.slots, member.row_bytes, self._listening.address
        )
        self._thread = threading.Thread(target=self._serve, args=(torch.get_num_threads(),), daemon=True)
        self._thread.start()

    @property
    def answering(self) -> bool:
        """Whether it waits for its caller or for his questions."""
        return self._thread.is_alive()

    def _serve(self, threads: int) -> None:
        torch.set_num_threads(threads)  # OpenMP counts threads per calling thread
        with self._listening, self._caller() as wire, torch.inference_mode():
            answer(self._member, wire)

    def _caller(self) -> Wire:
        while True:
            try:
                return accept(self._listening)
            except (AuthenticationError, EOFError, ConnectionError):
                continue  # somebody else's call; ours is yet to come


def keep_to(name: str, cores: Sequence[int]) -> None:
    """Keep this thread, and those it will start, to some CPU cores, one a core; to any where there are none.

    Members that wait awake beside each other cost each other time, most of all the base, which works longest.

    Raises:
        UserError: a core is not there, or the system has no way to say so.
    """
    if not cores:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise UserError(f"models.{name}.cores {list(cores)}: this system keeps no process to cores; leave them out")
    there = sorted(os.sched_getaffinity(0))
    missing = sorted(set(cores) - set(there))
    if missing:
        raise UserError(f"models.{name}.cores: {missing[0]} is no core of this process; it may use {there}")
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(min(torch.get_num_threads(), len(set(cores))))


def answer(member: Member, wire: Wire) -> None:
    """Answer questions until the caller hangs up. What a member refuses is an answer; what breaks it ends the line."""
    while True:
        try:
            question, _ = wire.receive()
        except (EOFError, OSError):
            return
        if question[0] == "copy":
            member.copy(*question[1:])
            continue
        fields: list[Any]
        logits: Tensor | None
        try:
            fields, logits = _answered(member, question)
        except ValueError as error:
            fields, logits = [str(error)], None
        try:
            wire.send(fields, logits)
        except OSError:
            return


def _answered(member: Member, question: list[Any]) -> tuple[list[Any], Tensor]:
    match question:
        case ["read", rows, starts, tokens, last]:
            return [], member.read(rows, starts, tokens, last).result()
        case ["draft", rows, starts, wanted]:
            drafted = member.draft(rows, starts, [_unpacked(row) for row in wanted]).result()
            return [drafted.steps, drafted.following, *drafted.tokens], drafted.logits
        case _:
            raise ValueError(f"a member answers read, draft and copy, not {question[0]!r}")
