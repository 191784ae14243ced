"""The walk: compress a model in place, block by block, each calibrated on what the compressed blocks before it put out.

Inside a block, Linears that read the same tensor (q, k, v; gate, up) share one statistic. It is accumulated in float32
batch by batch; of the activations only the inputs of the block at hand are kept. Without `true_sequential` all
statistics of a block come from the block as it was; with it, each group of Linears sees those before it compressed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from earnest.compression.activations import Statistic
from earnest.compression.checks import check_fits, name_of
from earnest.compression.matrices import Compressed, Matrix
from earnest.compression.methods import DataDriven, DataFree, procedure_for
from earnest.compression.quantiser import Quantised
from earnest.models.blocks import Block, Stream, decoder_blocks, empty_cache, groups_by_input, open_stream, watching
from earnest.models.inspection import quantised_as
from earnest.models.loading import LoadedModel
from earnest.models.proofs import check_finite
from earnest.models.walkable import check_walk
from earnest.specs import Method, UserError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CompressedTensor:
    """What is known of one compressed weight beside its values, which are in the model.

    `pruned` weights were chosen to become zero; `zeros` are zero in the file, for whatever reason.
    `bits` and `group_size` say how it was quantised, where it was. `empty` weights were zero in the dense model, and
    `lost` of them are not any more; `unseen` inputs were zero in all of calibration.
    """

    shape: tuple[int, int]
    pruned: int
    zeros: int
    bits: int | None = None
    group_size: int | None = None
    empty: int = 0
    lost: int = 0
    unseen: int = 0


@dataclass(frozen=True)
class CompressedWeights:
    """A compression that was carried out: the method and each touched weight by its name in the state dict."""

    method: Method
    tensors: Mapping[str, CompressedTensor]


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


Take = Callable[[str, Tensor, CompressedTensor, Quantised | None], None]
"""Told of each weight as soon as it is compressed: name, values in the model's dtype, what is known of it, codes."""


def ignore(name: str, weight: Tensor, tensor: CompressedTensor, quantised: Quantised | None) -> None:
    """Take nothing: the values stay in the model, the codes are dropped."""


@torch.no_grad()
def compress(
    loaded: LoadedModel,
    method: Method,
    calibration: Tensor | None = None,
    progress: Progress = silent,
    take: Take = ignore,
) -> CompressedWeights:
    """Compress all Linears in the decoder blocks of `loaded.model`, in place; the rest stays as it is.

    Args:
        loaded: the model; its weights are overwritten, rounded to the dtype that it is stored in.
        method: what to do.
        calibration: token ids [samples, length] for methods that need them.
        progress: called with (blocks done, blocks) after each block.
        take: called with each weight; codes are kept no longer than that.

    Raises:
        UserError: groups do not fit a layer, calibration is missing, too long or not finite, or a Hessian is singular.
    """
    procedure = procedure_for(method)
    check_fits(loaded.model, method)
    _check_dense(loaded)
    blocks = decoder_blocks(loaded.model)
    if isinstance(procedure, DataFree):
        outcomes = _by_weights(blocks, procedure, method, loaded.stored_dtype, take)
    else:
        ids = _checked(calibration, loaded, method)
        check_walk(loaded.model, blocks, ids)
        stream = open_stream(loaded.model, blocks, ids)
        outcomes = _by_inputs(blocks, stream, procedure, method, loaded.stored_dtype, take)
    tensors: dict[str, CompressedTensor] = {}
    for done, outcome in enumerate(outcomes, start=1):
        tensors |= outcome
        empty_cache(loaded.device)
        progress(done, len(blocks))
    return CompressedWeights(method, tensors)


def _check_dense(loaded: LoadedModel) -> None:
    """See that the weights are numbers, and not codes that others made of them."""
    compressed = {name for block in decoder_blocks(loaded.model) for name in block.linears}
    check_finite(loaded.name, loaded.model, but={f"{name}.weight" for name in compressed})  # these when they are read
    quantised = quantised_as(loaded.model.config)
    if quantised:
        raise UserError(
            f"model {loaded.name}: its weights are quantised already ({quantised}); compress the model it was made of"
        )


def _checked(calibration: Tensor | None, loaded: LoadedModel, method: Method) -> Tensor:
    if calibration is None or calibration.dim() != 2 or not calibration.numel():
        raise UserError(
            f"{name_of(method)}: needs calibration; give token ids [samples, length], as calibration_ids makes them"
        )
    if calibration.shape[1] > loaded.max_length:
        raise UserError(
            f"calibration: length {calibration.shape[1]} is beyond the model's {loaded.max_length} positions; "
            f"lower length to at most {loaded.max_length}"
        )
    vocabulary = loaded.model.get_input_embeddings().weight.shape[0]
    worst = int(calibration.max())
    if int(calibration.min()) < 0 or worst >= vocabulary:
        raise UserError(
            f"calibration: token id {worst} is outside the model's vocabulary of {vocabulary}; use its own tokenizer"
        )
    return calibration


Outcome = dict[str, CompressedTensor]


def _by_weights(
    blocks: Sequence[Block], procedure: DataFree, method: Method, stored: torch.dtype, take: Take
) -> Iterator[Outcome]:
    """Compress matrix by matrix, so that one alone is there in float32."""
    for block in blocks:
        outcome: Outcome = {}
        for name in block.linears:
            outcome |= _write(block, [name], lambda matrices: procedure.compress(matrices, method), stored, take)
        yield outcome


def _by_inputs(
    blocks: Sequence[Block], stream: Stream, procedure: DataDriven, method: Method, stored: torch.dtype, take: Take
) -> Iterator[Outcome]:
    """Compress block by block; the next block's inputs are made by the block as it is now."""
    for block in blocks:
        yield _calibrated(block, stream, procedure, method, stored, take)
        if block is not blocks[-1]:
            stream.advance(block)


def _calibrated(
    block: Block, stream: Stream, procedure: DataDriven, method: Method, stored: torch.dtype, take: Take
) -> Outcome:
    groups = groups_by_input(block, stream)
    stages = [[group] for group in groups] if getattr(method, "true_sequential", False) else [groups]
    outcome: Outcome = {}
    for stage in stages:
        statistics = _gather(block, stage, stream, procedure)
        for names in stage:
            statistic = statistics.pop(names[0]).value()
            outcome |= _by_statistic(block, names, statistic, procedure, method, stored, take)
    return outcome


def _by_statistic(
    block: Block,
    names: Sequence[str],
    statistic: Tensor,
    procedure: DataDriven,
    method: Method,
    stored: torch.dtype,
    take: Take,
) -> Outcome:
    seen = statistic.diagonal() if statistic.dim() == 2 else statistic  # [cols]
    unseen = int((seen == 0).sum())
    if unseen == len(seen):  # such as an expert that no token is sent to: by its weights alone, all inputs alike
        statistic = torch.ones_like(seen) if statistic.dim() == 1 else torch.eye(len(seen), device=seen.device)
    return _write(block, names, lambda matrices: procedure.compress(matrices, statistic, method), stored, take, unseen)


def _gather(
    block: Block, groups: Sequence[Sequence[str]], stream: Stream, procedure: DataDriven
) -> dict[str, Statistic]:
    """The statistic of each group's inputs over all sequences, by the group's first Linear."""
    statistics = {}
    for first, *_ in groups:
        linear = block.linears[first]
        statistics[first] = procedure.statistic(linear.in_features, linear.weight.device)
    with watching(block, list(statistics), lambda name, inputs: statistics[name].add(inputs)):
        stream.pass_through(block)
    return statistics


def _write(
    block: Block,
    names: Sequence[str],
    compress: Callable[[list[Matrix]], list[Compressed]],
    stored: torch.dtype,
    take: Take,
    unseen: int = 0,
) -> Outcome:
    """Compress the named Linears, put the outcome into the model rounded to the stored dtype, and let it be taken."""
    weights = {f"{name}.weight": block.linears[name].weight for name in names}
    done = compress([_matrix(name, weight, stored) for name, weight in weights.items()])
    found: Outcome = {}
    for (name, weight), outcome in zip(weights.items(), done, strict=True):
        found[name] = _put(weight, outcome, stored, unseen)
        take(name, weight, found[name], outcome.quantised)
    return found


def _matrix(name: str, weight: Tensor, stored: torch.dtype) -> Matrix:
    if not bool(weight.isfinite().all()):
        raise UserError(f"{name}: the dense weight holds NaN or infinity; the model is damaged, fetch it again")
    return Matrix(name, weight.float(), stored)


def _put(weight: Tensor, outcome: Compressed, stored: torch.dtype, unseen: int) -> CompressedTensor:
    """Put the outcome into the model, rounded to the stored dtype and then to the model's own."""
    values = (outcome.weight + 0.0).to(stored)  # −0 becomes +0: a bitmask of non-zeros then tells the whole truth
    empty = weight == 0
    weight.copy_(values)
    rows, cols = weight.shape
    quantised = outcome.quantised
    return CompressedTensor(
        shape=(rows, cols),
        pruned=0 if outcome.mask is None else int(outcome.mask.sum()),
        zeros=int(((weight if quantised is None else values) == 0).sum()),
        bits=None if quantised is None else quantised.bits,
        group_size=None if quantised is None else quantised.group_size,
        empty=int(empty.sum()),
        lost=int((empty & (weight != 0)).sum()),
        unseen=unseen,
    )
