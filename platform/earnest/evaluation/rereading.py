"""Texts that one subject has written, as another model finds them: stored with their prompts, and read once more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from earnest.decoding.generation import Row
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.scoring import Subject, computed_in
from earnest.evaluation.tokens import Request
from earnest.records import Estimate, Scores
from earnest.statistics.intervals import exponential_estimate

HEADLINE = "output_perplexity"
SCHEMA = pa.schema([("prompt", pa.list_(pa.int32())), ("text", pa.list_(pa.int32()))])


def written_rows(engine: Engine) -> list[dict[str, Any]]:
    """All that an engine has written, in order: the tokens of each prompt, cut as they were read, and of its text."""
    return [
        {"prompt": Row(0, prompt, engine.max_length - prompt.max_tokens).start, "text": made.ids}
        for prompt, made in engine.written
    ]


def written_texts(rows: Sequence[dict[str, Any]]) -> pa.Table | None:
    """What `written_rows` gave as a table; None where nothing was written."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA) if rows else None


def reread(subject: Subject, texts: Path, progress: Progress | None = None) -> tuple[Scores, pa.Table]:
    """The perplexity of written texts after their prompts, per token over all of them, and each text's nats.

    Args:
        subject: a model with the tokenizer of the one that wrote; usually the dense one.
        texts: what `written_texts` gave, as Parquet.
        progress: told how much is done, and of how much.

    Returns:
        Scores without a metric where no text has a token, and a table with the nats and tokens of each text.
    """
    engine = Engine(subject)
    rows = pq.read_table(texts).to_pylist()
    asked = [Request(tuple(row["prompt"]), tuple(row["text"])) for row in rows]
    nats = [None if found.value is None else -found.value for found in engine.log_likelihoods(asked, progress)]
    counts = [len(request.continuation) for request in asked]
    known = [(value, tokens) for value, tokens in zip(nats, counts, strict=True) if value is not None]
    scores = Scores(
        task="reread", version=1, headline=HEADLINE, higher_is_better=False, asked=len(asked), scored=len(known),
        truncated=0, failed=sum(counts[i] > 0 and nats[i] is None for i in range(len(nats))),
        metrics={HEADLINE: _perplexity(*zip(*known, strict=True))} if known else {},
        tokens_forwarded=engine.tokens_forwarded, dtype=computed_in(subject),
    )  # fmt: skip
    return scores, pa.table({"nats": pa.array(nats, pa.float64()), "tokens": counts})


def _perplexity(nats: Sequence[float], tokens: Sequence[int]) -> Estimate:
    """exp(nats per token); texts are its units."""
    return exponential_estimate(np.array(nats, dtype=np.float64), np.array(tokens, dtype=np.float64))
