"""Random weights of Llama-2's shapes on CUDA: what cached steps really cost, against the bytes that they move.

One model at a time, in bfloat16, behind 512 tokens; shapes that the GPU's memory does not hold are left out. Random
weights take as long as trained ones. What is measured then predicts the ensemble as the cost model does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch

from earnest.decoding.local import decoder_for
from roofline import LLAMA_2, MOST_PROPOSED, Costs, Machine, Shape
from rows import Row, row

CONTEXT = 512
CALLS = 20
WIDTHS = (1, 5, 9)
ACCEPTANCES = (0.7, 0.9)


def on_gpu(repeat: int, shapes: dict[str, Shape] = LLAMA_2, machine: Machine | None = None) -> Iterator[Row]:
    """Steps of each shape against the cost model, then 13B and 70B with a pair of 7B as these steps predict it.

    Raises:
        SystemExit: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise SystemExit("--gpu measures on CUDA, and there is no CUDA device here")
    machine = machine or Machine()
    costs: dict[str, list[float]] = {}
    for name, shape in shapes.items():
        if shape.weights * machine.width > 0.9 * torch.cuda.mem_get_info()[0]:
            continue
        taken = step_seconds(shape, repeat)
        costs[name] = [median(times) for times in taken]
        for width in WIDTHS:
            bound = 1e3 * machine.step(shape, width, CONTEXT)
            ours = [1e3 * s for s in taken[width - 1]]
            yield row(f"step of random {name}, {width} tokens, against bytes moved", ours, [bound], "ms")
    small = next(iter(costs))
    for name in list(costs)[1:]:
        yield from _ensemble(name, Costs(tuple(costs[name]), tuple(costs[small])), small)


def _ensemble(name: str, costs: Costs, small: str) -> Iterator[Row]:
    for accepted in ACCEPTANCES:
        proposals, seconds = costs.best(accepted)
        work = f"{name} + {small} - {small} by these steps, acceptance {accepted}, {proposals} proposals"
        yield row(f"{work}, against undrafted", [1e3 * seconds], [1e3 * costs.plain], "ms/token")
        yield row(f"{work}, against base alone", [1e3 * seconds], [1e3 * costs.base[0]], "ms/token")


@torch.inference_mode()
def step_seconds(shape: Shape, repeat: int) -> list[list[float]]:
    """Seconds of steps of 1, 2, ... tokens behind `CONTEXT`, `repeat` of each."""
    decoder = decoder_for(random_llama(shape), 1, CONTEXT + MOST_PROPOSED + 1)
    decoder.read([0], [0], [[1] * CONTEXT], last=True)
    return [[_seconds(decoder, width) for _ in range(repeat)] for width in range(1, MOST_PROPOSED + 2)]


def random_llama(shape: Shape) -> Any:
    """A model with small random weights, made where it will run."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096, dtype=torch.bfloat16,
    )  # fmt: skip
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.02)
    return model.eval()


def _seconds(decoder: Any, width: int) -> float:
    """Of one step, by the wall, with the device waited for."""
    decoder.read([0], [CONTEXT], [[1] * width])
    _wait()
    began = time.perf_counter()
    for _ in range(CALLS):
        decoder.read([0], [CONTEXT], [[1] * width])
    _wait()
    return (time.perf_counter() - began) / CALLS


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
