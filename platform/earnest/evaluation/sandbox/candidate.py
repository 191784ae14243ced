"""The process of a candidate, the code that a model wrote: run it, then call what the judge asks for and say what
came of it.

Nothing that decides a verdict is ever in this process: neither the tests nor what they expect, and no secret. Whatever
the code does to this process (its frames, modules, memory, descriptors), it can change what its own functions return,
and no more. Needs the standard library alone, as `enclosure` says.
"""

from __future__ import annotations

import base64
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

from earnest.evaluation.sandbox import values
from earnest.evaluation.sandbox.enclosure import enclose
from earnest.evaluation.sandbox.messages import Channel, ChannelClosedError, read_files, write_files

SAID = 300
MUTABLE = (list, dict, set, bytearray)


def main(asked: dict[str, Any]) -> None:
    """Run `asked["program"]`, then answer until the judge ends."""
    channel = Channel(asked["reads"], asked["writes"])
    sys.path[:] = [path for path in sys.path if path]
    sys.argv[:] = ["program"]
    enclose(asked)
    channel.send("ready")
    space: dict[str, Any] = {"__name__": "__main__"}
    try:
        channel.send(_tried(lambda: _run(asked["program"], space)))
        while True:
            message = channel.receive()
            channel.send(_tried(lambda message=message: _ANSWERS[message["do"]](space, message)))  # type: ignore[misc]
    except ChannelClosedError:
        sys.stdout.flush()


def _tried(work: Callable[[], Any]) -> dict[str, Any]:
    """What came of it: a value, or what was raised. An exit of the code is something that it raised."""
    try:
        return {"returned": work()}
    except BaseException as error:  # noqa: BLE001  # whatever the code raises is its answer
        return {"raised": type(error).__name__, "text": _text_of(error)}


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:SAID].encode("utf-8", "replace").decode()
    except Exception:  # noqa: BLE001  # the code's own class of errors may be broken, too
        return ""


def _run(program: str, space: dict[str, Any]) -> None:
    exec(compile(program, "<program>", "exec"), space)  # noqa: S102  # what the walls are for


def _called(space: dict[str, Any], message: dict[str, Any]) -> Any:
    """A function's value, and its mutable arguments as it left them."""
    args, kwargs = pickle.loads(base64.b64decode(message["given"]))  # noqa: S301  # the judge's
    if message["name"] not in space:
        raise NameError("name {!r} is not defined".format(message["name"]))
    value = space[message["name"]](*args, **kwargs)
    changed = {str(place): values.encode(each) for place, each in enumerate(args) if isinstance(each, MUTABLE)}
    return {"value": values.encode(value), "changed": changed}


def _executed(_: dict[str, Any], message: dict[str, Any]) -> Any:
    """What names mean after a text was run in a namespace of its own, the names whose values are not sent, and new
    files.
    """
    given = pickle.loads(base64.b64decode(message["given"]))  # noqa: S301  # the judge's
    write_files(message["files"])
    _run(message["text"], given)
    sent, unsent = {}, {}
    for name, value in list(given.items()):
        if not name.startswith("__") and not isinstance(value, (types.ModuleType, types.FunctionType, type)):
            try:
                sent[name] = values.encode(value)
            except values.UnsentError as error:
                unsent[name] = str(error)
    return {"names": sent, "unsent": unsent, "files": read_files() if message["scratch"] else {}}


_ANSWERS = {"call": _called, "exec": _executed}
