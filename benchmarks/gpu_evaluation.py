"""Tokens per second of scoring with a random model of Llama's shapes on CUDA, and their share of the device's peak.

Questions with a shared beginning, as MMLU's five shots are, in bfloat16: by our engine, and by plain batched forwards
of transformers over whole prompts, which is what lm-eval's HF model does. Tokens are those of all prompts, shared ones
counted once per question in both, so the rates compare seconds. The share of peak counts what was truly read, by the
weights' products alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from earnest.evaluation.engine import Engine
from earnest.evaluation.tokens import Request
from earnest.models.loading import LoadedModel
from earnest.models.source import resolve
from gpu_steps import random_llama
from roofline import LLAMA_2, Machine, Shape
from rows import Row, row

SHARED, OWN, QUESTIONS, OPTIONS = 640, 96, 128, 4
BATCHES = (8, 32)
SHAPE = "7B"


def on_gpu(repeat: int, shape: Shape = LLAMA_2[SHAPE], questions: int = QUESTIONS) -> Iterator[Row]:
    """Prompt tokens per second against transformers' at its best batch size, and the share of peak of each."""
    model = random_llama(shape)
    loaded = LoadedModel(model, AutoTokenizer.from_pretrained(resolve("nano:large").path), SHAPE, "random", Path())
    asked = _requests(shape.vocabulary, questions)
    tokens = questions * (SHARED + OWN)
    engine = Engine(loaded)
    ours = _seconds(lambda: engine.log_likelihoods(asked), repeat)
    read = engine.tokens_forwarded // (repeat + 1)
    peers = [_seconds(lambda batch=batch: _plain(model, asked, batch), repeat) for batch in BATCHES]
    peer = min(peers, key=sum)
    work = f"random {SHAPE}, {questions} questions of {SHARED} + {OWN} tokens"
    yield row(work, [tokens / s for s in ours], [tokens / s for s in peer], "tokens/s")
    blocks = shape.read - shape.vocabulary * shape.hidden  # the head runs on few positions
    share = 2 * blocks / Machine().operations  # of the peak's second, for each token
    yield row(f"{work}: share of peak", [read * share / s for s in ours], [tokens * share / s for s in peer], "share")


def _requests(vocabulary: int, questions: int) -> list[Request]:
    draw = torch.Generator().manual_seed(0)
    shared = torch.randint(3, vocabulary, (SHARED,), generator=draw).tolist()
    own = torch.randint(3, vocabulary, (questions, OWN), generator=draw).tolist()
    return [Request((*shared, *one), (option,)) for one in own for option in range(3, 3 + OPTIONS)]


@torch.inference_mode()
def _plain(model: Any, asked: Sequence[Request], batch: int) -> None:
    """Every prompt whole, once for all its options."""
    rows = list(dict.fromkeys(request.context for request in asked))
    for begin in range(0, len(rows), batch):
        ids = torch.tensor(rows[begin : begin + batch], device=model.device)
        model(input_ids=ids, use_cache=False).logits[:, -1].float().log_softmax(-1).cpu()


def _seconds(work: Callable[[], object], repeat: int) -> list[float]:
    """Of each of some runs, after one that is not counted; each ends by bringing its results to this machine."""
    taken = []
    for _ in range(repeat + 1):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return taken[1:]
