"""What each method promises of one matrix, whatever the weights."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from earnest.compression import gptq, magnitude, random_control, rtn, sparsegpt, wanda
from earnest.compression.activations import SecondMoment, SquaredNorms
from earnest.compression.matrices import Matrix
from earnest.compression.methods import PROCEDURES, nominal_zeros
from earnest.specs import GPTQ, METHODS, RTN, Magnitude, Random, SparseGPT, UserError, Wanda


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    """Correlated inputs [sequences, length, 64] with a few large channels."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(64, 64, generator=generator)
    x = torch.randn(8, 64, 64, generator=generator) @ mix
    x[..., 5] *= 10
    return x


@pytest.fixture(scope="module")
def hessian(inputs: Tensor) -> Tensor:
    moment = SecondMoment(64, inputs.device)
    moment.add(inputs)
    return moment.value()


@pytest.fixture(scope="module")
def weight() -> Tensor:
    return torch.randn(24, 64, generator=torch.Generator().manual_seed(1))


def matrix(weight: Tensor, name: str = "layer") -> Matrix:
    return Matrix(name, weight, torch.float32)


def error(inputs: Tensor, dense: Tensor, weight: Tensor) -> float:
    return float((inputs @ (dense - weight).t()).square().sum())


@pytest.mark.parametrize("sparsity", [0.1, 0.25, 0.3, 0.5, 0.77])
def test_every_pruner_hits_its_count_exactly_when_all_weights_tie(sparsity: float) -> None:
    ones, identity = torch.ones(24, 64), torch.eye(64)
    outcomes = {
        Random(sparsity=sparsity): random_control.compress([matrix(ones)], Random(sparsity=sparsity)),
        Magnitude(sparsity=sparsity): magnitude.compress([matrix(ones)], Magnitude(sparsity=sparsity)),
        Wanda(sparsity=sparsity): wanda.compress([matrix(ones)], torch.ones(64), Wanda(sparsity=sparsity)),
        SparseGPT(sparsity=sparsity): sparsegpt.compress([matrix(ones)], identity, SparseGPT(sparsity=sparsity)),
    }
    for method, (outcome,) in outcomes.items():
        assert int((outcome.weight == 0).sum()) in nominal_zeros(method, 24, 64)
        assert len(nominal_zeros(method, 24, 64)) == 1


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "1:4", "3:8", "1:2"])
def test_n_of_m_holds_in_every_group_of_every_pruner(pattern: str, weight: Tensor, hessian: Tensor) -> None:
    n, m = (int(part) for part in pattern.split(":"))
    outcomes = [
        random_control.compress([matrix(weight)], Random(pattern=pattern)),
        magnitude.compress([matrix(weight)], Magnitude(pattern=pattern)),
        wanda.compress([matrix(weight)], hessian.diagonal(), Wanda(pattern=pattern)),
        sparsegpt.compress([matrix(weight)], hessian, SparseGPT(pattern=pattern)),
        sparsegpt.compress([matrix(weight)], hessian, SparseGPT(pattern=pattern, block_size=20)),
    ]
    for (outcome,) in outcomes:
        kept = (outcome.weight != 0).view(24, -1, m).sum(-1)
        assert (kept == n).all()


def test_survivors_of_random_magnitude_and_wanda_are_untouched(weight: Tensor, hessian: Tensor) -> None:
    for (outcome,) in (
        random_control.compress([matrix(weight)], Random(sparsity=0.5)),
        magnitude.compress([matrix(weight)], Magnitude(sparsity=0.5)),
        wanda.compress([matrix(weight)], hessian.diagonal(), Wanda(sparsity=0.5)),
    ):
        kept = outcome.weight != 0
        assert torch.equal(outcome.weight[kept], weight[kept])


def test_wanda_prunes_each_row_by_weight_times_input_norm() -> None:
    """By hand: norms 1, 2, 3, 4; scores 4, 4, 3, 4 -> the third goes, then the first of those that tie."""
    outcome = wanda.compress(
        [matrix(torch.tensor([[4.0, -2.0, 1.0, 1.0]]))], torch.tensor([1.0, 4.0, 9.0, 16.0]), Wanda(sparsity=0.5)
    )[0]
    assert outcome.weight.tolist() == [[0.0, -2.0, 0.0, 1.0]]


def test_random_pruning_is_seeded_by_the_matrix_and_free_of_order(weight: Tensor) -> None:
    method = Random(sparsity=0.5, seed=3)
    a, b = random_control.compress([matrix(weight, "a"), matrix(weight, "b")], method)
    (again,) = random_control.compress([matrix(weight, "b")], method)
    (other,) = random_control.compress([matrix(weight, "b")], Random(sparsity=0.5, seed=4))
    assert torch.equal(b.weight, again.weight)
    assert not torch.equal(a.weight, b.weight)
    assert not torch.equal(b.weight, other.weight)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [-1, 16])
def test_gptq_errs_less_than_rounding_to_nearest(
    bits: int, symmetric: bool, group_size: int, weight: Tensor, inputs: Tensor, hessian: Tensor
) -> None:
    options = {"bits": bits, "symmetric": symmetric, "group_size": group_size}
    (nearest,) = rtn.compress([matrix(weight)], RTN(**options))
    for act_order in (False, True):
        (better,) = gptq.compress([matrix(weight)], hessian, GPTQ(**options, act_order=act_order))
        assert error(inputs, weight, better.weight) < error(inputs, weight, nearest.weight)
        assert better.quantised is not None
        assert int(better.quantised.codes.max()) < 2**bits


def test_sparsegpt_errs_less_than_wanda_and_wanda_less_than_magnitude(
    weight: Tensor, inputs: Tensor, hessian: Tensor
) -> None:
    norms = SquaredNorms(64, inputs.device)
    norms.add(inputs)
    errors = [
        error(inputs, weight, outcome.weight)
        for (outcome,) in (
            sparsegpt.compress([matrix(weight)], hessian, SparseGPT(sparsity=0.5)),
            wanda.compress([matrix(weight)], norms.value(), Wanda(sparsity=0.5)),
            magnitude.compress([matrix(weight)], Magnitude(sparsity=0.5)),
        )
    ]
    assert errors == sorted(errors)


@pytest.mark.parametrize(
    "method",
    [
        GPTQ(bits=4, group_size=16),
        GPTQ(bits=3, group_size=16, act_order=True, static_groups=True),
        SparseGPT(sparsity=0.5),
        SparseGPT(sparsity=0.5, act_order=True, bits=4, group_size=16),
        SparseGPT(pattern="2:4", bits=4),
    ],
    ids=str,
)
def test_stacking_matrices_that_share_their_inputs_changes_none(
    method: GPTQ | SparseGPT, weight: Tensor, hessian: Tensor
) -> None:
    procedure = PROCEDURES[type(method)]
    both = [matrix(weight[:10], "q"), matrix(3 * weight[10:], "k")]
    stacked = procedure.compress(both, hessian, method)  # type: ignore[call-arg]
    for one, outcome in zip(both, stacked, strict=True):
        (alone,) = procedure.compress([one], hessian, method)  # type: ignore[call-arg]
        assert torch.equal(outcome.weight == 0, alone.weight == 0)
        torch.testing.assert_close(outcome.weight, alone.weight, rtol=1e-4, atol=1e-5)


def test_groups_follow_the_order_of_visits_only_without_static_groups(weight: Tensor, hessian: Tensor) -> None:
    plain = torch.arange(64) // 16
    (dynamic,) = gptq.compress([matrix(weight)], hessian, GPTQ(bits=4, group_size=16, act_order=True))
    (static,) = gptq.compress(
        [matrix(weight)], hessian, GPTQ(bits=4, group_size=16, act_order=True, static_groups=True)
    )
    assert dynamic.quantised is not None
    assert static.quantised is not None
    assert torch.equal(static.quantised.group_of, plain)
    assert not torch.equal(dynamic.quantised.group_of, plain)
    order = hessian.diagonal().argsort(descending=True)
    assert torch.equal(dynamic.quantised.group_of[order], plain)


def test_one_group_per_row_takes_the_scales_of_rounding_to_nearest(weight: Tensor, hessian: Tensor) -> None:
    """Also where the row's extreme sits at an input that calibration never saw."""
    dead, extreme = unseen(hessian), weight.clone()
    extreme[:, 7] = 9.0
    (nearest,) = rtn.compress([matrix(extreme)], RTN(bits=4, group_size=-1))
    for (outcome,) in (
        gptq.compress([matrix(extreme)], dead, GPTQ(bits=4, group_size=-1)),
        sparsegpt.compress([matrix(extreme)], dead, SparseGPT(sparsity=0.5, bits=4)),
    ):
        assert outcome.quantised is not None
        assert nearest.quantised is not None
        assert torch.equal(outcome.quantised.scale, nearest.quantised.scale)


def unseen(hessian: Tensor) -> Tensor:
    """Input 7 was zero in all of calibration."""
    dead = hessian.clone()
    dead[7], dead[:, 7] = 0, 0
    return dead


@pytest.mark.parametrize("options", [{}, {"act_order": True}, {"static_groups": True}, {"group_size": -1}], ids=str)
def test_gptq_rounds_the_weights_of_inputs_never_seen_to_nearest(
    options: dict[str, object], weight: Tensor, hessian: Tensor
) -> None:
    (outcome,) = gptq.compress([matrix(weight)], unseen(hessian), GPTQ(**{"bits": 8, "group_size": 16, **options}))
    assert outcome.quantised is not None
    step = outcome.quantised.scale[:, outcome.quantised.group_of[7]]
    assert (
        float(((outcome.weight[:, 7] - weight[:, 7]).abs() / step).max()) <= 1.001
    )  # the range's end is half a step in
    assert (outcome.weight[:, 7] != 0).any()


def test_sparsegpt_keeps_the_weights_of_inputs_never_seen_that_it_does_not_prune(weight: Tensor) -> None:
    """All inputs unseen: half goes, the other half is as it was."""
    (outcome,) = sparsegpt.compress([matrix(weight)], torch.zeros(64, 64), SparseGPT(sparsity=0.5))
    assert outcome.mask is not None
    assert int(outcome.mask.sum()) == 24 * 64 // 2
    assert torch.equal(outcome.weight[~outcome.mask], weight[~outcome.mask])


def test_dead_inputs_lose_their_weights_first(weight: Tensor, hessian: Tensor) -> None:
    dead = hessian.clone()
    dead[7], dead[:, 7] = 0, 0
    for (outcome,) in (
        wanda.compress([matrix(weight)], dead.diagonal(), Wanda(sparsity=0.1)),
        sparsegpt.compress([matrix(weight)], dead, SparseGPT(sparsity=0.1)),
        sparsegpt.compress([matrix(weight)], dead, SparseGPT(pattern="2:4")),
    ):
        assert (outcome.weight[:, 7] == 0).all()


def test_sparsegpt_with_bits_puts_every_survivor_on_a_level(weight: Tensor, hessian: Tensor) -> None:
    (outcome,) = sparsegpt.compress([matrix(weight)], hessian, SparseGPT(sparsity=0.5, bits=3, group_size=16))
    assert outcome.quantised is not None
    assert outcome.mask is not None
    assert torch.equal(outcome.weight, outcome.quantised.dequantised())
    assert (outcome.weight[outcome.mask] == 0).all()
    assert int(outcome.mask.sum()) == 24 * 64 // 2


def test_block_size_is_neutral_for_n_of_m(weight: Tensor, hessian: Tensor) -> None:
    (wide,) = sparsegpt.compress([matrix(weight)], hessian, SparseGPT(pattern="2:4"))
    (narrow,) = sparsegpt.compress([matrix(weight)], hessian, SparseGPT(pattern="2:4", block_size=16))
    assert torch.equal(wide.weight == 0, narrow.weight == 0)
    torch.testing.assert_close(wide.weight, narrow.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_are_named_with_a_remedy(weight: Tensor, hessian: Tensor, poison: float) -> None:
    broken = hessian.clone()
    broken[3, 3] = poison
    with pytest.raises(UserError, match=r"layer: its calibration inputs are not finite; use dtype = float32"):
        gptq.compress([matrix(weight)], broken, GPTQ(bits=4))
    with pytest.raises(UserError, match="not finite"):
        wanda.compress([matrix(weight)], broken.diagonal(), Wanda(sparsity=0.5))


def test_a_hessian_that_cannot_be_inverted_asks_for_more_damping(weight: Tensor) -> None:
    indefinite = torch.eye(64)
    indefinite[0, 1] = indefinite[1, 0] = 5.0
    with pytest.raises(UserError, match=r"not positive definite with damping = 0.01; use damping = 0.1"):
        sparsegpt.compress([matrix(weight)], indefinite, SparseGPT(sparsity=0.5))


def test_every_method_has_a_procedure_and_a_file_that_cites_or_explains_it() -> None:
    for method in METHODS:
        if method.family == "dense":
            continue
        module = Path(PROCEDURES[method].compress.__code__.co_filename)
        assert module.parent.name == "compression"
        assert re.match(r'"""\w', module.read_text(encoding="utf-8"))
