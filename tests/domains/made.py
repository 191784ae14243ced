"""Answers made by a rule, so that what is found in them is known beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from earnest.domains.answers import Answered, Answers
from earnest.evaluation.traits import Traits
from earnest.records import Estimate, Scores


def answers(
    right: Sequence[bool],
    domains: Sequence[str],
    strata: Sequence[str] = (),
    golds: Sequence[str] = (),
) -> Answers:
    """One subject's answers: right or wrong, in these domains and strata."""
    count = len(right)
    scores = Scores(
        task="closed_book", version=1, headline="exact_match", higher_is_better=True, asked=count, scored=count,
        truncated=0, failed=0, metrics={"exact_match": Estimate(value=sum(right) / count, n=count)},
    )  # fmt: skip
    samples = {
        f"q-{i:05d}": Answered(
            prompt=str(i), gold=golds[i] if golds else "x", correct=bool(right[i]), domain=domains[i],
            stratum=strata[i] if strata else "", above=float(right[i]),
        )
        for i in range(count)
    }  # fmt: skip
    return Answers(scores, samples)


def traits(frequencies: Sequence[float], lengths: Sequence[int], coverages: Sequence[float]) -> Mapping[str, Traits]:
    """The traits of the questions of `answers`."""
    each = zip(frequencies, lengths, coverages, strict=True)
    return {f"q-{i:05d}": Traits(*values) for i, values in enumerate(each)}


def forgetting(rng: np.random.Generator, chances: Sequence[float]) -> list[bool]:
    """Whether each answer is still right, where it is forgotten with these chances."""
    return list((rng.random(len(chances)) >= np.asarray(chances)).tolist())
