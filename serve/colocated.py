"""All models of an ensemble in this process, and how many texts of what length they hold together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from earnest.decoding.distribution import end_tokens
from earnest.decoding.local import LocalMember
from earnest.decoding.members import Member
from earnest.models.loading import LoadedModel
from earnest.oneoff import open_subject
from earnest.specs import UserError
from serve.config import Batch, Config, Model


@dataclass(frozen=True)
class Placed:
    """Members ready to be read, the base's tokenizer and end tokens, and what must live as long as they do."""

    members: tuple[Member, ...]
    tokenizer: Any
    ends: frozenset[int]
    processes: tuple[Any, ...] = ()


def colocated(config: Config) -> Placed:
    """Load all models here, each on its own device.

    Raises:
        UserError: a model cannot be loaded, or `kv_bytes` hold no text.
    """
    loaded = {name: load_model(model) for name, model in config.models.items()}
    slots = room(config.batch, (model.max_length for model in loaded.values()))
    rows = fitting_rows(config.batch, lambda: sum(row_bytes(name, model, slots) for name, model in loaded.items()))
    members = tuple(LocalMember(name, model, rows=rows, slots=slots) for name, model in loaded.items())
    base = loaded[config.base]
    return Placed(members, base.tokenizer, end_tokens(base))


def load_model(model: Model) -> LoadedModel:
    """A model, or a compressed checkpoint, as its config says."""
    return open_subject(model.source, device=model.device, dtype=model.dtype)


def room(batch: Batch, lengths: Iterable[int]) -> int:
    """The most tokens of a text: what is asked for, as far as every model was made for it."""
    longest = min(lengths)
    return min(longest, batch.context or longest)


def row_bytes(name: str, loaded: LoadedModel, slots: int) -> int:
    """What one text takes in a model."""
    return LocalMember(name, loaded, rows=1, slots=slots).row_bytes


def fitting_rows(batch: Batch, bytes_of_row: Callable[[], int]) -> int:
    """How many texts the batch holds: what is asked for, as far as `kv_bytes` go.

    Raises:
        UserError: not even one.
    """
    if batch.kv_bytes is None:
        return batch.rows
    taken = bytes_of_row()
    rows = min(batch.rows, batch.kv_bytes // taken)
    if rows < 1:
        raise UserError(
            f"batch.kv_bytes {batch.kv_bytes} hold no text: one takes {taken} bytes in all models together; "
            "raise it, or lower batch.context"
        )
    return rows
