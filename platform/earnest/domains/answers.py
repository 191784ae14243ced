"""One subject's answers to one task, with the groups that each sample belongs to, as the store holds them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from earnest.plan import EVALUATE
from earnest.records import Scores
from earnest.samples import EXPONENTIAL, RATIOS, SAMPLES_FILE, SCORES_FILE
from earnest.statistics.gaps import Headline
from earnest.statistics.intervals import Floats
from earnest.statistics.paired import Sums
from earnest.store import Store

GROUPINGS = ("domain", "stratum")


@dataclass(frozen=True)
class Answered:
    """What became of one sample: what it adds above and below the line of the headline, and where it belongs."""

    prompt: str
    gold: str
    correct: bool | None
    domain: str
    stratum: str
    above: float
    below: float = 1.0


@dataclass(frozen=True)
class Answers:
    """All scored samples of one evaluation by id."""

    scores: Scores
    samples: Mapping[str, Answered]

    def headline(self, ids: Sequence[str]) -> Headline:
        """The headline metric over some samples."""
        chosen = [self.samples[name] for name in ids]
        sums = Sums(np.array([each.above for each in chosen]), np.array([each.below for each in chosen]))
        return Headline(sums, self.scores.headline in EXPONENTIAL)

    def shared(self, *others: Answers) -> list[str]:
        """The samples that all were asked with the same prompt and have a score for."""
        return [
            name
            for name, mine in self.samples.items()
            if all(name in other.samples and other.samples[name].prompt == mine.prompt for other in others)
        ]

    def could_lose(self, subject: Answers) -> list[str]:
        """The shared samples that this one, the dense model, did not have wrong already."""
        return [name for name in self.shared(subject) if self.samples[name].correct is not False]

    def lost(self, subject: Answers, ids: Sequence[str]) -> Floats:
        """How much of its score each sample lost [ids]; 1 is a right answer that is wrong now."""
        better = 1.0 if self.scores.higher_is_better else -1.0
        return better * np.array([_value(self.samples[name]) - _value(subject.samples[name]) for name in ids])

    def groups(self, ids: Sequence[str], grouping: str) -> dict[str, list[str]]:
        """The ids in each domain or stratum, in order of their names."""
        found: dict[str, list[str]] = {}
        for name in ids:
            group: str = getattr(self.samples[name], grouping)
            if group:
                found.setdefault(group, []).append(name)
        return dict(sorted(found.items()))


def _value(sample: Answered) -> float:
    return sample.above / sample.below if sample.below else 0.0


def read_answers(store: Store, digest: str) -> Answers:
    """A finished evaluation's answers; samples without a score are left out."""
    scores = Scores.model_validate_json(store.read_file(EVALUATE, digest, SCORES_FILE))
    sums = RATIOS.get(scores.headline, ("score",))
    names = ("id", "prompt_hash", "gold", "correct", *GROUPINGS, *sums)
    table = pq.read_table(io.BytesIO(store.read_file(EVALUATE, digest, SAMPLES_FILE)), columns=list(names))
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    return Answers(scores, {row[0]: Answered(*row[1:]) for row in rows if row[6] is not None})
