"""lm-eval's benchmarks, found by name, opened with the user's changes, and named by all that they consist of.

lm-eval's own index reads some ten thousand files; a benchmark's file is found here by its text, and the index is asked
only to tell what a name that is no benchmark's could have meant.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from earnest.data import DataSource, content_digest, read_rows, splits
from earnest.evaluation.harness.library import need_lm_eval
from earnest.records import digest
from earnest.specs import LMEval, UserError
from earnest.specs.harness import LM_EVAL

SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
SHOWN = 6


def find_benchmark(spec: LMEval) -> DataSource:
    """A benchmark with its data, and the digest of all of it: lm-eval's version, definition, files beside it, rows.

    Raises:
        UserError: lm-eval is not there, or the benchmark cannot be opened.
    """
    version = need_lm_eval(spec.benchmark)
    mine = Path(spec.data).expanduser()
    place = str(mine.resolve()) if spec.data != LM_EVAL and mine.exists() else spec.data
    task = open_benchmark(spec, place)
    whole = {
        "lm_eval": version,
        "definition": _definition(spec),
        "beside": {} if spec.include is None else _beside_it(Path(spec.include)),
        "rows": {split: _rows_digest(rows) for split, rows in _rows(task).items()},
    }
    return DataSource(spec.data, place, digest(whole))


def open_benchmark(spec: LMEval, data: str) -> Any:
    """lm-eval's own object of a benchmark, with its data, ready to build requests.

    Args:
        spec: which, and what the user changes of it.
        data: "lm_eval" for what the benchmark names; a path or a hub id instead of it.

    Raises:
        UserError: lm-eval is not there, there is no such benchmark, its data is not to be had, or it may not run here.
    """
    need_lm_eval(spec.benchmark)
    from lm_eval.tasks import TaskManager

    file = benchmark_file(spec.benchmark, spec.include)
    with explained(spec.benchmark, "cannot be opened"), _seeded():
        loaded = TaskManager(include_defaults=False).load([_config(spec, file, data)])
    (task,) = loaded["tasks"].values()
    _check_allowed(spec, task)
    _set_shots(spec, task)
    return task


def _check_allowed(spec: LMEval, task: Any) -> None:
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"{LM_EVAL}:{spec.benchmark}: asks about images or sounds; earnest evaluates text alone")
    if getattr(task, "UNSAFE_CODE", False) and not spec.unsafe_code:
        raise UserError(
            f"{LM_EVAL}:{spec.benchmark}: runs code that a model wrote, and not in earnest's sandbox; "
            "set unsafe_code = true to allow it"
        )


def _set_shots(spec: LMEval, task: Any) -> None:
    own = task.get_config("num_fewshot")
    if spec.shots is not None and own == 0 != spec.shots:
        raise UserError(
            f"{LM_EVAL}:{spec.benchmark}: shots = {spec.shots}: it is defined without demonstrations; leave shots out"
        )
    task.set_config(key="num_fewshot", value=(own or 0) if spec.shots is None else spec.shots)
    task.set_fewshot_seed(seed=spec.seed)


@contextmanager
def explained(benchmark: str, failed: str) -> Iterator[None]:
    """What a definition or its data may raise, as one line: it is foreign code that reads a foreign dataset."""
    from datasets.exceptions import DatasetsError
    from jinja2 import TemplateError
    from yaml import YAMLError

    foreign = (OSError, LookupError, RuntimeError, ImportError, AttributeError, TypeError, ValueError)
    try:
        yield
    except UserError:
        raise
    except (*foreign, DatasetsError, TemplateError, YAMLError) as error:
        reason = (str(error).splitlines() or [""])[0][:300]
        remedy = "see that its data can be reached from here and has what it reads, or name yours with data = ..."
        if "module script" in reason:
            remedy = "it wants a metric that is code on the hub; HF_EVALUATE_OFFLINE=0 in the environment fetches it"
        raise UserError(f"{LM_EVAL}:{benchmark}: {failed} ({type(error).__name__}: {reason})\n{remedy}") from error


@contextmanager
def _seeded() -> Iterator[None]:
    """Definitions that shuffle do so alike every time, by the seeds of lm-eval; the caller's own are given back."""
    import numpy as np

    mine, numpys = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(1234)
    try:
        yield
    finally:
        random.setstate(mine)
        np.random.set_state(numpys)


# --- the definition -------------------------------------------------------------------------------------------------


def benchmark_file(benchmark: str, include: str | None) -> Path:
    """The YAML file that defines a benchmark: the user's, else lm-eval's."""
    import lm_eval.tasks

    if include is not None and not Path(include).is_dir():
        raise UserError(f"{LM_EVAL}:{benchmark}: include {include}: no such folder; name one with the benchmark's YAML")
    folders = [*([include] if include else []), str(Path(lm_eval.tasks.__file__).parent)]
    for folder in folders:
        found = _named(folder, "task").get(benchmark)
        if found is not None:
            return found
    raise _unknown(benchmark, folders)


@lru_cache(maxsize=8)
def _named(folder: str, key: str) -> Mapping[str, Path]:
    """What a folder's files name under `key` -> the file; the first in order of path, as in lm-eval."""
    line = re.compile(rf"""^["']?{key}["']?:[ \t]*["']?([^\s"'\[{{][^"'\n#]*?)["']?[ \t]*(?:#.*)?$""", re.MULTILINE)
    found: dict[str, Path] = {}
    for file in sorted(Path(folder).rglob("*.yaml"), key=Path.as_posix):
        named = line.search(file.read_text(encoding="utf-8", errors="replace"))
        if named:
            found.setdefault(named[1], file)
    return found


def _unknown(benchmark: str, folders: Sequence[str]) -> UserError:
    """What a name that is no benchmark's could have meant."""
    where = f"{LM_EVAL}:{benchmark}"
    members = [name for folder in folders for name in _members(benchmark, folder)]
    if members:
        more = f" and {len(members) - SHOWN} more" if len(members) > SHOWN else ""
        some = ", ".join(members[:SHOWN])
        return UserError(f"{where}: a group of benchmarks; ask for them one by one, such as {some}{more}")
    known = [name for folder in folders for name in _named(folder, "task")]
    near = ", ".join(difflib.get_close_matches(benchmark, known, SHOWN)) or "none is spelt like it"
    places = " or ".join([*folders[:-1], "lm-eval"])
    return UserError(f"{where}: no such benchmark in {places}; near it: {near}")


def _members(group: str, folder: str) -> list[str]:
    """The benchmarks and groups in a group of a folder, or under a tag that nothing else is called."""
    from lm_eval.tasks._yaml_loader import load_yaml

    file = _named(folder, "group").get(group)
    if file is None:
        tag = re.compile(
            rf"^tag:(?:[ \t]*|[ \t]*\n(?:[ \t]*-.*\n)*?[ \t]*-[ \t]*)['\"]?{re.escape(group)}['\"]?[ \t]*$",
            re.MULTILINE,
        )
        return [name for name, one in _named(folder, "task").items() if tag.search(one.read_text(errors="replace"))]
    listed = load_yaml(file, resolve_func=False).get("task") or []
    return [one if isinstance(one, str) else str(one.get("task") or one.get("group")) for one in listed]


def _config(spec: LMEval, file: Path, data: str) -> dict[str, Any]:
    """The definition with the user's changes."""
    from lm_eval.tasks._yaml_loader import load_yaml

    config: dict[str, Any] = load_yaml(file)
    for key in ("tag", "group", "task_list"):
        config.pop(key, None)
    if spec.split:
        config["test_split"] = spec.split
    kwargs = config.get("dataset_kwargs") or {}
    if "data_files" in kwargs:
        config["dataset_kwargs"] = {**kwargs, "data_files": _beside(file.parent, kwargs["data_files"])}
    if data == LM_EVAL:
        return config
    without = {key: value for key, value in config.items() if key not in ("dataset_kwargs", "dataset_name")}
    if not Path(data).exists():
        identifier, _, configuration = data.partition(":")
        return {**without, "dataset_path": identifier, **({"dataset_name": configuration} if configuration else {})}
    return _from_path(spec, without, data)


def _beside(folder: Path, named: Any) -> Any:
    """Data files named relative to a definition that they lie beside, by their paths."""
    if isinstance(named, Mapping):
        return {split: _beside(folder, one) for split, one in named.items()}
    if isinstance(named, list):
        return [_beside(folder, one) for one in named]
    return str(folder / named) if (folder / str(named)).is_file() else named


def _from_path(spec: LMEval, config: dict[str, Any], data: str) -> dict[str, Any]:
    """A definition that reads the user's rows: one file holds what is asked, a folder every split."""
    from datasets import Dataset

    asked = config.get("test_split") or config.get("validation_split")
    if Path(data).is_file() or not splits(data):
        shots = config.get("num_fewshot") if spec.shots is None else spec.shots
        own = dict(config.get("fewshot_config") or {})
        if shots and not own.get("samples"):
            raise UserError(
                f"{LM_EVAL}:{spec.benchmark}: data {data} has no split for the {shots} demonstrations; "
                "give a folder with a file per split, or set shots = 0"
            )
        own.pop("split", None)
        config = {**config, **dict.fromkeys(SPLITS), "test_split": asked, "fewshot_config": own or None}
    wanted = {config.get(name) for name in SPLITS} | {(config.get("fewshot_config") or {}).get("split")}
    rows = {split: Dataset.from_list(read_rows(data, split, [])) for split in sorted(filter(None, wanted))}
    return {**config, "custom_dataset": lambda **_: rows}


def _definition(spec: LMEval) -> str:
    """The definition as text that is the same wherever lm-eval and the user's folder lie."""
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    file = benchmark_file(spec.benchmark, spec.include)
    text = json.dumps(load_yaml(file, resolve_func=False), sort_keys=True, default=str)
    for root in (spec.include, str(Path(lm_eval.tasks.__file__).parent)):
        text = text if root is None else text.replace(str(Path(root).resolve()), "")
    return text


def _beside_it(folder: Path) -> dict[str, str]:
    """The digests of all files that a definition may read; other definitions, and what Python keeps, are none."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix not in (".yaml", ".pyc")]
    return {file.relative_to(folder).as_posix(): content_digest(file) for file in files}


# --- the rows -------------------------------------------------------------------------------------------------------


def _rows(task: Any) -> dict[str, Any]:
    """The splits that a benchmark reads."""
    named = {task.get_config(name) for name in SPLITS} | {getattr(task.get_config("fewshot_config"), "split", None)}
    there: Mapping[str, Any] = task.dataset if isinstance(task.dataset, Mapping) else {"": task.dataset}
    return {split: rows for split, rows in sorted(there.items()) if split in named or not any(named)}


def _rows_digest(rows: Any) -> str:
    """The digest of a split's columns and values, whatever file they came from."""
    import pyarrow as pa
    from datasets import Dataset

    if not isinstance(rows, Dataset):
        return digest(json.loads(json.dumps(list(rows), default=str)))
    table: pa.Table = rows.with_format("arrow")[:]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
        stream.write_table(table.replace_schema_metadata(None).combine_chunks(), max_chunksize=1 << 16)
    return hashlib.sha256(sink.getvalue()).hexdigest()[:32]
