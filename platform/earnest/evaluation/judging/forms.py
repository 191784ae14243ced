"""What a judge is asked, and in which form it must reply: the house's own prompts, or a file with a user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from earnest.data import read_rows, text_of
from earnest.evaluation.judging.replies import Parse, by_criterion, choice, kick_criteria, kick_overall, overall
from earnest.specs import UserError

CRITERIA = ("coherence", "consistency", "fluency", "relevance")
COLUMNS = ("category", "system_prompt", "prompt_template", "instruction")
FIELDS = ("{question}", "{answer_1}", "{answer_2}")
SYSTEM = "You compare two answers carefully and fairly, and you reply in exactly the form that is asked for."
LAYOUT = "# Task\n{question}\n\n# Answer 1\n{answer_1}\n\n# Answer 2\n{answer_2}\n\n# Your verdict\n{prompt}\n"
FAIRNESS = "Neither the order of the answers nor their length may sway you."


@dataclass(frozen=True)
class Form:
    """A prompt for a judge: `layout` has places for the question, both answers and the `instruction`.

    A reply is read by `parse` as two numbers for each of `criteria`.
    """

    criteria: tuple[str, ...]
    instruction: str
    parse: Parse
    system: str = SYSTEM
    layout: str = LAYOUT

    def text(self, question: str, first: str, second: str) -> str:
        """The prompt; what the answers hold is not looked at for places to fill."""
        parts = {"question": question, "answer_1": first, "answer_2": second, "prompt": self.instruction}
        pieces = self.layout.split("{")
        return pieces[0] + "".join(_filled(piece, parts) for piece in pieces[1:])


def _filled(piece: str, parts: Mapping[str, str]) -> str:
    name, closed, rest = piece.partition("}")
    return parts[name] + rest if closed and name in parts else "{" + piece


HELPFULNESS = Form(
    ("overall",),
    "Rate how well each answer does the task: is it helpful, correct, relevant and as detailed as it should be? "
    f"{FAIRNESS} Write one line that holds two numbers from 1 to 10 and nothing else: the score of answer 1, a space, "
    "the score of answer 2. Then say why.",
    overall,
)
SUMMARIES = Form(
    CRITERIA,
    "Both answers are meant to summarise the text above. Rate each for coherence (it hangs together), consistency (it "
    "says nothing that the text does not), fluency (it reads well) and relevance (it holds what matters). "
    f"{FAIRNESS} Write four lines in this order: coherence, consistency, fluency, relevance. Each line holds two "
    "numbers from 1 to 10 and nothing else: the score of answer 1, a space, the score of answer 2. Then say why.",
    by_criterion(CRITERIA),
)
PREFERENCE = Form(
    ("preference",),
    f"Which answer does the task better? {FAIRNESS} Write one line that holds 1, 2 or tie and nothing else. "
    "Then say why.",
    choice,
)


def as_published(form: Form) -> Form:
    """The form with the published parser of its replies, where there is one."""
    if form.criteria == CRITERIA:
        return replace(form, parse=kick_criteria)
    return replace(form, parse=kick_overall) if form.criteria == ("overall",) else form


def templates(path: str, split: str, form: Form) -> dict[str, Form]:
    """A user's prompts by category, replies read as `form` says; "" is for categories that have none: the first.

    They lie among the data's splits, so that what is known of the data covers them.

    Raises:
        UserError: a column is missing, or a template has no place for the question or an answer.
    """
    found: dict[str, Form] = {}
    for number, row in enumerate(read_rows(path, split, COLUMNS)):
        where = f"templates {path}: row {number}"
        category, system, layout, instruction = (text_of(row, name, where) for name in COLUMNS)
        missing = [name for name in FIELDS if name not in layout]
        if missing:
            raise UserError(f"{where}: prompt_template has no {missing[0]}; give it {', '.join(FIELDS)}")
        found[category] = replace(form, system=system, layout=layout, instruction=instruction)
        found.setdefault("", found[category])
    return found
