"""An own forward pass for Llama-shaped decoders over preallocated keys and values.

It does transformers' arithmetic in transformers' order with the fewest calls, in a third of the time: query, key and
value in one product, gate and up in another, rotary tables looked up, and nothing decided per layer. Which models are
of that shape is `fits`; whether the logits are truly those of transformers is for `local` to prove. Rows of different
lengths are packed without padding; only attention sees them padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earnest.decoding.forward import has_full_attention

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
MOST_PACKED = 64
"""So many queries at most are folded into one key's head; more than that read repeated keys."""


def fits(model: Any) -> bool:
    """Whether a model has the shape that this pass knows: family, full attention, rotary positions that stay put."""
    if model.config.model_type not in FAMILIES or model.config.hidden_act != "silu":
        return False
    body = model.model
    if "dynamic" in body.rotary_emb.rope_type or body.rotary_emb.rope_type == "longrope":
        return False  # their tables depend on the text's length
    linears = [module for name, module in body.layers.named_modules() if name.endswith("_proj")]
    dtypes = {parameter.dtype for parameter in model.parameters()}
    return all(type(linear) is nn.Linear for linear in linears) and len(dtypes) == 1 and has_full_attention(model)


@dataclass(frozen=True)
class Linear:
    """Weight [out, in] and bias [out] of one product."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Return x [..., in] times the weight, plus the bias."""
        return F.linear(x, self.weight, self.bias)


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
        self._eps = torch.tensor(eps, dtype=torch.float32, device=weight.device)
        self._width = torch.tensor(float(len(weight)), device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise x [..., width]."""
        wide = x.float()
        # eps + sum / width in one call; torch's mean takes four, and costs more than all the rest.
        scale = torch.addcdiv(self._eps, wide.square().sum(-1, keepdim=True), self._width).rsqrt_()
        return torch.mul(wide, scale).to(x.dtype).mul_(self.weight)


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
        return cls(
            Norm(layer.input_layernorm.weight, eps),
            fused(attention.q_proj, attention.k_proj, attention.v_proj),
            None if query is None else Norm(query.weight, eps),
            None if key is None else Norm(key.weight, eps),
            fused(attention.o_proj),
            Norm(layer.post_attention_layernorm.weight, eps),
            fused(mlp.gate_proj, mlp.up_proj),
            fused(mlp.down_proj),
        )


@dataclass(frozen=True)
class Place:
    """Where the tokens of one step go and what they see; one entry per layer in the lists of views.

    `ids` and `positions` are of the tokens, row after row without padding; `rows` x `width` is their padded shape, and
    `padded` the index of each token in it, None where nothing is padded. `written` is what new keys and values are put
    into at `at`, `seen` the keys and values that are attended to, of the rows `chosen` where they do not lie together.
    """

    ids: Tensor  # [tokens]
    positions: Tensor  # [tokens]
    rows: int
    width: int
    padded: Tensor | None  # [tokens]
    written: Sequence[Tensor]
    at: tuple[Tensor, Tensor] | None
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    chosen: Tensor | None  # [rows]
    mask: Tensor | None  # [rows, 1, width, span], added to scores
    causal: bool


class LeanDecoder:
    """A Llama-shaped model with the keys and values of `rows` texts of at most `slots` tokens each.

    One slot more per row takes what padding writes in steps of a fixed shape; nobody attends to it.
    """

    kind = "lean"

    def __init__(self, model: Any, rows: int, slots: int) -> None:
        config, body, head = model.config, model.model, model.get_output_embeddings()
        self.rows, self.slots = rows, slots
        self.vocabulary = int(head.weight.shape[0])
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._groups = self._heads // self._kv_heads
        self._width = int(body.layers[0].self_attn.head_dim)
        self._scale = self._width**-0.5
        self._blocks = [Block.of(layer, config.rms_norm_eps) for layer in body.layers]
        self._embeddings = body.embed_tokens.weight.detach()
        self._norm, self._head = Norm(body.norm.weight, config.rms_norm_eps), fused(head)
        weight = self._embeddings
        self.device, self.dtype = weight.device, weight.dtype
        self._steps = torch.arange(slots + 1, device=self.device)
        self._cos, self._sin = self._rotary(body.rotary_emb)
        shape = (len(self._blocks), rows, 2 * self._kv_heads, slots + 1, self._width)
        self.store = torch.zeros(shape, dtype=self.dtype, device=self.device)

    @property
    def row_bytes(self) -> int:
        """What one row's keys and values take."""
        return self.store[:, 0].numel() * self.store.element_size()

    @torch.inference_mode()
    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool = False
    ) -> Tensor:
        """Read tokens into rows; see `members.Member.read`."""
        lengths = [len(row) for row in tokens]
        if len(rows) == 1:
            ids = torch.tensor(tokens[0], device=self.device)
            hidden = self.hidden(self.one(rows[0], starts[0], ids))
            return self.logits(hidden[-1:] if last else hidden)[None]
        ids = torch.tensor(list(chain.from_iterable(tokens)), device=self.device)
        place = self.many(rows, starts, ids, lengths)
        hidden = self.hidden(place)
        if last:
            ends = torch.tensor(lengths, device=self.device).cumsum(0) - 1
            return self.logits(hidden[ends])[:, None]
        logits = self.logits(hidden)
        if place.padded is not None:
            whole = logits.new_zeros((place.rows * place.width, self.vocabulary))
            logits = whole.index_copy_(0, place.padded, logits)
        return logits.view(place.rows, place.width, -1)

    def copy(self, source: int, target: int, count: int) -> None:
        """Give row `target` the first `count` tokens of row `source`'s past."""
        self.store[:, target, :, :count] = self.store[:, source, :, :count]

    def clear(self, rows: Sequence[int]) -> None:
        """Wipe rows."""
        self.store[:, list(rows)] = 0

    def one(self, row: int, start: int, ids: Tensor) -> Place:
        """A step of one row: `ids` [tokens] from position `start` on. All of it is views, none of it an index."""
        width = len(ids)
        end = start + width
        own = self.store[:, row]
        positions = self._steps[start:end]
        seen = own[:, None, :, :end]
        causal = width > 1 and start == 0
        mask = None if width == 1 or causal else self._mask(positions[None], end)
        return Place(
            ids, positions, 1, width, None, own[:, :, start:end].unbind(0), None,
            seen[:, :, : self._kv_heads].unbind(0), seen[:, :, self._kv_heads :].unbind(0), None, mask, causal,
        )  # fmt: skip

    def many(self, rows: Sequence[int], starts: Sequence[int], ids: Tensor, lengths: Sequence[int]) -> Place:
        """A step of several rows of any lengths; `ids` [tokens] row after row."""
        width, span = max(lengths), max(start + length for start, length in zip(starts, lengths, strict=True))
        counts = torch.tensor([rows, starts, lengths], device=self.device)
        row, start, length = counts.unbind(0)
        grid = start[:, None] + self._steps[:width]  # [rows, width]
        positions, owner, padded = grid.view(-1), row.repeat_interleave(width), None
        if min(lengths) < width:
            padded = (self._steps[:width] < length[:, None]).view(-1).nonzero()[:, 0]
            positions, owner = positions[padded], owner[padded]
        first = rows[0]
        together = list(rows) == list(range(first, first + len(rows)))
        seen = self.store[:, first : first + len(rows)] if together else self.store
        seen = seen[:, :, :, :span]
        return Place(
            ids, positions, len(rows), width, padded, self.store.transpose(2, 3).unbind(0), (owner, positions),
            seen[:, :, : self._kv_heads].unbind(0), seen[:, :, self._kv_heads :].unbind(0),
            None if together else row, self._mask(grid, span), False,
        )  # fmt: skip

    def hidden(self, place: Place) -> Tensor:
        """The last hidden states [tokens, hidden] of a step, whose keys and values are kept."""
        x = F.embedding(place.ids, self._embeddings)
        cos, sin = self._cos[place.positions], self._sin[place.positions]
        for number, block in enumerate(self._blocks):
            x = x + block.out(self._attend(block, number, block.before(x), cos, sin, place))
            gate, up = block.gate_up(block.between(x)).chunk(2, -1)
            x = x + block.down(F.silu(gate).mul_(up))
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [positions, vocabulary] in float32 of hidden states [positions, hidden]."""
        return self._head(self._norm(hidden)).float()

    def _attend(self, block: Block, number: int, x: Tensor, cos: Tensor, sin: Tensor, place: Place) -> Tensor:
        z = block.qkv(x).view(len(x), -1, self._width)  # [tokens, heads + 2 * kv_heads, width]
        turned = z[:, : self._heads + self._kv_heads]
        if block.query is not None and block.key is not None:
            turned[:, : self._heads] = block.query(turned[:, : self._heads])
            turned[:, self._heads :] = block.key(turned[:, self._heads :])
        half = turned.roll(self._width // 2, -1).mul_(sin)
        turned.mul_(cos).add_(half)
        query, new = z[:, : self._heads], z[:, self._heads :]
        if place.at is None:
            place.written[number].copy_(new.transpose(0, 1))
        else:
            place.written[number].index_put_(place.at, new)
        keys, values = place.keys[number], place.values[number]
        if place.chosen is not None:
            keys, values = keys.index_select(0, place.chosen), values.index_select(0, place.chosen)
        return self._attention(query, keys, values, place)

    def _attention(self, query: Tensor, keys: Tensor, values: Tensor, place: Place) -> Tensor:
        """Attention of query [tokens, heads, width] over keys and values [rows, kv_heads, span, width]."""
        if place.padded is not None:
            whole = query.new_zeros((place.rows * place.width, *query.shape[1:]))
            query = whole.index_copy_(0, place.padded, query)
        query = query.view(place.rows, place.width, self._heads, self._width).transpose(1, 2)
        if self._groups > 1:
            keys, values = (part.repeat_interleave(self._groups, 1) for part in (keys, values))
        y = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=place.mask, is_causal=place.causal, scale=self._scale
        )
        y = y.transpose(1, 2).reshape(place.rows * place.width, -1)
        return y if place.padded is None else y[place.padded]

    def _mask(self, positions: Tensor, span: int) -> Tensor:
        """What is added to scores [rows, 1, width, span] so that positions [rows, width] see nothing behind them."""
        behind = self._steps[:span] > positions[:, None, :, None]
        return torch.zeros((), dtype=self.dtype, device=self.device).masked_fill(behind, -torch.inf)

    def _rotary(self, rotary: Any) -> tuple[Tensor, Tensor]:
        """Cosines and sines [slots + 1, 1, width] of all positions; the sines carry the sign of rotating by halves."""
        cos, sin = (table[0][:, None] for table in rotary(self._embeddings, self._steps[None]))
        sign = torch.ones(self._width, dtype=sin.dtype, device=sin.device)
        sign[: self._width // 2] = -1
        return cos.contiguous(), sin * sign
