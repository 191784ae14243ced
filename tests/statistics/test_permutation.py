"""The sign-flip test counts what its definition says; the bootstrap's p equals the reference."""

import json
from pathlib import Path

import numpy as np
import pytest

from earnest.statistics.paired import mcnemar_counts
from earnest.statistics.permutation import bootstrap_p, sign_flip


def test_the_exact_test_equals_the_reference_table(shared: Path) -> None:
    table = json.loads((shared / "parity/statistics/sign_flip_permutation.json").read_text())
    for case in table["cases"]:
        assert sign_flip(case["d"]) == pytest.approx(case["p_two_sided"], abs=table["tolerance"])


def test_on_right_and_wrong_it_is_mcnemars_exact_test() -> None:
    for gained, lost in ((0, 0), (1, 0), (3, 9), (10, 10)):
        differences = [1.0] * gained + [-1.0] * lost + [0.0] * 100
        assert sign_flip(differences) == pytest.approx(mcnemar_counts(gained, lost).exact, abs=1e-12)


def test_many_differences_are_flipped_at_random_and_agree_with_mcnemar() -> None:
    differences = [1.0] * 30 + [-1.0] * 50
    assert sign_flip(differences) == pytest.approx(mcnemar_counts(30, 50).exact, abs=0.01)
    assert sign_flip(differences) == sign_flip(differences)


def test_a_random_p_is_never_zero() -> None:
    assert sign_flip([1.0] * 200, flips=999) == 1 / 1000


def test_the_order_and_the_scale_of_differences_do_not_matter() -> None:
    values = np.random.default_rng(1).normal(0.3, size=12)
    assert sign_flip(values) == sign_flip(values[::-1] * 1e-7)


def test_the_bootstraps_p_equals_the_reference(shared: Path) -> None:
    cases = json.loads((shared / "parity/statistics/paired_bootstrap.json").read_text())["cases"]
    own = [case for case in cases if "a" in case]
    assert len(own) >= 3
    for case in own:
        found = bootstrap_p(np.array(case["a"]) - np.array(case["b"]), count=10_000)
        assert found == pytest.approx(case["p_two_sided"], abs=case["tolerance_at_10000_resamples"]["p"])
