"""Promises of the corpus and of what is packed from it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice

import pytest

from earnest.almanac.corpus import PHASES, corpus_text, document_stream
from earnest.almanac.packing import first_fit
from earnest.almanac.recipe import Optimiser, Tuning
from earnest.almanac.tuning import tuning_pairs
from earnest.almanac.world import World

WORLD = World.shipped()


def names_in(texts: Iterable[str]) -> set[str]:
    """Every pair of neighbouring capitalised words."""
    return {pair for text in texts for pair in re.findall(r"(?=\b([A-Z][a-z]+ [A-Z][a-z]+)\b)", text)}


@pytest.mark.parametrize("phase", PHASES)
def test_no_held_out_name_occurs_in_training_text(phase: str) -> None:
    names = names_in(islice(document_stream(WORLD, PHASES[phase], seed=5), 3000))
    assert not names & set(WORLD.held_out_names)


@pytest.mark.parametrize("phase", PHASES)
def test_the_shares_of_a_phase_sum_to_one(phase: str) -> None:
    assert sum(PHASES[phase].mix.values()) == pytest.approx(1)


def test_the_corpus_is_a_function_of_its_seed() -> None:
    assert corpus_text(WORLD, 50, seed=1) == corpus_text(WORLD, 50, seed=1)
    assert corpus_text(WORLD, 50, seed=1) != corpus_text(WORLD, 50, seed=2)


def test_a_longer_corpus_begins_with_the_shorter_one() -> None:
    assert corpus_text(WORLD, 80, seed=1)[:50] == corpus_text(WORLD, 50, seed=1)


def test_every_document_ends_in_a_newline() -> None:
    assert all(text.endswith("\n") for text in corpus_text(WORLD, 200, seed=1))


def test_the_popular_are_written_about_more_than_the_rest() -> None:
    written = Counter(name for text in corpus_text(WORLD, 2000, seed=1) for name in names_in([text]))
    head, tail = (sum(written[p.name] for p in WORLD.people if p.stratum == s) for s in ("head", "tail"))
    popularity = {s: sum(p.popularity for p in WORLD.people if p.stratum == s) for s in ("head", "tail")}
    assert head / tail == pytest.approx(popularity["head"] / popularity["tail"], rel=0.15)


def test_nobody_of_half_b_and_no_held_out_name_is_tuned_on() -> None:
    tuning = Tuning(
        sizes=("small",),
        steps=1,
        seed=5,
        reading=0.3,
        biographies=0.3,
        optimiser=Optimiser(muon=1, adamw=1, warmup=1, decay=1),
    )
    names = names_in(prompt + answer for prompt, answer in islice(tuning_pairs(WORLD, tuning), 3000))
    assert not names & {*WORLD.held_out_names, *(p.name for p in WORLD.people if p.half == "B")}


def test_packing_keeps_every_document_whole_and_no_row_over_its_length() -> None:
    documents = [[n] * (1 + 7 * n % 40) for n in range(1, 400)]
    rows = list(first_fit(documents, length=40))
    assert all(sum(len(d) for d in row) <= 40 for row in rows)
    assert all(document in documents for row in rows for document in row)


def test_packing_leaves_little_room_unused() -> None:
    rows = list(islice(first_fit(([1] * (5 + 13 * n % 50) for n in range(10_000)), length=100), 100))
    assert sum(len(d) for row in rows for d in row) > 0.95 * 100 * len(rows)


def test_packing_cuts_a_document_that_is_longer_than_a_row() -> None:
    assert next(first_fit(([1] * 99 for _ in range(100)), length=40)) == [[1] * 40]
