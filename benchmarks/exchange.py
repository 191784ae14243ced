"""What an exchange with a member in another process costs over our socket, and over what Ray and torch offer.

    PYTHONPATH=. python benchmarks/exchange.py [--json FILE] [--repeat N]

An exchange asks a member to read five tokens of one text and carries the logits of the answer, [5, 1536] in
float32; the member answers at once, so that nothing else is measured. What it makes of a round of the batch is
measured by `proxy_decode.py` (spread).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import torch
from serve.members import Host, RemoteMember

from earnest.decoding.local import Done
from earnest.decoding.members import Member
from rows import Row, parser, report, row, seconds

SHAPE = (5, 1536)
CALLS = 300
SECRET = b"benchmark"
PROCESSES = multiprocessing.get_context("spawn")
QUESTION: tuple[Any, ...] = ([0], [64], [[5, 6, 7, 8, 9]])


class Silent:
    """A member that answers at once."""

    name, vocabulary, rows, slots, row_bytes = "silent", SHAPE[-1], 1, 512, 0

    def __init__(self) -> None:
        self._logits = torch.randn(SHAPE)

    def read(self, *_: Any, **__: Any) -> Done[torch.Tensor]:
        """The same numbers for whatever is asked."""
        return Done(self._logits)

    def numbers(self, _: Any) -> Any:
        """The same for Ray, whose own way of carrying arrays is the fair one."""
        return self._logits.numpy()


def main() -> None:
    """Measure and report."""
    options = parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    report([*exchanges(options.repeat)], "An exchange with another process", "peer", options.json)


def exchanges(repeat: int) -> Iterator[Row]:
    """One exchange over our socket, against each other way in turns."""
    remote = elsewhere()
    for peer, call in (("gloo", gloo()), ("a Ray actor", actor()), ("a Serve handle", handle())):
        ours, theirs = in_turns(lambda: seconds_of_call(ask(remote)), partial(seconds_of_call, call), repeat)
        yield row(f"socket, beside {peer}", [1e3 * one for one in ours], [1e3 * one for one in theirs], "ms")


def in_turns(ours: Callable[[], float], theirs: Callable[[], float], repeat: int) -> tuple[list[float], list[float]]:
    """Both measured `repeat` times, after one time each that is not counted."""
    pairs = [(ours(), theirs()) for _ in range(repeat + 1)][1:]
    return [one for one, _ in pairs], [other for _, other in pairs]


def seconds_of_call(call: Callable[[], object]) -> float:
    """The median of some calls."""
    return statistics.median(seconds(call, CALLS))


# --- the ways to ask -------------------------------------------------------------------------------------------------


def ask(member: Member) -> Callable[[], object]:
    """One exchange with a member."""
    return lambda: member.read(*QUESTION).result()


def elsewhere() -> RemoteMember:
    """A member in a process of its own that ends with this one."""
    ours, theirs = PROCESSES.Pipe()
    PROCESSES.Process(target=offer, args=(theirs,), daemon=True).start()
    return RemoteMember(ours.recv(), SECRET)


def offer(caller: Connection) -> None:
    """Be that process."""
    torch.set_num_threads(1)
    silent: Any = Silent()
    host = Host(silent, SECRET, None)
    caller.send(host.card)
    while host.answering:
        time.sleep(1)


def actor() -> Callable[[], object]:
    """A Ray actor that answers at once."""
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    silent = ray.remote(Silent).remote()
    return lambda: ray.get(silent.numbers.remote(QUESTION))


def handle() -> Callable[[], object]:
    """A deployment that answers at once."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    deployed = serve.run(
        serve.deployment(Silent).options(ray_actor_options={"num_cpus": 0.1}).bind(), route_prefix=None
    )
    return lambda: deployed.numbers.remote(QUESTION).result()


def gloo() -> Callable[[], object]:
    """A rank of a process group that answers at once."""
    from torch import distributed

    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    PROCESSES.Process(target=second_rank, args=(store.port,), daemon=True).start()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=2)
    question, answer = torch.zeros(16), torch.empty(SHAPE)

    def exchange() -> None:
        distributed.send(question, 1)
        distributed.recv(answer, 1)

    return exchange


def second_rank(port: int) -> None:
    """Be that rank."""
    from torch import distributed

    torch.set_num_threads(1)
    store = distributed.TCPStore("127.0.0.1", port, is_master=False)
    distributed.init_process_group("gloo", store=store, rank=1, world_size=2)
    question, answer = torch.zeros(16), torch.randn(SHAPE)
    while True:
        distributed.recv(question, 0)
        distributed.send(answer, 0)


if __name__ == "__main__":
    main()
