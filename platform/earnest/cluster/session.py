"""Connecting to Ray: the cluster that was named, the one this job runs on, or a small one started here.

Only what was started here is shut down. A cluster started here is for this process alone: Ray's ports listen on
every interface, so it demands a token, made at random for the session and kept in the environment of its processes
only (Ray's own default would leave a token file in the user's home).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator

from earnest.ending import note
from earnest.specs import UserError

# Results go to the store, so that the object store only ever carries specs and summaries. Ray's least is 75 MiB.
OBJECT_STORE_BYTES = 80 * 2**20
# A Unix socket's path holds 107 bytes, and Ray appends about 65: /ray/session_<date>_<time>_<pid>/sockets/plasma_store
LONGEST_TEMP_DIR = 40
KNOCK_S = 10.0
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "1"}
# For a Ray that is started here. What a raylet adds to its own niceness for its workers: 15 by default, with which any
# other load starves them. And Ray's own figures, which it would serve to every interface, without a token.
STARTED_HERE = {"RAY_worker_niceness": "0", "RAY_enable_metrics_collection": "0"}


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[str]:
    """Be connected to Ray within the block; gives the cluster's name for people.

    Args:
        address: host:port of a head node; None means the cluster of RAY_ADDRESS (a submitted job has it) or, without
            one, a cluster of this machine that ends with the block. A connection that stands already is used as it is.

    Raises:
        UserError: no cluster answers at the address, or it refuses the token.
    """
    _settle_environment(address)
    import ray

    if ray.is_initialized():
        yield head_address()
        return
    target = address or os.environ.get("RAY_ADDRESS") or None
    with _temp_dir() as temp_dir:
        try:
            with _own_signals():
                _join(target) if target else _start(temp_dir)
            yield target or "this machine"
        finally:
            ray.shutdown()


def head_address() -> str:
    """Where the head of the connected cluster listens, as host:port."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray's start puts a handler of SIGTERM in place of the one that stood, and would abort in its C++ on it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as ended:  # its handler ran, in the middle of its start
        note(signal.SIGTERM)
        raise KeyboardInterrupt from ended
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _settle_environment(address: str | None) -> None:
    """Ray reads these when it is imported, and hands them on to the processes that it starts."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    local = not address and not os.environ.get("RAY_ADDRESS")
    if local:
        for name, value in STARTED_HERE.items():
            os.environ.setdefault(name, value)
    if local and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextlib.contextmanager
def _temp_dir() -> Iterator[str | None]:
    """A short folder for Ray's sockets where the default one would be too long; None keeps the default."""
    default = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(default) <= LONGEST_TEMP_DIR:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="earnest-", dir="/tmp", ignore_cleanup_errors=True) as short:
        yield short


def _join(address: str) -> None:
    import ray

    _knock(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        raise _refused(address, str(error)) from error


def _knock(address: str) -> None:
    """Ray itself would try an address where nobody listens for ten minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
    except OSError as error:
        raise _refused(address, str(error)) from error


def _refused(address: str, reason: str) -> UserError:
    return UserError(
        f"no Ray cluster lets us in at {address} ({reason.splitlines()[0] if reason else 'no reason given'})\n"
        "without --address the sweep runs on this machine; a cluster with tokens wants RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN; `ray status --address` tells whether one is there"
    )


def _start(temp_dir: str | None) -> None:
    import ray

    ray.init(
        address="local",  # not the cluster that somebody else started on this machine
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES,
        **({"_temp_dir": temp_dir} if temp_dir else {}),
    )
