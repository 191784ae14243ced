"""One subject's answers to one task, from a file or a folder, as sums that make up its headline."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from earnest.cells import EXPONENTIAL, RATIOS
from earnest.records import Scores
from earnest.specs import UserError
from earnest.statistics.intervals import Floats

SCORES_KEY = b"earnest.scores"
SCORES_FILE, SAMPLES_FILE = "scores.json", "samples.parquet"


@dataclass(frozen=True)
class Samples:
    """What a subject scored on each sample of a task.

    `above` and `below` [samples] are what a sample adds above and below the line of the headline, NaN where it has no
    score. `clusters` name what hangs together, where that was asked for.
    """

    task: str
    headline: str
    higher_is_better: bool
    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    above: Floats
    below: Floats
    clusters: tuple[str, ...] = ()
    scores: Scores | None = None

    @property
    def exponential(self) -> bool:
        """Whether the headline is exp of a ratio of sums."""
        return self.headline in EXPONENTIAL


def write_samples(samples: pa.Table, scores: Scores, path: Path) -> None:
    """Write a task's samples to one file that also says which task they are of and what it scored."""
    pq.write_table(samples.replace_schema_metadata({SCORES_KEY: scores.model_dump_json()}), path, compression="zstd")


def open_samples(path: Path, cluster: str | None = None) -> dict[str, Samples]:
    """Task -> samples of one subject: a Parquet file, or all those in a folder and below it.

    Raises:
        UserError: there are none, one cannot be read, or two are of one task.
    """
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UserError(f"{path}: no samples there; name a file of earnest evaluate --out, or a folder of such files")
    found: dict[str, Samples] = {}
    for file in files:
        beside = file.with_name(SCORES_FILE)
        scores = beside.read_bytes() if file.name == SAMPLES_FILE and beside.is_file() else None
        samples = read_samples(file.read_bytes(), str(file), scores, file.stem if len(files) > 1 else "score", cluster)
        if samples.task in found:
            raise UserError(f"{path}: holds two evaluations of {samples.task}; name one subject's folder or file")
        found[samples.task] = samples
    return found


def read_samples(content: bytes, where: str, scores: bytes | None, task: str, cluster: str | None) -> Samples:
    """Samples from a Parquet file's bytes; its own metadata or `scores` say what they are of, otherwise `task`.

    A file that says nothing needs an id and a score (or correct) in each row, and more is better.

    Raises:
        UserError: a column is missing, ids repeat, or the samples do not add up to the score that stands beside them.
    """
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{where}: not a Parquet file of samples ({str(error).splitlines()[0]})") from error
    scores = scores or (table.schema.metadata or {}).get(SCORES_KEY)
    known = Scores.model_validate_json(scores) if scores else None
    headline = known.headline if known else "score"
    ids = [str(name) for name in _column(table, where, "id").to_pylist()]
    if len(set(ids)) < len(ids):
        raise UserError(f"{where}: {len(ids) - len(set(ids))} ids are there more than once; samples pair up by id")
    above, below = _sums(table, where, headline)
    samples = Samples(
        task=known.task if known else task,
        headline=headline,
        higher_is_better=known.higher_is_better if known else True,
        ids=tuple(ids),
        prompts=tuple(_column(table, where, "prompt_hash").to_pylist() if "prompt_hash" in table.schema.names else ids),
        above=above,
        below=below,
        clusters=tuple(map(str, _column(table, where, cluster).to_pylist())) if cluster else (),
        scores=known,
    )
    return _proved(samples, where)


def _column(table: pa.Table, where: str, name: str) -> pa.ChunkedArray:
    if name not in table.schema.names:
        raise UserError(f"{where}: has no column {name}; it has {', '.join(table.schema.names)}")
    return table[name]


def _sums(table: pa.Table, where: str, headline: str) -> tuple[Floats, Floats]:
    if headline in RATIOS:
        above, below = (_floats(_column(table, where, name)) for name in RATIOS[headline])
        return above, below
    above = _floats(_column(table, where, "score" if "score" in table.schema.names else "correct"))
    return above, np.ones_like(above)


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.array([math.nan if value is None else float(value) for value in column.to_pylist()])


def _proved(samples: Samples, where: str) -> Samples:
    """The same samples, proved to add up to the score that was published of them."""
    if samples.scores is None:
        return samples
    total, count = np.nansum(samples.above), np.nansum(np.where(np.isnan(samples.above), 0, samples.below))
    value = float(total / count) if count else 0.0
    value = math.exp(value) if samples.exponential else value
    if not math.isclose(value, samples.scores.main.value, rel_tol=1e-9, abs_tol=1e-12):
        raise UserError(
            f"{where}: its samples add up to {samples.headline} {value:.6g}, and its scores say "
            f"{samples.scores.main.value:.6g}; evaluate it again"
        )
    return samples
