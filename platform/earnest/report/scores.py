"""One evaluation's scores as lines to print: every metric with its interval, means by kind of token, and the counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from earnest.records import Estimate, Manifest, Part, Scores
from earnest.report.survey import spoken
from earnest.report.writing import GROUPINGS, place_of_kind

WIDTH = 22
NOTES = {
    "own_demonstration": "asked with another demonstration: one of theirs was the question itself",
    "equal_options": "with another option that says what the right one says: either counts as right",
}


def score_lines(scores: Scores) -> Iterator[str]:
    """The lines, from metrics to counts."""
    for name, estimate in scores.metrics.items():
        yield f"{_figure(name, estimate)}  n = {estimate.n}"
    for metric, groupings in scores.breakdowns.items():
        for grouping in (name for name in GROUPINGS if name in groupings):
            yield from _part_lines(f"{spoken(metric)}: {GROUPINGS[grouping].lower()}", groupings[grouping])
    yield from (f"{count} {NOTES.get(note, note)}" for note, count in scores.notes.items())
    counts = f"asked {scores.asked}, scored {scores.scored}, truncated {scores.truncated}, failed {scores.failed}"
    yield counts + (f", computed in {scores.dtype}" if scores.dtype else "")


def size_line(manifest: Manifest) -> str:
    """How large a checkpoint is, and in what it was computed and is stored."""
    size = manifest.size
    computed = f"computed in {manifest.compute_dtype}, " if manifest.compute_dtype else ""
    return (
        f"sparsity {size.sparsity:.4f}, {size.bits_per_weight:.3f} bits per weight, {size.saved:.1%} of the file saved "
        f"({size.saved_of_touched:.1%} of the touched weights), {computed}stored in {manifest.dtype}"
    )


def touched_line(manifest: Manifest) -> str:
    """Which matrices were compressed: how many, in which blocks, and what they are called."""
    names = [tensor.name.removesuffix(".weight") for tensor in manifest.tensors]
    blocks = dict.fromkeys(_block_of(name) for name in names)
    kinds = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
    return f"touched {len(names)} matrices of {len(blocks)} blocks, {_common(list(blocks))}: {kinds}"


def _block_of(name: str) -> str:
    """The name up to its first number: "model.layers.3" of "model.layers.3.mlp.up_proj"."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else name


def _common(blocks: list[str]) -> str:
    """What all blocks are called but for their number, as in "model.layers.*"."""
    return ", ".join(sorted({f"{block.rpartition('.')[0]}.*" for block in blocks}))


def _part_lines(title: str, parts: Mapping[str, Part]) -> Iterator[str]:
    yield title
    whole = sum(part.tokens for part in parts.values())
    for kind in sorted(parts, key=place_of_kind):
        yield f"{_figure(f'  {kind}', parts[kind].mean)}  {parts[kind].tokens / whole:.1%} of the tokens"


def _figure(name: str, estimate: Estimate) -> str:
    error = "" if estimate.stderr is None else f" ± {estimate.stderr:.4f}"
    error = "" if error.endswith(" 0.0000") else error  # all are alike: the interval tells what may be, and no spread
    wide = estimate.low is not None and estimate.high is not None and estimate.low < estimate.high
    interval = f"  [{estimate.low:.4f}, {estimate.high:.4f}]" if wide else ""
    return f"{name:<{WIDTH}} {estimate.value:.4f}{error}{interval}"
