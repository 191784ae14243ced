"""Perplexity per token, word and byte, each token scored once; and KL(dense || subject) at evenly spread positions.

A document longer than the window is scored in consecutive windows with one token of context, the last window reaching
back so that it is full: lm-eval's rolling windows. The token that begins texts is context and is never scored. The
almanac's documents stand alone, as they did in training; a user's rows are joined by blank lines into one text.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earnest.almanac.corpus import corpus_text
from earnest.data import file_of, iterate_texts
from earnest.evaluation.engine import Engine, Predicted, Progress
from earnest.evaluation.nano import CORPUS_SEED, DOCUMENTS, NANO, shipped_world
from earnest.evaluation.samples import Measured, Sample, column, scored, unscored
from earnest.evaluation.token_kinds import Kinds, Told, groupings, parts, told_by
from earnest.evaluation.tokens import Request, prefix_token
from earnest.models.text_stream import StreamEncoder
from earnest.records import Estimate, Part
from earnest.specs import Perplexity, UserError
from earnest.statistics.intervals import exponential_estimate, ratio_estimate

Floats = NDArray[np.float64]

COMPARED = 16
"""So many positions' distributions are kept, or compared with the kept ones, at once."""


def measure(
    engine: Engine, spec: Perplexity, data: str, progress: Progress | None = None, reference: Path | None = None
) -> Measured:
    """Perplexities of a text; without `reference` also the log-probabilities that a later KL is taken against.

    Raises:
        UserError: the text has no token to score, or `reference` was made from other text or another vocabulary.
    """
    texts = [_Counted(text) for text in documents(spec, data)]
    length = min(spec.length, engine.max_length)
    windows = [window for text in texts for window in rolling(engine, text, length)]
    if not windows:
        raise UserError(f"perplexity: data {data} holds no token to score; give text that is not empty")
    tally = _Tally(windows, spec.kl_bytes // (4 * engine.loaded.vocabulary))
    kept = None if reference is None else read_reference(reference, tally)
    for predicted in engine.predictions(windows, progress):
        tally.take(predicted, kept)
        del predicted  # before the engine makes the next
    samples = _samples(tally, "document" if data == NANO else "window", kept is not None)
    kinds = groupings(engine.tokenizer, windows, _told(engine, list(map("".join, texts))) if data == NANO else ())
    metrics = _metrics(samples, texts)
    if kept is not None and len(tally.positions):
        known = scored(samples)
        metrics["kl_to_dense"] = ratio_estimate(column(known, "kl"), column(known, "kl_positions"), share=False)
    made = tally.reference() if kept is None else None
    return Measured(samples, metrics, token_perplexity, made, _breakdowns(tally, kinds, kept is not None))


def _told(engine: Engine, texts: Sequence[str]) -> list[Told]:
    """What every token of the almanac's documents tells; nothing where the tokenizer knows not where its tokens lie."""
    return told_by(engine.tokenizer, texts, shipped_world()) if engine.tokenizer.is_fast else []


def _breakdowns(tally: _Tally, kinds: Kinds, compared: bool) -> dict[str, dict[str, dict[str, Part]]]:
    """Nats per token by kind of token, and KL to dense per position by kind of the token that stands there."""
    found = {"nats_per_token": parts(tally.nats.numpy(), tally.window, kinds)}
    if compared and len(tally.positions):
        here = {name: [each[int(place)] for place in tally.positions] for name, each in kinds.items()}
        found["kl_to_dense"] = parts(tally.kl.numpy(), tally.window[tally.positions], here)
    return found


def reads(spec: Perplexity, data: str) -> list[tuple[str, list[str]]]:
    """The splits of a user's data that are read, each with its columns."""
    return [(spec.split, [spec.column])]


def items(spec: Perplexity, data: str) -> list[Iterable[str]]:
    """The texts, of which every row was read; a user's rows are one, so that what is known of a row is known of none.

    Raises:
        UserError: a row cannot be read.
    """
    deque(chain.from_iterable(documents(spec, data)), maxlen=0)
    return documents(spec, data)


def documents(spec: Perplexity, data: str) -> list[Iterable[str]]:
    """The texts to score, each on its own; a user's comes in pieces and can be read once."""
    if data == NANO:
        return [*corpus_text(shipped_world(), spec.limit or DOCUMENTS, CORPUS_SEED + spec.seed)]
    rows = iterate_texts(data, spec.split, spec.column, f"data {file_of(data, spec.split)}")
    return [_joined(islice(rows, spec.limit))]


def _joined(texts: Iterable[Iterable[str]]) -> Iterator[str]:
    """The pieces of one text, made of many that are joined by blank lines."""
    for number, pieces in enumerate(texts):
        if number:
            yield "\n\n"
        yield from pieces


class _Counted:
    """A text that comes in pieces, and how many words and bytes were read of it."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces = [pieces] if isinstance(pieces, str) else pieces
        self.words = self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        self.words = self.bytes = 0
        inside = False  # a word that the piece before ended in
        for piece in filter(None, self._pieces):
            self.words += len(piece.split()) - (inside and not piece[0].isspace())
            self.bytes += len(piece.encode())
            inside = not piece[-1].isspace()
            yield piece


def rolling(engine: Engine, text: Iterable[str], length: int) -> list[Request]:
    """Windows of at most `length` predicted tokens that together predict each token of `text` once."""
    one: dict[int, int] = {}  # one object for each token, however often it stands in the text
    tokens = chain.from_iterable(StreamEncoder(engine.tokenizer).encode(text))
    whole = (prefix_token(engine.tokenizer), *(one.setdefault(token, token) for token in tokens))
    windows = []
    for begin in range(1, len(whole), length):
        end = min(begin + length, len(whole))
        first = begin - 1 if end - begin == length else max(0, end - length - 1)
        windows.append(Request(whole[first:begin], whole[begin:end]))
    return windows


@dataclass(frozen=True)
class Reference:
    """Log-probabilities [positions, vocabulary] of the dense model, float32, on the CPU."""

    log_probs: Tensor


class _Tally:
    """Collects what is predicted: nats per token, and at `positions` the whole distribution or its divergence."""

    def __init__(self, windows: Sequence[Request], at_most: int) -> None:
        self.windows = windows
        self.starts = np.cumsum([0, *(len(window.continuation) for window in windows)])
        self.total = int(self.starts[-1])
        self.window = np.repeat(np.arange(len(windows)), np.diff(self.starts))
        count = min(self.total, at_most)
        self.positions = (
            (np.arange(count) * 2 + 1) * self.total // (2 * count) if count else np.zeros(0, dtype=np.int64)
        )
        self.targets = np.concatenate([window.continuation for window in windows])[self.positions]
        self.nats = torch.zeros(self.total, dtype=torch.float64)
        self.kl = torch.zeros(count, dtype=torch.float64)
        self._slots = torch.full((self.total,), -1, dtype=torch.int64)
        self._slots[torch.from_numpy(self.positions)] = torch.arange(count)
        self._log_probs: Tensor | None = None

    def take(self, predicted: Predicted, kept: Reference | None) -> None:
        """Note some predictions."""
        places = torch.from_numpy(self.starts)[predicted.request.cpu()] + predicted.offset.cpu()
        self.nats[places] = -predicted.target_log_probs().cpu().double()
        slots = self._slots[places]
        wanted = slots >= 0
        rows = predicted.place[wanted.to(predicted.place.device)]
        parts = -(-len(rows) // COMPARED) or 1  # of like size: never one row apart, whose sum would round otherwise
        for some, slot in zip(rows.tensor_split(parts), slots[wanted].tensor_split(parts), strict=True):
            found = predicted.log_probs[some]  # [some, vocabulary]
            if kept is None:
                self._keep(slot, found.cpu())
            else:
                dense = kept.log_probs[slot].to(found.device)
                self.kl[slot] = divergence(dense, found).cpu().double()

    def _keep(self, slots: Tensor, log_probs: Tensor) -> None:
        if self._log_probs is None:
            self._log_probs = torch.empty(len(self.positions), log_probs.shape[-1])
        self._log_probs[slots] = log_probs

    def reference(self) -> dict[str, Tensor] | None:
        """What a later run compares itself with; None where no position was asked for."""
        if self._log_probs is None or not len(self.positions):
            return None
        return {
            "log_probs": self._log_probs,
            "positions": torch.from_numpy(self.positions),
            "targets": torch.from_numpy(self.targets),
        }

    def per_window(self, values: Tensor) -> Iterator[Tensor]:
        """`values` [tokens] cut into windows."""
        return iter(torch.tensor_split(values, torch.from_numpy(self.starts[1:-1])))

    def kl_per_window(self) -> tuple[Floats, NDArray[np.int64]]:
        """The sum of KL and the number of positions in each window."""
        window = self.window[self.positions]
        count = np.bincount(window, minlength=len(self.windows))
        return np.bincount(window, weights=self.kl.numpy(), minlength=len(self.windows)).astype(np.float64), count


def divergence(dense: Tensor, subject: Tensor) -> Tensor:
    """KL(dense || subject) [positions] of log-probabilities [positions, dense head] and [positions, subject's head].

    What an ensemble can never say, because it is no token or some model's head has no row for it, is at -inf in the
    subject and left out of both.
    """
    subject = subject[:, : dense.shape[-1]]
    impossible = subject.isneginf()
    if bool(impossible.any()):
        dense = dense.masked_fill(impossible, -torch.inf).log_softmax(-1)
        return (dense.exp() * (dense - subject)).masked_fill(impossible, 0.0).sum(-1)
    return (dense.exp() * (dense - subject)).sum(-1)


def read_reference(path: Path, tally: _Tally) -> Reference:
    """The dense model's log-probabilities, proved to be about the same tokens.

    Raises:
        UserError: they are about other tokens.
    """
    from safetensors.torch import load_file

    tensors = load_file(path)
    same = [
        np.array_equal(tensors[name], mine)
        for name, mine in (("positions", tally.positions), ("targets", tally.targets))
    ]
    if not all(same):
        raise UserError(
            f"perplexity: the reference {path} was made from other text or tokens; evaluate the dense model again"
        )
    return Reference(tensors["log_probs"])


def _samples(tally: _Tally, kind: str, compared: bool) -> list[Sample]:
    sums, counts = tally.kl_per_window()
    made = []
    for i, (window, nats) in enumerate(zip(tally.windows, tally.per_window(tally.nats), strict=True)):
        more: dict[str, bool | int | float | str | None] = {"nats": float(nats.sum()), "tokens": len(nats)}
        if compared:
            more |= {"kl": float(sums[i]), "kl_positions": int(counts[i])}
        prompt = " ".join(map(str, (*window.context, *window.continuation)))
        sample = Sample(f"{kind}-{i:05d}", prompt, score=float(nats.mean().exp()), more=more)
        made.append(sample if math.isfinite(float(nats.sum()) + sums[i]) else unscored(sample))
    return made


def token_perplexity(samples: Sequence[Sample]) -> Estimate:
    """exp(nats per token) over all windows, which are its units."""
    return exponential_estimate(np.array(column(samples, "nats")), np.array(column(samples, "tokens")))


def _metrics(samples: Sequence[Sample], texts: Sequence[_Counted]) -> dict[str, Estimate]:
    token = token_perplexity(scored(samples))
    tokens = sum(column(samples, "tokens"))
    words, size = sum(text.words for text in texts), sum(text.bytes for text in texts)
    return {
        "token_perplexity": token,
        "word_perplexity": _per(token, tokens / max(words, 1)),
        "byte_perplexity": _per(token, tokens / size),
    }


def _per(token: Estimate, tokens: float) -> Estimate:
    """Perplexity of a unit of so many `tokens` on average: the same nats over another count of the same text."""
    value = token.value**tokens
    # d(p^k) = k p^(k-1) dp
    stderr = None if token.stderr is None else tokens * value / token.value * token.stderr
    low, high = (None if end is None else end**tokens for end in (token.low, token.high))
    return Estimate(value=value, stderr=stderr, low=low, high=high, n=token.n)
