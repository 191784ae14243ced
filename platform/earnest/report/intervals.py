"""Intervals as people write them: never one of width zero, however few digits stand in a table."""

from __future__ import annotations

from earnest.records import Estimate
from earnest.report.survey import MINUS, figure_text

MORE_DIGITS = range(6)


def half_width(estimate: Estimate) -> float | None:
    """Half of the 95 % interval; None where there is none, or where what was stored has no width."""
    if estimate.low is None or estimate.high is None or estimate.high <= estimate.low:
        return None
    return (estimate.high - estimate.low) / 2


def half_text(estimate: Estimate | None, headline: str) -> str:
    """Half of the interval with as many digits as show one that is not 0; empty where there is none."""
    half = None if estimate is None else half_width(estimate)
    if half is None:
        return ""
    texts = (figure_text(half, headline, more) for more in MORE_DIGITS)
    return next((text for text in texts if float(text)), "")


def signed(value: float, headline: str, more: int = 0) -> str:
    """A difference of scores with its sign."""
    text = figure_text(abs(value), headline, more)
    return text if float(text) == 0 else f"{'+' if value > 0 else MINUS}{text}"


def signed_ends(estimate: Estimate, headline: str) -> str:
    """A difference's interval, as in "[−15.3, −9.6]", with as many digits as keep its ends apart; empty without one."""
    low, high = estimate.low, estimate.high
    if low is None or high is None or high <= low:
        return ""
    ends = ([signed(end, headline, more) for end in (low, high)] for more in MORE_DIGITS)
    return next((f"[{one}, {other}]" for one, other in ends if one != other), "")


def signed_interval(estimate: Estimate, headline: str) -> str:
    """A difference with its interval, as in "−12.4 [−15.3, −9.6]"."""
    return f"{signed(estimate.value, headline)} {signed_ends(estimate, headline)}".rstrip()
