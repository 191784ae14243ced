"""A task stops once it is decided: seldom wrongly, soon where it is hopeless, and without asking anything twice."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from earnest.decoding.generation import Generation, Prompt
from earnest.evaluation.engine import Engine
from earnest.evaluation.run import evaluate
from earnest.evaluation.sequential import FIRST, Growing, Rule, measure_until_decided
from earnest.evaluation.tasks import measure
from earnest.evaluation.tokens import requests
from earnest.models.loading import load
from earnest.models.source import resolve
from earnest.oneoff import open_subject
from earnest.records import Stopped
from earnest.specs import TASKS, ClosedBook, MultipleChoice, read_task
from evaluation.test_bad_data import FAMILIES
from evaluation.tiny_models import MakeModel

QUESTIONS = 160
TASK = ClosedBook(shots=0)


class Answering(Engine):
    """A subject of which is known which questions it gets right."""

    def __init__(self, subject: Any, budget: int | None = None) -> None:
        self.tokenizer, self.right = subject
        self.written = []

    def generate(self, prompts: Sequence[Prompt], progress: Any = None) -> list[Generation]:
        texts = [self.tokenizer.decode(prompt.ids) for prompt in prompts]
        numbers = [int(re.findall(r"\d+", text)[-1]) for text in texts]
        return [Generation("yes" if self.right[number] else "no", (5,), "stop") for number in numbers]


class Examinee(Growing, Answering):
    """Such a subject, asked more and more."""


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("questions") / "test.parquet"
    rows = {"question": [f"Is it {n} ?" for n in range(QUESTIONS)], "answer": ["yes"] * QUESTIONS}
    pq.write_table(pa.table(rows), file)
    return file


def stopped(tokenizer: Any, file: Path, dense: np.ndarray, subject: np.ndarray, seed: int) -> tuple[Stopped, int]:
    """The verdict on a subject against dense, each right where its array says, and how many questions it took."""
    rule = Rule(0.05, 0.05, {f"test-{n:05d}": float(right) for n, right in enumerate(dense)})
    engine = Examinee((tokenizer, subject), seed)
    measured, found = measure_until_decided(engine, TASK, str(file), rule)
    return found, len(measured.samples)


@pytest.mark.slow
def test_a_subject_on_the_margin_is_called_wrong_at_most_as_often_as_asked(tokenizer: Any, questions: Path) -> None:
    """At exactly 95 % of dense, through the real task: the verdicts "matches" and "falls" would both be luck."""
    generator, wrong = np.random.default_rng(0), 0
    for seed in range(80):
        kind = generator.choice(4, size=QUESTIONS, p=[0.9 - 0.065, 0.065, 0.02, 0.08])
        found, asked = stopped(tokenizer, questions, kind < 2, (kind == 0) | (kind == 2), seed)
        assert asked == QUESTIONS or found.verdict in ("matches", "falls", "rises")
        wrong += found.verdict in ("matches", "falls", "rises")
    assert wrong <= 80 * 0.075 + 2 * np.sqrt(80 * 0.075)  # matches at 5 %, falls at half of 5 %


def test_a_hopeless_subject_is_asked_a_few_questions(tokenizer: Any, questions: Path) -> None:
    generator = np.random.default_rng(1)
    dense = generator.random(QUESTIONS) < 0.9
    found, asked = stopped(tokenizer, questions, dense, dense & (generator.random(QUESTIONS) < 0.4), 0)
    assert found.verdict == "falls"
    assert found.after <= asked <= 72


def test_what_is_not_decided_is_asked_whole(tokenizer: Any, questions: Path) -> None:
    dense = np.arange(QUESTIONS) % 10 > 0
    found, asked = stopped(tokenizer, questions, dense, dense & (np.arange(QUESTIONS) % 20 > 1), 0)
    assert (found.verdict, asked) == ("not decided", QUESTIONS)


def test_questions_are_asked_in_an_order_of_the_seed_and_the_first_stay_the_first(make_model: MakeModel) -> None:
    engine = Growing(make_model(), seed=3)
    first = engine.posed(range(500))
    engine.count = 48
    assert engine.posed(range(500))[:32] == first
    assert Growing(make_model(), seed=4).posed(range(500)) != first
    assert sorted(first) != first


def test_nothing_is_read_or_written_twice(make_model: MakeModel) -> None:
    model = make_model()
    growing, plain = Growing(model, seed=0), Engine(model)
    prompts = [Prompt((1, 40 + n, 30), max_tokens=4) for n in range(6)]
    asked = requests(model.tokenizer, [(f"Q: {n}", " a b") for n in range(6)])
    written = [*growing.generate(prompts[:4]), *growing.generate(prompts)[4:]]
    assert [made.ids for made in written] == [made.ids for made in plain.generate(prompts)]
    likelihoods = growing.log_likelihoods(asked[:4])
    assert growing.log_likelihoods(asked)[:4] == likelihoods
    assert [prompt for prompt, _ in growing.written] == prompts
    read = growing.tokens_forwarded
    growing.generate(prompts)
    growing.log_likelihoods(asked)
    assert growing.tokens_forwarded == read


def test_a_question_that_stands_twice_is_read_once_and_keeps_its_text_in_both_places(
    make_model: MakeModel, tmp_path: Path
) -> None:
    rows = {"question": [f"Is it {n % 30} ?" for n in range(40)], "answer": ["yes"] * 40}
    pq.write_table(pa.table(rows), tmp_path / "test.parquet")
    task, model = ClosedBook(shots=0, max_tokens=3), make_model()
    whole = evaluate(model, task, str(tmp_path / "test.parquet"))
    rule = Rule(1e-12, 0.05, {row["id"]: row["score"] for row in whole.samples.to_pylist()})
    grown = evaluate(model, task, str(tmp_path / "test.parquet"), rule=rule)
    assert grown.scores.tokens_forwarded < whole.scores.tokens_forwarded
    assert grown.scores.metrics.keys() == whole.scores.metrics.keys()
    grown_rows, whole_rows = ({row["id"]: row for row in one.samples.to_pylist()} for one in (grown, whole))
    assert {name: row["confidence"] for name, row in grown_rows.items()} == pytest.approx(
        {name: row["confidence"] for name, row in whole_rows.items()}, rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("task", [ClosedBook(limit=120), MultipleChoice(limit=120)], ids=lambda task: task.task)
def test_asked_to_the_end_it_measures_what_asking_at_once_measures(task: Any) -> None:
    small = load(resolve("nano:small"), dtype="float32")
    whole = evaluate(small, task, "nano")
    rows = whole.samples.to_pylist()
    rule = Rule(1e-12, 0.05, {row["id"]: row["score"] for row in rows})
    grown = evaluate(small, task, "nano", rule=rule)
    assert grown.scores.stopped is not None
    assert (grown.scores.asked, grown.scores.scored) == (120, 120)
    metrics = {name: metric.value for name, metric in whole.scores.metrics.items()}
    assert {name: metric.value for name, metric in grown.scores.metrics.items()} == pytest.approx(
        metrics,
        rel=1e-4,  # other batches round otherwise
    )
    texts = {row["id"]: row["prediction"] for row in rows}
    assert {row["id"]: row["prediction"] for row in grown.samples.to_pylist()} == texts


@pytest.mark.slow
def test_a_model_that_knows_half_is_found_out_by_a_share_of_the_questions(tmp_path: Path) -> None:
    """nano:small stands for what compression left of nano:large: half is lost, and 32 or 48 questions show it."""
    large, small = (open_subject(f"nano:{size}") for size in ("large", "small"))
    task = ClosedBook(limit=150)
    dense = evaluate(large, task, "nano")
    pq.write_table(dense.samples, tmp_path / "samples.parquet")
    found = evaluate(small, task, "nano", rule=Rule.of_samples(0.05, 0.05, tmp_path / "samples.parquet"))
    assert found.scores.stopped is not None
    assert found.scores.stopped.verdict == "falls"
    assert found.scores.scored <= 72
    assert found.scores.asked == 150
    assert not found.scores.whole


BOUNDED = [family for family in FAMILIES if read_task({"task": family[0], "data": "q", **family[1]}).bounded]


@pytest.mark.parametrize(("name", "settings", "row", "asked", "gold"), BOUNDED, ids=lambda value: str(value)[:12])
def test_every_task_that_may_stop_asks_what_is_posed(
    make_model: MakeModel, name: str, settings: Any, row: Any, asked: str, gold: str, tmp_path: Path
) -> None:
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({**row, "id": str(n)}) + "\n" for n in range(40)))
    task = read_task({"task": name, "data": str(tmp_path / "q.jsonl"), **settings})
    engine = Growing(make_model(max_position_embeddings=1024), seed=0)
    if hasattr(task, "max_tokens"):
        task = task.model_copy(update={"max_tokens": 2})
    samples = measure(engine, task, str(tmp_path / "q.jsonl"), None, None).samples
    assert len({sample.id for sample in samples}) == FIRST < 40


def test_every_other_task_is_asked_whole() -> None:
    """Perplexity and biographies are ratios of sums; judges and programs would be paid for twice."""
    whole = {spec.model_fields["task"].default for spec in TASKS if not spec.bounded}
    assert whole == {
        "perplexity", "biography", "toxigen", "truthful_qa_open", "human_eval", "ds_1000", "instruction",
        "judged_summaries", "alpaca_farm", "lm_eval",
    }  # fmt: skip
