"""One subject's answers to one task as sums that make up its headline: read from a file, paired with another's.

Cells and `earnest compare` both judge what is read and paired here, so they cannot disagree.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from earnest.records import Scores
from earnest.specs import UserError
from earnest.statistics.intervals import Floats
from earnest.statistics.paired import Sums
from earnest.statistics.pairs import Pairs
from earnest.statistics.versus import Matchup

SCORES_KEY = b"earnest.scores"
SCORES_FILE, SAMPLES_FILE = "scores.json", "samples.parquet"
# Headlines that are a ratio of sums over samples, and not the mean of their scores.
RATIOS = {"true": ("true", "well_formed"), "token_perplexity": ("nats", "tokens")}
EXPONENTIAL = frozenset({"token_perplexity"})
# Tasks whose samples hang together: the column that names the clusters.
CLUSTERS = {"mmlu": "domain"}
_SUMMED = (column for columns in RATIOS.values() for column in columns)
_COLUMNS = {"id", "prompt_hash", "prediction", "correct", "score", *_SUMMED, *CLUSTERS.values()}


@dataclass(frozen=True)
class Samples:
    """What a subject said and scored on each sample of a task.

    `above` and `below` [samples] are what a sample adds above and below the line of the headline, `above` NaN where it
    has no score. `correct` is NaN where right and wrong do not exist. `clusters` name what hangs together.
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
    correct: Floats | None = None
    predictions: tuple[str, ...] = ()

    @property
    def exponential(self) -> bool:
        """Whether the headline is exp of a ratio of sums."""
        return self.headline in EXPONENTIAL

    @cached_property
    def places(self) -> dict[tuple[str, str], int]:
        """Where each (id, prompt) stands."""
        return {key: place for place, key in enumerate(zip(self.ids, self.prompts, strict=True))}

    @property
    def value(self) -> float:
        """The headline as the samples make it up."""
        total, count = np.nansum(self.above), np.nansum(np.where(np.isnan(self.above), 0, self.below))
        value = float(total / count) if count else 0.0
        return math.exp(value) if self.exponential else value

    @property
    def dtype(self) -> str:
        """What was computed in; empty where the samples do not say."""
        return self.scores.dtype if self.scores else ""

    @property
    def stopped(self) -> str:
        """What was decided where asking stopped before all questions were asked; no other test holds after that."""
        found = self.scores.stopped if self.scores else None
        if found is None or self.scores is None or self.scores.whole:
            return ""
        return f"{found.verdict}, decided after {found.after} of {self.scores.asked} samples (error {found.error:.0%})"

    @property
    def disagrees(self) -> str:
        """How the published score is another than that of the samples; empty where they agree."""
        if self.scores is None or math.isclose(self.value, self.scores.main.value, rel_tol=1e-9, abs_tol=1e-12):
            return ""
        return (
            f"its samples add up to {self.headline} {self.value:.6g}, and its scores say "
            f"{self.scores.main.value:.6g}; evaluate it again"
        )


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


def read_samples(
    content: bytes, where: str, scores: bytes | None, task: str, cluster: str | None = None, kind: str | None = None
) -> Samples:
    """Samples from a Parquet file's bytes; its own metadata or `scores` say what they are of, otherwise `task`.

    A file that says nothing needs an id and a score (or correct) in each row, and more is better. Without `cluster`,
    samples are clustered as tasks of their `kind` are, by default that of the task's name.

    Raises:
        UserError: a column is missing or holds no numbers, ids repeat, or the scores are of another program.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        names = [name for name in file.schema_arrow.names if name in {*_COLUMNS, cluster}]
        table = file.read(columns=names)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{where}: not a Parquet file of samples ({str(error).splitlines()[0]})") from error
    if cluster is not None and cluster not in names:
        raise UserError(f"{where}: has no column {cluster}; it has {', '.join(file.schema_arrow.names)}")
    scores = scores or (file.schema_arrow.metadata or {}).get(SCORES_KEY)
    known = _known(scores, where) if scores else None
    headline = known.headline if known else "score"
    ids = tuple(str(name) for name in _column(table, where, "id").to_pylist())
    if len(set(ids)) < len(ids):
        raise UserError(f"{where}: {len(ids) - len(set(ids))} ids are there more than once; samples pair up by id")
    above, below = _sums(table, where, headline)
    there = table.schema.names
    return Samples(
        task=known.task if known else task,
        headline=headline,
        higher_is_better=known.higher_is_better if known else True,
        ids=ids,
        prompts=tuple(table["prompt_hash"].to_pylist()) if "prompt_hash" in there else ids,
        above=above,
        below=below,
        clusters=_clusters(table, where, kind or (known.task if known else task), cluster),
        scores=known,
        correct=floats(table, where, "correct") if "correct" in there else None,
        predictions=tuple(table["prediction"].to_pylist()) if "prediction" in there else (),
    )


def _known(scores: bytes, where: str) -> Scores:
    try:
        return Scores.model_validate_json(scores)
    except ValidationError as error:
        raise UserError(
            f"{where}: the scores that belong to it are not as this version writes them; evaluate it again, or move "
            f"{SCORES_FILE} away"
        ) from error


def _column(table: pa.Table, where: str, name: str) -> pa.ChunkedArray:
    if name not in table.schema.names:
        raise UserError(f"{where}: has no column {name}; it has {', '.join(table.schema.names)}")
    return table[name]


def _sums(table: pa.Table, where: str, headline: str) -> tuple[Floats, Floats]:
    if headline in RATIOS:
        above, below = (floats(table, where, name) for name in RATIOS[headline])
        return above, below
    above = floats(table, where, "score" if "score" in table.schema.names else "correct")
    return above, np.ones_like(above)


def floats(table: pa.Table, where: str, name: str) -> Floats:
    """A column as numbers, NaN where one is missing. Raises UserError where it is not there, or holds no numbers."""
    column = _column(table, where, name)
    try:
        return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"{where}: column {name} holds {column.type} and no numbers; name one that does") from error


def _clusters(table: pa.Table, where: str, kind: str, asked: str | None) -> tuple[str, ...]:
    """Every sample's cluster: by the asked column, or by the task's own where that has several."""
    name = asked or CLUSTERS.get(kind)
    if name is None or (asked is None and name not in table.schema.names):
        return ()
    found = tuple(map(str, _column(table, where, name).to_pylist()))
    return found if asked or len(set(found)) > 1 else ()


def match_up(a: Samples, b: Samples, name: str = "", noise: float | None = None) -> Matchup:
    """Pair two subjects' samples of one task: the same id, the same prompt, a score on both sides.

    Raises:
        UserError: the two headlines are not the same, samples do not add up to the score published beside them, no
            sample pairs up, or a score is infinite.
    """
    if (a.headline, a.higher_is_better) != (b.headline, b.higher_is_better):
        raise UserError(f"{a.task}: A was scored by {a.headline} and B by {b.headline}; evaluate both the same way")
    for side, samples in (("A", a), ("B", b)):
        if samples.disagrees:
            raise UserError(f"{a.task}: {side}: {samples.disagrees}")
    of_a, of_b = shared(a, b)
    known = ~(np.isnan(a.above[of_a]) | np.isnan(b.above[of_b]))
    of_a, of_b = of_a[known], of_b[known]
    if not len(of_a):
        raise UserError(
            f"{a.task}: no sample of A has a scored partner in B with the same id and prompt; "
            "compare subjects that were asked the same questions"
        )
    if np.isinf(a.above[of_a]).any() or np.isinf(b.above[of_b]).any():
        raise UserError(f"{a.task}: a sample's score is infinite, so that no mean can be compared; leave it empty")
    pairs = Pairs(
        dense=Sums(b.above[of_b], b.below[of_b]),
        subject=Sums(a.above[of_a], a.below[of_a]),
        higher_is_better=a.higher_is_better,
        scale="log" if a.exponential else "linear",
    )
    units = pairs.by_cluster([a.clusters[i] for i in of_a]) if a.clusters else pairs
    if a.clusters and units.n < 2:
        raise UserError(f"{a.task}: all {pairs.n} samples lie in one cluster; cluster by a column with several values")
    left_out = len(set(a.ids) | set(b.ids)) - pairs.n
    return Matchup(name, a.task, a.headline, pairs, units, left_out, noise, (a.dtype, b.dtype))


Places = np.ndarray[tuple[int], np.dtype[np.int64]]


def shared(a: Samples, b: Samples) -> tuple[Places, Places]:
    """Where the samples that both were asked, by id and prompt, stand in each, in A's order."""
    if (a.ids, a.prompts) == (b.ids, b.prompts):
        every = np.arange(len(a.ids))
        return every, every
    found = [(place, b.places[key]) for key, place in a.places.items() if key in b.places]
    of_a, of_b = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return of_a, of_b
