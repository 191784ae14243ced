"""Paired comparisons equal the references and the definitions."""

import json
from pathlib import Path

import numpy as np
import pytest

from earnest.statistics.paired import (
    Sums,
    difference,
    flips,
    gap_closed,
    matches,
    mcnemar,
    mcnemar_counts,
    relative_change,
    retention,
)


def test_mcnemar_equals_the_reference_table(shared: Path) -> None:
    table = json.loads((shared / "parity/statistics/mcnemar.json").read_text())
    for case in table["cases"]:
        found = mcnemar_counts(case["first_only"], case["second_only"])
        assert found.exact == pytest.approx(case["exact_p"], rel=1e-9, abs=1e-12)
        assert found.mid_p == pytest.approx(case["mid_p"], rel=1e-9, abs=1e-12)


def test_mcnemar_counts_what_only_one_has_right() -> None:
    found = mcnemar([True, True, False, False], [True, False, True, False])
    assert (found.first_only, found.second_only) == (1, 1)


def test_the_paired_bootstrap_lies_within_the_reference_tolerance(shared: Path) -> None:
    cases = json.loads((shared / "parity/statistics/paired_bootstrap.json").read_text())["cases"]
    checked = 0
    for case in cases:
        if "a" not in case:
            continue
        found = difference(case["b"], case["a"], count=10_000)
        tolerance = case["tolerance_at_10000_resamples"]
        assert found.value == pytest.approx(case["diff"], abs=1e-12)
        assert found.stderr == pytest.approx(case["bootstrap_se_limit"], abs=tolerance["se"])
        assert (found.low, found.high) == pytest.approx(case["percentile_ci95"], abs=tolerance["ci"])
        checked += 1
    assert checked >= 3


def test_the_paired_bootstrap_holds_on_published_outcomes(shared: Path) -> None:
    import pyarrow.parquet as pq

    case = json.loads((shared / "parity/statistics/paired_bootstrap.json").read_text())["cases"][0]
    task, _, pair = case["source"].partition(":")
    first, _, second = pair.partition("-minus-")
    rows = pq.read_table(shared / "data/proxy_tuning_outcomes.parquet").to_pylist()
    a, b = ([row["value"] for row in rows if (row["task"], row["model"]) == (task, model)] for model in (first, second))
    found = difference(b, a, count=10_000)
    assert found.value == pytest.approx(case["diff"], abs=1e-12)
    assert (found.low, found.high) == pytest.approx(
        case["percentile_ci95"], abs=case["tolerance_at_10000_resamples"]["ci"]
    )


def test_relative_change_is_of_the_scores() -> None:
    assert relative_change(Sums.of_scores([1, 1, 1, 1]), Sums.of_scores([1, 1, 1, 0])).value == pytest.approx(-0.25)


def test_relative_change_of_perplexity_is_of_the_exponentials() -> None:
    tokens = np.array([10.0, 10.0])
    dense, subject = Sums(np.array([10.0, 10.0]), tokens), Sums(np.array([11.0, 11.0]), tokens)
    found = relative_change(dense, subject, np.exp)
    assert found.value == pytest.approx(np.exp(0.1) - 1)
    # Every draw changes by the same factor, because both sides are computed on the same draw.
    assert (found.low, found.high) == pytest.approx((found.value, found.value))


def test_relative_change_refuses_a_dense_score_of_zero() -> None:
    with pytest.raises(ValueError, match="dense score is 0"):
        relative_change(Sums.of_scores([0, 0]), Sums.of_scores([1, 0]))


def test_the_gap_closed_is_the_way_from_base_to_tuned() -> None:
    found = gap_closed([0, 0, 0, 1] * 10, [0, 1, 1, 1] * 10, [1, 1, 1, 1] * 10)
    assert found.value == pytest.approx(2 / 3)
    assert found.low is not None
    assert found.low < 2 / 3
    same = gap_closed([0, 0, 0, 1] * 10, [1, 1, 0, 1] * 10, [1, 1, 0, 1] * 10)
    assert same.value == 1.0
    assert same.low is not None
    assert same.high is not None
    assert same.low < 1 < same.high


def test_no_gap_cannot_be_closed() -> None:
    with pytest.raises(ValueError, match="no gap to close"):
        gap_closed([0, 1], [1, 1], [1, 0])


def test_matching_is_no_worse_than_five_percent() -> None:
    assert [matches(change) for change in (0.2, 0.0, -0.05, -0.051)] == [True, True, True, False]
    assert [matches(change, higher_is_better=False) for change in (-0.2, 0.05, 0.051)] == [True, True, False]


def test_retention_is_of_what_dense_had_right() -> None:
    found = retention([True, True, True, False], [True, False, True, True])
    assert found is not None
    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)
    assert retention([False, False], [True, True]) is None


def test_flips_count_changes_of_correctness_and_of_text() -> None:
    found = flips([True, False, True, None], [True, False, False, None], ["a", "b", "c", "d"], ["a", "x", "c", "d"])
    assert found.value == 0.5


def test_samples_must_pair_up() -> None:
    with pytest.raises(ValueError, match="align both by sample id"):
        flips([True], [True, False], ["a"], ["a", "b"])
