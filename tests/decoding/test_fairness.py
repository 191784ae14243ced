"""Owners share the rows of a batch: who comes is served at once, and who makes room writes what it would have."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from earnest.decoding.batcher import Batcher, Limits
from earnest.decoding.encoding import encode
from earnest.decoding.fair_queue import FairQueue, overfull
from earnest.decoding.local import LocalMember
from earnest.decoding.requests import Chunk, Mixture, QueueFullError, Request, Steering
from earnest.decoding.sampling import Sampling
from earnest.models.loading import LoadedModel

ROWS = 4
STEERED = Mixture("large", (Steering("small-tuned", "small"),))


@pytest.fixture(scope="module")
def family(nano: Callable[[str], LoadedModel]) -> dict[str, LoadedModel]:
    return {name: nano(name) for name in ("large", "small-tuned", "small")}


def batch_of(models: Mapping[str, LoadedModel], **limits: int) -> Batcher:
    members = [LocalMember(name, model, rows=ROWS, slots=256) for name, model in models.items()]
    tokenizer = next(iter(models.values())).tokenizer
    return Batcher(members, tokenizer, ends=frozenset({tokenizer.eos_token_id}), limits=Limits(**limits))


def request(models: Mapping[str, LoadedModel], text: str, **fields: Any) -> Request:
    (ids,) = encode(models["large"].tokenizer, [text])
    return Request(tuple(ids), **{"mixture": STEERED, "max_tokens": 40, **fields})


class Texts:
    """What came of every ticket."""

    def __init__(self, batch: Batcher) -> None:
        self.batch, self.chunks = batch, dict[int, list[Chunk]]()

    def submit(self, request: Request) -> int:
        ticket = self.batch.submit(request)
        self.chunks[ticket] = []
        return ticket

    def step(self) -> None:
        for ticket, chunk in self.batch.step():
            self.chunks[ticket].append(chunk)

    def run(self) -> None:
        while not self.batch.idle:
            self.step()

    def ids(self, ticket: int) -> tuple[int, ...]:
        return tuple(token for chunk in self.chunks[ticket] for token in chunk.ids)

    def text(self, ticket: int) -> str:
        return "".join(chunk.text for chunk in self.chunks[ticket])


SETTINGS = {
    "greedy": {},
    "sampled": {"sampling": Sampling(temperature=1.0, seed=5)},
    "alone": {"mixture": Mixture("large")},
    "penalised": {"sampling": Sampling(repetition_penalty=1.2, logprobs=2)},
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_who_makes_room_writes_what_it_would_have_written(family: dict[str, LoadedModel], settings: str) -> None:
    asked = [request(family, f"Tell me about {what}.", owner="many", **SETTINGS[settings]) for what in
             ("the town", "the guild", "Nada Orrin", "Mirko Talen", "a river", "the sea")]  # fmt: skip
    alone = Texts(batch_of(family))
    wanted = []
    for one in asked:
        ticket = alone.submit(one)
        alone.run()
        wanted.append((alone.ids(ticket), alone.text(ticket), alone.chunks[ticket][-1].finish))
    texts = Texts(batch_of(family, prefill=16))
    tickets = [texts.submit(one) for one in asked]
    for _ in range(4):
        texts.step()
    others = [texts.submit(replace(asked[0], owner=f"other {n}", max_tokens=3)) for n in range(5)]
    texts.run()
    assert [(texts.ids(t), texts.text(t), texts.chunks[t][-1].finish) for t in tickets] == wanted
    assert [len(texts.ids(t)) for t in others] == [3] * 5
    last = texts.chunks[tickets[0]][-1].usage
    assert last is not None
    assert last.completion_tokens == len(wanted[0][0])


def test_who_comes_does_not_wait_for_another_owners_rows(family: dict[str, LoadedModel]) -> None:
    texts = Texts(batch_of(family))
    hogs = [texts.submit(request(family, f"Number {n}", owner="many", max_tokens=200,
                                 sampling=Sampling(logit_bias=((2, -100.0),)))) for n in range(40)]  # fmt: skip
    for _ in range(3):
        texts.step()
    came = texts.submit(request(family, "Tell me", owner="one", max_tokens=4))
    for _ in range(8):
        texts.step()
    assert texts.chunks[came]
    assert texts.chunks[came][-1].finish in ("length", "end")
    assert all(not chunk.last for ticket in hogs for chunk in texts.chunks[ticket])


def test_a_cancelled_text_that_was_paused_is_gone(family: dict[str, LoadedModel]) -> None:
    texts = Texts(batch_of(family))
    many = [texts.submit(request(family, f"Number {n}", owner="many")) for n in range(ROWS)]
    texts.step()
    one = texts.submit(request(family, "Tell me", owner="one"))
    texts.step()
    texts.batch.cancel(many[-1])
    texts.run()
    assert not texts.chunks[many[-1]] or not texts.chunks[many[-1]][-1].last
    assert texts.chunks[one][-1].last
    assert texts.batch.gauges().running == texts.batch.gauges().waiting == 0


def test_prompts_are_read_in_turn(family: dict[str, LoadedModel]) -> None:
    long = "the town and the guild " * 30
    texts = Texts(batch_of(family, prefill=16))
    many = [texts.submit(request(family, f"{n} {long}", owner="many")) for n in range(3)]
    texts.step()
    texts.step()
    one = texts.submit(request(family, "Tell me", owner="one", max_tokens=2))
    for _ in range(4):
        texts.step()
    assert texts.chunks[one]
    assert not any(texts.chunks[ticket] for ticket in many)


def test_who_holds_least_is_next() -> None:
    queue = FairQueue[int]()
    for owner, number in (("a", 1), ("a", 2), ("b", 3), ("c", 4)):
        queue.put(owner, number)
    queue.put_back("a", 0)
    assert [queue.get({"a": 2, "c": 1}), queue.get({"a": 2, "c": 3}), queue.get(), queue.get()] == [3, 0, 4, 1]
    assert overfull(Counter(), "a") is None
    assert overfull(Counter(a=2), "b") == "a"
    assert overfull(Counter(a=1), "b") is None


def test_a_queue_that_one_owner_fills_has_a_share_for_another(family: dict[str, LoadedModel]) -> None:
    batch = batch_of(family, waiting=6)
    for _ in range(ROWS + 6):
        batch.submit(request(family, "Tell me", owner="many"))
    for _ in range((ROWS + 6) // 2):
        batch.submit(request(family, "Tell me", owner="one"))
    for owner in ("many", "one"):
        with pytest.raises(QueueFullError):
            batch.submit(request(family, "Tell me", owner=owner))
