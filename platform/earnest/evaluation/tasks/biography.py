"""Long form about people of the invented world, where every sentence can be checked: fluent, and true.

`fluent` is the share of statements that are well formed, `true` the share of those that are true; `fitting` is the
share of all whose value is at least of the right class ("studied at botany College" is fluent, does not fit, and is
false). Statements of one biography hang together, so intervals draw people and not statements.
"""

from __future__ import annotations

from collections.abc import Sequence

from earnest.almanac import questions
from earnest.almanac.language import Statement, check_biography
from earnest.decoding.generation import Generation
from earnest.evaluation.answers import complete
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.nano import NANO, QUESTIONS, shipped_world
from earnest.evaluation.samples import Measured, Sample, column, scored, unscored
from earnest.records import Estimate
from earnest.specs import Biography
from earnest.statistics.intervals import mean_estimate, ratio_estimate

NO_ATTRIBUTE = "-"  # of a sentence that is not well formed


def measure(engine: Engine, spec: Biography, data: str = NANO, progress: Progress | None = None) -> Measured:
    """Fluent, fitting, true, statements and tokens per biography, over people in even thirds of popularity."""
    asked = items(spec, data)
    generations = complete(engine, [question.prompt for question in asked], ("\n",), spec.max_tokens, progress)
    samples = [_sample(question, generation) for question, generation in zip(asked, generations, strict=True)]
    known = scored(samples)
    metrics = {
        "true": true_share(known),
        "fluent": ratio_estimate(column(known, "well_formed"), column(known, "statements")),
        "fitting": ratio_estimate(column(known, "fitting"), column(known, "statements")),
        "statements": mean_estimate(column(known, "statements")),
        "distinct_true": mean_estimate(column(known, "distinct_true")),
        "tokens": mean_estimate(column(known, "tokens")),
    }
    return Measured(samples, metrics, true_share)


def reads(spec: Biography, data: str) -> list[tuple[str, list[str]]]:
    """Nothing of a user's: only of the almanac's people is all known."""
    return []


def items(spec: Biography, data: str) -> list[questions.Question]:
    """The people to write about."""
    return questions.biographies(shipped_world(), spec.limit or QUESTIONS, spec.seed)


def true_share(samples: Sequence[Sample]) -> Estimate:
    """Of the well-formed statements of all biographies, the share that is true; 0 where nothing is well formed."""
    return ratio_estimate(column(samples, "true"), column(samples, "well_formed"))


def verdict(statement: Statement) -> str:
    """One sign for a sentence: "t" for true, "f" for well formed and false, "x" for not well formed."""
    return "t" if statement.true else "f" if statement.well_formed else "x"


def _sample(question: questions.Question, generation: Generation) -> Sample:
    assert question.person is not None
    statements = check_biography(generation.text, question.person, shipped_world())
    well_formed = [statement for statement in statements if statement.well_formed]
    true = [statement for statement in well_formed if statement.true]
    more: dict[str, bool | int | float | str | None] = {
        "statements": len(statements),
        "well_formed": len(well_formed),
        "fitting": sum(statement.fits for statement in well_formed),
        "true": len(true),
        "distinct_true": len({statement.attribute for statement in true}),
        "verdicts": "".join(map(verdict, statements)),
        "attributes": " ".join(statement.attribute or NO_ATTRIBUTE for statement in statements),
        "tokens": len(generation.ids),
        "finish": generation.finish,
    }
    # Without a well-formed statement nothing true was said, and the biography weighs nothing in the ratio.
    score = len(true) / len(well_formed) if well_formed else 0.0
    sample = Sample(
        question.id, question.prompt, generation.text.strip(), question.answer, None, score,
        truncated=generation.cut > 0, domain=question.domain, stratum=question.stratum, more=more,
    )  # fmt: skip
    return unscored(sample) if generation.finish == "not_finite" else sample
