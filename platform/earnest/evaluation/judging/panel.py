"""All judges on all answers: in both orders, ties kept, every verdict kept, failures and cost counted.

An answer whose comparison failed, or was answered out of form, in either order is unjudged: it has no score from that
judge and is counted. The first judge's word is the score; the others stand beside it, with the agreement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from earnest.decoding.generation import Generation
from earnest.evaluation.judging.forms import Form
from earnest.evaluation.judging.judges import Asked, Judge, Reply
from earnest.evaluation.judging.replies import Pair
from earnest.evaluation.samples import Measured, Sample, column, scored
from earnest.records import Estimate
from earnest.specs import UserError
from earnest.statistics.agreement import cohen_kappa
from earnest.statistics.intervals import bootstrap_mean

PUBLISHED_ORDERS, BOTH_ORDERS = (False,), (False, True)
WIN, TIE, LOSS = 1.0, 0.5, 0.0


@dataclass(frozen=True)
class Duel:
    """An answer against a reference's; `gold` is a right answer for judges that know one."""

    id: str
    form: Form
    question: str
    answer: str
    reference: str
    gold: str = ""
    domain: str = ""
    stratum: str = ""
    frequency: float | None = None


@dataclass(frozen=True)
class Verdict:
    """One judge's reply to one duel in one order; `scores` is (answer, reference) per criterion, None if unread."""

    answer_first: bool
    reply: Reply
    scores: tuple[Pair, ...] | None


@dataclass(frozen=True)
class Judged:
    """One judge on one duel: its verdicts, and their mean where all of them could be read."""

    verdicts: tuple[Verdict, ...]

    @property
    def known(self) -> bool:
        """Whether every order was judged."""
        return all(verdict.scores is not None for verdict in self.verdicts)

    def scores(self, place: int) -> tuple[float, ...]:
        """The mean over orders, per criterion: of the answer (0) or of the reference (1)."""
        read = [verdict.scores for verdict in self.verdicts if verdict.scores is not None]
        return tuple(sum(pair[place] for pair in pairs) / len(pairs) for pairs in zip(*read, strict=True))

    @property
    def outcomes(self) -> tuple[float, ...]:
        """Win, tie or loss of the answer in each order, by the sum over criteria."""
        return tuple(_outcome(verdict.scores) for verdict in self.verdicts if verdict.scores is not None)

    @property
    def win(self) -> float:
        """1, 0 or between: the mean over orders, so that a judge who changes with the order says tie."""
        return sum(self.outcomes) / len(self.outcomes)


def _outcome(scores: Sequence[Pair]) -> float:
    ours, theirs = (sum(pair[place] for pair in scores) for place in (0, 1))
    return TIE if ours == theirs else WIN if ours > theirs else LOSS


def weigh(
    judges: Sequence[Judge],
    duels: Sequence[Duel],
    written: Sequence[Generation],
    *,
    orders: Sequence[bool],
    score: Callable[[Judged], float],
    headline: str,
) -> Measured:
    """Let every judge weigh every duel.

    Args:
        judges: the first one's word is the score.
        duels: what to weigh.
        written: the answers as they were generated; those of a model without finite logits are not judged.
        orders: whether the answer stands first, once for each time a duel is shown.
        score: a duel's score from the first judge.
        headline: the score's name among the metrics.

    Raises:
        UserError: the first judge judged nothing.
    """
    fine = [number for number, generation in enumerate(written) if generation.finish != "not_finite"]
    said = {
        judge.name: dict(zip(fine, _all(judge, [duels[number] for number in fine], orders), strict=True))
        for judge in judges
    }
    first = judges[0].name
    samples = [
        _sample(duel, written[number], {name: found.get(number) for name, found in said.items()}, first, score)
        for number, duel in enumerate(duels)
    ]
    if fine and not any(sample.score is not None for sample in samples):
        raise UserError(f"judge {first}: none of {len(duels)} answers could be judged; {_problem(said[first])}")
    known = scored(samples)
    metrics = {headline: _mean(known), **_criteria(known, duels[0].form.criteria), **_counts(said, len(duels))}
    return Measured(samples, metrics, _mean)


def _all(judge: Judge, duels: Sequence[Duel], orders: Sequence[bool]) -> list[Judged]:
    """One judge on all duels, in all orders."""
    shown = [(duel, answer_first) for duel in duels for answer_first in orders]
    replies = judge.replies([_asked(duel, answer_first) for duel, answer_first in shown])
    verdicts = [
        Verdict(answer_first, reply, _read(duel.form, reply, answer_first))
        for (duel, answer_first), reply in zip(shown, replies, strict=True)
    ]
    width = len(orders)
    return [Judged(tuple(verdicts[begin : begin + width])) for begin in range(0, len(verdicts), width)]


def _asked(duel: Duel, answer_first: bool) -> Asked:
    first, second = (duel.answer, duel.reference) if answer_first else (duel.reference, duel.answer)
    return Asked(duel.form, duel.question, first, second, duel.gold)


def _read(form: Form, reply: Reply, answer_first: bool) -> tuple[Pair, ...] | None:
    pairs = None if reply.text is None else form.parse(reply.text)
    return pairs if pairs is None or answer_first else tuple((ours, theirs) for theirs, ours in pairs)


def _sample(
    duel: Duel,
    generation: Generation,
    said: Mapping[str, Judged | None],
    first: str,
    score: Callable[[Judged], float],
) -> Sample:
    judged = said[first]
    word = judged if judged is not None and judged.known else None
    ours, theirs = (word.scores(0), word.scores(1)) if word else ((), ())
    more: dict[str, bool | int | float | str | None] = {
        **{name: ours[i] if word else None for i, name in enumerate(duel.form.criteria)},
        **{f"reference_{name}": theirs[i] if word else None for i, name in enumerate(duel.form.criteria)},
        "win": word.win if word else None,
        "orders_agree": len(set(word.outcomes)) == 1 if word else None,
        "verdicts": json.dumps(
            [_row(name, v) for name, j in said.items() if j for v in j.verdicts], ensure_ascii=False
        ),
        "tokens": len(generation.ids),
        "finish": generation.finish,
    }
    return Sample(
        duel.id, duel.question, duel.answer, duel.reference, score=score(word) if word else None,
        truncated=generation.cut > 0, domain=duel.domain, stratum=duel.stratum, more=more,
        finite=generation.finish != "not_finite",
    )  # fmt: skip


def _row(judge: str, verdict: Verdict) -> dict[str, Any]:
    """A verdict as it is stored."""
    return {
        "judge": judge,
        "answer_first": verdict.answer_first,
        "reply": verdict.reply.text,
        "problem": verdict.reply.problem or ("" if verdict.scores else "not in the form that was asked for"),
        "scores": verdict.scores,
        "usd": verdict.reply.usd,
    }


def _problem(said: Mapping[int, Judged]) -> str:
    """Why the first reply that failed did."""
    rows = [_row("", verdict) for judged in said.values() for verdict in judged.verdicts if verdict.scores is None]
    return f"{rows[0]['problem']}: {rows[0]['reply']!r}" if rows[0]["reply"] else str(rows[0]["problem"])


def _mean(samples: Sequence[Sample]) -> Estimate:
    return bootstrap_mean([sample.score or 0.0 for sample in samples])


def _criteria(known: Sequence[Sample], criteria: Sequence[str]) -> dict[str, Estimate]:
    """Means of the first judge's scores, and how the answers stand against the reference's."""
    names = [*criteria, *(f"reference_{name}" for name in criteria)] if criteria != ("preference",) else []
    found = {name: bootstrap_mean(column(known, name)) for name in names}
    ties = [float(sample.more["win"] == TIE) for sample in known]
    found["win_rate"] = bootstrap_mean(column(known, "win"))
    found["tie_rate"] = bootstrap_mean(ties)
    return found | {"orders_agree": bootstrap_mean(column(known, "orders_agree"))}


def _counts(said: Mapping[str, Mapping[int, Judged]], asked: int) -> dict[str, Estimate]:
    """Per judge: the share judged, calls that failed, replies out of form, cost; and each two judges' kappa."""
    found: dict[str, Estimate] = {}
    for name, judged in said.items():
        verdicts = [verdict for each in judged.values() for verdict in each.verdicts]
        failed = sum(verdict.reply.text is None for verdict in verdicts)
        unread = sum(verdict.scores is None for verdict in verdicts) - failed
        counts = {
            "judged": sum(each.known for each in judged.values()) / asked,
            "calls": len(verdicts),
            "calls_failed": failed,
            "replies_unread": unread,
            "usd": sum(verdict.reply.usd for verdict in verdicts),
        }
        found |= {f"{key}.{name}": Estimate(value=value, n=asked) for key, value in counts.items()}
    for one, other in combinations(said, 2):
        both = [n for n in said[one] if said[one][n].known and said[other][n].known]
        kappa = cohen_kappa([_side(said[one][n]) for n in both], [_side(said[other][n]) for n in both])
        if kappa is not None:
            found[f"kappa.{one}.{other}"] = Estimate(value=kappa, n=len(both))
    return found


def _side(judged: Judged) -> float:
    """Win, tie or loss over all orders."""
    return TIE if judged.win == TIE else WIN if judged.win > TIE else LOSS
