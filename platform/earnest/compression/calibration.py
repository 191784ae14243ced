"""The token ids that data-driven methods look at: random windows of a text, or rows of ids already made."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import chain
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earnest.data import NANO, columns, iterate_rows, iterate_texts
from earnest.models.text_stream import StreamEncoder
from earnest.specs import Calibration, UserError

IDS_COLUMN = "input_ids"
NANO_CORPUS_SEED = 7_000_000  # far from the seeds of training and evaluation texts
NANO_TOKENS_PER_WINDOW_TOKEN = 4  # so much more of the endless corpus is written than the windows hold
IN_MEMORY = 2**24  # bytes of a stream of tokens
TOKEN_BYTES = array("i").itemsize
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
        return _from_ids(spec, path)
    return _windows(_text_stream(_texts(spec, path), tokenizer), spec, path)


def check_rows(spec: Calibration, path: str) -> None:
    """See that every row can be calibrated on, without a model. Raises UserError as `calibration_ids` does."""
    if IDS_COLUMN in columns(path, spec.split):
        deque(_id_rows(spec, path), maxlen=0)
    else:
        deque(chain.from_iterable(_texts(spec, path)), maxlen=0)


def _texts(spec: Calibration, path: str) -> Iterator[Iterable[str]]:
    """The text of each row, in pieces."""
    return iterate_texts(path, spec.split, spec.column, f"calibration {path}")


def _from_ids(spec: Calibration, path: str) -> Tensor:
    exact: list[array[int]] = []
    lengths: Counter[int] = Counter()

    def noted() -> Iterator[array[int]]:
        for ids in _id_rows(spec, path):
            lengths[len(ids)] += 1
            if len(ids) == spec.length and len(exact) < spec.samples:
                exact.append(ids)
            yield ids

    with _Stream(noted()) as stream:
        if len(exact) == spec.samples:
            return torch.tensor([ids.tolist() for ids in exact], dtype=torch.int64)
        if set(lengths) == {spec.length}:
            raise UserError(
                f"calibration {path}: holds {len(exact)} rows of {spec.length} tokens, not {spec.samples}; "
                f"lower samples to {len(exact)}"
            )
        return _drawn(stream, spec, path)


def _id_rows(spec: Calibration, path: str) -> Iterator[array[int]]:
    """The rows of token ids that are there. Raises UserError where one holds something else."""
    for number, row in enumerate(iterate_rows(path, spec.split, [IDS_COLUMN])):
        ids = row[IDS_COLUMN]
        if ids is not None and not (isinstance(ids, list) and all(isinstance(i, int) and i >= 0 for i in ids)):
            raise UserError(
                f"calibration {path}: row {number}: {IDS_COLUMN} holds {str(ids)[:40]!r}, not a list of token ids\n"
                f"write lists of whole numbers from 0 on, or drop the column {IDS_COLUMN} to calibrate on text"
            )
        if ids:
            yield array("i", ids)


class _Stream:
    """A stream of tokens, of which more than some is kept on disk; to be closed."""

    def __init__(self, parts: Iterable[array[int]]) -> None:
        self._file = SpooledTemporaryFile(max_size=IN_MEMORY, prefix="earnest-")  # noqa: SIM115 -- closed with this
        self.tokens = 0
        for part in parts:
            self._file.write(part.tobytes())
            self.tokens += len(part)

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def window(self, start: int, length: int) -> Tensor:
        """Some consecutive tokens, int64 [length]."""
        self._file.seek(start * TOKEN_BYTES)
        return torch.from_numpy(np.frombuffer(self._file.read(length * TOKEN_BYTES), np.intc).astype(np.int64))


def _windows(parts: Iterable[array[int]], spec: Calibration, path: str) -> Tensor:
    """Random windows of a stream of tokens that comes in parts -> [samples, length]."""
    with _Stream(parts) as stream:
        return _drawn(stream, spec, path)


def _drawn(stream: _Stream, spec: Calibration, path: str) -> Tensor:
    if stream.tokens < spec.length:
        raise UserError(
            f"calibration {path}: its {stream.tokens} tokens are too few for one window of {spec.length}; "
            f"{f'lower length to at most {stream.tokens} or ' if stream.tokens >= SHORTEST else ''}give more text"
        )
    generator = torch.Generator().manual_seed(spec.seed)
    starts = torch.randint(stream.tokens - spec.length + 1, (spec.samples,), generator=generator)
    return torch.stack([stream.window(start, spec.length) for start in starts.tolist()])


def _text_stream(texts: Iterable[Iterable[str]], tokenizer: Any) -> Iterator[array[int]]:
    """The ids of texts that are joined by blank lines, after the token that begins texts."""
    if tokenizer.bos_token_id is not None:
        yield array("i", [tokenizer.bos_token_id])
    yield from StreamEncoder(tokenizer).encode_all(_joined(texts))


def _joined(texts: Iterable[Iterable[str]]) -> Iterator[Iterable[str]]:
    """Each text that says something, those after the first behind a blank line."""
    first = True
    for pieces in texts:
        text = iter(pieces)
        begin = list[str]()
        for piece in text:
            begin.append(piece)
            if piece.strip():
                yield chain(begin if first else ["\n\n", *begin], text)
                first = False
                break


def _nano_stream(spec: Calibration, tokenizer: Any) -> Iterator[array[int]]:
    """The almanac's corpus, long enough for the windows, each document as <s> text </s>."""
    from earnest.almanac.corpus import corpus_text
    from earnest.almanac.world import World

    world, wanted = World.shipped(), NANO_TOKENS_PER_WINDOW_TOKEN * spec.samples * spec.length
    documents = 1024
    stream: list[array[int]] = []
    before, after = ([] if token is None else [token] for token in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    while sum(map(len, stream)) < wanted:
        texts = corpus_text(world, documents, NANO_CORPUS_SEED + spec.seed)
        ids = StreamEncoder(tokenizer).encode_all((text,) for text in texts)
        stream = [array("i", [*before, *document, *after]) for document in ids]
        documents *= 2
    yield from stream
