"""What people see of a run."""

import io

from rich.console import Console

from cluster.plans import compress, evaluate, plan_of
from earnest.cluster import events
from earnest.cluster.progress import Board, show_progress

MADE = compress("wanda 50%")
TASK = evaluate("closed_book", MADE)
PLAN = plan_of([MADE, TASK])
DEVICE = events.Device("n", "10.0.0.1", "node7", 1, "cuda", ("3",), "NVIDIA H200", 2**37, 1.0)
TITLE = "evaluate closed_book of tiny wanda 50%"


def test_a_pipe_gets_one_plain_line_per_finished_step() -> None:
    written = io.StringIO()
    with show_progress(PLAN, Console(file=written, width=40)) as on_event:
        on_event(events.Planned(2, frozenset({MADE.digest})))
        on_event(events.WorkerReady("evaluator-1", DEVICE))
        on_event(events.StepStarted(TASK, events.title_of(TASK, PLAN), "evaluator-1"))
        on_event(events.StepFinished(TASK, events.title_of(TASK, PLAN), "evaluator-1", 2.13, 2, 2))
    assert written.getvalue().splitlines() == [
        "2 steps: 1 in the store, 1 to run",
        "evaluator-1 owns GPU 3 (NVIDIA H200) on node7",
        f"2/2  {TITLE}  2.1 s  evaluator-1",
    ]


def test_a_failure_says_what_and_why_on_one_line_and_brackets_stay_brackets() -> None:
    written = io.StringIO()
    with show_progress(PLAN, Console(file=written)) as on_event:
        on_event(events.StepSetAside(MADE, MADE.label, "IndexError: [3, 4]", "", 1, 2))
        on_event(events.StepBlocked(TASK, TITLE, "needs it", 2, 2))
    assert written.getvalue().splitlines() == [
        "1/2  set aside: compress tiny wanda 50%: IndexError: [3, 4]",
        f"2/2  blocked: {TITLE}: needs it",
    ]


def test_a_terminal_shows_who_runs_what_on_which_device() -> None:
    board = Board(PLAN)
    screen = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    for event in (
        events.Planned(2, frozenset({MADE.digest})),
        events.WorkerReady("evaluator-1", DEVICE),
        events.StepStarted(TASK, TITLE, "evaluator-1"),
        events.StepProgress(TASK, "evaluator-1", "[40/100]"),
    ):
        board.show(event)
    with screen.capture() as shown:
        screen.print(board)
    lines = shown.get().splitlines()
    assert "1/1" in lines[0]
    assert "0/1" in lines[1]
    assert lines[2].split() == ["evaluator-1", "GPU", "3", *TITLE.split(), "[40/100]", "0", "s"]
    board.show(events.StepFinished(TASK, TITLE, "evaluator-1", 1.0, 2, 2))
    with screen.capture() as shown:
        screen.print(board)
    assert "1/1" in shown.get().splitlines()[1]
    assert TITLE not in shown.get()
