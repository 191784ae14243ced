"""Which files of a folder hold a split: SPLIT.parquet, or shards named as the hub names them, here or in `data/`."""

from __future__ import annotations

import re
from pathlib import Path

from earnest.specs import UserError

KINDS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
COMPRESSED = (".gz", ".zst")
READ = f"{', '.join(KINDS)}, all but Parquet also with {' or '.join(COMPRESSED)}"
SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]+)?$")


def kind_of(file: Path) -> str:
    """The kind of a file by its name, such as ".jsonl", compressed or not; "" if it is none that is read."""
    name = file.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    kind = Path(name).suffix
    return kind if kind in KINDS and not (kind == ".parquet" and name != file.name.lower()) else ""


def splits(path: str) -> list[str]:
    """The splits that a folder offers; empty for a single file."""
    folder = Path(path)
    return sorted(_offered(folder)) if folder.is_dir() else []


def split_files(path: str, split: str) -> list[Path] | None:
    """The files that hold a split, in order; a single file has one split. None where `datasets` must read the place.

    Raises:
        UserError: there is no such split, it stands in several forms, or one of its shards is missing.
    """
    place = Path(path)
    if place.is_file():
        if not kind_of(place):
            raise UserError(f"data {path}: {place.suffix or 'no suffix'} is not read; use {READ}")
        return [place]
    if not place.is_dir() or (place / "dataset_dict.json").exists() or (place / "state.json").exists():
        return None
    offered = _offered(place)
    if split not in offered:
        names = ", ".join(sorted(offered)) or f"no file of {READ}"
        raise UserError(f"data {path}: has no split {split!r}; it has {names}")
    forms = offered[split]
    if len(forms) > 1:
        names = " and ".join(sorted(str(files[0].relative_to(place)) for files in forms.values()))
        raise UserError(f"data {path}: split {split!r} stands there twice, as {names}; keep one, or name the file")
    files = next(iter(forms.values()))
    _check_whole(files)
    return files


def _offered(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """By split, then by form (where and of what kind): its files in order."""
    found: dict[str, dict[str, list[Path]]] = {}
    for home in (folder, folder / "data"):
        for file in sorted(home.iterdir()) if home.is_dir() else []:
            if file.is_file() and kind_of(file) and not file.name.startswith("."):
                stem = file.name[: file.name.lower().rindex(kind_of(file))]
                shard = SHARD.match(stem)
                split, form = (shard["split"], f"{home} shards of {shard['count']}") if shard else (stem, str(file))
                found.setdefault(split, {}).setdefault(form + file.suffix, []).append(file)
        for inner in sorted(home.iterdir()) if home.is_dir() else []:  # SPLIT/0000.parquet
            files = sorted(file for file in inner.glob("[0-9]*") if kind_of(file)) if inner.is_dir() else []
            if files:
                found.setdefault(inner.name, {})[str(inner)] = files
    return found


def _check_whole(files: list[Path]) -> None:
    """See that shards that say how many they are are all there."""
    shard = SHARD.match(files[0].name.partition(".")[0])
    if shard is None:
        return
    numbers = [int(match["number"]) for file in files if (match := SHARD.match(file.name.partition(".")[0]))]
    missing = sorted(set(range(int(shard["count"]))) - set(numbers))
    if missing:
        raise UserError(
            f"data {files[0].parent}: split {shard['split']!r} has {len(numbers)} of {int(shard['count'])} shards; "
            f"number {missing[0]:05d} is missing, fetch it"
        )
