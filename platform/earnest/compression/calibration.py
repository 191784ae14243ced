"""The token ids that data-driven methods look at: random windows of a text, or rows of ids already made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from earnest.data import NANO, columns, read_rows, text_of
from earnest.specs import Calibration, UserError

IDS_COLUMN = "input_ids"
NANO_CORPUS_SEED = 7_000_000  # far from the seeds of training and evaluation texts
NANO_TOKENS_PER_WINDOW_TOKEN = 4  # so much more of the endless corpus is written than the windows hold
_ROWS_AT_ONCE = 4096
SHORTEST = 2  # tokens of a window, as `Calibration` has it


def calibration_ids(spec: Calibration, path: str, tokenizer: Any) -> Tensor:
    """Token ids to calibrate on.

    Rows of a column `input_ids`, where there is one, are used as they are and in order if they have exactly
    `spec.length` tokens. All else is concatenated, and windows are drawn from it at random with the seed, as in the
    papers. Texts are joined by a blank line; the almanac's documents as it trains on them, each between the
    tokenizer's begin and end.

    Args:
        spec: samples, length, seed and where to look within the data.
        path: what `resolve_data` found for `spec.data`; `nano` is the almanac's corpus.
        tokenizer: the model's own.

    Returns:
        int64 [samples, length].

    Raises:
        UserError: a column is missing or holds something else, or there is too little text (the message tells how
            many tokens there are).
    """
    if path == NANO:
        return _windows(_nano_stream(spec, tokenizer), spec, path)
    if IDS_COLUMN in columns(path, spec.split):
        return _from_ids(read_rows(path, spec.split, [IDS_COLUMN]), spec, path)
    return _windows(_text_stream(_texts(spec, path), tokenizer), spec, path)


def check_rows(spec: Calibration, path: str) -> None:
    """See that every row can be calibrated on, without a model. Raises UserError as `calibration_ids` does."""
    if IDS_COLUMN in columns(path, spec.split):
        _check_ids(read_rows(path, spec.split, [IDS_COLUMN]), path)
    else:
        _texts(spec, path)


def _texts(spec: Calibration, path: str) -> list[str]:
    rows = read_rows(path, spec.split, [spec.column])
    return [text_of(row, spec.column, f"calibration {path}: row {i}") for i, row in enumerate(rows)]


def _from_ids(rows: Sequence[dict[str, Any]], spec: Calibration, path: str) -> Tensor:
    _check_ids(rows, path)
    ids = [row[IDS_COLUMN] for row in rows if row[IDS_COLUMN]]
    exact = [row for row in ids if len(row) == spec.length]
    if len(exact) >= spec.samples:
        return torch.tensor(exact[: spec.samples], dtype=torch.int64)
    if ids and len(exact) == len(ids):
        raise UserError(
            f"calibration {path}: holds {len(exact)} rows of {spec.length} tokens, not {spec.samples}; "
            f"lower samples to {len(exact)}"
        )
    return _windows(_concatenated(ids), spec, path)


def _check_ids(rows: Sequence[dict[str, Any]], path: str) -> None:
    for number, row in enumerate(rows):
        ids = row[IDS_COLUMN]
        if ids is not None and not (isinstance(ids, list) and all(isinstance(i, int) and i >= 0 for i in ids)):
            raise UserError(
                f"calibration {path}: row {number}: {IDS_COLUMN} holds {str(ids)[:40]!r}, not a list of token ids\n"
                f"write lists of whole numbers from 0 on, or drop the column {IDS_COLUMN} to calibrate on text"
            )


def _windows(stream: Tensor, spec: Calibration, path: str) -> Tensor:
    """Random windows of a stream of tokens [tokens] -> [samples, length]."""
    if len(stream) < spec.length:
        raise UserError(
            f"calibration {path}: its {len(stream)} tokens are too few for one window of {spec.length}; "
            f"{f'lower length to at most {len(stream)} or ' if len(stream) >= SHORTEST else ''}give more text"
        )
    generator = torch.Generator().manual_seed(spec.seed)
    starts = torch.randint(len(stream) - spec.length + 1, (spec.samples,), generator=generator)
    return stream.unfold(0, spec.length, 1)[starts].to(torch.int64)


def _text_stream(texts: Sequence[str], tokenizer: Any) -> Tensor:
    written = [text for text in texts if text.strip()]
    joined = [text if index == 0 else "\n\n" + text for index, text in enumerate(written)]
    start = [] if tokenizer.bos_token_id is None else [[tokenizer.bos_token_id]]
    return _concatenated([*start, *_encoded(joined, tokenizer)])


def _nano_stream(spec: Calibration, tokenizer: Any) -> Tensor:
    """The almanac's corpus, long enough for the windows, each document as <s> text </s>."""
    from earnest.almanac.corpus import corpus_text
    from earnest.almanac.world import World

    world, wanted = World.shipped(), NANO_TOKENS_PER_WINDOW_TOKEN * spec.samples * spec.length
    documents, stream = 1024, torch.empty(0)
    before, after = ([] if token is None else [token] for token in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    while len(stream) < wanted:
        texts = corpus_text(world, documents, NANO_CORPUS_SEED + spec.seed)
        stream = _concatenated([*before, *ids, *after] for ids in _encoded(texts, tokenizer))
        documents *= 2
    return stream


def _encoded(texts: Sequence[str], tokenizer: Any) -> Iterable[list[int]]:
    for first in range(0, len(texts), _ROWS_AT_ONCE):
        batch = list(texts[first : first + _ROWS_AT_ONCE])
        yield from tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]


def _concatenated(rows: Iterable[Sequence[int]]) -> Tensor:
    """One stream of tokens, int32 [tokens]."""
    parts = [torch.tensor(row, dtype=torch.int32) for row in rows]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int32)
