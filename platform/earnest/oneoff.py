"""One thing at a time, without a sweep: compress, evaluate or generate once, here, on one device."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from earnest.compression import calibration, checkpoint, produce
from earnest.data import NANO, resolve_data
from earnest.decoding.black_box import BlackBox, Tally
from earnest.decoding.ensemble import Ensemble, Pair
from earnest.decoding.generation import generate
from earnest.evaluation.rereading import reread
from earnest.evaluation.run import Evaluation, evaluate
from earnest.models.inspected import InspectedModel
from earnest.models.loading import LoadedModel, load, load_tokenizer
from earnest.models.source import folder_of, resolve
from earnest.preflight import check_methods, check_task, find_data
from earnest.records import Manifest
from earnest.specs import (
    Alpha,
    AnyTask,
    Calibration,
    Method,
    Perplexity,
    UserError,
    check_data_is_named,
    check_judges_are_named,
    validated,
)
from earnest.steps import REFERENCE_FILE, TEXTS_FILE, write_evaluation

DEFAULT_LENGTH = 2048


def open_subject(name: str, *, dtype: str = "auto", device: str = "cpu") -> LoadedModel:
    """A model by name, or a compressed checkpoint by its folder, checked against its manifest."""
    if (Path(name) / "manifest.json").is_file():
        return checkpoint.load(Path(name), device=device, dtype=dtype)
    return load(resolve(name), device=device, dtype=dtype)


def manifest_of(name: str) -> Manifest | None:
    """The manifest of a compressed checkpoint's folder; None for what is no checkpoint."""
    folder = Path(name)
    return checkpoint.read_manifest(folder) if (folder / checkpoint.MANIFEST_FILE).is_file() else None


def compress_once(
    model: str,
    method: Method,
    folder: Path,
    *,
    data: str | None,
    column: str,
    split: str,
    samples: int,
    length: int | None,
    seed: int,
    dtype: str,
    device: str,
    on_block: Callable[[int, int], None],
) -> Manifest:
    """Compress a model into `folder`, which appears whole or not at all. Without `data` a `nano:` model is calibrated
    on the almanac's corpus.

    Raises:
        UserError: the folder exists, or model, method or calibration data do not fit.
    """
    if folder.exists():
        raise UserError(f"{folder}: exists already; name a new folder, nothing is overwritten")
    if method.needs_calibration:
        remedy = "use --calibration FILE (text, Parquet or a hub id); --calibration nano asks for the almanac's corpus"
        check_data_is_named(Calibration() if data is None else Calibration(data=data), [model], "calibration", remedy)
    inspected = InspectedModel.of(model)
    check_methods(inspected, [method])
    loaded = load(inspected.source, device=device, dtype=dtype)
    ids, fields = None, None
    if method.needs_calibration:
        tokens = length or min(DEFAULT_LENGTH, loaded.max_length)
        wanted = {
            "data": data or NANO,
            "column": column,
            "split": split,
            "samples": samples,
            "length": tokens,
            "seed": seed,
        }
        spec = validated(TypeAdapter(Calibration), wanted, "calibration")
        found = resolve_data(spec.data, spec.split)
        ids = calibration.calibration_ids(spec, found.path, loaded.tokenizer)
        fields = {**spec.model_dump(mode="json", exclude={"data"}), "data_digest": found.digest}
    writing = _scratch_beside(folder)
    try:
        manifest = produce.compress_to_folder(loaded, method, ids, writing, calibration=fields, progress=on_block)
        writing.chmod(0o755)
        writing.rename(folder)
    finally:
        shutil.rmtree(writing, ignore_errors=True)
    return manifest


def _scratch_beside(folder: Path) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); name another folder") from error


def open_steered(
    base: str, expert: str | None, antiexpert: str | None, alpha: Alpha, *, dtype: str = "auto", device: str = "cpu"
) -> LoadedModel | Ensemble:
    """A base by name, steered by a pair where an expert is named; each may be a compressed checkpoint.

    Raises:
        UserError: one of them cannot be loaded, their vocabularies differ, or an antiexpert stands without an expert.
    """
    if antiexpert is not None and expert is None:
        raise UserError(f"antiexpert {antiexpert}: needs an expert beside it, as in --expert nano:small-tuned")
    subject = open_subject(base, dtype=dtype, device=device)
    if expert is None:
        return subject
    pair = [open_subject(name, dtype=dtype, device=device) for name in (expert, antiexpert) if name is not None]
    return Ensemble(subject, pair[0], pair[1] if len(pair) > 1 else None, alpha=alpha)


def evaluate_once(
    subject: str,
    task: AnyTask,
    *,
    expert: str | None = None,
    antiexpert: str | None = None,
    alpha: Alpha = 1.0,
    dense: str | None = None,
    dtype: str,
    device: str,
    on_step: Callable[[int, int], None],
) -> Evaluation:
    """Evaluate a model or checkpoint on one task, steered by a pair where an expert is named.

    A model named as `dense` reads the same text first, for KL to it, or the texts that were written, for their
    perplexity.

    Raises:
        UserError: data or models do not fit the task, or there is nothing for `dense` to read, or not in its tokens.
    """
    if dense is not None and not (task.writes or isinstance(task, Perplexity)):
        raise UserError(
            f"dense {dense}: has nothing to read in {task.label}; name it for perplexity or written answers"
        )
    if dense is not None and task.writes:
        _check_same_tokens(subject, dense)
    learnt, remedy = [_learnt_as(subject)], "use --data PATH or a hub id; --data nano asks for the almanac's questions"
    check_data_is_named(task, learnt, f"task {task.label}", remedy)
    check_judges_are_named(task, learnt, f"task {task.label}")
    data = find_data(task)
    check_task(task, data.path)
    with tempfile.TemporaryDirectory(prefix="earnest-dense-") as name:
        reference = None
        if dense is not None and isinstance(task, Perplexity):
            first = evaluate(open_subject(dense, dtype=dtype, device=device), task, data.path, None, on_step)
            reference = _written(first, Path(name)) / REFERENCE_FILE
        opened = open_steered(subject, expert, antiexpert, alpha, dtype=dtype, device=device)
        result = evaluate(opened, task, data.path, reference, on_step)
        if dense is None or reference is not None:
            return result
        texts = _written(result, Path(name)) / TEXTS_FILE
        again, _ = reread(open_subject(dense, dtype=dtype, device=device), texts, on_step)
    metrics = {**result.scores.metrics, **again.metrics}
    return replace(result, scores=result.scores.model_copy(update={"metrics": metrics}))


def _learnt_as(subject: str) -> str:
    """The name of the model that a subject is, or was compressed from."""
    return checkpoint.read_manifest(Path(subject)).base if (Path(subject) / "manifest.json").is_file() else subject


def _check_same_tokens(subject: str, dense: str) -> None:
    """See that what a subject writes means the same to a dense model, by their tokenizers alone."""
    mine, theirs = (
        load_tokenizer(Path(name) if (Path(name) / "manifest.json").is_file() else folder_of(name), name).get_vocab()
        for name in (subject, dense)
    )
    if mine != theirs:
        raise UserError(
            f"dense {dense}: has other tokens than {subject} and cannot read what it writes; "
            "name the model that it was compressed from"
        )


def _written(result: Evaluation, folder: Path) -> Path:
    write_evaluation(result, folder)
    return folder


def generate_once(
    prompt: str,
    *,
    base: str,
    expert: str | None,
    antiexpert: str | None,
    alpha: Alpha,
    max_tokens: int,
    stop: tuple[str, ...],
    dtype: str,
    device: str,
) -> str:
    """Continue a prompt greedily with a model or with a proxy-tuned ensemble."""
    subject = open_steered(base, expert, antiexpert, alpha, dtype=dtype, device=device)
    return generate(subject, [prompt], max_tokens=max_tokens, stop=stop)[0].text


def generate_from_black_box(
    prompt: str,
    *,
    base: str,
    top_k: int,
    key_env: str | None,
    expert: str | None,
    antiexpert: str | None,
    alpha: Alpha,
    max_tokens: int,
    stop: tuple[str, ...],
    dtype: str,
    device: str,
) -> tuple[str, Tally]:
    """Continue a prompt greedily with a steered model behind an endpoint, and what the endpoint kept back.

    Args:
        base: URL#MODEL; the expert's tokenizer must be that model's.

    Raises:
        UserError: the base names no model, no expert is named, or the endpoint does not answer as it should.
    """
    url, _, model = base.partition("#")
    if not model:
        raise UserError(f"base {base}: name the endpoint's model too, as in {url}#llama")
    if expert is None:
        raise UserError(f"base {base}: is a black box; name an --expert that steers it and has its tokenizer")
    steering = open_subject(expert, dtype=dtype, device=device)
    twin = None if antiexpert is None else open_subject(antiexpert, dtype=dtype, device=device)
    box = BlackBox(url, model, steering.tokenizer, top_k=top_k, key_env=key_env)
    ensemble = Ensemble.of(box, [Pair(steering, twin, alpha)])
    (written,) = generate(ensemble, [prompt], max_tokens=max_tokens, stop=stop)
    return written.text, box.tally
