"""What one step does: compress or evaluate; spec in, stored output out.

A step is a pure function of its spec. It finds its inputs by digest, proves that they are what the digest names, and
publishes its output whole or not at all. Where and when it runs is the cluster's business.
"""

from __future__ import annotations

import json
import platform
import resource
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from earnest.compression import calibration, checkpoint, produce
from earnest.decoding.ensemble import Ensemble, Pair
from earnest.evaluation.rereading import reread
from earnest.evaluation.run import Evaluation, evaluate
from earnest.evaluation.sequential import Rule
from earnest.models.loading import LoadedModel, load
from earnest.models.restoring import restored
from earnest.models.source import Source, resolve
from earnest.plan import COMPRESS, EVALUATE, Member, Steering, Step
from earnest.records import Manifest
from earnest.samples import SAMPLES_FILE, SCORES_FILE
from earnest.specs import Calibration, UserError, read_method, read_task
from earnest.store import Store

REFERENCE_FILE = "reference.safetensors"
TEXTS_FILE = "texts.parquet"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class StepSummary:
    """What a worker reports of a finished step: its name, its seconds, and a few facts to show."""

    digest: str
    kind: str
    label: str
    seconds: float
    facts: dict[str, float] = field(default_factory=dict)


def run_step(step: Step, store: Store, device: str, progress: Progress) -> StepSummary:
    """Run one step and publish its output.

    Args:
        step: what to do; its needs must be in the store.
        store: where inputs are found and the output goes.
        device: the torch device that the worker owns.
        progress: told a short line now and then.

    Raises:
        UserError: a model or dataset is not what was planned, or the method does not fit the model.
    """
    began = time.perf_counter()
    circumstances: dict[str, Any] = {"node": platform.node(), "device": device}
    with store.publish(step.kind, step.digest, step.spec, circumstances) as folder:
        facts = _ACTIONS[step.kind](step, store, device, folder, progress)
        seconds = time.perf_counter() - began
        circumstances |= {"seconds": round(seconds, 4), "peak_rss_mib": _peak_rss_mib(), **_peak_gpu_mib(device)}
    return StepSummary(step.digest, step.kind, step.label, seconds, facts)


def _compress(step: Step, store: Store, device: str, folder: Path, progress: Progress) -> dict[str, float]:
    del store
    source = _source(step)
    method = read_method(_without_version(step.spec["method"]))
    loaded = load(source, device=device, dtype=step.spec["dtype"])
    fields = step.spec["calibration"]
    ids = None
    if fields is not None:
        wanted = {key: value for key, value in fields.items() if key != "data_digest"}
        spec = Calibration(data=step.location["calibration"], **wanted)
        ids = calibration.calibration_ids(spec, step.location["calibration"], loaded.tokenizer)
    manifest: Manifest = produce.compress_to_folder(
        loaded,
        method,
        ids,
        folder,
        calibration=fields,
        progress=lambda block, blocks: progress(f"block {block}/{blocks}"),
    )
    size = manifest.size
    return {
        "saved": size.saved,
        "saved_of_touched": size.saved_of_touched,
        "sparsity": size.sparsity,
        "bits": size.bits_per_weight,
    }


def _evaluate(step: Step, store: Store, device: str, folder: Path, progress: Progress) -> dict[str, float]:
    if "reads" in step.spec:
        return _reread(step, store, device, folder, progress)
    base = _subject(store.root, _source(step), step.checkpoint, device, step.spec["dtype"])
    base = replace(base, chat=step.spec.get("chat", {}).get("base"))
    subject = base if step.steering is None else _steered(base, step, step.steering, store.root, device)
    places = {name: where for name, where in step.location.items() if name not in ("model", "model_name")}
    task = read_task({**_without_version(step.spec["task"]), **places})
    dense = None if step.reference is None else store.fetch(EVALUATE, step.reference)
    with restored(base.model, _source(step), step.restored) if step.restored else nullcontext():
        result = evaluate(
            subject,
            task,
            step.location["data"],
            None if dense is None else dense / REFERENCE_FILE,
            lambda done, of: progress(f"{done}/{of}"),
            _rule(step, dense),
            step.spec.get("budget"),
        )
    write_evaluation(result, folder)
    return {result.scores.headline: result.scores.main.value}


def _reread(step: Step, store: Store, device: str, folder: Path, progress: Progress) -> dict[str, float]:
    """Let the dense model read what another step's subject wrote.

    Raises:
        UserError: that step's output is older than the keeping of texts.
    """
    texts = store.fetch(EVALUATE, step.spec["reads"]) / TEXTS_FILE
    if not texts.is_file():
        raise UserError(
            f"{step.label}: an earlier version kept no texts; remove {texts.parent} and run the sweep again"
        )
    subject = _subject(store.root, _source(step), None, device, step.spec["dtype"])
    scores, samples = reread(subject, texts, lambda done, of: progress(f"{done}/{of}"))
    write_evaluation(Evaluation(scores, lambda: samples, None), folder)
    return {name: found.value for name, found in scores.metrics.items()}


def _rule(step: Step, dense: Path | None) -> Rule | None:
    """When the evaluation stops, where it is to stop once decided."""
    fields = step.spec.get("sequential")
    if fields is None or dense is None:
        return None
    return Rule.of_samples(fields["error"], fields["margin"], dense / SAMPLES_FILE)


def write_evaluation(result: Evaluation, folder: Path) -> None:
    """Write an evaluation's scores and samples and, if it has them, reference log-probabilities and written texts."""
    import pyarrow.parquet as pq
    from safetensors.torch import save_file

    scores = json.dumps(result.scores.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False)
    (folder / SCORES_FILE).write_text(scores + "\n", encoding="utf-8")
    pq.write_table(result.samples, folder / SAMPLES_FILE, compression="zstd")
    if result.reference is not None:
        save_file(result.reference, folder / REFERENCE_FILE)
    if result.texts is not None:
        pq.write_table(result.texts, folder / TEXTS_FILE, compression="zstd")


@lru_cache(maxsize=1)
def _subject(store_root: str, source: Source, compressed: str | None, device: str, dtype: str) -> LoadedModel:
    """The model or checkpoint to evaluate; the last one stays loaded, because its other tasks come next."""
    if compressed is None:
        return load(source, device=device, dtype=dtype)
    return checkpoint.load(Store(store_root).fetch(COMPRESS, compressed), device=device, dtype=dtype)


def _steered(base: LoadedModel, step: Step, steering: Steering, store_root: str, device: str) -> Ensemble:
    """A base and the pair that steers it, all on one device."""
    chat = step.spec.get("chat", {})
    expert = replace(_steering_model(steering.expert, store_root, device), chat=chat.get("expert"))
    anti = None
    if steering.antiexpert:
        anti = replace(_steering_model(steering.antiexpert, store_root, device), chat=chat.get("antiexpert"))
    return Ensemble.of(base, [Pair(expert, anti, steering.alpha)])


@lru_cache(maxsize=2)
def _steering_model(member: Member, store_root: str, device: str) -> LoadedModel:
    """An expert or antiexpert; a pair stays loaded, because it steers the next bases and tasks too."""
    if member.checkpoint is not None:
        folder = Store(store_root).fetch(COMPRESS, member.checkpoint)
        return checkpoint.load(folder, device=device, dtype=member.dtype)
    return load(_proved(member), device=device, dtype=member.dtype)


def _source(step: Step) -> Source:
    """The step's model, proved to have the weights that the step was planned with."""
    return _proved(Member(step.location["model_name"], step.location["model"], step.spec["model_digest"]))


def _proved(member: Member) -> Source:
    source = resolve(member.path)
    if source.digest != member.digest:
        raise UserError(
            f"model {member.name}: its weights changed since the sweep was planned "
            f"({member.digest[:8]} then, {source.digest[:8]} now); start the sweep again"
        )
    return source


def _without_version(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != "version"}


def _peak_rss_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _peak_gpu_mib(device: str) -> dict[str, float]:
    if not device.startswith("cuda"):
        return {}
    import torch

    return {"peak_gpu_mib": round(torch.cuda.max_memory_allocated(device) / 2**20, 1)}


_ACTIONS: dict[str, Callable[[Step, Store, str, Path, Progress], dict[str, float]]] = {
    COMPRESS: _compress,
    EVALUATE: _evaluate,
}
