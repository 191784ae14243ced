"""The ensemble as other processes reach it: one socket for each gateway, with all of its streams.

A gateway that is gone takes its streams with it; an ensemble that is gone hangs up, which its gateways notice at once.
Messages are pickles, as Ray's own calls are, between two ends that have each proved to know the ensemble's secret.
A gateway says (number, Request), (number, "cancel"), (number, "card") or (number, "state"), and hears in one message
all that is new: (number, Chunk), (number, answer) or (number, error).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, answer_challenge, deliver_challenge
from queue import SimpleQueue
from typing import Any

from earnest.decoding.requests import Chunk, QueueFullError, Request
from serve.ensemble import Ensemble
from serve.seam import EnsembleLostError
from serve.transport import Address, framed, keep_alive, listener, taken_out

HANDSHAKE_S = 10
QUIET_S = 1.0  # for a gateway to send what it is still reading
PACE_S = 0.008  # between two messages, unless a text begins or ends: each wakes a gateway and its client
MOST_READ = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where an ensemble answers whom; `version` tells ensembles of different configs apart."""

    address: Address
    secret: bytes
    version: str


class EnsembleServer:
    """Answers gateways on threads of its own."""

    def __init__(self, ensemble: Ensemble, version: str) -> None:
        self._ensemble, self._version, self._secret = ensemble, version, secrets.token_bytes(32)
        self._listening: dict[str | None, Listener] = {}
        self._gateways: set[Caller] = set()
        self._lock = threading.Lock()

    def place(self, host: str | None) -> Place:
        """Where callers on this machine (None), or those who reach its address `host`, are answered from now on."""
        with self._lock:
            if host not in self._listening:
                self._listening[host] = found = listener(host, None)
                threading.Thread(target=self._accept, args=(found,), daemon=True).start()
            return Place(self._listening[host].address, self._secret, self._version)

    def drain(self, seconds: float) -> None:
        """Return once all gateways have hung up or nothing has run for a moment, or time is up."""
        end = time.monotonic() + seconds
        quiet = time.monotonic() + QUIET_S
        while self._gateways and time.monotonic() < min(end, quiet):
            time.sleep(0.02)
            if self._ensemble.streams:
                quiet = time.monotonic() + QUIET_S

    def _accept(self, listening: Listener) -> None:
        while True:
            try:
                connection = listening.accept()
            except OSError:  # it hung up before it was heard
                continue
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: Connection) -> None:
        with connection, contextlib.suppress(AuthenticationError, EOFError, OSError):
            keep_alive(connection, HANDSHAKE_S)
            deliver_challenge(connection, self._secret)
            answer_challenge(connection, self._secret)
            keep_alive(connection, 0)
            caller = Caller(self._ensemble, connection)
            self._gateways.add(caller)
            try:
                caller.listen()
            finally:
                caller.close()
                self._gateways.discard(caller)


class Caller:
    """One gateway and its streams (see `inbox.Outlet`).

    The first and the last of a text leave at once, what lies between leaves together; a thread of its own sends what
    does not fit into the socket.
    """

    def __init__(self, ensemble: Ensemble, connection: Connection) -> None:
        self._ensemble = ensemble
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._tickets: dict[int, int] = {}
        self._unheard: set[int] = set()
        self._held: list[tuple[int, Any]] = []
        self._sent_at = 0.0
        self._late: SimpleQueue[bytes | None] = SimpleQueue()
        self._behind, self._lock = 0, threading.Lock()
        threading.Thread(target=self._catch_up, daemon=True).start()

    def deliver(self, parcel: list[tuple[Any, Chunk]]) -> None:
        """See `Outlet.deliver`."""
        self._held += parcel
        now = time.monotonic()
        begun = self._unheard.intersection(number for number, _ in parcel)
        if begun or now - self._sent_at >= PACE_S or any(chunk.last for _, chunk in parcel):
            self._unheard.difference_update(begun)
            self._say(self._held)
            self._held, self._sent_at = [], now

    def listen(self) -> None:
        """Do what it says until it hangs up. Raises OSError where its machine vanished."""
        received = bytearray()
        while data := self._socket.recv(MOST_READ):
            received += data
            while (message := taken_out(received)) is not None:
                self._hear(*pickle.loads(message))  # noqa: S301 (it knows the secret)

    def close(self) -> None:
        """End its streams."""
        for ticket in self._tickets.values():
            self._ensemble.cancel(ticket)
        self._late.put(None)

    def _hear(self, number: int, wanted: Request | str) -> None:
        try:
            self._do(number, wanted)
        except (EnsembleLostError, QueueFullError) as error:
            self._say([(number, error)])
        except ValueError as error:  # a subclass may not travel
            self._say([(number, ValueError(str(error)))])

    def _do(self, number: int, wanted: Request | str) -> None:
        if isinstance(wanted, Request):
            self._unheard.add(number)
            self._tickets[number] = self._ensemble.submit(wanted, self, number)
        elif wanted == "cancel":
            self._unheard.discard(number)
            if (ticket := self._tickets.pop(number, None)) is not None:
                self._ensemble.cancel(ticket)
        else:
            self._say([(number, self._ensemble.card() if wanted == "card" else self._ensemble.state())])

    def _say(self, said: list[tuple[int, Any]]) -> None:
        message = framed(pickle.dumps(said, pickle.HIGHEST_PROTOCOL))
        with self._lock:
            rest = message if self._behind else message[self._sent(message) :]
            if rest:
                self._behind += 1
                self._late.put(rest)

    def _sent(self, message: bytes) -> int:
        """Send what does not have to wait; how many bytes that were."""
        try:
            return self._socket.send(message, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:  # it hung up, which `listen` notices too
            return len(message)

    def _catch_up(self) -> None:
        with self._socket, contextlib.suppress(OSError):
            while (message := self._late.get()) is not None:
                self._socket.sendall(message)
                with self._lock:
                    self._behind -= 1
