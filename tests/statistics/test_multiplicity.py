"""Adjusted p-values equal the references and keep the order of the evidence."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from earnest.statistics.multiplicity import benjamini_hochberg, benjamini_yekutieli, bonferroni, holm


def test_adjusted_p_values_equal_the_reference_table(shared: Path) -> None:
    table = json.loads((shared / "parity/statistics/multiple_testing.json").read_text())
    for case in table["cases"]:
        for name, adjust in (
            ("bonferroni", bonferroni),
            ("holm", holm),
            ("bh", benjamini_hochberg),
            ("by", benjamini_yekutieli),
        ):
            found = adjust(case["p"])
            assert found == pytest.approx(case[name], abs=table["tolerance"]["abs"])
            assert [p <= 0.05 for p in found] == case[f"{name}_reject_0.05"]


def test_holm_by_hand() -> None:
    # In order: 0.01 · 3, 0.02 · 2, 0.04 · 1, each at least the one before.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])


def test_each_method_is_weaker_than_the_next() -> None:
    p = np.random.default_rng(0).uniform(size=50) ** 2
    columns = [np.array(adjust(p)) for adjust in (bonferroni, holm, benjamini_hochberg)]
    assert all((a >= b).all() for a, b in pairwise(columns))


def test_an_empty_family_is_adjusted_to_nothing() -> None:
    assert holm([]) == benjamini_hochberg([]) == benjamini_yekutieli([]) == bonferroni([]) == []


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        holm([0.1, float("nan")])
