"""Messages between two processes that know one secret: some fields, and the numbers of a tensor behind them.

A message leaves in one go, and a tensor as the raw bytes of float32. Who has just spoken stays awake for a moment,
giving way to whoever has work, because a process that sleeps wakes late and with cold caches: that costs more than the
message. Within a machine it is a Unix socket, between machines TCP.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from multiprocessing.connection import Client, Connection, Listener
from typing import Any, Self

import msgpack
import torch
from torch import Tensor

Address = str | tuple[str, int]

SILENCE_S = 120  # who says nothing for so long is lost, even where its machine vanished without a word
AWAKE_S = 0.005  # longer than a member waits within a round; an idle batch lets the machine sleep
KEEP_ALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
LENGTH = struct.Struct("!I")
SHORT, LONG, IS_LONG = struct.Struct("!i"), struct.Struct("!Q"), -1


def listener(host: str | None, secret: bytes | None) -> Listener:
    """Waits for callers who know the secret, on this machine only or, with a host, on any free port of its.

    Without a secret they are let in as they come, and whoever accepts them asks for it.
    """
    return Listener(None if host is None else (host, 0), "AF_UNIX" if host is None else "AF_INET", authkey=secret)


def dial(address: Address, secret: bytes) -> Wire:
    """Call a listener. Raises OSError where nobody answers and AuthenticationError where the secret is another."""
    return Wire(Client(address, authkey=secret), SILENCE_S)


def accept(listening: Listener) -> Wire:
    """Take a call, and wait for its messages as long as it takes. Raises AuthenticationError, EOFError or OSError."""
    return Wire(listening.accept(), 0)


def framed(message: bytes) -> bytes:
    """A message as multiprocessing's connections send it."""
    short = len(message) < 1 << 31
    return (SHORT.pack(len(message)) if short else SHORT.pack(IS_LONG) + LONG.pack(len(message))) + message


def taken_out(received: bytearray) -> bytes | None:
    """The first whole message of what was received, taken out of it; None where it is not whole yet."""
    start = SHORT.size
    if len(received) < start:
        return None
    (length,) = SHORT.unpack_from(received)
    if length == IS_LONG:
        start += LONG.size
        if len(received) < start:
            return None
        (length,) = LONG.unpack_from(received, SHORT.size)
    if len(received) < start + length:
        return None
    message = bytes(memoryview(received)[start : start + length])
    del received[: start + length]
    return message


def keep_alive(connection: Connection, patience: int) -> None:
    """Wait `patience` seconds for a message, 0 without end, but not for a machine that vanished without a word."""
    with socket.socket(fileno=os.dup(connection.fileno())) as settings:
        _keep_alive(settings, patience)


def _keep_alive(settings: socket.socket, patience: int) -> None:
    settings.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", patience, 0))
    if settings.family == socket.AF_INET:
        settings.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEP_ALIVE.items():
            settings.setsockopt(socket.IPPROTO_TCP, option, value)


class Wire:
    """One end of a connection, whose handshake is done. For one thread, but for `hung_up`."""

    def __init__(self, connection: Connection, patience: int) -> None:
        """Take a connection's socket over; `patience` is how many seconds to wait for a message, 0 without end."""
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        connection.close()
        _keep_alive(self._socket, patience)

    def send(self, fields: list[Any], tensor: Tensor | None = None) -> None:
        """Send fields, and a tensor as float32. Raises OSError where nobody listens any more."""
        numbers = None if tensor is None else tensor.float().cpu().contiguous()
        packed = msgpack.packb([fields, None if numbers is None else list(numbers.shape)])
        raw = memoryview(b"") if numbers is None else _raw(numbers)
        parts = [LENGTH.pack(len(packed)), packed, raw]
        sent, whole = self._socket.sendmsg(parts), sum(map(len, parts))
        if sent < whole:
            self._socket.sendall(memoryview(b"".join(parts))[sent:])

    def receive(self) -> tuple[list[Any], Tensor | None]:
        """The next message. Raises EOFError where the other end hung up, OSError where it is silent for too long."""
        self._watch()
        (length,) = LENGTH.unpack(self._filled(bytearray(LENGTH.size)))
        fields, shape = msgpack.unpackb(self._filled(bytearray(length)))
        if shape is None:
            return fields, None
        tensor = torch.empty(shape)
        self._filled(_raw(tensor))
        return fields, tensor

    def hung_up(self) -> bool:
        """Whether the other end is gone; what it may have said before is left to be read."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watch(self) -> None:
        """Stay awake for what may come at once."""
        end = time.perf_counter() + AWAKE_S
        while time.perf_counter() < end:
            try:
                self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                os.sched_yield()
            else:
                return

    def _filled(self, buffer: bytearray | memoryview) -> bytearray | memoryview:
        rest = memoryview(buffer)
        while rest:
            count = self._socket.recv_into(rest)
            if not count:
                raise EOFError("it hung up")
            rest = rest[count:]
        return buffer


def _raw(tensor: Tensor) -> memoryview:
    """The memory of a contiguous float32 tensor on the CPU."""
    return tensor.numpy().reshape(-1).data.cast("B")
