"""Following instructions, judged against a reference's answers: Vicuna-80 (one turn), MT-Bench (two), a user's own.

The published script (LLM-KICK) always shows the reference first and cannot read the replies that its own prompt for
mathematics asks for; both are mended here, and `compat` brings them back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from earnest.almanac import questions
from earnest.data import columns, file_of
from earnest.evaluation.conversations import converse, transcript, whole
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.judging.forms import HELPFULNESS, Form, as_published, templates
from earnest.evaluation.judging.judges import judge_of
from earnest.evaluation.judging.panel import BOTH_ORDERS, PUBLISHED_ORDERS, Duel, Judged, weigh
from earnest.evaluation.nano import NANO, QUESTIONS, shipped_world
from earnest.evaluation.normal_forms import readable
from earnest.evaluation.rows import check_ids, column_among, known_of, known_rows
from earnest.evaluation.samples import Measured
from earnest.specs import Instruction, JudgedTask, UserError

TURNS, REFERENCE = ("turns", "question", "instruction"), ("reference", "answer")
MAX_TOKENS, NANO_MAX_TOKENS, NANO_STOPS = 1024, 128, ("\n",)
IDS, CATEGORY = ("question_id", "id"), "category"

Row = dict[str, Any]


def measure(engine: Engine, spec: Instruction, data: str, progress: Progress | None = None) -> Measured:
    """The mean score, 1..10, of the answers, the reference's beside it, and how often they are preferred."""
    judges = [judge_of(judge, engine) for judge in spec.judges]
    rows, stops = items(spec, data), NANO_STOPS if data == NANO else ()
    forms = forms_of(spec, HELPFULNESS, data)
    answered = converse(engine, spec, [row["turns"] for row in rows], stops, longest(spec, data, MAX_TOKENS), progress)
    answers = [[generation.text.strip() for generation in generations] for generations in answered]
    duels = [_duel(row, given, forms) for row, given in zip(rows, answers, strict=True)]
    written = [whole(generations, duel.answer) for generations, duel in zip(answered, duels, strict=True)]
    orders = PUBLISHED_ORDERS if spec.compat else BOTH_ORDERS
    return weigh(judges, duels, written, orders=orders, score=mean_score, headline=spec.headline)


def reads(spec: Instruction, data: str) -> list[tuple[str, list[str]]]:
    """The splits of a user's data that are read, each with its columns."""
    return [(spec.split, needed(spec, data))]


def items(spec: Instruction, data: str) -> list[Row]:
    """The conversations."""
    return nano_rows(spec) if data == NANO else user_rows(spec, data)


def forms_of(spec: JudgedTask, form: Form, data: str) -> Mapping[str, Form]:
    """What judges are asked, by category; "" for all others."""
    wanted = as_published(form) if spec.compat else form
    return templates(data, spec.templates, wanted) if spec.templates else {"": wanted}


def longest(spec: JudgedTask, data: str, published: int) -> int:
    """How many tokens an answer may have."""
    return spec.max_tokens or (NANO_MAX_TOKENS if data == NANO else published)


def mean_score(judged: Judged) -> float:
    """The mean of an answer's scores over criteria."""
    scores = judged.scores(0)
    return sum(scores) / len(scores)


def nano_rows(spec: Instruction) -> list[Row]:
    """Biographies of the almanac's people, with its own as reference."""
    made = questions.biographies(shipped_world(), spec.limit or QUESTIONS, spec.seed)
    return [
        {"id": q.id, "turns": [q.prompt], "reference": [q.answer.strip()], "domain": q.domain, "stratum": q.stratum}
        for q in made
    ]


def needed(spec: Instruction, data: str) -> list[str]:
    """The columns of a user's data that are read: the turns and the reference's answers to them."""
    return [column_among(data, spec.split, names) for names in (TURNS, REFERENCE)]


def user_rows(spec: Instruction, data: str) -> list[Row]:
    """A user's conversations.

    Raises:
        UserError: a row has no turn, or not one answer of the reference for each.
    """
    turns, reference = needed(spec, data)
    there = columns(data, spec.split)
    identity = [name for name in IDS if name in there][:1]
    beside = [*identity, *([CATEGORY] if CATEGORY in there else [])]
    rows = known_rows(data, spec.split, [turns, reference], beside)[: spec.limit]
    file = file_of(data, spec.split)
    check_ids(rows, identity, file)
    return [
        {
            "id": str(row[identity[0]]) if identity else f"{spec.split}-{number:05d}",
            **_turns(row[turns], row[reference], f"data {file}: row {number}"),
            **known_of(row),
            CATEGORY: str(row.get(CATEGORY) or ""),
        }
        for number, row in enumerate(rows)
    ]


def _turns(turns: Any, reference: Any, where: str) -> dict[str, list[str]]:
    asked, given = (_texts(value, where) for value in (turns, reference))
    if len(asked) != len(given):
        raise UserError(f"{where}: {len(asked)} turns and {len(given)} reference answers; give one for each turn")
    return {"turns": asked, "reference": given}


def _texts(value: Any, where: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and readable(text) for text in texts):
        raise UserError(f"{where}: a turn or an answer is {str(value)[:40]!r}; give each a text that is not empty")
    return [text.strip() for text in texts]


def _duel(row: Row, answers: Sequence[str], forms: Mapping[str, Form]) -> Duel:
    asked, answer = transcript(row["turns"], answers)
    _, reference = transcript(row["turns"], row["reference"])
    form = forms.get(row.get(CATEGORY, ""), forms[""])
    return Duel(row["id"], form, asked, answer, reference, reference, **known_of(row))
