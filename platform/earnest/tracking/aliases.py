"""Which checkpoint is the best of its size: the aliases of a registered model, such as `best-4bit` and `best-50pct`."""

from __future__ import annotations

from collections.abc import Iterable

from earnest.records import CellRecord


def best_aliases(cells: Iterable[CellRecord], task: str) -> dict[str, tuple[str, ...]]:
    """Cell key -> the aliases it wins: per bits, sparsity or pattern, the best score of one task; the first of equals.

    Steered cells, failed ones and those whose score means nothing win none.
    """
    best: dict[str, CellRecord] = {}
    for cell in cells:
        name = size_name(cell)
        scores = cell.scores.get(task)
        if name is None or scores is None or cell.steering or cell.failures or not scores.means_something:
            continue
        sign = 1 if scores.higher_is_better else -1
        if name not in best or sign * scores.main.value > sign * best[name].scores[task].main.value:
            best[name] = cell
    return {cell.key: (f"best-{name}",) for name, cell in best.items()}


def size_name(cell: CellRecord) -> str | None:
    """As in "4bit", "50pct", "2-4" or "50pct-4bit"; None for a model that is not compressed."""
    pattern = cell.method_spec.get("pattern") or {}
    parts = []
    if pattern.get("kind") == "n:m":
        parts.append(f"{pattern['n']}-{pattern['m']}")
    elif cell.nominal_sparsity is not None:
        parts.append(f"{100 * cell.nominal_sparsity:g}pct".replace(".", "_"))
    if cell.nominal_bits is not None:
        parts.append(f"{cell.nominal_bits}bit")
    return "-".join(parts) or None
