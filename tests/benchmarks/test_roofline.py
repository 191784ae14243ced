"""The cost model: Llama-2's published sizes, a step worked out by hand, and figures that must follow from them."""

import pytest

from gpu_steps import step_seconds
from roofline import LLAMA_2, MOST_PROPOSED, Costs, Machine, Shape, acceptance, tokens_per_round


@pytest.mark.parametrize(
    ("name", "parameters"), [("7B", 6_738_415_616), ("13B", 13_015_864_320), ("70B", 68_976_648_192)]
)
def test_llama_2_has_as_many_weights_as_it_has(name: str, parameters: int) -> None:
    assert LLAMA_2[name].weights == parameters


def test_a_step_takes_what_its_bytes_take() -> None:
    shape = Shape(layers=2, hidden=4, inner=8, heads=2, kv_heads=1, vocabulary=10)
    # a layer: q and o 2 * 16, k and v 2 * 4 * 2, three of 4 * 8, two norms of 4: 152; a norm and the head: 44
    assert shape.read == 2 * 152 + 44
    assert shape.kv_per_token == 2 * 2 * 2
    machine = Machine(bandwidth=100.0, operations=1e9, width=2)
    assert machine.step(shape, tokens=1, context=5) == pytest.approx(2 * (348 + 5 * 8) / 100)


def test_verifying_is_free_up_to_the_ridge_and_not_beyond() -> None:
    machine, shape = Machine(), LLAMA_2["7B"]
    ridge = machine.ridge(shape)
    assert machine.step(shape, ridge) == machine.step(shape, 1)
    assert machine.step(shape, 2 * ridge) > 1.9 * machine.step(shape, 1)


def test_tokens_per_round_are_a_geometric_sum() -> None:
    assert tokens_per_round(0.5, 3) == pytest.approx(1 + 0.5 + 0.25 + 0.125)
    assert tokens_per_round(1.0, 3) == 4
    assert tokens_per_round(0.0, 3) == 1


@pytest.mark.parametrize("accepted", [0.0, 0.3, 0.9, 1.0])
def test_acceptance_is_found_from_what_a_round_writes(accepted: float) -> None:
    assert acceptance(tokens_per_round(accepted, 6), 6) == pytest.approx(accepted, abs=1e-6)


def test_the_drafted_round_is_counted_member_by_member() -> None:
    costs = Costs(base=(10.0, 10.0, 11.0), small=(1.0, 1.0, 2.0))
    assert costs.plain == 12
    # three steps of the expert, base and antiexpert over three tokens, 1 + 0.5 + 0.25 tokens written
    assert costs.drafted(0.5, 2) == pytest.approx((3 * 1 + 11 + 2) / 1.75)
    # the same in one step that reads three tokens, two of them guessed
    assert costs.drafted(0.5, 2, 3.0) == pytest.approx((2 + 11 + 2) / 1.75)


def test_drafting_is_left_where_it_does_not_pay() -> None:
    costs = Costs(base=(1.0,) * 9, small=(1.0,) * 9)
    assert costs.best(0.05)[0] == 0
    assert costs.best(0.99)[0] == 8


def test_steps_of_random_weights_are_measured_without_a_gpu_too() -> None:
    shape = Shape(layers=1, hidden=16, inner=32, heads=2, kv_heads=1, vocabulary=50)
    taken = step_seconds(shape, 2)
    assert [len(times) for times in taken] == [2] * (MOST_PROPOSED + 1)
    assert all(seconds > 0 for times in taken for seconds in times)
