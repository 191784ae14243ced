"""No interval is written as if it had no width."""

from earnest.records import Estimate, Scores
from earnest.report.intervals import half_text, half_width, signed_ends, signed_interval
from earnest.report.scores import score_lines


def test_half_an_interval_is_never_written_as_zero() -> None:
    assert half_text(Estimate(value=1.0, low=0.9777, high=1.0, n=164), "accuracy") == "1.1"
    assert half_text(Estimate(value=1.0, low=0.9996, high=1.0, n=14000), "accuracy") == "0.02"
    assert half_text(Estimate(value=3.0, low=2.9999, high=3.0001, n=14000), "token_perplexity") == "0.0001"


def test_what_was_stored_without_a_width_has_no_half() -> None:
    flat = Estimate(value=1.0, low=1.0, high=1.0, n=164)
    assert half_width(flat) is None
    assert half_text(flat, "accuracy") == signed_ends(flat, "accuracy") == ""
    assert half_text(None, "accuracy") == ""


def test_ends_that_differ_are_written_apart() -> None:
    assert signed_ends(Estimate(value=0.0, low=-0.00026, high=0.00026, n=14000), "accuracy") == "[−0.03, +0.03]"
    assert signed_interval(Estimate(value=-0.124, low=-0.153, high=-0.096, n=100), "accuracy") == "−12.4 [−15.3, −9.6]"
    assert signed_interval(Estimate(value=-0.5, n=1), "accuracy") == "−50.0"


def test_a_score_of_all_right_is_printed_with_its_interval_and_without_a_spread_of_zero() -> None:
    estimate = Estimate(value=1.0, stderr=0.0, low=0.9777, high=1.0, n=164)
    scores = Scores(
        task="code", version=1, headline="pass_at_1", higher_is_better=True, asked=164, scored=164,
        truncated=0, failed=0, metrics={"pass_at_1": estimate},
    )  # fmt: skip
    assert next(iter(score_lines(scores))).split() == ["pass_at_1", "1.0000", "[0.9777,", "1.0000]", "n", "=", "164"]
