"""A member in another process answers as it would here, and is missed at once when it is gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing import AuthenticationError
from pathlib import Path

import pytest
import torch
from serve.members import Card, Host, RemoteMember, keep_to
from serve.transport import dial

from earnest.almanac.questions import zero_shot
from earnest.almanac.world import World
from earnest.decoding.batcher import Batcher
from earnest.decoding.distribution import end_tokens
from earnest.decoding.encoding import encode
from earnest.decoding.local import LocalMember
from earnest.decoding.members import MemberLostError, Wanted
from earnest.decoding.requests import Mixture, Request, Steering
from earnest.decoding.sampling import GREEDY, Sampling
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve
from earnest.specs import UserError

ROWS, SLOTS, SECRET = 4, 128, b"between us"
FAMILY = ("large", "small-tuned", "small")


@pytest.fixture(scope="module")
def nano() -> dict[str, LoadedModel]:
    """Three of the nano family in float32."""
    return {name: load(resolve(f"nano:{name}"), dtype="float32") for name in FAMILY}


@pytest.fixture(scope="module")
def member(nano: dict[str, LoadedModel]) -> Callable[[str], LocalMember]:
    """A fresh member in this process."""
    return lambda name: LocalMember(name, nano[name], rows=ROWS, slots=SLOTS)


@pytest.fixture(params=[None, "127.0.0.1"], ids=["unix", "tcp"])
def remote(request: pytest.FixtureRequest, member: Callable[[str], LocalMember]) -> Iterator[RemoteMember]:
    """The small model behind a socket."""
    host = Host(member("small"), SECRET, request.param)
    with closing(RemoteMember(host.card, SECRET)) as found:
        yield found


def elsewhere(*names: str) -> list[tuple[subprocess.Popen[str], RemoteMember]]:
    """Nano models in processes of their own, started side by side."""
    program, root = Path(__file__).with_name("member_process.py"), Path(__file__).parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), name, str(ROWS), str(SLOTS), SECRET.decode()],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)},
        )
        for name in names
    ]  # fmt: skip
    return [
        (process, RemoteMember(_card(name, process), SECRET)) for name, process in zip(names, processes, strict=True)
    ]


def _card(name: str, process: subprocess.Popen[str]) -> Card:
    assert process.stdout is not None
    vocabulary, row_bytes, address = process.stdout.readline().split()
    return Card(name, int(vocabulary), ROWS, SLOTS, int(row_bytes), address)


def test_it_says_the_same_of_itself(remote: RemoteMember, member: Callable[[str], LocalMember]) -> None:
    here = member("small")
    traits = ("name", "vocabulary", "rows", "slots", "row_bytes")
    assert [getattr(remote, trait) for trait in traits] == [getattr(here, trait) for trait in traits]


def test_it_reads_ragged_rows_to_the_last_bit(remote: RemoteMember, member: Callable[[str], LocalMember]) -> None:
    here = member("small")
    first = ([0, 2], [0, 0], [[1, 40, 50, 60], [1, 70]])
    then = ([2, 0], [2, 4], [[80, 90], [100]])
    for question in (first, then):
        assert torch.equal(here.read(*question).result(), remote.read(*question).result())
    last = ([0], [5], [[7, 8, 9]], True)
    assert torch.equal(here.read(*last).result(), remote.read(*last).result())


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, Sampling(temperature=0.9, top_p=0.8, seed=7), Sampling(temperature=1.0, repetition_penalty=1.3, seed=8)],
    ids=["greedy", "sampled", "penalised"],
)
def test_it_drafts_the_same(remote: RemoteMember, member: Callable[[str], LocalMember], sampling: Sampling) -> None:
    here = member("small")
    prompt, wanted = (1, 40, 50, 60, 70), []
    for one in (here, remote):
        one.read([0, 1], [0, 0], [prompt, prompt]).result()
    wanted = [Wanted(4, sampling, prompt, (80,), 0.01), Wanted(2, sampling, prompt, (90,), 0.01)]
    drafted = here.draft([0, 1], [5, 5], wanted).result()
    found = remote.draft([0, 1], [5, 5], wanted).result()
    assert found.tokens == drafted.tokens
    assert found.steps == drafted.steps > 1
    assert found.following == drafted.following
    assert torch.equal(found.logits, drafted.logits)


def test_a_copied_past_goes_on_as_the_original(remote: RemoteMember) -> None:
    remote.read([0], [0], [[1, 40, 50, 60]]).result()
    remote.copy(0, 3, 4)
    asked = [remote.read([row], [4], [[70]]) for row in (0, 3)]
    one, other = (answer.result() for answer in asked)
    assert torch.equal(one, other)


def test_questions_under_way_are_answered_whichever_answer_is_looked_at_first(remote: RemoteMember) -> None:
    alone = [remote.read([0], [0], [[token]]).result() for token in (40, 50, 60)]
    asked = [remote.read([0], [0], [[token]]) for token in (40, 50, 60)]
    for number in (2, 0, 1):
        assert torch.equal(asked[number].result(), alone[number])


def test_what_it_refuses_is_said_here_and_harms_nothing(remote: RemoteMember) -> None:
    with pytest.raises(ValueError, match=f"row {ROWS} is not there"):
        remote.read([ROWS], [0], [[1]]).result()
    assert remote.read([0], [0], [[1]]).result().shape == (1, remote.vocabulary)


def test_a_thread_keeps_to_its_cores_and_cores_that_are_not_there_are_refused() -> None:
    there = os.sched_getaffinity(0)
    kept: list[set[int]] = []

    def keep() -> None:
        keep_to("m", [min(there)])
        kept.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=keep)
    thread.start()
    thread.join()
    assert kept == [{min(there)}]
    assert os.sched_getaffinity(0) == there
    with pytest.raises(UserError, match=f"models.m.cores: {max(there) + 1} is no core"):
        keep_to("m", [min(there), max(there) + 1])


def test_a_stranger_is_turned_away_and_the_caller_still_gets_through(member: Callable[[str], LocalMember]) -> None:
    host = Host(member("small"), SECRET, None)
    with pytest.raises(AuthenticationError):
        dial(host.card.address, b"a guess")
    with closing(RemoteMember(host.card, SECRET)) as found:
        assert found.read([0], [0], [[1]]).result().isfinite().all()


def test_a_batch_over_remote_members_writes_what_it_writes_here(
    nano: dict[str, LoadedModel], member: Callable[[str], LocalMember]
) -> None:
    tokenizer, ends = nano["large"].tokenizer, end_tokens(nano["large"])
    prompts = encode(tokenizer, [question.prompt for question in zero_shot(World.shipped(), 12, seed=3)])
    mixture = Mixture("large", (Steering("small-tuned", "small"),))
    requests = [
        Request(tuple(prompt), mixture, max_tokens=24, sampling=Sampling(temperature=0.5 * (n % 2), seed=n))
        for n, prompt in enumerate(prompts)
    ]
    hosts = [Host(member(name), SECRET, None) for name in FAMILY]
    remote = [RemoteMember(host.card, SECRET) for host in hosts]
    texts = [written(Batcher(of, tokenizer, ends=ends), requests) for of in ([member(name) for name in FAMILY], remote)]
    assert texts[0] == texts[1]
    for one in remote:
        one.close()


def written(batcher: Batcher, requests: list[Request]) -> list[list[int]]:
    ids: dict[int, list[int]] = {batcher.submit(request): [] for request in requests}
    while not batcher.idle:
        for ticket, chunk in batcher.step():
            assert chunk.error is None
            ids[ticket].extend(chunk.ids)
    return list(ids.values())


@pytest.mark.slow
def test_a_killed_process_is_missed_under_way_and_when_nothing_is_asked() -> None:
    (process, asked), (idle_process, idle) = elsewhere("small", "small-tuned")
    assert not asked.lost
    assert not idle.lost
    os.kill(process.pid, signal.SIGSTOP)
    answer = asked.read([0], [0], [[1, 2, 3]])
    for one in (process, idle_process):
        one.kill()
        one.wait()
    with pytest.raises(MemberLostError, match="member small: its process is gone"):
        answer.result()
    with pytest.raises(MemberLostError):
        asked.read([0], [0], [[1]]).result()
    deadline = time.monotonic() + 5
    while not idle.lost:
        assert time.monotonic() < deadline
    assert asked.lost
