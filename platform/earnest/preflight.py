"""Check everything that can be checked before work begins, so that a mistake costs seconds and not hours.

Reads configs, headers and column names; loads no weights.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earnest.compression.calibration import check_rows
from earnest.compression.checks import check_fits
from earnest.data import NANO, DataSource, MappedPath, iterate_rows, mapped, resolve_data
from earnest.decoding.ensemble import check_vocabularies
from earnest.evaluation.harness.benchmarks import find_benchmark
from earnest.evaluation.tasks import needed_columns, rehearse
from earnest.evaluation.traits import read_frequencies
from earnest.models.blocks import text_config
from earnest.models.inspected import InspectedModel
from earnest.models.loading import check_vocabulary
from earnest.models.restoring import check_restorable
from earnest.plan import Inputs, data_key
from earnest.specs import AnyTask, Dense, LMEval, Method, Sweep, UserError


def check_sweep(sweep: Sweep, inputs: Inputs, models: Mapping[str, InspectedModel]) -> None:
    """Check a sweep's models, methods, pairs and data.

    Args:
        sweep: as it was read.
        inputs: where its data lie.
        models: what was found of each of its models, by name.

    Raises:
        UserError: the first mistake found, with its remedy.
    """
    for one in models.values():
        check_model(one)
    model = models[sweep.model]
    check_methods(model, sweep.compress)
    _check_pairs(sweep, models)
    if sweep.localise:
        check_restorable(model.skeleton, model.source)
    for name, form in sweep.chat.items():
        if form == "template" and not models[name].tokenizer.chat_template:
            raise UserError(f'chat: the tokenizer of {name} has no chat template; use "llama2" or leave it out')
    for task in sweep.tasks:
        check_task(task, inputs.data[data_key(task)][0])
    if any(method.needs_calibration for method in sweep.compress):
        _check_calibration(sweep, inputs, model)


def check_model(model: InspectedModel) -> None:
    """Headers of all weight files, and a tokenizer that fits the vocabulary."""
    check_vocabulary(model.source.name, text_config(model.config).vocab_size, model.tokenizer)


def check_methods(model: InspectedModel, methods: Sequence[Method]) -> None:
    """Whether the methods' groups and patterns fit the shapes of a model's layers."""
    for method in methods:
        if not isinstance(method, Dense):
            check_fits(model.skeleton, method)


@dataclass
class _Speaker:
    """A model of which only the tokenizer was read."""

    name: str
    tokenizer: Any


def _check_pairs(sweep: Sweep, models: Mapping[str, InspectedModel]) -> None:
    """Whether all models of the pairs have the sweep's model's tokens, and can be compressed as their bases are."""
    names = dict.fromkeys(name for proxy in sweep.proxy for name in proxy.models)
    base = _Speaker(sweep.model, models[sweep.model].tokenizer)
    for name in names:
        check_vocabularies(base, _Speaker(name, models[name].tokenizer))
    for proxy in sweep.proxy:
        methods = [m for m in sweep.compress if proxy.steers(m.method, f"{m.method} {m.nominal}")]
        members = {"expert": proxy.expert, "antiexpert": proxy.antiexpert}
        for part in proxy.compressed:
            check_methods(models[str(members[part])], methods)


def find_data(task: AnyTask) -> DataSource:
    """A task's data and the digest of what decides its questions.

    Raises:
        UserError: it is not there.
    """
    return find_benchmark(task) if isinstance(task, LMEval) else resolve_data(task.data, task.split)


def check_task(task: AnyTask, path: str) -> None:
    """Whether a task's data has the columns and rows that it needs, and every row can be asked."""
    if path != NANO and Path(path).exists():
        path = mapped(path, task.columns)
        for split, columns in needed_columns(task, path):
            deque(iterate_rows(path, split, columns, whole=False), maxlen=0)
        rehearse(task, path)
        read_frequencies(task, path)
        if isinstance(path, MappedPath):
            path.check_asked()


def _check_calibration(sweep: Sweep, inputs: Inputs, model: InspectedModel) -> None:
    """The length fits the model's positions, and every row can be calibrated on."""
    positions = getattr(text_config(model.config), "max_position_embeddings", None)
    if positions is not None and sweep.calibration.length > positions:
        raise UserError(
            f"calibration: length {sweep.calibration.length} is beyond the {positions} positions of "
            f"{model.source.name}; set [calibration] length to at most {positions}"
        )
    if sweep.calibration.data == NANO:
        return
    check_rows(sweep.calibration, inputs.data[data_key(sweep.calibration)][0])
