"""The main job in one page: plan it, run it, track it, report it.

`earnest sweep`, `python jobs/sweep.py` and `ray job submit … jobs/sweep.py` all end here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from shlex import quote

from rich.console import Console

from earnest.cells import collect
from earnest.cluster.driver import Outcome, damaged, run_plan, stored
from earnest.cluster.dtypes import auto_of_workers
from earnest.cluster.events import title_of
from earnest.cluster.progress import show_progress
from earnest.data import resolve_data
from earnest.domains.run import losses_of
from earnest.models.inspected import InspectedModel
from earnest.models.source import resolve
from earnest.plan import COMPRESS, EVALUATE, Inputs, Plan, data_key
from earnest.planning import make_plan
from earnest.preflight import check_sweep, find_data
from earnest.published.figures import Published, read_published
from earnest.records import CellRecord
from earnest.report.html import PAGE, write_report
from earnest.report.table import print_table
from earnest.rereads import with_rereads
from earnest.specs import Sweep, UserError, read_sweep
from earnest.specs.dtypes import AUTOS, Auto
from earnest.store import Store
from earnest.tracked import SweepTracking
from earnest.tracking.mlflow_runs import check_uri, shown
from earnest.tracking.origin import in_submitted_job

DECIDING_LIBRARIES = ("torch", "transformers", "tokenizers")


@dataclass(frozen=True)
class Prepared:
    """A sweep that was read, checked and planned: what `earnest plan` shows and `earnest sweep` runs."""

    sweep: Sweep
    store: Store
    plan: Plan
    config: Path | None = None

    @property
    def published(self) -> Published | None:
        """The figures that are to stand beside the measured ones. Raises UserError where they cannot be read."""
        return None if self.sweep.published is None else read_published(self.sweep.published)

    @property
    def done(self) -> set[str]:
        """The digests of the plan's steps whose output is in the store."""
        return stored(self.plan, self.store)

    @property
    def damaged(self) -> Mapping[str, str]:
        """The plan's steps whose stored output is not whole, by their title -> what is wrong. They count as absent."""
        found = damaged(self.plan, self.store)
        return {title_of(self.plan.steps[digest], self.plan): wrong for digest, wrong in found.items()}

    @property
    def report_folder(self) -> Path:
        """Where this sweep's report lies: in the store, or beside the caller where that is a bucket or read-only."""
        inside = not self.store.remote and os.access(self.store.root, os.W_OK)
        return (Path(self.store.root) if inside else Path.cwd()) / "reports" / self.sweep.name


@dataclass(frozen=True)
class Result:
    """What a sweep leaves: its cells, what ran and failed, where the report lies, and whether all runs were sent."""

    cells: list[CellRecord]
    outcome: Outcome
    report: Path
    tracked: bool = True

    @property
    def ok(self) -> bool:
        """Whether every step is finished."""
        return not (self.outcome.failed or self.outcome.blocked)


def prepare(
    config: Path,
    *,
    store: str | None = None,
    tracking_uri: str | None = None,
    address: str | None = None,
    writable: bool = True,
) -> Prepared:
    """Read a sweep, find and check its models and data, and plan its steps. Runs nothing.

    Args:
        config: the sweep's TOML file.
        store: instead of the sweep's own.
        tracking_uri: instead of the sweep's own.
        address: of the Ray cluster that it is to run on, as in `run_sweep`.
        writable: whether the store is to be written; otherwise it is only read.

    Raises:
        UserError: anything that the user must mend before a sweep can run.
    """
    sweep = _with_overrides(read_sweep(config), store, tracking_uri)
    sweep.check_data_are_named()
    _refuse_a_store_that_vanishes(sweep.store)
    if sweep.tracking.uri is not None:
        check_uri(sweep.tracking.uri)
    else:
        _refuse_runs_that_vanish(sweep)
    models = inspect_models(sweep)
    inputs = find_inputs(sweep, models)
    check_sweep(sweep, inputs, models)
    if sweep.published is not None:
        read_published(sweep.published)
    where = Store(sweep.store, writable=writable)
    return Prepared(sweep, where, settled_plan(sweep, inputs, where, address), config)


def settled_plan(sweep: Sweep, inputs: Inputs, store: Store, address: str | None = None) -> Plan:
    """The plan of a sweep, with `auto` settled to one dtype for all of its workers.

    It is the dtype in which most steps are in the store already, so that a sweep that was begun goes on as it began,
    on whatever machine; otherwise what suits the workers that it would have now.
    """
    autos = _different_autos(sweep, inputs)
    if len(autos) == 1:
        return _plan_in(autos[0], sweep, inputs)
    there = store.digests(COMPRESS) | store.digests(EVALUATE)
    plans = {auto: _plan_in(auto, sweep, inputs) for auto in autos if there}
    finished = {auto: len(there.intersection(plan.steps)) for auto, plan in plans.items()}
    begun = max(finished, key=lambda auto: finished[auto], default=None)
    if begun is not None and finished[begun]:
        return plans[begun]
    return _plan_in(auto_of_workers(sweep.cluster, address), sweep, inputs)


def _plan_in(auto: Auto, sweep: Sweep, inputs: Inputs) -> Plan:
    return with_rereads(make_plan(sweep, replace(inputs, auto=auto)), sweep)


def _different_autos(sweep: Sweep, inputs: Inputs) -> list[Auto]:
    """One of each group of meanings of `auto` in which the sweep has the same steps."""
    helped = any(task.models for task in sweep.tasks)
    found: dict[tuple[object, ...], Auto] = {}
    for auto in AUTOS:
        meant = replace(inputs, auto=auto)
        dtypes = (meant.compute_dtype(sweep.dtype, name) for name in inputs.models)
        found.setdefault((helped and auto == "stored", *dtypes), auto)
    return list(found.values())


def run_sweep(prepared: Prepared, *, address: str | None = None, console: Console) -> Result:
    """Run what is missing, then track and report everything.

    Args:
        prepared: from `prepare`.
        address: of the Ray cluster; None for the one of the submitted job, or a local one.
        console: where progress, table and summary go.
    """
    tracking = tracking_of(prepared, console)
    with show_progress(prepared.plan, console) as show, tracking.following(show) as on_event:
        outcome = run_plan(prepared.plan, prepared.store, prepared.sweep.cluster, address=address, on_event=on_event)
    cells = collect(prepared.plan, prepared.store, {**outcome.failed, **outcome.blocked})
    report = write_page(prepared, cells)
    print_table(cells, console)
    tracked = not prepared.sweep.tracking.enabled or _track(prepared, tracking, cells, report, console)
    _summarise(prepared, outcome, report, console)
    if not tracked:
        _say_untracked(prepared, tracking, console)
    return Result(cells, outcome, report, tracked)


def track_sweep(prepared: Prepared, *, console: Console) -> bool:
    """Send a sweep's finished cells from the store to MLflow, and what waits. Returns whether all of it is there."""
    cells = collect(prepared.plan, prepared.store, prepared.store.failures())
    tracking = tracking_of(prepared, console)
    tracked = _track(prepared, tracking, cells, prepared.report_folder / PAGE, console)
    if not tracked:
        _say_untracked(prepared, tracking, console)
    return tracked


def tracking_of(prepared: Prepared, console: Console) -> SweepTracking:
    """What tells MLflow of a sweep."""
    return SweepTracking(
        prepared.sweep,
        prepared.plan,
        prepared.store,
        prepared.report_folder.parent.parent,
        prepared.config,
        warn=lambda text: _say(console, f"tracking: {text}"),
    )


def write_page(prepared: Prepared, cells: Sequence[CellRecord]) -> Path:
    """Write a sweep's report from its cells, and return the page's path."""
    return write_report(
        cells,
        prepared.report_folder,
        title=prepared.sweep.name,
        store=prepared.store,
        losses=losses_of(prepared.plan, prepared.store),
        published=prepared.published,
    )


def inspect_models(sweep: Sweep) -> dict[str, InspectedModel]:
    """The models that a sweep names, each found once. Raises UserError where one is not there."""
    return {name: InspectedModel.of(name) for name in sweep.models}


def find_inputs(sweep: Sweep, models: Mapping[str, InspectedModel]) -> Inputs:
    """The digests of the models and data that a sweep names, each looked up once.

    Args:
        sweep: as it was read.
        models: what was found of each of its models, by name.

    Raises:
        UserError: one of them is not there.
    """
    wanted = {data_key(task): task for task in sweep.tasks}
    data = {key: find_data(task) for key, task in wanted.items()}
    if any(method.needs_calibration for method in sweep.compress) and data_key(sweep.calibration) not in data:
        data[data_key(sweep.calibration)] = resolve_data(sweep.calibration.data, sweep.calibration.split)
    helpers = {name: models[name].source if name in models else resolve(name) for name in _helpers(sweep)}
    return Inputs(
        models={name: (_portable(name, str(m.source.path)), m.source.digest) for name, m in models.items()},
        data={key: (source.path, source.digest) for key, source in data.items()},
        versions={library: version(library) for library in DECIDING_LIBRARIES},
        helpers={name: source.digest for name, source in helpers.items()},
        stored={name: model.stored_dtype for name, model in models.items()},
        blocks=int(models[sweep.model].config.num_hidden_layers) if sweep.localise else 0,
    )


def _helpers(sweep: Sweep) -> list[str]:
    """The models that tasks need beside their subject."""
    return list(dict.fromkeys(name for task in sweep.tasks for name in task.models))


def _portable(name: str, path: str) -> str:
    """What a worker on any node can resolve: shipped and hub models by name, folders by their absolute path."""
    return str(Path(path)) if Path(name).expanduser().is_dir() else name


def _with_overrides(sweep: Sweep, store: str | None, tracking_uri: str | None) -> Sweep:
    changes: dict[str, object] = {}
    if store is not None:
        changes["store"] = store
    if tracking_uri is not None:
        changes["tracking"] = sweep.tracking.model_copy(update={"uri": tracking_uri})
    return sweep.model_copy(update=changes)


def _refuse_runs_that_vanish(sweep: Sweep) -> None:
    """Beside a bucket the database of runs lies in the working folder, which a submitted job loses."""
    if in_submitted_job() and "://" in sweep.store and sweep.tracking.enabled:
        raise UserError(
            f"store {sweep.store!r}: a submitted job's runs would be thrown away with its working folder; "
            "name a server with --tracking-uri or [tracking] uri, or say [tracking] enabled = false"
        )


def _refuse_a_store_that_vanishes(store: str) -> None:
    if in_submitted_job() and "://" not in store and not Path(store).expanduser().is_absolute():
        raise UserError(
            f"store {store!r}: a submitted job's working folder is thrown away after it; "
            "give an absolute path or a bucket that every node reaches, with --store"
        )


def _track(
    prepared: Prepared, tracking: SweepTracking, cells: list[CellRecord], report: Path, console: Console
) -> bool:
    tracked = tracking.record(cells, report)
    tracker = tracking.tracker
    _say(console, f"MLflow   {tracker.shown_uri}")
    _say(console, f"Charts   earnest dashboard {tracker.experiment} {_where(prepared)}")
    return tracked


def _say_untracked(prepared: Prepared, tracking: SweepTracking, console: Console) -> None:
    """The last line of a sweep whose runs MLflow does not have: why, how many, and how they get there."""
    tracker, options = tracking.tracker, f"--store {quote(prepared.store.root)}"
    if prepared.sweep.tracking.uri is not None:
        options += f" --tracking-uri {quote(tracker.shown_uri)}"
    again = f"earnest track {quote(str(prepared.config))} {options}"
    _say(console, f"tracking failed: {tracker.waiting} runs wait ({tracker.failure}); send them with: {again}")


def _where(prepared: Prepared) -> str:
    """The options with which `earnest dashboard` finds this sweep's runs."""
    uri = prepared.sweep.tracking.uri
    place = prepared.report_folder.parent.parent
    return f"--tracking-uri {quote(shown(uri))}" if uri else f"--store {quote(str(place))}"


def _summarise(prepared: Prepared, outcome: Outcome, report: Path, console: Console) -> None:
    for digest, reason in {**outcome.failed, **outcome.blocked}.items():
        _say(console, f"failed   {title_of(prepared.plan.steps[digest], prepared.plan)}: {reason}")
    ran, cached = len(outcome.done), len(outcome.cached)
    _say(console, f"Steps    {ran} run, {cached} already there, {len(outcome.failed) + len(outcome.blocked)} failed")
    _say(console, f"Report   {report}")


def _say(console: Console, line: str) -> None:
    """Print one line as it is: no markup, no colours, no wrapping."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)
