"""The judge's process: run the tests, ask the candidate's process for what they call, and say how it ended.

The tests see three names more: `__candidate__(name)`, a function of the candidate's, `__execute__(text, globals)`,
`exec` in the candidate's process, and `__refuse__`, which stands for what would run the candidate's text here. What
comes back is data (`values`); no code of the candidate's runs here. Needs the standard library alone, as `enclosure`
says.
"""

from __future__ import annotations

import base64
import builtins
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

from earnest.evaluation.sandbox import values
from earnest.evaluation.sandbox.enclosure import enclose
from earnest.evaluation.sandbox.messages import Channel, ChannelClosedError, read_files, write_files

SAID = 300


class CandidateProcess:
    """The other process, as the tests see it."""

    def __init__(self, channel: Channel, scratch: bool) -> None:
        self._channel, self._scratch = channel, scratch
        self.unsent: dict[str, str] = {}

    def function(self, name: str) -> Callable[..., Any]:
        """A function of the candidate's; calling it changes mutable arguments as the candidate changes its copies."""

        def call(*args: Any, **kwargs: Any) -> Any:
            given = base64.b64encode(pickle.dumps((args, kwargs))).decode()
            found = self._asked({"do": "call", "name": name, "given": given})
            for place, changed in found["changed"].items():
                _take_over(args[int(place)], values.decode(changed))
            return values.decode(found["value"])

        call.__name__ = call.__qualname__ = name
        return call

    def execute(self, text: str, names: Any = None, inner: Any = None) -> None:
        """`exec` there: what `names` (and `inner`) hold goes, what they mean afterwards comes back, and so do files."""
        space = {} if names is None else names
        files = read_files() if self._scratch else {}
        given = _picklable({**space, **(inner or {})})
        found = self._asked({"do": "exec", "text": text, "given": given, "files": files, "scratch": self._scratch})
        self.unsent.update(found["unsent"])
        for name in found["unsent"]:
            space.pop(name, None)
        for name, value in found["names"].items():
            (space if inner is None else inner)[name] = values.decode(value)
        # What the tests wrote stays as they wrote it: it may be what the candidate's files are compared with.
        write_files({name: held for name, held in found["files"].items() if name not in files})
        _forget_figures()

    def started(self) -> None:
        """Wait until its module has been run. Raises what that raised."""
        self._value(self._channel.receive())

    def _asked(self, message: dict[str, Any]) -> Any:
        self._channel.send(message)
        return self._value(self._channel.receive())

    def _value(self, answer: Any) -> Any:
        if "returned" in answer:
            return answer["returned"]
        raise _error(str(answer["raised"]), str(answer["text"]))


def _error(name: str, text: str) -> Exception:
    """The exception that the candidate raised, if it is one of Python's own; else one that has its name."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:  # it wants more than a text
            pass
    named: type[Exception] = type(name, (Exception,), {})
    return named(text)


def _refuse(*_: Any) -> None:
    raise TypeError("the tests run a text by eval or compile; only exec is judged")


def _take_over(mine: Any, theirs: Any) -> None:
    if isinstance(mine, (list, bytearray)):
        mine[:] = theirs
    elif isinstance(mine, (dict, set)):
        mine.clear()
        mine.update(theirs)


def _picklable(names: dict[str, Any]) -> str:
    found = {}
    for name, value in names.items():
        try:
            pickle.dumps(value)
        except Exception:  # noqa: BLE001, S112  # what cannot travel is not there
            continue
        if name != "__builtins__":
            found[name] = value
    return base64.b64encode(pickle.dumps(found)).decode()


def _forget_figures() -> None:
    """Figures that the tests drew here must not be taken for the candidate's, whose figures stay there."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")


def _ending(checks: str, candidate: CandidateProcess) -> str:
    """Run the tests to their end: how they ended."""
    space = {"__name__": "__main__", "__candidate__": candidate.function, "__execute__": candidate.execute}
    space["__refuse__"] = _refuse
    try:
        candidate.started()
        exec(compile(checks, "<tests>", "exec"), space)  # noqa: S102  # the task's own tests
    except ChannelClosedError:
        return "died"
    except KeyError as error:
        kind = candidate.unsent.get(str(error.args[0])) if error.args else None
        said = "" if kind is None else "; the candidate's is a {}, which is not sent to the judge".format(kind)  # noqa: UP032
        return "failed KeyError: {}{}".format(error, said)  # noqa: UP032
    except BaseException as error:  # noqa: BLE001  # whatever they raise is how they ended
        return "failed {}: {}".format(type(error).__name__, error)  # noqa: UP032
    return "passed"


def main(asked: dict[str, Any]) -> None:
    """Judge by `asked["program"]`; the verdict is a line on the descriptor `asked["verdict"]`."""
    channel = Channel(asked["reads"], asked["writes"])
    sys.path[:] = [path for path in sys.path if path]
    sys.argv[:] = ["tests"]
    enclose(asked)
    try:
        channel.receive()  # that it is ready
    except ChannelClosedError:
        os._exit(1)
    os.write(asked["verdict"], b"ready\n")
    ending = _ending(asked["program"], CandidateProcess(channel, bool(asked["scratch"])))
    os.write(asked["verdict"], ending[:SAID].encode("utf-8", "replace").replace(b"\n", b" ") + b"\n")
    os._exit(0)
