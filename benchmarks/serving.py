"""What serving adds: the gateway's share, time to first token under load, and members in processes of their own.

Biographies, streamed over HTTP from another process, against the same prompts in the same engine in this one. Every
text is compared with the one that is written alone. All seconds are the wall's.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import IO

import httpx

from rows import Row, row
from runs import SLOTS, Engine, Run, Seconds, in_turn, together
from setting import MOST, PROXY, Setting, drafting

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))
HERE = Path(__file__).parent
NANO = ROOT / "serve" / "configs" / "nano.toml"
STREAMS = (1, 8, 32)
START_S = 180.0


def gateway(setting: Setting) -> Iterator[Row]:
    """Gateway and ensemble in one process, without Ray."""
    with process([str(HERE / "gateway_process.py"), str(NANO)], r"answers at (\S+)\n") as said:
        yield from _served(setting, "gateway", said[1], "none")


def ray_serve(setting: Setting) -> Iterator[Row]:
    """The whole graph on Ray Serve, all models in one replica."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["-m", "serve.app", str(NANO), "--port", str(port)]
    with process(command, r"answers at (\S+)\nkey: (\S+)\n") as said:
        yield from _served(setting, "Ray Serve", *said.groups())


def spread(setting: Setting) -> Iterator[Row]:
    """Each model in a process of its own, asked over sockets, against all models here."""
    kinds = {"1 text, gamma 4": (1, 4), "1 text, gamma 8": (1, 8), "1 text": (1, None)}
    kinds[f"{setting.texts} texts"] = setting.texts, None
    with ExitStack() as stack:
        works: dict[str, Callable[[int], Run]] = {}
        for what, kind in kinds.items():
            far = stack.enter_context(_members_elsewhere(setting, *kind))
            for where, engine in (("far", far), ("here", Engine.here(setting.ensemble, *kind))):
                write = engine.one_by_one if kind[0] == 1 else engine.run
                works[f"{what}, {where}"] = lambda i, write=write: write(setting.asked("biographies", i), PROXY, MOST)
        runs = in_turn(works, setting.repeat)
    for what in kinds:
        both = runs[f"{what}, far"], runs[f"{what}, here"]
        assert [run.texts for run in both[0]] == [run.texts for run in both[1]]
        if kinds[what][0] == 1:
            rounds = ([1e3 * run.seconds.wall / run.rounds for run in of] for of in both)
            yield row(f"spread, {what}: a round against colocated", *rounds, "ms")
        yield row(f"spread, {what}: against colocated", *([run.rate("wall") for run in of] for of in both), "tokens/s")
    yield from drafting("spread, 1 text", runs["1 text, far"])


@contextmanager
def _members_elsewhere(setting: Setting, rows: int, proposals: int | None) -> Iterator[Engine]:
    """The ensemble with each member in a process of its own, the base on a core of its own, the others on the rest."""
    from serve.members import Card, RemoteMember

    secret, members = secrets.token_bytes(32), []
    first, *rest = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        for name in setting.ensemble:
            cores = [first] if name == PROXY.lead or not rest else rest
            numbers = ",".join(map(str, cores))
            command = [str(HERE / "member_process.py"), name, str(rows), str(SLOTS), secret.hex(), numbers]
            vocabulary, row_bytes, address = stack.enter_context(process(command, r"(\d+) (\d+) (.+)\n")).groups()
            members.append(RemoteMember(Card(name, int(vocabulary), rows, SLOTS, int(row_bytes), address), secret))
        yield Engine(members, setting.models["large"].tokenizer, proposals)
        for member in members:
            member.close()


# --- over HTTP ------------------------------------------------------------------------------------------------------


def _served(setting: Setting, what: str, url: str, key: str) -> Iterator[Row]:
    """Against this process: one text after the other, then several at once."""
    door, here = Door(url, key), Engine.here(setting.ensemble, max(STREAMS))
    for streams in STREAMS:
        count = max(setting.texts, streams)

        def prompts(number: int, count: int = count) -> list[str]:
            return setting.prompts("biographies", number, count)

        def local(number: int, streams: int = streams) -> Run:
            asked = setting.encoded(prompts(number))
            return (here.one_by_one if streams == 1 else here.run)(asked, PROXY, MOST)

        works = {"http": lambda i, streams=streams: door.streams(prompts(i), streams), "here": local}
        runs = in_turn(works, setting.repeat)
        assert [run.texts for run in runs["http"]] == [run.texts for run in runs["here"]], "load changed a text"
        yield from _compared(f"{what}, {streams} {'stream' if streams == 1 else 'streams'}", runs["http"], runs["here"])


def _compared(what: str, http: Sequence[Run], here: Sequence[Run]) -> Iterator[Row]:
    firsts = ([1e3 * median(run.first) for run in runs] for runs in (http, here))
    yield row(f"{what}: time to first token, against in-process", *firsts, "ms")
    rates = ([run.rate("wall") for run in runs] for runs in (http, here))
    yield row(f"{what}: against in-process", *rates, "tokens/s")
    if "1 stream" in what:
        further = ([_further_ms(run) for run in runs] for runs in (http, here))
        yield row(f"{what}: each further token, against in-process", *further, "ms")


def _further_ms(run: Run) -> float:
    """Milliseconds of each token behind the first, of texts that were written one after the other."""
    return 1e3 * (run.seconds.wall - sum(run.first)) / (run.tokens - len(run.texts))


class Door:
    """A served ensemble, as its clients see it."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key

    def streams(self, prompts: Sequence[str], at_a_time: int) -> Run:
        """Stream the continuations of all prompts, so many at a time."""
        return asyncio.run(self._streams(prompts, at_a_time))

    async def _streams(self, prompts: Sequence[str], at_a_time: int) -> Run:
        places = asyncio.Semaphore(at_a_time)
        headers = {"Authorization": f"Bearer {self._key}"}
        async with httpx.AsyncClient(base_url=self._url, headers=headers, timeout=120) as client:
            (await client.get("/health")).raise_for_status()

            async def one(prompt: str) -> Run:
                async with places:
                    return await _stream(client, prompt)

            began = Seconds.now()
            runs = await asyncio.gather(*(one(prompt) for prompt in prompts))
            seconds = Seconds.now() - began
        return replace(together(runs), seconds=seconds)


async def _stream(client: httpx.AsyncClient, prompt: str) -> Run:
    """One text as it comes."""
    body = {
        "model": "earnest", "prompt": prompt, "max_tokens": MOST, "temperature": 0, "stop": "\n", "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    began, first, text, tokens = Seconds.now(), 0.0, "", 0
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            first = first or (Seconds.now() - began).wall
            text += "".join(choice["text"] for choice in event["choices"])
            tokens = event["usage"]["completion_tokens"] if event.get("usage") else tokens
    return Run((text,), tokens, Seconds.now() - began, first=(first,))


# --- processes ------------------------------------------------------------------------------------------------------


@contextmanager
def process(command: Sequence[str], says: str) -> Iterator[re.Match[str]]:
    """A Python process, from when it says what it should to its end."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": path}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=errors
        ) as running,
    ):
        end = threading.Timer(START_S, running.kill)
        end.start()
        try:
            yield _said(running, says, errors)
        finally:
            end.cancel()
            running.terminate()  # an interrupt is ignored where whoever started this program ignores it
            running.wait(60)


def _said(running: subprocess.Popen[str], says: str, errors: IO[str]) -> re.Match[str]:
    said = ""
    for line in running.stdout or ():
        said += line
        if found := re.search(says, said):
            return found
    errors.seek(0)
    raise RuntimeError(f"{running.args} ended without {says!r}; it said:\n{said}{errors.read()[-2000:]}")
