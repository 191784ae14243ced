"""What became of a step that did not end well: which kind of failure it is, and its reason in one line."""

from __future__ import annotations

from ray.exceptions import RayError, RayTaskError

from earnest.specs import UserError

# These come from what the step is, not from where it ran: running it again gives the same.
DETERMINISTIC = (ValueError, TypeError, NotImplementedError, LookupError, ArithmeticError, AssertionError)


def cause_of(error: RayError) -> BaseException:
    """The exception that the step raised; Ray's own error where the step's cannot be had."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    return cause if isinstance(cause, BaseException) else error


def is_deterministic(cause: BaseException) -> bool:
    """Whether running the step again cannot help."""
    return isinstance(cause, DETERMINISTIC)


def is_out_of_memory(cause: BaseException) -> bool:
    """Whether memory ran out: Python's, torch's or Ray's error. Told by name, so that torch need not be loaded here."""
    return isinstance(cause, MemoryError) or any(cls.__name__ == "OutOfMemoryError" for cls in type(cause).__mro__)


def reason_of(cause: BaseException) -> str:
    """One line for people: a user's mistake in its own words, anything else with its type."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if isinstance(cause, UserError):
        return "; ".join(lines)
    if isinstance(cause, RayError):
        return f"{type(cause).__name__}: {lines[-1] if lines else ''}"
    return f"{type(cause).__name__}: {lines[0] if lines else ''}".rstrip(": ")
