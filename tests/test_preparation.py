"""Preparing a sweep looks at each model and each piece of data once, and names finished work as it always did."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from earnest.models import inspected
from earnest.plan import Inputs, data_key
from earnest.planning import make_plan
from earnest.records import digest
from earnest.rereads import with_rereads
from earnest.specs import Sweep, read_sweep
from earnest.sweep import prepare

CONFIGS = Path(__file__).parents[1] / "jobs" / "configs"
# Of the digests of all steps and cells with every version left out. One that differs makes users run finished work
# again: it may change only where a result does.
NAMED = {
    "demo": "56034721a56284dff2c1d8f351086e34",
    "domains_nano": "ba6020e733e8869b71ac5005b9a296d7",
    "llama": "0d4778c137cce935f82085a39e8efdf4",
    "llm_kick_nano": "5ea1a792bf1e1f75c979b7f6e689393f",
    "llm_kick_small_dense": "b4263c654bf7828927f916f8fe4b849a",
    "llm_kick_vicuna_13b": "9fa6b0657d9eb62c100f4c60555ecf4f",
    "llm_kick_vicuna_7b": "5feb5369b3b7a9ec212a0515e7b8b684",
    "proxy_llama": "26dc2e123f74cf3138217df33c2afe9e",
    "proxy_nano": "89ea8b6daf991846f7789f3d2639f643",
    "proxy_tuning_alpha_13b": "e3279b62342c47042d5d9dbe6ca7286a",
    "proxy_tuning_chat_13b": "db85d06d7f2f35aaba1bd66cde97b036",
    "proxy_tuning_chat_70b": "5cb21748b32342cb174aad53f2fcad60",
    "proxy_tuning_code_13b": "868cbaa5c5839090da87965d46136def",
    "proxy_tuning_code_70b": "347da1ee8d638f242e913eb41e4c283c",
    "proxy_tuning_tasks_13b": "602a3613396ef09075049f0c51aa226d",
    "proxy_tuning_tasks_70b": "1fcd25c20d1ea411a6de412bee5fccd2",
    "sequential_nano": "6918c32ab6f15687d52885e536ece28e",
    "smoke": "a7c56efb977d6c974945b204a0809fd9",
}


def unversioned(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: unversioned(v) for k, v in value.items() if k not in ("version", "versions", "engine")}
    return [unversioned(v) for v in value] if isinstance(value, list) else value


def inputs_of(sweep: Sweep) -> Inputs:
    names = list(sweep.models)
    return Inputs(
        models={name: (f"/models/{name}", digest(name)) for name in names},
        data={data_key(spec): (spec.data, digest(data_key(spec))) for spec in (*sweep.tasks, sweep.calibration)},
        versions={"torch": "0"},
        helpers={name: digest(name) for task in sweep.tasks for name in task.models},
        blocks=2 if sweep.localise else 0,
        stored=dict.fromkeys(names, "bfloat16"),
    )


def name_of(sweep: Sweep) -> str:
    """A digest of the specs of all steps, those that they refer to by digest being referred to by their place."""
    plan = with_rereads(make_plan(sweep, inputs_of(sweep)), sweep)
    places = {name: f"step {place}" for place, name in enumerate(plan.steps)}

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(each) for key, each in value.items()}
        return places.get(value, value) if isinstance(value, str) else value

    for name, step in plan.steps.items():
        assert name == step.digest == digest(step.spec)
    cells = [[cell.label, cell.seed, dict(cell.evaluate)] for cell in plan.cells]
    return digest([placed(unversioned([step.spec])[0]) for step in plan.steps.values()] + [placed(c[2]) for c in cells])


@pytest.mark.parametrize("name", NAMED)
def test_steps_keep_their_names(name: str) -> None:
    assert name_of(read_sweep(CONFIGS / f"{name}.toml")) == NAMED[name]


def counting(monkeypatch: pytest.MonkeyPatch, module: Any, *names: str) -> Counter[str]:
    """How often functions of a module are called, by name and first argument."""
    calls: Counter[str] = Counter()

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **fields: Any) -> Any:
            calls[f"{name} {getattr(args[0], 'name', args[0])}"] += 1
            return real(*args, **fields)

        return call

    for name in names:
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    return calls


def test_each_model_is_looked_at_once_for_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "s.toml"
    config.write_text(
        'name = "s"\nmodel = "nano:large"\nreferences = ["nano:small"]\n[calibration]\nlength = 128\n'
        '[[compress]]\nmethod = "wanda"\nsparsity = [0.3, 0.5]\n'
        '[[compress]]\nmethod = "rtn"\nbits = 4\ngroup_size = 32\n'
        '[[tasks]]\ntask = "closed_book"\nlimit = 5\n[[localise]]\ntasks = ["closed_book"]\ncells = ["wanda"]\n'
        '[[proxy]]\nname = "tuned"\nexpert = "nano:small-tuned"\nantiexpert = "nano:small"\n'
    )
    calls = counting(
        monkeypatch, inspected, "resolve", "checked_config", "load_tokenizer", "skeleton_of", "stored_dtype"
    )
    prepared = prepare(config, store=str(tmp_path / "store"))
    assert len(prepared.plan.cells) > 3
    assert max(calls.values()) == 1, calls
    assert sum(name.startswith("resolve") for name in calls) == 3
    assert [name for name in calls if name.startswith("skeleton_of")] == ["skeleton_of nano:large"]


def test_a_plan_is_made_once_where_nothing_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from earnest import sweep as main_job

    made = []
    monkeypatch.setattr(main_job, "make_plan", lambda *args: made.append(args) or make_plan(*args))
    monkeypatch.setattr(main_job, "auto_of_workers", lambda *_: "stored")
    prepare(CONFIGS / "smoke.toml", store=str(tmp_path / "store"))
    assert len(made) == 1
