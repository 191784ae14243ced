"""The weights of Llama-shaped decoders as `lean` reads them: products over the same input joined, norms as they round.

Joining moves weights and does not copy them: the model's own modules become views of what is joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from earnest.decoding.kv_cache import keeps_keys_and_values, layer_kinds
from earnest.models.loading import return_freed_memory

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})


def fits(model: Any) -> bool:
    """Whether a model has the shape that this pass knows: family, attention to all or a window, fixed rotary positions.

    One that is listened to by hooks has not, because this pass would not call them.
    """
    if model.config.model_type not in FAMILIES or model.config.hidden_act != "silu":
        return False
    body = model.model
    if "dynamic" in body.rotary_emb.rope_type or body.rotary_emb.rope_type == "longrope":
        return False  # their tables depend on the text's length
    linears = [module for name, module in body.layers.named_modules() if name.endswith("_proj")]
    dtypes = {parameter.dtype for parameter in model.parameters()}
    plain = all(type(linear) is nn.Linear for linear in linears) and len(dtypes) == 1
    windows = layer_kinds(model).values()
    sighted = bool(windows) and all(window is None or window > 0 for window in windows)
    return plain and sighted and not _has_hooks(model) and keeps_keys_and_values(model)


def _has_hooks(model: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Linear:
    """Weight [out, in] and bias [out] of one product."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self._turned = weight.t()

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return x [tokens, in] times the weight, plus the bias, in `out` where it is given.

        What F.linear does, with fewer calls.
        """
        if self.bias is None:
            return torch.mm(x, self._turned, out=out)
        return torch.addmm(self.bias, x, self._turned, out=out)


@torch.no_grad()
def fused(*modules: nn.Linear) -> Linear:
    """One product for several over the same input. The modules then share its memory: nothing is held twice."""
    joined = _joined([module.weight for module in modules])
    biases = [module.bias for module in modules]
    return Linear(joined, None if biases[0] is None else _joined(biases))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The parts stacked along their first dimension, each made a view of the stack; as it is if they are already."""
    first, rows = parts[0], [len(part) for part in parts]
    ends = [part.data_ptr() + part.numel() * part.element_size() for part in parts]
    same = all(part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() for part in parts)
    if same and all(part.data_ptr() == end for part, end in zip(parts[1:], ends[:-1], strict=True)):
        return first.detach().as_strided((sum(rows), *first.shape[1:]), first.stride())
    stack = torch.cat([part.detach() for part in parts])
    for part, view in zip(parts, torch.split(stack, rows), strict=True):
        part.data = view
    return stack


class Norm:
    """RMSNorm as transformers computes it: in float32, rounded to the dtype, and only then scaled by the weight."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight = weight.detach()
        self.eps = torch.tensor(eps, dtype=torch.float32, device=weight.device)
        self._width = torch.tensor(float(len(weight)), device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise x [..., width]."""
        wide = x if x.dtype is torch.float32 else x.float()
        # eps + sum / width in one call; torch's mean takes four, and costs more than all the rest.
        scale = torch.addcdiv(self.eps, torch.mul(wide, wide).sum(-1, keepdim=True), self._width).rsqrt_()
        scaled = torch.mul(wide, scale)
        return (scaled if wide is x else scaled.to(x.dtype)).mul_(self.weight)


@dataclass(frozen=True)
class Block:
    """One layer's weights."""

    before: Norm
    qkv: Linear
    query: Norm | None
    key: Norm | None
    out: Linear
    between: Norm
    gate_up: Linear
    down: Linear

    @classmethod
    def of(cls, layer: Any, eps: float) -> Block:
        """The weights of a transformers layer, which from now on shares them."""
        attention, mlp = layer.self_attn, layer.mlp
        query, key = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
        made = cls(
            Norm(layer.input_layernorm.weight, eps),
            fused(attention.q_proj, attention.k_proj, attention.v_proj),
            None if query is None else Norm(query.weight, eps),
            None if key is None else Norm(key.weight, eps),
            fused(attention.o_proj),
            Norm(layer.post_attention_layernorm.weight, eps),
            fused(mlp.gate_proj, mlp.up_proj),
            fused(mlp.down_proj),
        )
        return_freed_memory()  # what was joined, before the next layer takes as much
        return made
