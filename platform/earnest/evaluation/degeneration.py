"""What written texts are like, right or wrong: repetition, variety, length, whether they end, whether they answer.

All of it is told from the tokens and the text alone, so it means the same for every task that generates.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace

from earnest.decoding.generation import Generation
from earnest.evaluation.normal_forms import normalise, readable
from earnest.evaluation.samples import COUNTS, Sample
from earnest.records import Estimate
from earnest.statistics.intervals import bootstrap_mean, mean_estimate, wilson
from earnest.statistics.reliability import calibrated_error, error_estimate

REPETITION, VARIETY = (2, 3, 4), (1, 2)
ECE_BINS = (10, 15)
# As `normalise` leaves them: an apostrophe is a space.
DECLINES = (
    "i don t know", "i do not know", "i dont know", "i m not sure", "i am not sure", "i have no idea",
    "i have no comment", "i can t answer", "i cannot answer", "i m unable to", "i am unable to", "i m sorry",
    "i am sorry", "it is unknown", "it is not known", "there is no answer",
)  # fmt: skip
ASKED_LINES, ASKED_CHARACTERS = 2, 300
DECLINES_WHOLE = ("unknown", "not known", "not sure", "no answer")

Cell = bool | int | float | str | None


def ngrams(ids: Sequence[Hashable], n: int) -> Iterator[tuple[Hashable, ...]]:
    """All runs of `n` tokens, in order."""
    return zip(*(ids[begin:] for begin in range(n)), strict=False)


def repetition(ids: Sequence[Hashable], n: int) -> float | None:
    """rep-n of one text: 1 − different n-grams ÷ n-grams, 0..1; None where it has no n-gram.

    Welleck et al. 2020 (arXiv 1908.04319), there called seq-rep-n.
    """
    found = list(ngrams(ids, n))
    return 1 - len(set(found)) / len(found) if found else None


def distinct(texts: Sequence[Sequence[Hashable]], n: int) -> float | None:
    """distinct-n of many texts: different n-grams ÷ n-grams of all of them together; None where there are none.

    Li et al. 2016 (arXiv 1510.03055), who divide by tokens.
    """
    found = [gram for ids in texts for gram in ngrams(ids, n)]
    return len(set(found)) / len(found) if found else None


def declines(text: str) -> bool:
    """Whether a text's first line that is not empty begins with a phrase of `DECLINES`, or is one of `DECLINES_WHOLE`.

    Case, punctuation and articles do not count. What goes on after the phrase does not matter.
    """
    said = normalise(text.strip().split("\n")[0])
    return said in DECLINES_WHOLE or f"{said} ".startswith(tuple(f"{phrase} " for phrase in DECLINES))


def text_columns(made: Generation, correct: bool | None) -> dict[str, Cell]:
    """What is noted of one written text.

    `rep_2`, `rep_3`, `rep_4` over its tokens as generated; `confidence`, the geometric mean of its tokens'
    probabilities, where they are known and it is right or wrong. No answer is one of: `empty`, nothing that can be
    seen; `declined`, see `declines`; `unfinished`, cut off by the most tokens allowed.
    """
    known = correct is not None and bool(made.logprobs)
    nats = [token.raw.chosen for token in made.logprobs]
    return {
        **{f"rep_{n}": repetition(made.ids, n) for n in REPETITION},
        "confidence": math.exp(min(0.0, sum(nats) / len(nats))) if known else None,
        "empty": not readable(made.text),
        "declined": declines(made.text),
        "unfinished": made.finish == "length",
        "tokens": len(made.ids),
        "finish": made.finish,
    }


def asked_in(prompt: str) -> str:
    """The last lines of a prompt that say something: there the question stands; no more than its last characters."""
    lines = [line for line in prompt.split("\n") if line.strip()]
    return "\n".join(lines[-ASKED_LINES:]).rstrip()[-ASKED_CHARACTERS:]


def with_texts(samples: Sequence[Sample], texts: Sequence[Generation]) -> list[Sample]:
    """The samples, each with the columns of its text and with `asked`, the end of its prompt; a column of the task's
    own stays. Nothing but length and end is said of a text that a model without finite logits wrote.
    """
    found = []
    for sample, made in zip(samples, texts, strict=True):
        columns = {"asked": asked_in(sample.prompt), **text_columns(made, sample.correct)}
        kept = columns if sample.finite else {name: columns[name] if name in COUNTS else None for name in columns}
        found.append(replace(sample, more={**kept, **sample.more}))
    return found


def text_metrics(texts: Sequence[Generation]) -> dict[str, Estimate]:
    """Over all written texts: mean rep-n of those long enough, distinct-n, mean tokens, and the shares without answer.

    distinct-n has no interval: texts drawn twice would count as repeating themselves.
    """
    whole = [made for made in texts if made.finish != "not_finite"]
    if not whole:
        return {}
    columns = [text_columns(made, None) for made in whole]
    found: dict[str, Estimate] = {}
    for n in REPETITION:
        values = [value for made in whole if (value := repetition(made.ids, n)) is not None]
        found |= {f"rep_{n}": bootstrap_mean(values)} if values else {}
    for n in VARIETY:
        share = distinct([made.ids for made in whole], n)
        found |= {} if share is None else {f"distinct_{n}": Estimate(value=share, n=len(whole))}
    found["tokens"] = mean_estimate([len(made.ids) for made in whole])
    shares = ("empty", "declined", "unfinished")
    return found | {name: wilson(sum(bool(c[name]) for c in columns), len(whole)) for name in shares}


def calibration(samples: Sequence[Sample]) -> dict[str, Estimate]:
    """Of answers that are right or wrong and come with a confidence: ECE over 10 and 15 bins, beside it what a
    perfectly calibrated model with the same confidences would show, and the Brier score.

    The confidence of a generated answer is that of its exact wording, so a good answer that could be put in many ways
    looks unsure. `brier` is over all options (0..2) where there are options, else over right and wrong (0..1).
    """
    known = [s for s in samples if s.score is not None and s.correct is not None]
    known = [s for s in known if s.more.get("confidence") is not None]
    if not known:
        return {}
    sure, right = [float(s.more["confidence"] or 0.0) for s in known], [bool(s.correct) for s in known]
    scores = [
        float(s.more["brier"] or 0.0) if "brier" in s.more else (c - r) ** 2
        for s, c, r in zip(known, sure, right, strict=True)
    ]
    found = {f"ece_{bins}": error_estimate(sure, right, bins) for bins in ECE_BINS}
    found |= {f"ece_{bins}_if_calibrated": calibrated_error(sure, bins) for bins in ECE_BINS}
    return {**found, "brier": bootstrap_mean(scores), "confidence": bootstrap_mean(sure)}
