"""Programs are sampled, cleaned as published, run with their tests in the sandbox, and counted without bias."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from earnest.decoding.generation import Generation
from earnest.decoding.sampling import Sampling, processed
from earnest.evaluation.engine import Engine
from earnest.evaluation.programs import clean
from earnest.evaluation.run import evaluate
from earnest.evaluation.sandbox import Limits, run_all
from earnest.evaluation.tasks import ds_1000, human_eval
from earnest.specs import DS1000, HumanEval, UserError, read_task

PARITY = Path(__file__).parents[2].parent / "shared" / "parity" / "evaluation" / "extraction" / "proxy_parsers.json"
OUTCOMES = Path(__file__).parents[2].parent / "shared" / "data" / "proxy_tuning_outcomes.parquet"

ROWS = [
    {
        "task_id": f"mine/{n}",
        "prompt": f'def {name}(a, b):\n    """{name} two numbers."""\n',
        "entry_point": name,
        "test": f"def check(candidate):\n    assert candidate(2, 3) == {right}\n",
    }
    for n, (name, right) in enumerate([("add", 5), ("multiply", 6)])
]
HARNESS = (
    "def test_execution(solution):\n    space = {'x': 2}\n    exec(solution, space)\n    assert space['y'] == 4\n"
    "def test_string(solution):\n    assert 'for' not in solution\n"
)


class Scripted(Engine):
    """An engine whose model writes what the test wants."""

    def __init__(self, tokenizer: Any, replies: list[str]) -> None:
        self.tokenizer, self.replies, self.asked = tokenizer, replies, []  # type: ignore[var-annotated]

    def generate(self, prompts: Any, progress: Any = None) -> list[Generation]:
        self.asked += prompts
        return [Generation(text, (1, 2), "stop") for text in self.replies]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def test_human_eval_is_the_share_of_samples_that_pass_their_tests(tokenizer, tmp_path: Path) -> None:
    data = write(tmp_path / "test.parquet", ROWS)
    replies = ["    return a + b", "    return a - b", "    print(a)\n    return b + a", "    return a +"]
    replies += ["    while True: pass", "    import os; os._exit(0)", "    open('/tmp/../x', 'w')", "    return a * b"]
    spec = HumanEval(execute=True, data=data, samples=4, seconds=2.0)
    found = human_eval.measure(Scripted(tokenizer, replies), spec, data)
    assert [sample.more["passed"] for sample in found.samples] == [2, 1]
    assert [sample.score for sample in found.samples] == [0.5, 0.25]
    assert found.metrics["pass_at_1"].value == 0.375
    assert "pass_at_10" not in found.metrics
    ends = [outcome.split()[0] for sample in found.samples for outcome in json.loads(str(sample.more["outcomes"]))]
    assert ends == ["passed", "failed", "passed", "failed", "timeout", "died", "failed", "passed"]


def test_every_sample_has_its_own_seed_and_the_published_settings(tokenizer, tmp_path: Path) -> None:
    data = write(tmp_path / "test.parquet", ROWS)
    engine = Scripted(tokenizer, ["    return 0"] * 40)
    found = human_eval.measure(engine, HumanEval(execute=True, data=data), data)
    assert len({prompt.sampling.seed for prompt in engine.asked}) == 40
    assert {(p.sampling.temperature, p.sampling.top_p, p.max_tokens) for p in engine.asked} == {(0.8, 0.95, 512)}
    assert {p.stops for p in engine.asked} == {("\nclass", "\ndef", "\n#", "\nif", "\nprint")}
    assert found.metrics["pass_at_10"].value == 0.0


def test_a_model_that_runs_for_real_is_scored(make_model, tmp_path: Path) -> None:
    data = write(tmp_path / "test.parquet", ROWS)
    spec = HumanEval(execute=True, data=data, samples=2, max_tokens=4)
    first, second = (evaluate(make_model(), spec, data) for _ in range(2))
    assert first.scores == second.scores
    assert first.scores.main.value == 0.0
    assert first.scores.asked == first.scores.scored == 2


def test_ds_1000_is_judged_by_its_own_harness(tokenizer, tmp_path: Path) -> None:
    rows = [{"prompt": "y = ?", "code_context": HARNESS, "metadata": json.dumps({"library": "Numpy"})}]
    data = write(tmp_path / "test.parquet", rows)
    spec = DS1000(execute=True, data=data, samples=3, seconds=5.0, memory_mib=1024, python=sys.executable)
    engine = Scripted(tokenizer, ["y = x + x", "y = 5", "for y in [4]: continue"])
    (sample,) = ds_1000.measure(engine, spec, data).samples
    assert json.loads(str(sample.more["outcomes"])) == ["passed", "failed AssertionError:", "failed AssertionError:"]
    assert sample.domain == "Numpy"
    assert sample.prompt.endswith("\n")


FORGED = """import sys, os
frame = sys._getframe()
while frame:
    for name, value in list(frame.f_globals.items()):
        if callable(value): frame.f_globals[name] = lambda *_, **__: 1
    frame = frame.f_back
for fd in range(3, 32):
    try: os.write(fd, b'passed')
    except OSError: pass
y = 5
"""


def test_a_solution_cannot_forge_what_the_harness_says(tokenizer, tmp_path: Path) -> None:
    harness = HARNESS + "import numpy as np\ndef right(): return np.arange(3)\n"
    harness += "def test_execution(solution):\n    space = {'a': np.zeros(3)}\n    exec(solution, space)\n"
    harness += "    np.testing.assert_array_equal(space['y'], right())\n"
    data = write(tmp_path / "test.parquet", [{"prompt": "y = ?", "code_context": harness}])
    replies = [
        FORGED,
        "import numpy\ny = a + range(3)",
        "y = lambda: 1",
        "",
        "class All:\n    __eq__ = lambda *_: True\ny = All()",
    ]
    spec = DS1000(execute=True, data=data, samples=5, seconds=20, memory_mib=2048, python=sys.executable)
    found = ds_1000.measure(Scripted(tokenizer, replies), spec, data)
    ends = [outcome.partition(" ")[0] for outcome in json.loads(str(found.samples[0].more["outcomes"]))]
    assert ends[1] == "passed"
    assert set(ends[:1] + ends[2:]) <= {"failed", "died"}
    assert "not sent to the judge" in str(found.samples[0].more["outcomes"])


def test_a_harness_that_evaluates_a_solution_otherwise_is_not_judged(tokenizer, tmp_path: Path) -> None:
    harness = "def test_execution(solution):\n    assert eval(solution) == 4\n"
    data = write(tmp_path / "test.parquet", [{"prompt": "y = ?", "code_context": harness}])
    spec = DS1000(execute=True, data=data, samples=1, temperature=0, python=sys.executable)
    found = ds_1000.measure(Scripted(tokenizer, ["4"]), spec, data)
    assert "only exec is judged" in str(found.samples[0].more["outcomes"])


def test_what_the_prompt_defines_is_there_for_the_tests(tokenizer, tmp_path: Path) -> None:
    prompt = 'def twice(x):\n    return 2 * x\n\ndef half(x):\n    """Undo twice."""\n'
    test = "def check(candidate):\n    assert all(candidate(twice(x)) == x == half(2 * x) for x in range(9))\n"
    row = {"task_id": "mine/0", "prompt": prompt, "entry_point": "half", "test": test}
    data = write(tmp_path / "test.parquet", [row])
    spec = HumanEval(execute=True, data=data, samples=2)
    found = human_eval.measure(Scripted(tokenizer, ["    return x // 2", "    return x"]), spec, data)
    assert found.samples[0].more["passed"] == 1


@pytest.mark.slow
def test_the_published_solutions_of_human_eval_pass_and_none_of_them_by_chance(tokenizer) -> None:
    data = Path(__file__).parents[2].parent / "shared" / "data" / "real" / "humaneval.parquet"
    if not data.is_file():
        pytest.skip("HumanEval's rows are not beside the checkout")
    rows = pq.read_table(data).to_pylist()
    problems = human_eval.items(HumanEval(execute=True, data=str(data)), str(data))
    right = [problem.program(row["canonical_solution"]) for problem, row in zip(problems, rows, strict=True)]
    empty = [problem.program("    return None") for problem in problems[:40]]
    outcomes = run_all(right + empty, Limits(seconds=20))
    assert [row["task_id"] for row, ended in zip(rows, outcomes, strict=False) if not ended.passed] == []
    assert not any(ended.passed for ended in outcomes[len(right) :])


def test_code_runs_only_if_asked_for() -> None:
    with pytest.raises(UserError, match="set execute = true"):
        read_task({"task": "human_eval"})
    with pytest.raises(UserError, match="python"):
        read_task({"task": "ds_1000", "execute": True})
    with pytest.raises(UserError, match="all the same"):
        read_task({"task": "human_eval", "execute": True, "temperature": 0})


def test_rows_that_cannot_be_asked_are_refused(tokenizer, tmp_path: Path) -> None:
    twice = write(tmp_path / "twice.parquet", [ROWS[0], ROWS[0]])
    with pytest.raises(UserError, match="same task_id"):
        human_eval.items(HumanEval(execute=True, data=twice), twice)
    empty = write(tmp_path / "empty.parquet", [{**ROWS[0], "test": None}])
    with pytest.raises(UserError, match="row 0: column 'test' holds nothing"):
        human_eval.items(HumanEval(execute=True, data=empty), empty)
    other = write(tmp_path / "other.parquet", [{"prompt": "x", "code_context": "no harness"}])
    with pytest.raises(UserError, match="test_execution"):
        ds_1000.items(DS1000(execute=True, data=other, python="python3"), other)


def test_completions_are_cleaned_as_published() -> None:
    if not PARITY.is_file():
        pytest.skip("the published parsers' table is not beside the checkout")
    for case in json.loads(PARITY.read_text(encoding="utf-8"))["humaneval_clean_generation"]:
        assert clean(case["input"]) == case["expected"]


def test_published_pass_at_10_is_recomputed_from_the_counts() -> None:
    from earnest.statistics.passes import pass_at_k

    if not OUTCOMES.is_file():
        pytest.skip("the published outcomes are not beside the checkout")
    rows = pq.read_table(OUTCOMES, filters=[("task", "=", "humaneval_pass_counts")]).to_pylist()
    published = {"codellama-7B-t0.8": 68.9, "dexperts-13B-t0.8": 65.7, "llama2-13B-t0.8": 33.7, "llama2-70B-t0.8": 62.0}
    for model, percent in published.items():
        each = [pass_at_k(row["n"], int(row["value"]), 10) for row in rows if row["model"] == model]
        assert round(100 * sum(each) / len(each), 1) == percent


def test_banned_sequences_are_never_completed() -> None:
    logits = torch.zeros(3, 5)
    sampling = Sampling(temperature=1.0, banned=((3,), (1, 2)), never_first=(4,))
    chances = processed(logits, sampling, [((0, 1), ()), ((0,), (1,)), ((1,), (0,))])
    assert [[token for token in range(5) if chances[row, token] == 0] for row in range(3)] == [[2, 3, 4], [2, 3], [3]]
    assert not sampling.plain
