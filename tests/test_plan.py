"""A plan holds each piece of work once, and its digests cover all that decides a result."""

from earnest.plan import Inputs, Plan, make_plan
from earnest.specs import Sweep

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
    digests = {base, wanda(plan(calibration=longer)), wanda(plan(dtype="float32"))}
    digests |= {wanda(make_plan(sweep, inputs)) for inputs in (changed_weights, changed_data, changed_torch)}
    assert len(digests) == 6


def test_where_things_lie_does_not_change_a_digest() -> None:
    moved = Inputs({name: ("/elsewhere", d) for name, (_, d) in INPUTS.models.items()}, INPUTS.data, INPUTS.versions)
    assert set(make_plan(Sweep.model_validate(FIELDS), moved).steps) == set(plan().steps)


def test_missing_is_what_is_not_done() -> None:
    made = plan()
    first = next(iter(made.steps))
    assert first not in {step.digest for step in made.missing({first})}
    assert len(made.missing({first})) == len(made.steps) - 1
