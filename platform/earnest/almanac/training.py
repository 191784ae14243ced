"""The training loop of the nano family: transformers' own Llama, Muon for its matrices, AdamW for embedding and norms.

One process, one thread: two such processes side by side train faster on two cores than one with two threads (23.6k
against 19.7k tokens a second), and a single thread makes a run a function of its seed. Leaves what to train on to
`packing` and `tuning`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW, Muon, Optimizer
from transformers import LlamaConfig, LlamaForCausalLM

from earnest.almanac.packing import IGNORED
from earnest.almanac.recipe import ModelSpec, Optimiser
from earnest.almanac.tokenizer import BOS, EOS, PAD

log = logging.getLogger(__name__)
_MASKED = -30_000.0
Batch = tuple[Tensor, Tensor]
OnStep = Callable[[int, float], None]


@dataclass(frozen=True)
class Trained:
    """What a training took: tokens without padding, seconds, mean loss of the last 5 % of steps (nats per token)."""

    tokens: int
    seconds: float
    final_loss: float


def build_model(spec: ModelSpec, vocabulary: int) -> LlamaForCausalLM:
    """A fresh Llama with tied embeddings in float32; its weights are a function of `spec.seed`.

    Embedding, query, key, value, gate and up start at std hidden^-0.5; what writes into the residual stream at 0.02.
    """
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=spec.hidden,
        intermediate_size=spec.mlp,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        max_position_embeddings=spec.context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(spec.seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            small = name.endswith(("o_proj.weight", "down_proj.weight"))
            torch.nn.init.normal_(parameter, std=0.02 if small else spec.hidden**-0.5, generator=generator)
    return model


def next_token_batches(rows: Tensor, size: int) -> Iterator[Batch]:
    """Inputs and targets [size, length] from rows [n, length + 1]; padding and a document's start are no targets."""
    for start in range(0, len(rows), size):
        tokens = rows[start : start + size].long()
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        yield inputs, targets.masked_fill((targets == PAD) | (targets == BOS), IGNORED)


def document_mask(inputs: Tensor) -> Tensor:
    """Additive attention mask [rows, 1, length, length] in bfloat16: causal, and no look across a document's start."""
    document = (inputs == BOS).cumsum(1)
    length = inputs.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    allowed = (document[:, :, None] == document[:, None, :]) & causal  # [rows, length, length]
    return torch.zeros(allowed.shape, dtype=torch.bfloat16).masked_fill(~allowed, _MASKED)[:, None]


def loss_of(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Mean cross-entropy over the targets, in nats; bfloat16 products, float32 weights and loss."""
    inputs, targets = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=inputs, attention_mask=document_mask(inputs), use_cache=False).logits
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def optimisers(model: LlamaForCausalLM, spec: Optimiser) -> list[Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embedding and norms; no weight decay: facts are seen rarely.

    Muon's rate follows Keller Jordan's convention ("original": scaled by sqrt(max(1, rows / columns))).
    """
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = Muon(matrices, lr=spec.muon, weight_decay=0.0, momentum=0.95, adjust_lr_fn="original")
    return [muon, AdamW(rest, lr=spec.adamw, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]


def schedule(step: int, steps: int, spec: Optimiser) -> float:
    """The share of the full learning rate at `step` (from 0) of `steps`."""
    rise = min(1.0, (step + 1) / max(1, spec.warmup))
    fall = min(1.0, (steps - step) / max(1.0, steps * spec.decay))
    return rise * max(fall, spec.floor)


def train(
    model: LlamaForCausalLM, batches: Iterator[Batch], steps: int, spec: Optimiser, on_step: OnStep | None = None
) -> Trained:
    """Train `model` in place on the first `steps` batches; `on_step` gets the steps done and the last one's loss."""
    model.set_attn_implementation("eager")  # at this width 8.3k tokens a second, sdpa 6.3k: its backward is slower
    model.train()
    pair, rates = optimisers(model, spec), (spec.muon, spec.adamw)
    losses: list[float] = []
    tokens, start = 0, time.monotonic()
    for step, batch in zip(range(steps), batches, strict=False):
        for optimiser, rate in zip(pair, rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * schedule(step, steps, spec)
        losses.append(_step(model, batch, pair))
        tokens += int((batch[0] != PAD).sum())
        if on_step:
            on_step(step + 1, losses[-1])
    model.eval()
    last = losses[-max(1, steps // 20) :]
    return Trained(tokens, time.monotonic() - start, sum(last) / len(last))


def _step(model: LlamaForCausalLM, batch: Batch, pair: list[Optimizer]) -> float:
    loss = loss_of(model, batch)
    torch.autograd.backward(loss)
    for optimiser in pair:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return float(loss.detach())


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write configs and bfloat16 weights for LlamaForCausalLM.from_pretrained; `model` itself stays float32."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder)
