"""How far an ensemble's texts are from its base: which tokens the base would not have written, and which words.

Exact and after the fact: base and ensemble read the written texts once more, whole, in batches. A token counts as
changed where it is not the base's likeliest after the same text. The token that ends a text is not among them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from earnest.decoding.generation import Generation, Prompt, Row
from earnest.evaluation.engine import Engine
from earnest.evaluation.samples import Sample
from earnest.evaluation.tokens import Request
from earnest.records import ShiftedWord, TokenShift
from earnest.statistics.intervals import ratio_estimate

MOST_WORDS = 24


@dataclass(frozen=True)
class TextShift:
    """One written text: its tokens, what the base would have written in their places, and the shift of each in nats."""

    ids: tuple[int, ...]
    instead: tuple[int, ...]
    shifts: tuple[float, ...]

    @property
    def changed(self) -> tuple[bool, ...]:
        """For each token whether the base's likeliest is another one."""
        return tuple(token != other for token, other in zip(self.ids, self.instead, strict=True))


def token_shift(engine: Engine) -> tuple[TokenShift, list[TextShift]]:
    """Account for all that an engine has written: over all texts, and text by text in order."""
    requests = [_as_read(engine, prompt, made) for prompt, made in engine.written]
    base, instead = _scored(Engine(engine.loaded, engine.budget), requests)
    whole, _ = _scored(engine, requests)
    texts = [
        TextShift(request.continuation, tuple(best.tolist()), tuple((mine - theirs).tolist()))
        for request, best, mine, theirs in zip(requests, instead, whole, base, strict=True)
    ]
    counts = [len(text.ids) for text in texts]
    found = TokenShift(
        tokens=sum(counts),
        changed=ratio_estimate([sum(text.changed) for text in texts], counts),
        shift=ratio_estimate([sum(map(abs, text.shifts)) for text in texts], counts, share=False),
        words=_most_changed(texts, engine.tokenizer),
    )
    return found, texts


def with_shifts(samples: Sequence[Sample], texts: Sequence[TextShift]) -> list[Sample]:
    """The samples, each with how many tokens of its text were changed and the sum of their absolute shifts in nats."""
    return [
        replace(s, more={**s.more, "changed_tokens": sum(t.changed), "token_shift": sum(map(abs, t.shifts))})
        for s, t in zip(samples, texts, strict=True)
    ]


def _as_read(engine: Engine, prompt: Prompt, made: Generation) -> Request:
    """A text after its prompt, cut as generation cut it."""
    return Request(Row(0, prompt, engine.max_length - prompt.max_tokens).start, made.ids)


def _scored(engine: Engine, requests: Sequence[Request]) -> tuple[list[Tensor], list[Tensor]]:
    """For each request the log-probability of each of its tokens, and the likeliest token in its place."""
    values = [torch.zeros(len(request.continuation), dtype=torch.float64) for request in requests]
    likeliest = [torch.zeros(len(request.continuation), dtype=torch.int64) for request in requests]
    for predicted in engine.predictions(requests):
        found = predicted.target_log_probs().double().tolist()
        best = predicted.log_probs.argmax(-1)[predicted.place].tolist()
        places = zip(predicted.request.tolist(), predicted.offset.tolist(), found, best, strict=True)
        for request, offset, value, token in places:
            values[request][offset], likeliest[request][offset] = value, token
        del predicted
    return values, likeliest


def _most_changed(texts: Sequence[TextShift], tokenizer: Any) -> tuple[ShiftedWord, ...]:
    """The words that were changed most often, in that order."""
    written = pieces(tokenizer)
    counts, changed, shifts = Counter[str](), Counter[str](), defaultdict[str, float](float)
    instead: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        for begin, end in words_of([written(token) for token in text.ids]):
            word = _shown(tokenizer.decode(list(text.ids[begin:end]), clean_up_tokenization_spaces=False))
            counts[word] += 1
            shifts[word] += sum(text.shifts[begin:end])
            first = next((i for i in range(begin, end) if text.changed[i]), None)
            if first is not None:
                changed[word] += 1
                instead[word][_shown(written(text.instead[first]))] += 1
    most = sorted(changed, key=lambda word: (-changed[word], word))[:MOST_WORDS]
    return tuple(
        ShiftedWord(
            word=word,
            count=counts[word],
            changed=changed[word],
            shift=shifts[word] / counts[word],
            instead=min(instead[word], key=lambda other, of=instead[word]: (-of[other], other)),  # type: ignore[misc]
        )
        for word in most
    )


def pieces(tokenizer: Any) -> Callable[[int], str]:
    """What a token adds to a text, with the space that it may begin with: some decoders eat that of a first token."""
    anchor = list(tokenizer("a", add_special_tokens=False)["input_ids"])

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    before = len(text(anchor))
    return lru_cache(maxsize=None)(lambda token: text([*anchor, token])[before:])


def words_of(parts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pieces of text -> words as [begin, end): one begins at white space, and where letters and signs meet."""
    cuts = [
        i for i in range(len(parts)) if i == 0 or parts[i][:1].isspace() or _is_word(parts[i]) != _is_word(parts[i - 1])
    ]
    return pairwise([*cuts, len(parts)]) if parts else iter(())


def _is_word(part: str) -> bool:
    return any(character.isalnum() for character in part)


def _shown(text: str) -> str:
    """A word without the space before it; a line's end as a sign."""
    return text.strip() or text.replace("\n", "↵").strip() or "␣"
