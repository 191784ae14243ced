"""Calibration errors, Brier scores and pass@k equal the references."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from earnest.statistics.passes import pass_at_k
from earnest.statistics.reliability import (
    brier,
    brier_binary,
    calibrated_error,
    equal_mass,
    equal_width,
    error_estimate,
)


def test_top_label_calibration_equals_the_reference(shared: Path) -> None:
    table = json.loads((shared / "parity/statistics/calibration.json").read_text())
    for case in table["multiclass"]:
        probabilities = np.array(case["probs"])
        confidence = list(probabilities.max(-1))
        correct = list(probabilities.argmax(-1) == np.array(case["labels"]))
        ten, fifteen = equal_width(confidence, correct), equal_width(confidence, correct, 15)
        found = (ten.expected_error, ten.maximum_error, fifteen.expected_error, fifteen.maximum_error)
        assert found == pytest.approx([case[k] for k in ("ece_10", "mce_10", "ece_15", "mce_15")], abs=1e-9)
        for bins, expected in ((ten, case["bins_10"]), (fifteen, case["bins_15"])):
            for *row, (count, *means) in zip(bins.counts, bins.accuracy, bins.confidence, expected, strict=True):
                assert row == pytest.approx([count, *means] if count else [0, 0, 0], abs=1e-9)
        assert equal_mass(confidence, correct).expected_error == pytest.approx(case["ece_equal_mass_10"], abs=1e-9)
        assert brier(case["probs"], case["labels"]) == pytest.approx(case["brier_multiclass"], abs=1e-9)


def test_confidences_on_the_edges_of_bins_equal_the_reference(shared: Path) -> None:
    table = json.loads((shared / "parity/statistics/calibration.json").read_text())
    for case in table["binary_edges"]:
        found = equal_width(case["confidence"], case["correct"])
        assert found.expected_error == pytest.approx(case["ece_10"], abs=1e-9)
        assert found.maximum_error == pytest.approx(case["mce_10"], abs=1e-9)
        assert brier_binary(case["confidence"], case["correct"]) == pytest.approx(case["brier_binary"], abs=1e-9)


def test_what_a_calibrated_model_shows_is_the_mean_gap_of_a_binomial() -> None:
    """In one bin, |k/n − p| of k ~ Bin(n, p) has the mean that is summed here."""
    n, p = 40, 0.75
    k = np.arange(n + 1)
    expected = float((binom.pmf(k, n, p) * np.abs(k / n - p)).sum())
    found = calibrated_error([p] * n)
    assert found.value == pytest.approx(expected, rel=0.05)
    assert (found.low, found.high) == (
        pytest.approx(0.0, abs=0.01),
        pytest.approx(binom.ppf(0.975, n, p) / n - p, abs=0.026),
    )


def test_many_answers_show_what_few_do_with_a_normal_sum() -> None:
    sure = np.random.default_rng(4).beta(5, 2, 1200)
    few, many = calibrated_error(sure[:1000]), calibrated_error(sure)
    assert many.value == pytest.approx(few.value * math.sqrt(1000 / 1200), rel=0.05)


def test_the_interval_of_a_calibrated_models_error_reaches_to_zero() -> None:
    generator, held = np.random.default_rng(3), 0
    for _ in range(100):
        sure = generator.beta(5, 2, 100)
        held += error_estimate(sure, (generator.random(100) < sure).tolist()).low == 0
    assert held >= 93


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        equal_width([1.2], [True])
    with pytest.raises(ValueError, match="one for each"):
        brier_binary([0.5], [True, False])


def test_pass_at_k_equals_the_reference(shared: Path) -> None:
    table = json.loads((shared / "parity/statistics/pass_at_k_winrate.json").read_text())
    for case in table["cases"]:
        assert pass_at_k(case["n"], case["c"], case["k"]) == pytest.approx(case["pass_at_k"], abs=table["tolerance"])


def test_pass_at_k_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"1\.\.samples"):
        pass_at_k(5, 2, 6)
