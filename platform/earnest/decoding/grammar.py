"""Which tokens a grammar allows next: JSON in general, or JSON of a schema, whatever the tokenizer.

llguidance (https://github.com/guidance-ai/llguidance) compiles the grammar and follows the text; its masks are laid on
the logits that tokens are chosen from, an ensemble's combined ones. A guide may be asked about any continuation of its
text, and goes back where that parts from what it was asked before: so proposals are judged as they stand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earnest.decoding.seats import shared

SPACES: Any = {"whitespace_flexible": True, "whitespace_pattern": " ?"}
"""One space at most between JSON's parts: a model that was not tuned for JSON would write them for ever."""
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def json_grammar(schema: Mapping[str, Any] = ANY_OBJECT) -> str:
    """The grammar of JSON that a schema allows.

    Raises:
        ValueError: it is no schema, or uses what is not supported; the message says what.
    """
    from llguidance import LLMatcher

    grammar: str = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=SPACES)
    wrong, said = LLMatcher.validate_grammar_with_warnings(grammar)
    if wrong:
        raise ValueError(" ".join(said[0].split()))
    return grammar


class Grammars:
    """Compiles grammars for one vocabulary.

    Args:
        tokenizer: a fast tokenizer.
        ends: the tokens that may end a text where the grammar is satisfied.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int]) -> None:
        self._tokenizer, self.ends = tokenizer, frozenset(ends)
        self._vocabulary: Any = None

    def guide(self, grammar: str) -> Guide:
        """A guide for a text of its own. Raises ValueError for a grammar, or a tokenizer, that is not understood."""
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        if self._vocabulary is None:  # takes a second where the vocabulary is large
            self._vocabulary = from_tokenizer(self._tokenizer, eos_token=sorted(self.ends))
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0)
        if matcher.is_error():
            raise ValueError(f"grammar: {matcher.get_error().splitlines()[0]}")
        return Guide(matcher, sorted(self.ends))


class Guide:
    """Follows one text through its grammar."""

    def __init__(self, matcher: Any, ends: Sequence[int]) -> None:
        self._matcher, self._ends = matcher, ends
        self._read: list[int] = []

    def allowed(self, written: Sequence[int], width: int) -> Tensor | None:
        """Which tokens [width] may follow what is written; None where that is not of the grammar itself."""
        common = shared(self._read, written)
        if common < len(self._read):
            self._matcher.rollback(len(self._read) - common)
            del self._read[common:]
        following = list(written[common:])
        taken = self._matcher.try_consume_tokens(following) if following else 0
        self._read += following[:taken]
        if taken < len(following):
            return None
        mask = torch.zeros(width, dtype=torch.bool)
        if self._matcher.is_stopped():
            mask[self._ends] = True
            return mask
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        known = min(width, len(bits))
        mask[:known] = torch.from_numpy(bits[:known].astype(bool))
        return mask
