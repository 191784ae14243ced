"""A reason that was planted is found with its sign; where none was planted, nothing is said to be one."""

import numpy as np
import pytest

from domains.made import answers, forgetting, traits
from earnest.domains.reasons import ENTROPY, LENGTH, RARITY, UNSEEN, reasons
from earnest.losses import Reason

COUNT = 900
DOMAINS = [f"domain {i % 9}" for i in range(COUNT)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def found(made: list[Reason], name: str, over: str = "samples") -> Reason:
    return next(one for one in made if (one.name, one.over) == (name, over))


def test_where_rare_facts_are_lost_rarity_goes_with_it_and_nothing_else_does(rng: np.random.Generator) -> None:
    frequencies = 10.0 ** rng.uniform(-5, -1, COUNT)
    chances = 0.6 * (-np.log10(frequencies) - 1) / 4
    known = traits(frequencies.tolist(), rng.integers(1, 6, COUNT).tolist(), rng.random(COUNT).tolist())
    made = reasons(answers([True] * COUNT, DOMAINS), answers(forgetting(rng, chances), DOMAINS), known)
    rarity = found(made, RARITY)
    assert rarity.p < 1e-6
    assert rarity.effect is not None
    assert rarity.effect.value == pytest.approx(np.std(chances), abs=0.04)
    assert found(made, LENGTH).p > 0.05
    assert found(made, UNSEEN).p > 0.05


def test_where_all_is_lost_alike_no_reason_is_found(rng: np.random.Generator) -> None:
    known = traits(rng.random(COUNT).tolist(), rng.integers(1, 6, COUNT).tolist(), rng.random(COUNT).tolist())
    made = reasons(answers([True] * COUNT, DOMAINS), answers(forgetting(rng, [0.3] * COUNT), DOMAINS), known)
    assert [one.name for one in made if one.effect is not None and one.p <= 0.005] == []


def test_a_domain_with_more_varied_answers_that_loses_more_is_seen_over_domains(rng: np.random.Generator) -> None:
    places = [i % 9 for i in range(COUNT)]
    golds = [str(rng.integers(0, 2 ** (place + 1))) for place in places]
    lost = forgetting(rng, [0.05 + 0.1 * place for place in places])
    made = reasons(
        answers([True] * COUNT, DOMAINS, golds=golds), answers(lost, DOMAINS, golds=golds),
        traits([0.1] * COUNT, [1] * COUNT, [1.0] * COUNT),
    )  # fmt: skip
    entropy = found(made, ENTROPY, "domains")
    assert entropy.effect is not None
    assert entropy.effect.value > 0.9
    assert entropy.p < 0.01


def test_what_dense_did_not_know_cannot_be_forgotten(rng: np.random.Generator) -> None:
    dense = [i % 2 == 0 for i in range(COUNT)]
    known = traits(rng.random(COUNT).tolist(), [1] * COUNT, rng.random(COUNT).tolist())
    made = reasons(answers(dense, DOMAINS), answers(forgetting(rng, [0.3] * COUNT), DOMAINS), known)
    effect = found(made, RARITY).effect
    assert effect is not None
    assert effect.n == COUNT // 2


def test_a_reason_that_is_not_known_or_does_not_vary_has_no_effect(rng: np.random.Generator) -> None:
    domains, strata = ["d"] * 60, ["head", "tail"] * 30
    dense, subject = answers([True] * 60, domains, strata), answers(forgetting(rng, [0.1, 0.8] * 30), domains, strata)
    made = reasons(dense, subject, {})
    by_stratum = found(made, RARITY)
    assert by_stratum.effect is not None, "without frequencies the strata say what is rare"
    assert by_stratum.effect.value > 0
    assert by_stratum.p < 0.001
    assert found(made, LENGTH).effect is None
    assert found(made, UNSEEN).effect is None
    assert all(one.effect is None for one in made if one.over == "domains"), "one domain is none to compare"
