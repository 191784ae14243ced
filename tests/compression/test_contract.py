"""What every registered method promises, whichever it is: exact counts, whole groups, and a way back bit for bit."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from earnest.compression.checks import check_inputs
from earnest.compression.encoding import Layout, decode, encode, form_of
from earnest.compression.matrices import Compressed, Matrix
from earnest.compression.methods import PROCEDURES, DataFree, nominal_zeros, procedure_for
from earnest.specs import METHODS, NM, AnyMethod, Pruning, Quantisation, UserError, method_names, read_method

SHAPES = [(7, 12), (1, 16), (9, 40), (5, 132), (16, 64)]
PATTERNS: list[dict[str, Any]] = [
    {"sparsity": 0.3}, {"sparsity": 0.37}, {"sparsity": 0.5}, {"sparsity": 0.8}, {"pattern": "2:4"}, {"pattern": "4:8"},
]  # fmt: skip
LEVELS: list[dict[str, Any]] = [
    {"bits": bits, "group_size": size} for bits, size in product(range(2, 9), (-1, 4, 8, 16, 32))
]
PRUNERS = [method for method in METHODS if issubclass(method, Pruning)]
QUANTISERS = [method for method in METHODS if issubclass(method, Quantisation)]
BOTH = [method for method in PRUNERS if "bits" in method.model_fields]
CASES = [
    *product(PRUNERS, PATTERNS),
    *product(QUANTISERS, LEVELS),
    *product(BOTH, ({**pattern, **levels} for pattern, levels in product(PATTERNS[1::3], LEVELS[::3]))),
]


def named(value: Any) -> str:
    return str(value.model_fields["method"].default) if isinstance(value, type) else "-".join(map(str, value.values()))


def compressed(method: AnyMethod, matrices: list[Matrix]) -> list[Compressed]:
    """What the method makes of Linears that read the same inputs, which calibration sees where it is asked for."""
    procedure, cols = procedure_for(method), matrices[0].weight.shape[1]
    if isinstance(procedure, DataFree):
        return procedure.compress(matrices, method)
    statistic = procedure.statistic(cols, torch.device("cpu"))
    statistic.add(torch.randn(4, 64, cols, generator=torch.Generator().manual_seed(3)))
    return procedure.compress(matrices, statistic.value(), method)


def check_counts(method: AnyMethod, weight: Tensor, outcome: Compressed) -> None:
    rows, cols = weight.shape
    pruned = 0 if outcome.mask is None else int(outcome.mask.sum())
    assert pruned in nominal_zeros(method, rows, cols)
    if not isinstance(method, Pruning):
        return
    assert outcome.mask is not None
    assert (outcome.weight[outcome.mask] == 0).all()
    assert abs(pruned - rows * cols * method.pattern.sparsity) <= rows + 1  # one of each row is rounding
    if isinstance(method.pattern, NM):
        assert (outcome.mask.view(rows, -1, method.pattern.m).sum(-1) == method.pattern.m - method.pattern.n).all()


@pytest.mark.parametrize(("kind", "options"), CASES, ids=named)
def test_every_method_keeps_what_it_promises(kind: type[Any], options: dict[str, Any]) -> None:
    method, done = read_method({"method": kind.model_fields["method"].default, **options}), 0
    for seed, (rows, cols) in enumerate(SHAPES):
        asked = [options.get("group_size", -1), getattr(getattr(method, "pattern", None), "m", 1)]
        if any(size > 0 and cols % size for size in asked):
            with pytest.raises(UserError, match=rf"does not divide the {cols} inputs of layer\n *use "):
                check_inputs(method, {"layer": cols})
            continue
        weights = [torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed)), torch.ones(rows + 1, cols)]
        outcomes = compressed(method, [Matrix(f"layer{i}", w, torch.float32) for i, w in enumerate(weights)])
        for weight, outcome in zip(weights, outcomes, strict=True):
            assert outcome.weight.shape == weight.shape
            assert outcome.weight.isfinite().all()
            check_counts(method, weight, outcome)
            check_stored(outcome)
            done += 1
    assert done >= 2


def check_stored(outcome: Compressed) -> None:
    """The parts that would lie in a file give the weight again."""
    quantised, weight = outcome.quantised, outcome.weight + 0.0
    bits = None if quantised is None else quantised.bits
    form = form_of(0 if outcome.mask is None else int(outcome.mask.sum()), bits)
    layout = Layout(form, tuple(weight.shape), torch.float32, bits, None if quantised is None else quantised.group_size)
    assert torch.equal(decode(layout, encode(form, weight, quantised)) + 0.0, weight)
    if quantised is not None:
        assert int(quantised.codes.max()) < 2**quantised.bits


def test_the_table_of_methods_is_whole() -> None:
    """Errors and `--help` list it, so that nothing else has to be remembered."""
    compressing = {method for method in METHODS if method.family != "dense"}
    assert set(PROCEDURES) == compressing
    names = [str(method.model_fields["method"].default) for method in METHODS if method in compressing]
    assert method_names() == f"{', '.join(names[:-1])} or {names[-1]}"
    with pytest.raises(UserError, match=f"nothing to compress; use {method_names()}"):
        procedure_for(read_method({"method": "dense"}))
