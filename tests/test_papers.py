"""The papers' own experiments can be planned whole: configs that name models of others, on stand-ins of their shape."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from earnest.cli import app
from earnest.compare.cells import find_cell
from earnest.compare.claims import read_claims
from earnest.specs import read_sweep
from earnest.sweep import prepare

ROOT = Path(__file__).parents[1]
CONFIGS = [path for path in sorted((ROOT / "jobs" / "configs").glob("*.toml")) if "/models/" in path.read_text()]
TRIVIA = {
    "question": "Who?",
    "answer": {"value": "Ada", "normalized_aliases": ["ada"]},
    "entity_pages": {"wiki_context": ["Ada was."]},
    "search_results": {"search_context": ["Ada."]},
}
CHOICE = {"subject": "law", "question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 1}
JUDGE = {
    "category": "",
    "system_prompt": "s",
    "prompt_template": "{question}{answer_1}{answer_2}{prompt}",
    "instruction": "i",
}
TEXT = {"text": "Some text."}
ROWS: dict[str, dict[str, object]] = {
    "c4-sample.parquet": TEXT,
    "c4-validation.parquet": TEXT,
    "wikitext2-test.parquet": TEXT,
    "mmlu": CHOICE,
    "freebaseqa": {"RawQuestion": "Who?", "Parses": [{"Answers": [{"AnswersName": ["ada"]}]}]},
    "triviaqa-rc.parquet": TRIVIA,
    "triviaqa.parquet": {"question": "Who?", "answers": ["Ada"]},
    "truthfulqa-mc.parquet": CHOICE,
    "truthfulqa.parquet": CHOICE,
    "truthfulqa-open.parquet": {"question": "Why?", "correct_answers": ["It is."], "incorrect_answers": ["It is not."]},
    "cnn_dailymail": {"article": "Long.", "highlights": ["Short."], "size": "small", "reference": "Short."},
    "vicuna80": {"question_id": 1, "category": "generic", "turns": ["Why?"], "reference": ["So."]},
    "gsm8k": {"question": "1 + 1?", "answer": "#### 2"},
    "alpaca_farm.parquet": {"instruction": "Write.", "reference": "Written."},
    "toxigen.parquet": {"prompt": "- a\n-", "group": "g"},
    "humaneval.parquet": {"task_id": "t", "prompt": "def f():", "entry_point": "f", "test": "def check(f): ..."},
    "ds1000.parquet": {"prompt": "x =", "code_context": "def test_execution(s): ...", "metadata": {"library": "Numpy"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(make_tiny: Callable[..., Path]) -> Path:
    """A Llama whose layers have 128 inputs, as groups of 128 want them."""
    return make_tiny(
        hidden_size=128, intermediate_size=256, num_hidden_layers=1, head_dim=32, max_position_embeddings=4096
    )


@pytest.fixture
def stand_in(tiny: Path, tmp_path: Path) -> Callable[[Path], Path]:
    """A copy of a config whose models, data and store lie in `tmp_path`."""

    def copy(config: Path) -> Path:
        text = config.read_text(encoding="utf-8")
        for name in set(re.findall(r'"/models/([^"]+)"', text)):
            folder = shutil.copytree(tiny, tmp_path / "models" / name, dirs_exist_ok=True)
            fields = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**fields, "stands_for": name}))  # another digest for each
        for name in set(re.findall(r'"/data/([^"]+)"', text)):
            write_data(tmp_path / "data" / name, ROWS[name])
        here = re.sub(r'"/(models|data|shared)/', rf'"{tmp_path}/\1/', text)
        made = tmp_path / config.name
        made.write_text(here, encoding="utf-8")
        return made

    return copy


def write_data(path: Path, row: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([row])
    if path.suffix:
        pq.write_table(table, path)
        return
    path.mkdir(exist_ok=True)
    (path / "train.jsonl").write_text(json.dumps(row) + "\n")
    pq.write_table(table, path / "test.parquet")
    pq.write_table(pa.Table.from_pylist([row] * 5), path / "dev.parquet")  # as many demonstrations as are asked for
    pq.write_table(pa.Table.from_pylist([JUDGE]), path / "judge_prompts.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_experiment_on_models_of_others_can_be_planned(config: Path, stand_in: Callable[[Path], Path]) -> None:
    asked, plan = read_sweep(config), prepare(stand_in(config)).plan
    labels = [task.label for task in asked.tasks]
    assert all(list(cell.evaluate) == labels for cell in plan.cells)
    compressed = {(cell.method, cell.seed) for cell in plan.cells if cell.compress and not cell.steering}
    assert len(compressed) == len(asked.compress)
    pairs = {(cell.steering.name, cell.steering.alpha) for cell in plan.cells if cell.steering}
    assert pairs == {(proxy.name, alpha) for proxy in asked.proxy for alpha in proxy.alpha}


@pytest.mark.slow
def test_the_papers_claims_name_cells_and_tasks_of_their_sweeps(
    stand_in: Callable[[Path], Path], tmp_path: Path
) -> None:
    file = ROOT / "jobs" / "claims" / "papers.toml"
    asked = [prepare(stand_in(file.parent / sweep)) for sweep in read_claims(file).sweeps]
    plans = {one.sweep.name: one.plan for one in asked}
    text = file.read_text(encoding="utf-8").replace('"/models/', f'"{tmp_path}/models/')
    (tmp_path / "claims.toml").write_text(text, encoding="utf-8")
    for claim in read_claims(tmp_path / "claims.toml").claims:
        for one in claim.predictions:
            names = [one.a, one.b, *([one.target] if one.target else [])]
            assert all(one.task in find_cell(plans[one.sweep], name).evaluate for name in names)


@pytest.mark.slow
def test_the_plan_of_an_experiment_is_shown_before_anything_runs(stand_in: Callable[[Path], Path]) -> None:
    config = stand_in(ROOT / "jobs" / "configs" / "llm_kick_vicuna_7b.toml")
    shown = CliRunner().invoke(app, ["plan", str(config)], catch_exceptions=False)
    assert shown.exit_code == 0
    # 27 pruned and 2 quantised cells; 8 tasks on these and the dense model
    assert f"{29 + 30 * 8}" in shown.output


def test_grids_of_llm_kick_are_the_papers() -> None:
    sweep = read_sweep(ROOT / "jobs" / "configs" / "llm_kick_vicuna_7b.toml")
    asked = {(spec.method, spec.nominal) for spec in sweep.compress}
    ratios = [*(f"{percent}%" for percent in range(10, 80, 10)), "2:4", "4:8"]
    pruned = {(method, ratio) for method in ("magnitude", "wanda", "sparsegpt") for ratio in ratios}
    assert asked == pruned | {("gptq", "8 bits g128"), ("gptq", "4 bits g128")}
