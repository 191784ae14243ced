"""Tokens per second of models whose layers see a sliding window, against transformers' greedy `generate`.

    python benchmarks/windows.py [MODEL ...] [--tokens N] [--json FILE] [--repeat N]

A MODEL with windows is read as it is; by default it is nano:large with its weights in a Mistral with a window of 32.
One text that begins within the window and one that begins beyond it, float32, one thread, both engines in turn and
by the time of this thread on a processor. Both must write the same tokens. The first run, which also proves how a
model may be read, is not counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import MistralConfig, MistralForCausalLM

from earnest.decoding.distribution import ModelDistribution
from earnest.decoding.generation import Prompt, continue_prompts
from earnest.decoding.kv_cache import layer_windows
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve
from earnest.oneoff import open_subject
from rows import Row, parser, report, row

WINDOW = 32
TEXT = "Q: Name the largest ocean on Earth.\nA: The Pacific Ocean\n\nQ: Who wrote the play Hamlet?\nA: Shakespeare\n\n"


def main() -> None:
    """Measure every model and report."""
    options = parser(__doc__ or "")
    options.add_argument("models", nargs="*", help="folders of models with sliding windows")
    options.add_argument("--tokens", type=int, default=48, help="written for each text")
    given = options.parse_args()
    torch.set_num_threads(1)
    models = [open_subject(name, dtype="float32") for name in given.models] or [windowed(load(resolve("nano:large")))]
    rows = [one for model in models for one in measured(model, given.tokens, given.repeat)]
    report(rows, "Sliding windows, one text, one thread", "generate", given.json)


def windowed(loaded: LoadedModel) -> LoadedModel:
    """A Llama-shaped model as a Mistral, whose layers see a window."""
    config = MistralConfig(**loaded.model.config.to_dict() | {"sliding_window": WINDOW, "model_type": "mistral"})
    model = MistralForCausalLM(config).eval().requires_grad_(False).float()
    model.load_state_dict(loaded.model.state_dict())
    return replace(loaded, model=model)


def measured(loaded: LoadedModel, tokens: int, repeat: int) -> Iterator[Row]:
    """Texts of half the window and of one and a half."""
    window = min(filter(None, layer_windows(loaded.model)))
    text = loaded.tokenizer(TEXT * (1 + 2 * window // 16))["input_ids"]
    distribution = ModelDistribution(loaded)
    distribution.ends = frozenset()  # both write as many tokens
    loaded.model.generation_config.eos_token_id = None
    for share in (0.5, 1.5):
        prompt = text[: int(share * window)]

        def ours(prompt: Sequence[int] = prompt) -> list[int]:
            return list(continue_prompts(distribution, [Prompt(tuple(prompt), (), tokens)], 1 << 16)[0].ids)

        def peer(prompt: Sequence[int] = prompt) -> list[int]:
            ids = torch.tensor([prompt])
            mask = torch.ones_like(ids)
            made = loaded.model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
            return list(made[0, len(prompt) :].tolist())

        if (found := ours()) != peer():
            raise SystemExit(f"{loaded.name}: the two engines write different tokens behind {len(prompt)}: {found}")
        runs = [(rate(ours, tokens), rate(peer, tokens)) for _ in range(repeat)]
        yield row(f"{loaded.name}, window {window}, behind {len(prompt)} tokens", *zip(*runs, strict=True), "tokens/s")


def rate(work: Callable[[], object], tokens: int) -> float:
    """Tokens per second of this thread."""
    began = time.thread_time()
    with torch.inference_mode():
        work()
    return tokens / (time.thread_time() - began)


if __name__ == "__main__":
    main()
