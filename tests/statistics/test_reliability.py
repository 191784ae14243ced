"""Calibration errors, Brier scores and pass@k equal the references."""

import json
from pathlib import Path

import numpy as np
import pytest

from earnest.statistics.passes import pass_at_k
from earnest.statistics.reliability import brier, brier_binary, equal_mass, equal_width


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
