"""A plan holds each piece of work once, and its digests cover all that decides a result."""

from dataclasses import replace

import pytest

from earnest.plan import Cell, Inputs, Plan
from earnest.planning import make_plan
from earnest.specs import Sweep, UserError
from earnest.specs.dtypes import AUTOS

FIELDS = {
    "name": "s",
    "model": "nano:large",
    "references": ["nano:small"],
    "compress": [
        {"method": "magnitude", "sparsity": [0.3, 0.5]},
        {"method": "wanda", "sparsity": 0.5},
        {"method": "random", "sparsity": 0.5},
    ],
    "tasks": [{"task": "closed_book", "limit": 10}, {"task": "perplexity", "limit": 10}],
}
INPUTS = Inputs(
    models={"nano:large": ("nano:large", "L"), "nano:small": ("nano:small", "S")},
    data={"nano|test": ("nano", "D"), "nano|train": ("nano", "D")},
    versions={"torch": "1"},
)


def plan(**changes: object) -> Plan:
    return make_plan(Sweep.model_validate({**FIELDS, **changes}), INPUTS)


def test_every_cell_has_all_tasks_and_dense_comes_first() -> None:
    cells = plan().cells
    assert [(cell.model, cell.method.model_dump()["method"]) for cell in cells] == [
        ("nano:large", "dense"),
        ("nano:large", "magnitude"),
        ("nano:large", "magnitude"),
        ("nano:large", "wanda"),
        ("nano:large", "random"),
        ("nano:small", "dense"),
    ]
    assert all(set(cell.evaluate) == {"closed_book", "perplexity"} for cell in cells)


def test_steps_come_after_what_they_need() -> None:
    seen: set[str] = set()
    for step in plan().steps.values():
        assert set(step.needs) <= seen
        seen.add(step.digest)


def test_perplexity_of_a_compressed_model_needs_the_dense_reference() -> None:
    made = plan()
    dense, pruned = made.cells[0], made.cells[1]
    assert made.steps[pruned.evaluate["perplexity"]].reference == dense.evaluate["perplexity"]
    assert made.steps[dense.evaluate["perplexity"]].reference is None


def test_seeds_multiply_only_what_depends_on_them() -> None:
    methods = [cell.method.model_dump()["method"] for cell in plan(seeds=[0, 1]).cells]
    assert methods.count("magnitude") == 2
    assert methods.count("wanda") == 2
    assert methods.count("random") == 2


def test_a_plan_made_twice_is_the_same_and_two_sweeps_share_steps() -> None:
    assert set(plan().steps) == set(plan().steps)
    assert set(plan(name="other").steps) == set(plan().steps)
    smaller = plan(compress=[{"method": "wanda", "sparsity": 0.5}], references=[])
    assert set(smaller.steps) < set(plan().steps)


def test_whatever_decides_a_result_changes_its_digest() -> None:
    def wanda(made: Plan) -> str:
        return next(str(c.compress) for c in made.cells if c.method.model_dump()["method"] == "wanda")

    base = wanda(plan())
    longer = {"data": "nano", "length": 64}
    changed_weights = Inputs({**INPUTS.models, "nano:large": ("nano:large", "M")}, INPUTS.data, INPUTS.versions)
    changed_data = Inputs(INPUTS.models, {**INPUTS.data, "nano|train": ("nano", "E")}, INPUTS.versions)
    changed_torch = Inputs(INPUTS.models, INPUTS.data, {"torch": "2"})
    sweep = Sweep.model_validate(FIELDS)
    digests = {base, wanda(plan(calibration=longer)), wanda(plan(dtype="bfloat16"))}
    digests |= {wanda(make_plan(sweep, inputs)) for inputs in (changed_weights, changed_data, changed_torch)}
    assert len(digests) == 6


NARROW = {"nano:large": "bfloat16", "e": "float16"}


def test_a_step_is_named_by_the_dtype_that_is_computed_in_whoever_chose_it() -> None:
    sweep, inputs = Sweep.model_validate(FIELDS), replace(INPUTS, stored=NARROW)
    chosen = {auto: set(make_plan(sweep, replace(inputs, auto=auto)).steps) for auto in AUTOS}
    asked = {
        dtype: set(make_plan(sweep.model_copy(update={"dtype": dtype}), inputs).steps)
        for dtype in ("float32", "bfloat16", "stored")
    }
    assert chosen["float32"] == asked["float32"]
    assert chosen["stored"] == asked["stored"]
    own = next(cell for cell in make_plan(sweep, replace(inputs, auto="bfloat16")).cells if cell.compress)
    assert {own.compress, *own.evaluate.values()} <= asked["bfloat16"]
    assert not {own.compress, *own.evaluate.values()} & asked["float32"]


def test_every_step_carries_a_dtype_and_none_is_left_to_the_worker() -> None:
    for auto in AUTOS:
        made = make_plan(Sweep.model_validate({**FIELDS, "proxy": [PAIR]}), replace(STEERED, stored=NARROW, auto=auto))
        assert {step.spec["dtype"] for step in made.steps.values()} <= {"float32", "bfloat16", "float16"}


def test_on_gpus_each_model_of_a_pair_computes_in_its_own_dtype() -> None:
    inputs = replace(STEERED, stored=NARROW, auto="stored")
    made = make_plan(Sweep.model_validate({**FIELDS, "proxy": [PAIR]}), inputs)
    step = made.steps[ensembles(made)[0].evaluate["closed_book"]]
    assert (step.spec["dtype"], step.spec["dtypes"]) == ("bfloat16", {"expert": "float16", "antiexpert": "float32"})
    assert step.steering is not None
    assert step.steering.expert.dtype == "float16"
    alike = make_plan(Sweep.model_validate({**FIELDS, "proxy": [PAIR], "dtype": "bfloat16"}), inputs)
    assert "dtypes" not in alike.steps[ensembles(alike)[0].evaluate["closed_book"]].spec


def test_where_things_lie_does_not_change_a_digest() -> None:
    moved = Inputs({name: ("/elsewhere", d) for name, (_, d) in INPUTS.models.items()}, INPUTS.data, INPUTS.versions)
    assert set(make_plan(Sweep.model_validate(FIELDS), moved).steps) == set(plan().steps)


def test_missing_is_what_is_not_done() -> None:
    made = plan()
    first = next(iter(made.steps))
    assert first not in {step.digest for step in made.missing({first})}
    assert len(made.missing({first})) == len(made.steps) - 1


PAIR = {"name": "tuned", "expert": "e", "antiexpert": "a", "target": "nano:large-tuned"}
STEERED = Inputs(
    {**INPUTS.models, "e": ("e", "E"), "a": ("a", "A"), "f": ("f", "F"), "nano:large-tuned": ("t", "T")},
    INPUTS.data,
    INPUTS.versions,
)


def steered(inputs: Inputs = STEERED, **changes: object) -> Plan:
    return make_plan(Sweep.model_validate({**FIELDS, "proxy": [{**PAIR, **changes}]}), inputs)


def ensembles(made: Plan) -> list[Cell]:
    return [cell for cell in made.cells if cell.steering is not None]


def test_a_pair_steers_every_cell_but_the_models_it_is_made_of() -> None:
    made = steered(expert="nano:small")
    assert [cell.label for cell in ensembles(made)] == [
        "nano:large", "magnitude 30%", "magnitude 50%", "wanda 50%", "random 50%",
    ]  # fmt: skip
    assert "nano:large-tuned" in [cell.model for cell in made.cells]


@pytest.mark.parametrize(
    ("bases", "labels"),
    [
        ("dense", ["nano:large"]),
        (["magnitude"], ["magnitude 30%", "magnitude 50%"]),
        (["wanda 50%", "nano:small", "dense"], ["nano:large", "wanda 50%", "nano:small"]),
    ],
)
def test_bases_are_named_by_model_method_or_cell(bases: object, labels: list[str]) -> None:
    assert [cell.label for cell in ensembles(steered(bases=bases))] == labels


def test_a_base_that_the_sweep_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match=r"no 'wanda 60%' in this sweep; it has nano:large, magnitude 30%"):
        steered(bases=["wanda 60%"])


def test_alphas_are_a_grid_and_entries_of_one_pair_share_cells() -> None:
    twice = [
        {**PAIR, "alpha": [0, 0.5, "adaptive"], "bases": "dense"},
        {**PAIR, "alpha": 0.5, "bases": ["dense", "wanda"]},
    ]
    made = make_plan(Sweep.model_validate({**FIELDS, "proxy": twice}), STEERED)
    assert [(cell.label, str(cell.steering)) for cell in ensembles(made)] == [
        ("nano:large", "tuned α 0"), ("nano:large", "tuned α 0.5"), ("nano:large", "tuned α adaptive"),
        ("wanda 50%", "tuned α 0.5"),
    ]  # fmt: skip


def test_a_steered_cell_knows_its_base_and_its_target() -> None:
    made = steered(bases=["wanda"])
    (cell,) = ensembles(made)
    by_key = {other.key: other for other in made.cells}
    base, target = by_key[str(cell.base)], by_key[str(cell.target)]
    assert (base.label, base.steering, base.compress) == ("wanda 50%", None, cell.compress)
    assert target.model == "nano:large-tuned"
    assert not set(base.evaluate.values()) & set(cell.evaluate.values())


def test_perplexity_of_an_ensemble_needs_its_base_as_the_reference() -> None:
    made = steered(bases="dense")
    step = made.steps[ensembles(made)[0].evaluate["perplexity"]]
    assert step.reference == made.cells[0].evaluate["perplexity"]
    assert step.reference in step.needs


def test_a_steered_step_is_named_by_base_pair_and_alpha_and_not_by_names() -> None:
    def step(made: Plan) -> str:
        return ensembles(made)[0].evaluate["closed_book"]

    retrained = Inputs({**STEERED.models, "a": ("a", "B")}, INPUTS.data, INPUTS.versions)
    same = {step(steered()), step(steered(name="other")), step(steered(target=None))}
    assert len(same) == 1
    others = [
        step(steered(alpha=0.5)), step(steered(alpha=0)), step(steered(alpha="adaptive")), step(steered(expert="f")),
        step(steered(antiexpert=None)), step(steered(retrained)), step(steered(bases=["wanda"])),
        steered().cells[0].evaluate["closed_book"],
        step(make_plan(Sweep.model_validate({**FIELDS, "dtype": "bfloat16", "proxy": [PAIR]}), STEERED)),
    ]  # fmt: skip
    assert len(same | set(others)) == 10


def test_a_sweep_without_pairs_has_the_steps_that_it_always_had() -> None:
    assert set(plan().steps) < set(steered().steps)


def test_a_pair_may_be_compressed_as_its_base_is() -> None:
    made = steered(compressed=["antiexpert"], bases=["dense", "wanda"])
    dense, wanda = ensembles(made)
    assert dense.steering == ensembles(steered(bases="dense"))[0].steering
    assert wanda.steering is not None
    assert wanda.steering.antiexpert is not None
    step = made.steps[str(wanda.steering.antiexpert.checkpoint)]
    assert (step.kind, step.label) == ("compress", "compress a wanda 50%")
    assert made.steps[str(wanda.compress)].spec | {"model_digest": "A"} == step.spec
    evaluate = made.steps[wanda.evaluate["closed_book"]]
    assert set(evaluate.needs) == {wanda.compress, step.digest}
    assert wanda.steering.expert.checkpoint is None
    plain = ensembles(steered(bases=["wanda"]))[0]
    assert plain.evaluate["closed_book"] != evaluate.digest


def localised(**changes: object) -> Plan:
    entry = {"cells": ["wanda", "magnitude 50%"], "tasks": ["closed_book"], **changes}
    inputs = Inputs(INPUTS.models, INPUTS.data, INPUTS.versions, blocks=6)
    return make_plan(Sweep.model_validate({**FIELDS, "localise": [entry]}), inputs)


def test_localising_adds_one_evaluation_per_block_of_each_named_cell() -> None:
    made = localised()
    further = [step for step in made.steps.values() if step.restored]
    assert len(further) == 2 * 6
    assert set(made.steps) - {step.digest for step in further} == set(plan().steps)
    found = {cell.label: cell.restored for cell in made.cells if cell.restored}
    assert set(found) == {"magnitude 50%", "wanda 50%"}
    for cell in made.cells:
        for task, digests in cell.restored.items():
            assert [made.steps[digest].restored for digest in digests] == [(i,) for i in range(6)]
            assert {made.steps[digest].checkpoint for digest in digests} == {cell.compress}
            assert task == "closed_book"


def test_localising_names_cells_and_tasks_that_are_there() -> None:
    with pytest.raises(UserError, match="localise: cells: no 'gptq' in this sweep; it has magnitude 30%"):
        localised(cells=["gptq"])
    with pytest.raises(ValueError, match="localise: no task 'mmlu' in this sweep; it has closed_book, perplexity"):
        localised(tasks=["mmlu"])
