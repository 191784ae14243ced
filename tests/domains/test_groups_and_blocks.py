"""Domains stand in the order of their losses with true tests, and a block's share is what came back."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from domains.made import answers
from earnest.domains.answers import Answers
from earnest.domains.blocks import block_share
from earnest.domains.changes import changes, unevenness

DOMAINS = ["kept"] * 50 + ["lost"] * 50
DENSE = answers([True] * 100, DOMAINS, ["head", "tail"] * 50)
SUBJECT = answers([True] * 50 + [True] * 20 + [False] * 30, DOMAINS, ["head", "tail"] * 50)


def test_the_domain_that_lost_most_comes_first_with_mcnemars_exact_p_value() -> None:
    made = changes(DENSE, SUBJECT)
    assert [(one.grouping, one.name) for one in made][:2] == [("domain", "lost"), ("domain", "kept")]
    assert {one.name for one in made[2:]} == {"head", "tail"}
    lost, kept = made[:2]
    assert (lost.dense, lost.subject) == (1.0, 0.4)
    assert lost.relative == pytest.approx(-0.6)
    assert lost.p == pytest.approx(2 * 0.5**30)
    assert kept.p == 1.0
    assert not kept.shown


def test_only_where_groups_lose_unequally_is_it_said_of_them() -> None:
    found = unevenness(DENSE, SUBJECT)
    assert found["domain"] < 1e-6
    assert found["stratum"] == pytest.approx(1.0), "head and tail lose 15 of 50 each"


def graded(scores: Sequence[float]) -> Answers:
    """Summaries: none is the reference word for word, and each has a score."""
    found = answers([False] * len(scores), ["kept"] * 20 + ["lost"] * 20)
    samples = {name: replace(found.samples[name], above=x) for name, x in zip(found.samples, scores, strict=True)}
    return replace(found, samples=samples)


def test_a_domain_whose_scores_are_neither_right_nor_wrong_is_tested_by_them() -> None:
    dense = [0.5 + i / 1000 for i in range(40)]
    subject = graded([*dense[:20], *[0.2] * 20])
    lost, kept = changes(graded(dense), subject)
    assert (lost.name, kept.name, kept.p) == ("lost", "kept", 1.0)
    assert lost.p == pytest.approx(2 * 0.5**20), "all twenty differences have one sign"
    assert unevenness(graded(dense), subject)["domain"] < 1e-6


def test_samples_that_were_asked_otherwise_are_no_pairs() -> None:
    asked_otherwise = answers([True] * 100, DOMAINS)
    first = next(iter(asked_otherwise.samples))
    changed = dict(asked_otherwise.samples) | {first: answers([True], ["kept"]).samples[first]}
    changed[first] = type(changed[first])(**{**vars(changed[first]), "prompt": "another"})
    subject = type(asked_otherwise)(asked_otherwise.scores, changed)
    kept = next(one for one in changes(asked_otherwise, subject) if one.name == "kept")
    assert kept.difference.n == 49


def test_a_block_that_brings_a_third_back_has_a_third_and_only_where_there_was_a_loss() -> None:
    restored = answers([True] * 50 + [True] * 30 + [False] * 20, DOMAINS)
    share = block_share(2, DENSE, SUBJECT, restored)
    assert share.won_back is not None
    assert share.won_back.value == pytest.approx(1 / 3)
    assert share.won_back.low is not None
    assert 0.1 < share.won_back.low < 1 / 3
    assert share.domains["kept"] is None
    assert share.domains["lost"] is not None
    assert share.domains["lost"].value == pytest.approx(1 / 3)


def test_all_of_dense_brings_all_back() -> None:
    share = block_share(0, DENSE, SUBJECT, DENSE)
    assert share.won_back is not None
    assert share.won_back.value == 1
    assert share.won_back.low is not None
    assert share.won_back.high is not None
    assert share.won_back.low < 1 < share.won_back.high
