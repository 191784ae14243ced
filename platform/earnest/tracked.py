"""A sweep and its runs in MLflow: cell by cell while it runs, whole at its end, and again what could not be sent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from earnest.cells import collect
from earnest.cluster import events
from earnest.plan import COMPRESS, EVALUATE, Cell, Kind, Plan
from earnest.records import CellRecord
from earnest.samples import SAMPLES_FILE
from earnest.specs import Sweep
from earnest.store import CorruptOutputError, Store
from earnest.store.identity import store_identity
from earnest.tracking.aliases import best_aliases
from earnest.tracking.entries import Artifact, Checkpoint
from earnest.tracking.following import Follower
from earnest.tracking.mlflow_runs import Tracker
from earnest.tracking.origin import origin_tags

FILES: dict[Kind, str] = {COMPRESS: "manifest.json", EVALUATE: SAMPLES_FILE}


@dataclass(frozen=True)
class SweepTracking:
    """What a sweep tells MLflow.

    Args:
        sweep: with its `[tracking]`.
        plan: the sweep's.
        store: where its outputs lie.
        folder: a local folder for the outbox, and by default the database and the artifacts.
        config: the sweep's file, where it has one.
        warn: told one line when something could not be sent.
    """

    sweep: Sweep
    plan: Plan
    store: Store
    folder: Path
    config: Path | None
    warn: Callable[[str], None]

    @cached_property
    def tracker(self) -> Tracker:
        """The tracker of the sweep's experiment."""
        tracking = self.sweep.tracking
        return Tracker(
            tracking.uri,
            tracking.experiment or self.sweep.name,
            str(self.folder),
            self.warn,
            store=store_identity(self.store.root),
            origin=origin_tags(self.config),
        )

    # --- while it runs ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def following(self, on_event: events.OnEvent) -> Iterator[events.OnEvent]:
        """Give `on_event`, with each cell told to MLflow when its last step has ended.

        Leaving the block, whatever the reason, what is ready is told still.
        """
        if not self.sweep.tracking.enabled:
            yield on_event
            return
        failed: dict[str, str] = {}
        follower = Follower(
            {cell.key: steps_of(cell) for cell in self.plan.cells},
            lambda keys: self._tell(keys, failed),
            self._progress,
        )

        def observe(event: events.Event) -> None:
            on_event(event)
            if isinstance(event, events.StepStarted):
                follower.begin()
            elif isinstance(event, events.Planned):
                follower.end(event.cached)
            elif isinstance(event, events.StepReopened):
                follower.reopen(event.step.digest)
            elif isinstance(event, events.StepFinished | events.StepSetAside | events.StepBlocked):
                if not isinstance(event, events.StepFinished):
                    failed[event.step.digest] = event.reason
                follower.end([event.step.digest])

        with follower:
            yield observe

    def _tell(self, keys: Sequence[str], failed: Mapping[str, str]) -> None:
        wanted = set(keys)
        try:
            cells = collect(self._part(wanted), self.store, dict(failed))
        except (CorruptOutputError, FileNotFoundError):  # made again meanwhile: told when the sweep ends
            return
        ready = [cell for cell in cells if cell.key in wanted and cell.scores]
        self.tracker.record_interim(ready, self._files(ready), self._checkpoints(ready))

    def _part(self, keys: set[str]) -> Plan:
        """The plan with these cells and those that they are compared with alone."""
        mine = [cell for cell in self.plan.cells if cell.key in keys]
        beside = {key for cell in mine for key in (cell.base, cell.target) if key is not None}
        models = {cell.model for cell in mine}
        kept = [
            cell
            for cell in self.plan.cells
            if cell is self.plan.cells[0]
            or cell.key in keys | beside
            or (cell.model in models and cell.compress is None)
        ]
        return replace(self.plan, cells=tuple(kept))

    def _progress(self, ended: int, open_cells: int) -> None:
        cells, steps = len(self.plan.cells), len(self.plan.steps)
        self._say(f"{ended} of {steps} steps, {cells - open_cells} of {cells} cells ended")

    def _say(self, how_far: str) -> None:
        at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        self.tracker.show_progress(self.sweep.name, f"{self.sweep.name}: {how_far}, as of {at}")

    # --- at its end ---------------------------------------------------------------------------------------------------

    def record(self, cells: Sequence[CellRecord], report: Path | None) -> bool:
        """Tell everything, and send what waited. Returns whether MLflow now knows all of it.

        Where steps are still to run, the cells that are whole are told as while it runs: claims come at its end.
        """
        if any(cell.waiting for cell in cells):
            whole = [cell for cell in cells if not cell.waiting]
            self.tracker.record_interim(whole, self._files(whole), self._checkpoints(whole))
            return self.tracker.failure is None
        files = self._files(cells)
        if report is not None and cells:
            files[cells[0].key] = [(report, "report"), *files[cells[0].key]]
        self.tracker.record(cells, files, self._checkpoints(cells, named=True), whole=True)
        ended = sum(not (cell.failures or cell.waiting) for cell in cells)
        if self.tracker.failure is None:
            self._say(f"{ended} of {len(cells)} cells whole")
        return self.tracker.failure is None

    def _files(self, cells: Sequence[CellRecord]) -> dict[str, list[Any]]:
        """Cell key -> the files that belong to its run, wherever the store lies."""
        files: dict[str, list[Any]] = {cell.key: [] for cell in cells}
        for cell in cells:
            for label, digest in cell.steps.items():
                kind = self.plan.steps[digest].kind
                if label in (*cell.failures, *cell.waiting):
                    continue
                with contextlib.suppress(FileNotFoundError, ValueError):
                    sha256 = self.store.read_step(kind, digest)["files"].get(FILES[kind])
                    if sha256 is not None:
                        place = f"{self.store.root}/{kind}/{digest}/{FILES[kind]}"
                        files[cell.key].append(Artifact(place, f"{label}/{FILES[kind]}", sha256))
        return files

    def _checkpoints(self, cells: Sequence[CellRecord], *, named: bool = False) -> dict[str, Checkpoint]:
        """Cell key -> the checkpoint that it evaluates by itself; with its aliases once all cells are known."""
        registry = self.sweep.tracking.registry
        aliases = {}
        if registry is not None and named:
            aliases = best_aliases(cells, registry.by or self.sweep.tasks[0].label)
        found = {}
        for cell in cells:
            step = cell.steps.get("compress")
            if step is None or cell.steering is not None or cell.size is None:
                continue
            mine = aliases.get(cell.key, ())
            found[cell.key] = Checkpoint(
                step=step,
                name=f"{cell.model} {cell.label}" + (f" seed {cell.seed}" if cell.seed else ""),
                where=f"{self.store.root}/{COMPRESS}/{step}",
                registered=registry.model if registry is not None and mine else None,
                aliases=mine,
            )
        return found


def steps_of(cell: Cell) -> set[str]:
    """The digests of the steps that a cell's row stands on."""
    return {*cell.evaluate.values(), *([cell.compress] if cell.compress else [])}
