"""Text -> token ids as requests to a model: a context and the continuation whose likelihood is asked.

Follows lm-eval's conventions: context and continuation are tokenised together and the continuation is what follows the
context's own tokens; white space at the context's end belongs to the continuation; the tokenizer's own default decides
about the token that begins a text, and a text that already begins with it is given no second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from earnest.evaluation.tokenised import tokenised
from earnest.specs import UserError


@dataclass(frozen=True)
class Request:
    """The log-likelihood of `continuation` after `context` is wanted; both are token ids."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


def prefix_token(tokenizer: Any) -> int:
    """The token that stands before a text without context: the one that begins texts, else the one that ends them."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise UserError(
        "tokenizer: it has neither a token that begins texts nor one that ends them; set bos_token or eos_token"
    )


def requests(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[Request]:
    """Each (context, continuation) as token ids."""
    moved = [_move_space(context, continuation) for context, continuation in pairs]
    contexts = {context: i for i, context in enumerate(dict.fromkeys(context for context, _ in moved))}
    context_ids = tokenised(tokenizer, list(contexts))
    whole_ids = tokenised(tokenizer, [context + continuation for context, continuation in moved])
    made = []
    for (context, continuation), whole in zip(moved, whole_ids, strict=True):
        if context:
            ids = context_ids[contexts[context]]
            made.append(Request(tuple(ids), tuple(whole[len(ids) :])))
        else:
            made.append(_without_context(tokenizer, whole, continuation))
    return made


def _move_space(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _without_context(tokenizer: Any, whole: list[int], continuation: str) -> Request:
    first = prefix_token(tokenizer)
    bare = tokenizer(continuation, add_special_tokens=False)["input_ids"]
    return Request((first,), tuple(bare if whole and whole[0] == first else whole))
