"""Why one thing is forgotten and another kept: the literature's reasons, as associations with what was lost.

Over samples: of what dense had right, what is now wrong, on the rarity of the fact, the length of its answer and how
much of the question calibration never saw. Over domains: the share lost in each, on the means of these, the number of
different answers and their entropy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from earnest.domains.answers import Answers
from earnest.evaluation.traits import Traits
from earnest.losses import Reason
from earnest.statistics.association import Association, effects, spearman
from earnest.statistics.intervals import Floats

RARITY, LENGTH, UNSEEN = "rarity of the fact", "length of the answer", "unseen in calibration"
DISTINCT, ENTROPY = "different answers", "entropy of the answers"
OF_SAMPLES = (RARITY, LENGTH, UNSEEN)
OF_DOMAINS = (*OF_SAMPLES, DISTINCT, ENTROPY)
STRATA = ("head", "mid", "tail")  # from the popular to the rare


def reasons(dense: Answers, subject: Answers, traits: Mapping[str, Traits]) -> list[Reason]:
    """Every reason with its association; one that does not vary, or is not known of every sample, has none.

    `adjusted` is still `p`.
    """
    ids = dense.could_lose(subject)
    lost = dense.lost(subject, ids)
    values = _sample_reasons(ids, dense, traits)
    over_samples = effects(values, lost) if ids else {}
    over_domains = _over_domains(ids, lost, values, dense)
    return [
        *(_reason(name, "samples", over_samples.get(name)) for name in OF_SAMPLES),
        *(_reason(name, "domains", over_domains.get(name)) for name in OF_DOMAINS),
    ]


def _reason(name: str, over: str, found: Association | None) -> Reason:
    if found is None:
        return Reason(name=name, over=over)  # type: ignore[arg-type]
    return Reason(name=name, over=over, effect=found.estimate, p=found.p, adjusted=found.p)  # type: ignore[arg-type]


def _sample_reasons(ids: Sequence[str], dense: Answers, traits: Mapping[str, Traits]) -> dict[str, Floats]:
    """The reasons that are known of every sample, [samples] each; more of each should mean more lost."""
    known = [traits.get(name) for name in ids]
    columns = {
        RARITY: _rarity(ids, dense, traits),
        LENGTH: [None if one is None else float(one.answer_tokens) for one in known],
        UNSEEN: [None if one is None or one.coverage is None else 1 - one.coverage for one in known],
    }
    whole = {name: column for name, column in columns.items() if column and None not in column}
    return {name: np.array(column, dtype=np.float64) for name, column in whole.items()}


def _rarity(ids: Sequence[str], dense: Answers, traits: Mapping[str, Traits]) -> Sequence[float | None]:
    """−log10 of the frequency, never seen counting as half of the rarest; without frequencies, the stratum's place."""
    frequencies = [one.frequency for name in ids if (one := traits.get(name)) and one.frequency is not None]
    if len(frequencies) < len(ids):
        strata = [dense.samples[name].stratum for name in ids]
        return [float(STRATA.index(stratum)) if stratum in STRATA else None for stratum in strata]
    least = min((value for value in frequencies if value > 0), default=1.0)
    return [-math.log10(value or least / 2) for value in frequencies]


def _over_domains(
    ids: Sequence[str], lost: Floats, values: Mapping[str, Floats], dense: Answers
) -> dict[str, Association]:
    places = {name: place for place, name in enumerate(ids)}
    domains = [np.array([places[name] for name in members]) for members in dense.groups(ids, "domain").values()]
    if not domains:
        return {}
    losses = np.array([lost[members].mean() for members in domains])
    golds = [Counter(dense.samples[ids[place]].gold for place in members) for members in domains]
    columns = {
        **{name: np.array([column[members].mean() for members in domains]) for name, column in values.items()},
        DISTINCT: np.array([float(len(gold)) for gold in golds]),
        ENTROPY: np.array([_entropy(gold) for gold in golds]),
    }
    found = {name: spearman(column, losses) for name, column in columns.items()}
    return {name: association for name, association in found.items() if association is not None}


def _entropy(counts: Counter[str]) -> float:
    """Shannon's entropy of how often each answer is right, bits."""
    whole = counts.total()
    return -sum(count / whole * math.log2(count / whole) for count in counts.values())
