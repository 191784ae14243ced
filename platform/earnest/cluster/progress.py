"""Show a run: bars and the running steps on a terminal, one plain line per event that matters anywhere else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatchmethod

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from earnest.cluster import events
from earnest.plan import Kind, Plan


@contextlib.contextmanager
def show_progress(plan: Plan, console: Console) -> Iterator[events.OnEvent]:
    """Give a function that shows the events of `plan`'s run on `console`: live on a terminal, plain lines otherwise."""
    lines = Lines(console)
    if not console.is_terminal:
        yield lines.show
        return
    board = Board(plan)

    def show_both(event: events.Event) -> None:
        board.show(event)
        lines.show_on_terminal(event)

    with Live(board, console=console, refresh_per_second=4, transient=True):
        yield show_both


class Lines:
    """Plain lines: "12/186  evaluate closed_book of nano:large wanda 50%  2.1 s  evaluator-2"."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show_on_terminal(self, event: events.Event) -> None:
        """Above the live board only what must stay to be read."""
        if not isinstance(event, events.StepFinished | events.WorkerReady | events.ClusterReady):
            self.show(event)

    @singledispatchmethod
    def show(self, event: object) -> None:
        """Print what is worth a line; other events are silent."""

    @show.register
    def _(self, event: events.Planned) -> None:
        cached = len(event.cached)
        self._print(f"{event.total} steps: {cached} in the store, {event.total - cached} to run")

    @show.register
    def _(self, event: events.ClusterReady) -> None:
        each = f"{event.gpus_per_worker:g} GPU" if event.gpus_per_worker else f"{event.cpus_per_worker:g} CPU"
        self._print(f"Ray on {event.address}: room for {event.slots} workers x {each}")

    @show.register
    def _(self, event: events.WorkerReady) -> None:
        self._print(f"{event.worker} owns {event.device}")

    @show.register
    def _(self, event: events.StepElsewhere) -> None:
        self._print(f"elsewhere: {event.title}: another driver runs it, its output is waited for")

    @show.register
    def _(self, event: events.StepFinished) -> None:
        self._print(f"{_counted(event)}  {event.title}  {event.seconds:.1f} s  {event.worker}")

    @show.register
    def _(self, event: events.StepRetried) -> None:
        self._print(f"again: {event.title}: {event.reason}", style="yellow")

    @show.register
    def _(self, event: events.StepReopened) -> None:
        self._print(f"again: {event.title}: its stored output is corrupt or gone", style="yellow")

    @show.register
    def _(self, event: events.StepSetAside) -> None:
        self._print(f"{_counted(event)}  set aside: {event.title}: {event.reason}", style="red")

    @show.register
    def _(self, event: events.StepBlocked) -> None:
        self._print(f"{_counted(event)}  blocked: {event.title}: {event.reason}", style="red")

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _counted(event: events.StepFinished | events.StepSetAside | events.StepBlocked) -> str:
    return f"{event.finished:>{len(str(event.total))}}/{event.total}"


@dataclass
class Row:
    """A running step as the board shows it."""

    digest: str
    title: str
    began: float
    note: str = ""


class Board:
    """The live view: a bar per kind of step, and a row per worker with what it runs."""

    def __init__(self, plan: Plan) -> None:
        self._kinds = {digest: step.kind for digest, step in plan.steps.items()}
        self._bars = Progress(
            TextColumn("{task.description:<9}"), BarColumn(32), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._tasks: dict[Kind, TaskID] = {}
        self._devices: dict[str, str] = {}
        self._rows: dict[str, Row] = {}

    def __rich__(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, show_header=False)
        for worker, row in sorted(self._rows.items()):
            seconds = f"{time.monotonic() - row.began:.0f} s"
            table.add_row(*map(escape, (worker, self._devices.get(worker, ""), row.title, row.note, seconds)))
        return Group(self._bars, table)

    @singledispatchmethod
    def show(self, event: object) -> None:
        """Take an event in; what the board does not show is ignored."""

    @show.register
    def _(self, event: events.Planned) -> None:
        for kind in dict.fromkeys(self._kinds.values()):
            mine = [digest for digest, of in self._kinds.items() if of == kind]
            self._tasks[kind] = self._bars.add_task(
                kind, total=len(mine), completed=len(event.cached.intersection(mine))
            )

    @show.register
    def _(self, event: events.WorkerReady) -> None:
        gpus = event.device.gpus
        self._devices[event.worker] = f"GPU {','.join(gpus)}" if gpus else "CPU"

    @show.register
    def _(self, event: events.StepStarted) -> None:
        self._rows[event.worker] = Row(event.step.digest, event.title, time.monotonic())

    @show.register
    def _(self, event: events.StepProgress) -> None:
        if event.worker in self._rows:
            self._rows[event.worker].note = event.note

    @show.register
    def _(self, event: events.StepRetried) -> None:
        self._rows.pop(event.worker, None)

    @show.register
    def _(self, event: events.StepReopened) -> None:
        self._bars.advance(self._tasks[event.step.kind], -1)

    @show.register(events.StepFinished | events.StepSetAside | events.StepBlocked)
    def _(self, event: events.StepFinished | events.StepSetAside | events.StepBlocked) -> None:
        self._rows = {worker: row for worker, row in self._rows.items() if row.digest != event.step.digest}
        self._bars.advance(self._tasks[event.step.kind])
