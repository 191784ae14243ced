"""The headline figure keeps room for its bars, however many tasks a sweep has."""

from earnest.report.claims import LETTERS, Bar
from earnest.report.survey import Claim

TASKS = ("closed_book", "open_book", "trivia_qa", "trivia_qa_open", "multiple_choice", "summarisation", "instruction")


def bar(*metrics: str) -> Bar:
    return Bar(metrics, Claim(metrics[0], None, None), outlined=False)


def test_a_bar_names_its_tasks_as_far_as_there_is_room() -> None:
    assert bar(*TASKS[:3]).words.endswith("  closed book, open book, trivia qa")
    few = bar(*TASKS).words.partition("  ")[2]
    assert few == "closed book, open book, trivia qa and 4 more"
    assert bar("a" * 2 * LETTERS, "b").words.endswith(f"{'a' * 2 * LETTERS} and 1 more")
