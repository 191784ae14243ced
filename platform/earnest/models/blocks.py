"""Walk a causal language model block by block.

Finds the decoder blocks and the Linears in each, and drives one block at a time with the hidden states and the
arguments that the model itself would pass (masks, position embeddings). Only the block at hand computes, so only it
needs to be in memory; between blocks nothing but hidden states is kept. What happens inside a block is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from earnest.models.hidden_states import HiddenStates, memory_for
from earnest.specs import UserError, method_names

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Block:
    """One decoder block: its place, its name in the model ("model.layers.3") and its module."""

    index: int
    name: str
    module: nn.Module

    @property
    def linears(self) -> dict[str, nn.Linear]:
        """The block's Linears by their full name in the model, in the order of their definition."""
        named = self.module.named_modules()
        return {f"{self.name}.{name}": module for name, module in named if _is_linear(module)}


def decoder_blocks(model: nn.Module) -> list[Block]:
    """The decoder blocks of a causal language model in order.

    They are the outermost list of modules with one entry per layer of the config. Works for the families whose blocks
    are built of `nn.Linear` (Llama, Mistral, Qwen, Phi, OPT, GPT-NeoX and their kin).

    Raises:
        UserError: there is no such list, or its blocks hold no Linears, several matrices in one tensor, or weights
            that they share.
    """
    name, modules = _block_list(model)
    blocks = [Block(index, f"{name}.{index}", module) for index, module in enumerate(modules)]
    family = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    for block in blocks:
        fused = _fused(block.module)
        if fused:
            raise _of_several_matrices(family, f"{block.name}.{fused}")
        if not block.linears:
            raise UserError(
                f"model type {family}: {block.name} has no Linear layers but {_holders(block.module)}; "
                "use a family such as llama, qwen or opt"
            )
    _check_apart(blocks, family)
    return blocks


def _of_several_matrices(family: str, name: str) -> UserError:
    if "expert" in name:
        holds, use = "the matrices of several experts", "a model without experts"
    else:
        holds, use = "several matrices", "a family such as llama, qwen or opt"
    return UserError(f"model type {family}: {name} holds {holds} in one tensor, which is not compressed yet; use {use}")


def _check_apart(blocks: Sequence[Block], family: str) -> None:
    """See that no two Linears of the blocks share a weight, which would be compressed twice."""
    known: dict[int, str] = {}
    for block in blocks:
        for name, linear in block.linears.items():
            first = known.setdefault(id(linear.weight), name)
            if first != name:
                raise UserError(
                    f"model type {family}: {name} shares its weight with {first}, and is not compressed yet; "
                    "use a family whose blocks have weights of their own, such as llama, qwen or opt"
                )


def _is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it is a Linear, or one of its kin that multiplies by a matrix of floats as it does."""
    return isinstance(module, nn.Linear) and module.weight.dim() == 2 and module.weight.is_floating_point()


def _fused(block: nn.Module) -> str:
    """The name of a tensor that holds several matrices, which only convolutions do by their nature; "" if none does."""
    for name, module in block.named_modules():
        if not isinstance(module, nn.modules.conv._ConvNd):
            for key, parameter in module.named_parameters(recurse=False):
                if parameter.dim() > 2 and min(parameter.shape[-2:]) > 1:
                    return f"{name}.{key}".lstrip(".")
    return ""


def _holders(block: nn.Module) -> str:
    """What holds a block's matrices, by the names of the classes."""
    found = {
        type(module).__name__
        for module in block.modules()
        if any(parameter.dim() == 2 for parameter in module.parameters(recurse=False))
    }
    return ", ".join(sorted(found)) or "nothing that holds a matrix"


def text_config(config: Any) -> Any:
    """The part of a model's config that describes its text decoder; of a model of text alone, all of it."""
    of_text = getattr(config, "get_text_config", None)
    return config if of_text is None else of_text(decoder=True)


def _block_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The outermost list with one module per layer of the text decoder, which is where a vision tower is not."""
    layers = getattr(text_config(getattr(model, "config", None)), "num_hidden_layers", None)
    decoder = _text_decoder(model)
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    for name, module in decoder.named_modules(prefix=prefix):
        if isinstance(module, nn.ModuleList) and len(module) and layers in (None, len(module)):
            return name, module
    raise UserError(f"model {type(model).__name__}: no list of {layers} decoder blocks was found in it")


def _text_decoder(model: nn.Module) -> nn.Module:
    """The module that reads text: of a model that sees or hears, the one whose config is the text's."""
    config = getattr(model, "config", None)
    wanted = text_config(config)
    if wanted is not config:
        for module in model.modules():
            if module is not model and getattr(module, "config", None) is wanted:
                return module
    return model


class _ReachedError(Exception):
    """Ends a forward pass as soon as a block's input is known."""


@dataclass
class Stream:
    """Hidden states on their way through the blocks.

    `hidden` holds one tensor [sequences, length, width] per batch: the inputs of the next block. `arguments` maps a
    batch's number of sequences to what the model passes to each block beside the hidden states.
    """

    hidden: HiddenStates
    arguments: dict[int, list[Arguments]] = field(default_factory=dict)

    @property
    def sequences(self) -> int:
        """How many sequences flow through."""
        return sum(len(batch) for batch in self.hidden)

    def run(self, block: Block, batch: Tensor) -> Tensor:
        """The block's output for one batch of its inputs, [sequences, length, width]."""
        args, kwargs = self.arguments[len(batch)][block.index]
        return _hidden_of(block.module(batch, *args, **kwargs))

    def pass_through(self, block: Block) -> None:
        """Run all batches without keeping an output: for what hooks see on the way."""
        for batch in self.hidden:
            self.run(block, batch)

    def advance(self, block: Block) -> None:
        """Replace the block's inputs by its outputs, batch by batch: the next block's inputs."""
        for index, batch in enumerate(self.hidden):
            self.hidden[index] = self.run(block, batch)


def open_stream(model: nn.Module, blocks: Sequence[Block], ids: Tensor) -> Stream:
    """The first block's inputs for token ids, and the arguments of every block.

    Args:
        model: the causal language model; its embeddings and its first block must be in memory.
        ids: [sequences, length] int64; they are run in batches of about `BATCH_TOKENS` tokens.
    """
    size = max(1, BATCH_TOKENS // ids.shape[1])
    device = next(model.parameters()).device
    stream = Stream(HiddenStates(memory_for(model)))
    for batch in torch.split(ids.to(device), size):
        stream.hidden.append(_first_inputs(model, blocks[0], batch))
        if len(batch) not in stream.arguments:
            stream.arguments[len(batch)] = _arguments(model, blocks, batch)
    return stream


def _first_inputs(model: nn.Module, first: Block, ids: Tensor) -> Tensor:
    seen: list[tuple[Tensor, Arguments]] = []
    with _stopping(first, seen.append):
        model(input_ids=ids, use_cache=False)
    return seen[0][0]


def _arguments(model: nn.Module, blocks: Sequence[Block], ids: Tensor) -> list[Arguments]:
    """What each block gets beside hidden states; layers may differ here, by sliding and full attention.

    The first block computes, those between it and the last note it and pass their input on, at the last it ends.
    """
    seen: list[tuple[Tensor, Arguments]] = []
    outputs: list[Any] = []
    with ExitStack() as stack:
        stack.enter_context(_stopping(blocks[-1], seen.append))
        if len(blocks) > 1:
            stack.enter_context(_noting(blocks[0], seen.append, outputs.append))
        for block in blocks[1:-1]:
            stack.enter_context(_bypassing(block, seen.append, outputs))
        model(input_ids=ids, use_cache=False)
    return [arguments for _, arguments in seen]


Note = Callable[[tuple[Tensor, Arguments]], None]


@contextmanager
def _stopping(block: Block, note: Note) -> Iterator[None]:
    """Note a block's inputs and end the forward pass, and with it the `with` block, before it computes."""

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        note(_split(args, kwargs))
        raise _ReachedError

    handle = block.module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        yield
    except _ReachedError:
        return
    finally:
        handle.remove()


@contextmanager
def _noting(block: Block, note: Note, note_output: Callable[[Any], None]) -> Iterator[None]:
    """Note a block's inputs and what it puts out."""

    def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        note(_split(args, kwargs))
        note_output(output)

    handle = block.module.register_forward_hook(after, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _bypassing(block: Block, note: Note, outputs: Sequence[Any]) -> Iterator[None]:
    """Note a block's inputs and put them out again, beside whatever else the first block put out, without computing."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        inputs = _split(args, kwargs)
        note(inputs)
        return (inputs[0], *outputs[0][1:]) if isinstance(outputs[0], tuple) else inputs[0]

    block.module.forward = forward
    try:
        yield
    finally:
        del block.module.forward


def _split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Arguments]:
    """The hidden states, which some families pass by name, and all other arguments."""
    if args:
        return args[0], (args[1:], dict(kwargs))
    rest = dict(kwargs)
    return rest.pop("hidden_states"), ((), rest)


def _hidden_of(output: Any) -> Tensor:
    """A block's output: a tensor, or in older families a tuple that begins with it."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def groups_by_input(block: Block, stream: Stream) -> list[list[str]]:
    """The block's Linears in the order of their calls, those that read the very same tensor together.

    For a Llama block: q, k, v / o / gate, up / down. Found by running batches until all were called, so no names need
    be known. An expert that no token is sent to has a group for each of its Linears, which are never called.

    Raises:
        UserError: a Linear is not reached although the module that holds it runs, so that nothing could be known about
            its inputs.
    """
    groups: list[list[str]] = []
    waiting, ran = set(block.linears), set[str]()
    for batch in stream.hidden:
        calls, modules = _calls(block, stream, batch)
        found = _same_inputs([(name, seen) for name, seen in calls if name in waiting])
        groups += found
        waiting.difference_update(*found)
        ran |= modules
        if not waiting:
            break
    unreached = sorted(name for name in waiting if name.rpartition(".")[0] in ran)
    if unreached:
        raise UserError(
            f"{unreached[0]}: no forward pass reaches it, so it cannot be calibrated; "
            f"use {method_names(calibrated=False)}"
        )
    return groups + [[name] for name in block.linears if name in waiting]


def _calls(block: Block, stream: Stream, batch: Tensor) -> tuple[list[tuple[str, Tensor]], set[str]]:
    """The first call of each of the block's Linears on a batch, with what it read, and the names of all that ran."""
    calls: dict[str, Tensor] = {}
    ran: set[str] = set()

    def note(name: str) -> Any:
        def seen(_: nn.Module, args: tuple[Any, ...]) -> None:
            ran.add(name)
            if name in block.linears and args[0].numel():
                calls.setdefault(name, args[0])

        return seen

    with ExitStack() as stack:
        for name, module in block.module.named_modules(prefix=block.name):
            stack.callback(module.register_forward_pre_hook(note(name)).remove)
        stream.run(block, batch)
    return list(calls.items()), ran


def _same_inputs(calls: Sequence[tuple[str, Tensor]]) -> list[list[str]]:
    """Names in groups of those that read the very same tensor one after the other."""
    groups: list[tuple[Tensor, list[str]]] = []
    for name, seen in calls:
        if groups and groups[-1][0] is seen:
            groups[-1][1].append(name)
        else:
            groups.append((seen, [name]))
    return [names for _, names in groups]


@contextmanager
def watching(block: Block, names: Sequence[str], see: Any) -> Iterator[None]:
    """Call `see(name, input)` whenever one of the named Linears is about to run."""
    with ExitStack() as stack:
        for name in names:
            hook = block.linears[name].register_forward_pre_hook(lambda _module, args, name=name: see(name, args[0]))
            stack.callback(hook.remove)
        yield


def empty_cache(device: torch.device) -> None:
    """Give freed GPU memory back between blocks; nothing to do elsewhere."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
