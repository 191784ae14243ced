"""One subject's answers to one task, with the groups that each sample belongs to, as the store holds them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from earnest.plan import EVALUATE
from earnest.records import Scores
from earnest.samples import EXPONENTIAL, RATIOS, SAMPLES_FILE, SCORES_FILE
from earnest.statistics.gaps import Headline
from earnest.statistics.intervals import Floats
from earnest.statistics.paired import Sums
from earnest.store import Store

GROUPINGS = ("domain", "stratum")
STATEMENTS = ("verdicts", "attributes")  # a biography's own columns: one sign and one word per statement
TRUE, ILL_FORMED = "t", "x"


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
    """All scored samples of one evaluation by id; `parts` are pieces of them, where only these have a domain."""

    scores: Scores
    samples: Mapping[str, Answered]
    parts: Mapping[str, Answered] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Answered:
        """A sample or a part."""
        return self.samples.get(name) or self.parts[name]

    def headline(self, ids: Sequence[str]) -> Headline:
        """The headline metric over some samples or parts."""
        chosen = [self[name] for name in ids]
        sums = Sums(np.array([each.above for each in chosen]), np.array([each.below for each in chosen]))
        return Headline(sums, self.scores.headline in EXPONENTIAL)

    def shared(self, *others: Answers) -> list[str]:
        """The samples that all were asked with the same prompt and have a score for."""
        return [
            name
            for name, mine in self.samples.items()
            if all(name in other.samples and other.samples[name].prompt == mine.prompt for other in others)
        ]

    def shared_with_parts(self, *others: Answers) -> list[str]:
        """The shared samples, and the parts of them that all have: what can be grouped."""
        whole = self.shared(*others)
        return [*whole, *(name for name in self.parts if all(name in other.parts for other in others))]

    def could_lose(self, subject: Answers) -> list[str]:
        """The shared samples that this one, the dense model, did not have wrong already.

        All of them where its scores are not right or wrong: a summary in other words has a score to lose.
        """
        graded = any(sample.above not in (0.0, 1.0) for sample in self.samples.values())
        return [name for name in self.shared(subject) if graded or self.samples[name].correct is not False]

    def lost(self, subject: Answers, ids: Sequence[str]) -> Floats:
        """How much of its score each sample lost [ids]; 1 is a right answer that is wrong now."""
        better = 1.0 if self.scores.higher_is_better else -1.0
        return better * np.array([_value(self.samples[name]) - _value(subject.samples[name]) for name in ids])

    def groups(self, ids: Sequence[str], grouping: str) -> dict[str, list[str]]:
        """The ids in each domain or stratum, in order of their names."""
        found: dict[str, list[str]] = {}
        for name in ids:
            group: str = getattr(self[name], grouping)
            if group:
                found.setdefault(group, []).append(name)
        return dict(sorted(found.items()))


def _value(sample: Answered) -> float:
    return sample.above / sample.below if sample.below else 0.0


def read_answers(store: Store, digest: str) -> Answers:
    """A finished evaluation's answers; samples without a score are left out.

    A biography's parts are its statements about each attribute.
    """
    scores = Scores.model_validate_json(store.read_file(EVALUATE, digest, SCORES_FILE))
    sums = RATIOS.get(scores.headline, ("score",))
    names = ("id", "prompt_hash", "gold", "correct", *GROUPINGS, *sums)
    table = pq.read_table(io.BytesIO(store.read_file(EVALUATE, digest, SAMPLES_FILE)))
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    samples = {row[0]: Answered(*row[1:]) for row in rows if row[6] is not None}
    return Answers(scores, samples, _statements(table, samples) if {*STATEMENTS} <= {*table.column_names} else {})


def _statements(table: pa.Table, samples: Mapping[str, Answered]) -> dict[str, Answered]:
    """How many well-formed statements of each biography are about each attribute, and how many of these are true."""
    found: dict[str, Answered] = {}
    for name, verdicts, attributes in zip(*(table[name].to_pylist() for name in ("id", *STATEMENTS)), strict=True):
        said = list(zip(attributes.split(), verdicts, strict=True)) if name in samples else []
        for attribute in dict.fromkeys(attribute for attribute, verdict in said if verdict != ILL_FORMED):
            mine = [verdict for about, verdict in said if about == attribute and verdict != ILL_FORMED]
            found[f"{name}/{attribute}"] = Answered(
                samples[name].prompt, "", None, attribute, "", float(mine.count(TRUE)), float(len(mine))
            )
    return found
