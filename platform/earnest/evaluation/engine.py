"""The engine: log-likelihoods of continuations, and generation, in batches that do not show in the results.

What requests have in common is read once (`prefixes`), batches hold rows of like length within a budget of tokens, and
the output head runs only where a continuation's token is predicted. Prompts, answers and scores belong to the tasks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earnest.decoding.generation import Generation, Prompt, continue_prompts
from earnest.decoding.sampling import TOLD
from earnest.evaluation.prefixes import Segment, Tokens, forest
from earnest.evaluation.scoring import Pasts, Readers, Subject
from earnest.evaluation.tokens import Request
from earnest.models.loading import LoadedModel, return_freed_memory

HEAD_ELEMENTS, CPU_HEAD_ELEMENTS, LEAST_POSITIONS = 2**25, 3 * 2**21, 96
"""Of the logits that are there at once; but so many positions at least, for which the head's weights are read once."""
CPU_SCORING = 2_048
LARGE_FAMILY = 256

Progress = Callable[[int, int], None]
Question = TypeVar("Question")


@dataclass(frozen=True)
class LogLikelihood:
    """The log-probability of a continuation after its context, in nats.

    `greedy`: each of its tokens was the likeliest; `cut`: how many context tokens were left out.
    `value` is None where the continuation is empty, or alone longer than the model allows, or where the model's logits
    are not finite; `finite` tells the last from the others.
    """

    value: float | None
    greedy: bool
    cut: int
    finite: bool = True


@dataclass(frozen=True)
class Predicted:
    """Some predictions of a batch.

    `request` and `offset` say of which continuation which token was predicted; `place` is its row in `log_probs`
    [positions, vocabulary], float32 on the model's device; `target` is the token.
    """

    request: Tensor  # [n]
    offset: Tensor  # [n]
    target: Tensor  # [n]
    place: Tensor  # [n]
    log_probs: Tensor  # [positions, vocabulary]

    def target_log_probs(self) -> Tensor:
        """The log-probability of each target [n], in nats."""
        return self.log_probs[self.place, self.target]


@dataclass(frozen=True)
class _Need:
    """Within one segment: tokens from `first` on predict `targets`, the continuation of `request` from `offset` on."""

    request: int
    first: int
    offset: int
    targets: Tokens


class Engine:
    """A model or an ensemble as an examinee: log-likelihoods of continuations and greedy generation.

    `budget` bounds the tokens of a batch, padding and past included; by default it follows the device's memory, and
    scoring on a CPU takes less, because what fits its caches is faster. Results do not depend on the budget beyond
    rounding. `loaded` is the subject's base, or the subject itself; `written` is all that was generated so far;
    `speakers` are the base and the models that steer it, which may read prompts in forms of their own.
    """

    speakers: tuple[LoadedModel, ...] = ()

    def __init__(self, subject: Subject, budget: int | None = None) -> None:
        self.readers = Readers(subject)
        self.loaded = self.readers.base
        self.distribution = self.readers.distribution
        self.speakers = self.readers.speakers
        self.tokenizer = self.loaded.tokenizer
        self.max_length = self.distribution.max_length
        self.budget = budget or self.distribution.budget
        self.scoring_budget = min(self.budget, CPU_SCORING) if self.readers.device.type == "cpu" else self.budget
        self.written: list[tuple[Prompt, Generation]] = []
        self.notes: Counter[str] = Counter()
        self._forwarded_before = self.readers.tokens_forwarded

    @property
    def tokens_forwarded(self) -> int:
        """How many tokens the models have read for this engine, together, padding not counted."""
        return self.readers.tokens_forwarded - self._forwarded_before

    def posed(self, items: Sequence[Question]) -> list[Question]:
        """Which of a task's items are asked, and in which order: all as they come (`sequential` asks some).

        What they note of themselves is counted.
        """
        self.notes = Counter(note for item in items for note in getattr(item, "notes", ()))
        return list(items)

    def generate(self, prompts: Sequence[Prompt], progress: Progress | None = None) -> list[Generation]:
        """Greedy continuations of `prompts`, in order; of greedy ones the log-probability of each token is known."""
        asked = [replace(prompt, sampling=TOLD) if prompt.sampling.plain else prompt for prompt in prompts]
        made = continue_prompts(self.distribution, asked, self.budget, progress)
        self.written += zip(prompts, made, strict=True)
        return made

    def log_likelihoods(self, requests: Sequence[Request], progress: Progress | None = None) -> list[LogLikelihood]:
        """The log-likelihood of each request's continuation; contexts too long are cut from the left."""
        sums = torch.zeros(len(requests), dtype=torch.float64)
        misses = torch.zeros(len(requests), dtype=torch.int64)
        for predicted in self.predictions(requests, progress):
            request = predicted.request.cpu()
            sums.index_add_(0, request, predicted.target_log_probs().cpu().double())
            best = predicted.log_probs.argmax(-1)[predicted.place]
            misses.index_add_(0, request, (best != predicted.target).cpu().long())
            del predicted
        return [
            self._log_likelihood(request, value, missed)
            for request, value, missed in zip(requests, sums.tolist(), misses.tolist(), strict=True)
        ]

    def _log_likelihood(self, request: Request, value: float, missed: int) -> LogLikelihood:
        finite = math.isfinite(value)
        known = finite and self._fits(request)
        return LogLikelihood(value if known else None, known and missed == 0, self._cut(request), finite)

    def predictions(self, requests: Sequence[Request], progress: Progress | None = None) -> Iterator[Predicted]:
        """Every prediction that `requests` ask for, batch by batch in an order that suits the machine.

        Requests whose continuation is empty or alone too long for the model are left out. `progress` hears how many
        predictions are done and how many there are.
        """
        return_freed_memory()  # by what made the requests: logits are larger than what was freed
        rows, asked = self._rows(requests)
        roots = self._roots(list(rows))
        needs = _needs(roots, asked)
        done, whole = 0, sum(len(need.targets) for wanted in needs.values() for need in wanted)
        for predicted in self._visit(roots, needs, None, [0] * len(roots)):
            done += len(predicted.request)
            yield predicted
            del predicted  # before the next are made, which are as large
            if progress is not None:
                progress(done, whole)
        return_freed_memory()

    def _roots(self, rows: Sequence[Tokens]) -> list[Segment]:
        """What is read, sharing beginnings where a past can be kept, of texts that lie beyond no switch of a rope."""
        short = self.readers.side(1)
        shared = [i for i, row in enumerate(rows) if self.readers.cached and self.readers.side(len(row)) == short]
        alone = set(range(len(rows))).difference(shared)
        return [*forest(rows, among=shared), *(Segment(rows[i], 0, [i]) for i in sorted(alone))]

    def _fits(self, request: Request) -> bool:
        return 0 < len(request.continuation) <= self.max_length

    def _cut(self, request: Request) -> int:
        return max(0, len(request.context) + len(request.continuation) - self.max_length - 1)

    def _rows(self, requests: Sequence[Request]) -> tuple[dict[Tokens, int], list[list[tuple[int, int, Tokens]]]]:
        """The different inputs, and for each what is asked of it: (request, position of the first prediction, targets).

        The last token of a continuation is not read, so one-token continuations of a context share its row; only where
        the text with it is read otherwise than without (`decoding.rope`), the text is read to its end.
        """
        rows: dict[Tokens, int] = {}
        asked: list[list[tuple[int, int, Tokens]]] = []
        for number, request in enumerate(requests):
            if not self._fits(request):
                continue
            whole = (request.context + request.continuation)[-(self.max_length + 1) :]
            tokens = whole[: self._read(len(whole))]
            row = rows.setdefault(tokens, len(rows))
            if row == len(asked):
                asked.append([])
            asked[row].append((number, len(whole) - 1 - len(request.continuation), request.continuation))
        return rows, asked

    def _read(self, length: int) -> int:
        """How many tokens are read of a text whose last one is only predicted."""
        alike = length > self.max_length or self.readers.side(length) == self.readers.side(length - 1)
        return length - 1 if alike else length

    def _visit(
        self, segments: Sequence[Segment], needs: dict[int, list[_Need]], past: Pasts | None, owners: Sequence[int]
    ) -> Iterator[Predicted]:
        """Read `segments` after the rows `owners` of `past`, then their children, depth first."""
        lengths = [len(segment.tokens) for segment in segments]
        for batch in batches(lengths, self.scoring_budget, 0 if past is None else past.slots):
            chosen = [segments[i] for i in batch]
            parents = None if past is None else past.rows([owners[i] for i in batch])
            keep = any(segment.children for segment in chosen)
            hidden, after = self.readers.extend([s.tokens for s in chosen], parents, keep)
            wanted = [needs.get(id(segment), []) for segment in chosen]
            yield from self._predict(hidden, lengths[batch[-1]], wanted)
            if after is not None:
                for children, rows in self._families(chosen):
                    own = self.readers.shares and len(set(rows)) == 1
                    shared = after.rows(rows) if own else after
                    yield from self._visit(children, needs, shared, range(len(rows)) if own else rows)

    def _families(self, segments: Sequence[Segment]) -> Iterator[tuple[list[Segment], list[int]]]:
        """The children of some segments, each with its parent's row: large families by themselves, the rest together.

        Where rows can share a past, a family's is read by all of it at once and copied to none.
        """
        rest: list[tuple[Segment, int]] = []
        for row, segment in enumerate(segments):
            tokens = sum(len(child.tokens) for child in segment.children)
            if self.readers.shares and len(segment.children) > 1 and tokens >= LARGE_FAMILY:
                yield segment.children, [row] * len(segment.children)
            else:
                rest += [(child, row) for child in segment.children]
        if rest:
            yield [child for child, _ in rest], [row for _, row in rest]

    @torch.inference_mode()
    def _predict(self, hidden: Sequence[Tensor], width: int, needs: Sequence[Sequence[_Need]]) -> Iterator[Predicted]:
        """The heads on the positions that are needed, each once, some at a time."""
        parts = [
            (
                np.arange(len(n.targets)) + row * width + n.first,
                n.request,
                np.arange(len(n.targets)) + n.offset,
                n.targets,
            )
            for row, wanted in enumerate(needs)
            for n in wanted
        ]
        if not parts:
            return
        places, index = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
        request = np.repeat([part[1] for part in parts], [len(part[0]) for part in parts])
        offset, target = np.concatenate([part[2] for part in parts]), np.concatenate([part[3] for part in parts])
        begin = 0
        for some in np.array_split(places, -(-len(places) // self._positions_at_once())):
            log_probs = self.readers.log_probs(hidden, torch.from_numpy(some))
            inside = (index >= begin) & (index < begin + len(some))
            columns = (request[inside], offset[inside], target[inside], index[inside] - begin)
            requests, offsets, targets, at = (_on(log_probs.device, column) for column in columns)
            begin += len(some)
            yield Predicted(requests, offsets, targets, at, log_probs)
            del log_probs

    def _positions_at_once(self) -> int:
        values = self.loaded.vocabulary * len(self.readers.forwards)  # of each position
        if self.readers.device.type == "cpu":
            return max(LEAST_POSITIONS, CPU_HEAD_ELEMENTS // values)
        return max(1, HEAD_ELEMENTS // values)


def _on(device: torch.device, values: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(device)


def batches(lengths: Sequence[int], budget: int, past: int = 0) -> Iterator[list[int]]:
    """Indices of rows in batches of like length: rows × (past + longest) stays within `budget`, or the row is alone."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) + 1) * (past + lengths[i]) > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _needs(roots: Sequence[Segment], asked: Sequence[Sequence[tuple[int, int, Tokens]]]) -> dict[int, list[_Need]]:
    """What is needed of each segment, by the segment's id: a continuation may begin in one and end in a child."""
    needs: dict[int, list[_Need]] = {}

    def walk(segment: Segment, path: list[Segment]) -> None:
        path = [*path, segment]
        for row in segment.ends:
            for request, first, targets in asked[row]:
                for part in path:
                    _split(part, request, first, targets, needs)
        for child in segment.children:
            walk(child, path)

    for root in roots:
        walk(root, [])
    return needs


def _split(part: Segment, request: int, first: int, targets: Tokens, needs: dict[int, list[_Need]]) -> None:
    low, high = max(first, part.start), min(first + len(targets), part.stop)
    if low < high:
        need = _Need(request, low - part.start, low - first, targets[low - first : high - first])
        needs.setdefault(id(part), []).append(need)
