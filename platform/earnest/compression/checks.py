"""Does a method fit a model? Asked of the layers' shapes alone, before any weight is read or anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

from torch import nn

from earnest.models.blocks import decoder_blocks
from earnest.specs import NM, Method, Pruning, UserError


def check_fits(model: nn.Module, method: Method) -> None:
    """Check a method against every layer that it would touch; the model may be a skeleton without weights.

    Raises:
        UserError: the model's blocks cannot be walked, or groups do not divide the inputs of a layer.
    """
    check_inputs(
        method, {name: linear.in_features for b in decoder_blocks(model) for name, linear in b.linears.items()}
    )


def check_inputs(method: Method, inputs: Mapping[str, int]) -> None:
    """Check a method against the number of inputs of each layer, by the layer's name.

    Raises:
        UserError: a group size, or M of N:M, does not divide a layer's inputs; the message offers those that divide
            all of them.
    """
    common = gcd(*inputs.values())
    for name, cols in inputs.items():
        _check_group_size(method, name, cols, common)
        _check_pattern(method, name, cols, common)


def _check_group_size(method: Method, name: str, cols: int, common: int) -> None:
    group_size = getattr(method, "group_size", -1)
    if group_size != -1 and cols % group_size:
        static = bool(getattr(method, "static_groups", False))
        whole = f"group_size = -1 {'without static_groups' if static else 'for one group per row'}"
        raise UserError(
            f"{name_of(method)}: group_size {group_size} does not divide the {cols} inputs of {name}\n"
            f"use {_either(_some(common, 8, common, 'group_size = '), whole)}"
        )


def _check_pattern(method: Method, name: str, cols: int, common: int) -> None:
    if not isinstance(method, Pruning) or not isinstance(method.pattern, NM) or cols % method.pattern.m == 0:
        return
    raise UserError(
        f"{name_of(method)}: pattern {method.pattern} does not divide the {cols} inputs of {name}\n"
        f"use {_either(_some(common, 2, 64, 'an M of ', 'an M of '), f'sparsity = {method.pattern.sparsity:g}')}"
    )


def _some(number: int, low: int, high: int, one: str, many: str = "one of ") -> str:
    """The divisors within the bounds, called `one` or `many`; nothing where there is none."""
    found = [str(d) for d in range(low, high + 1) if number % d == 0]
    return (one if len(found) == 1 else many) + ", ".join(found) if found else ""


def _either(first: str, second: str) -> str:
    return f"{first}, or {second}" if first else second


def name_of(method: Method) -> str:
    """The method's name as a user writes it."""
    return str(method.model_dump()["method"])
