"""Any benchmark of lm-eval on our engine: what lm-eval finds with its own model, we find with any subject."""

import copy
import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from earnest.compression.checkpoint import export_dense
from earnest.decoding.ensemble import Ensemble
from earnest.evaluation.engine import Engine
from earnest.evaluation.harness.benchmarks import benchmark_file, find_benchmark
from earnest.evaluation.harness.figures import figure, influences, metric_name
from earnest.evaluation.run import Evaluation, evaluate
from earnest.evaluation.tasks import lm_eval
from earnest.models.loading import LoadedModel
from earnest.oneoff import compress_once, open_subject
from earnest.specs import LMEval, Magnitude, Unstructured, UserError, read_task
from evaluation.benchmarks import BENCHMARKS, benchmarks, write_rows

__all__ = ["benchmarks"]

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<said>{% endif %}"
)


@pytest.fixture(scope="module")
def model(make_model: Callable[..., LoadedModel]) -> LoadedModel:
    return make_model(max_position_embeddings=256)


def asked(benchmark: str, folder: Path, **fields: Any) -> LMEval:
    return LMEval(benchmark=benchmark, include=str(folder), **fields)


def by_lm_eval(lm: Any, benchmark: str, folder: Path, **options: Any) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(lm, tasks=[benchmark], task_manager=manager, bootstrap_iters=0, **options)
    assert found is not None
    return found


def hugging_face(model: LoadedModel | Path) -> Any:
    from lm_eval.models.huggingface import HFLM

    if isinstance(model, Path):
        return HFLM(pretrained=str(model), batch_size=4, device="cpu", dtype="float32")
    return HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=4, device="cpu")


def check_equal(ours: Evaluation, theirs: dict[str, Any], benchmark: str) -> None:
    metrics = {key: value for key, value in theirs["results"][benchmark].items() if "," in key and "_stderr" not in key}
    named = {metric_name(*key.split(",")): value for key, value in metrics.items()}
    assert {name: ours.scores.metrics[name].value for name in named} == pytest.approx(named, rel=1e-4)
    assert ours.scores.headline == next(iter(named))
    first = theirs["samples"][benchmark][0]["filter"]
    samples = [one for one in theirs["samples"][benchmark] if one["filter"] == first]
    rows = ours.samples.to_pylist()
    assert [int(row["id"]) for row in rows] == [one["doc_id"] for one in samples]
    for row, one in zip(rows, samples, strict=True):
        check_sample(row, one)


def check_sample(row: dict[str, Any], one: dict[str, Any]) -> None:
    first = one["resps"][0][0]
    if isinstance(first, str):
        assert (row["text"], row["prediction"]) == (first, one["filtered_resps"][0])
    elif isinstance(first, tuple):
        assert row["log_likelihoods"] == pytest.approx([each[0][0] for each in one["resps"]], rel=1e-5, abs=1e-4)
    else:
        assert math.fsum(row["log_likelihoods"]) == pytest.approx(first, rel=1e-5)
    for metric in {"acc", "acc_norm", "acc_mutual_info"} & set(one["metrics"]):
        assert row[metric] == one[metric]


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_answers_likelihoods_and_metrics_equal_those_of_lm_evals_own_model(
    model: LoadedModel, benchmarks: Path, benchmark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(benchmarks)  # where lm-eval looks for data files
    ours = evaluate(model, asked(benchmark, benchmarks), "lm_eval")
    check_equal(ours, by_lm_eval(hugging_face(model), benchmark, benchmarks), benchmark)
    main = ours.scores.main
    assert main.n == ours.scores.asked == ours.scores.scored == 16
    if main.stderr:  # a correlation of answers that never differ has no interval
        assert main.low is not None
        assert main.high is not None
        assert main.low <= main.value <= main.high
    assert np.mean(ours.samples["score"].to_pylist()) == pytest.approx(main.value, rel=1e-9)


SHIPPED = [
    ("mmlu_moral_disputes", {"test": "mmlu_moral_disputes_test", "dev": "mmlu_moral_disputes_dev"}, {"shots": 5}),
    ("truthfulqa_mc1", {"": "truthfulqa_mc"}, {}),
    ("truthfulqa_mc2", {"": "truthfulqa_mc"}, {}),
    ("gsm8k", {"test": "gsm8k_test", "train": "gsm8k_train"}, {"max_tokens": 40}),
    ("triviaqa", {"validation": "triviaqa_validation", "train": "triviaqa_train"}, {"shots": 5, "max_tokens": 16}),
    ("wikitext", {"": "wikitext_pages"}, {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("benchmark", "files", "fields"), SHIPPED, ids=[name for name, *_ in SHIPPED])
def test_lm_evals_own_benchmarks_give_what_was_recorded_of_lm_eval(
    tiny_llama: LoadedModel, parity: Path, tmp_path: Path, benchmark: str, files: dict[str, str], fields: dict[str, int]
) -> None:
    for split, file in files.items():
        shutil.copy(parity / "lmeval_inputs" / f"{file}.parquet", tmp_path / f"{split or 'one'}.parquet")
    data = tmp_path / "one.parquet" if "" in files else tmp_path
    found = evaluate(tiny_llama, LMEval(benchmark=benchmark, data=str(data), **fields), str(data))
    recorded = json.loads((parity / "lmeval_expected/metrics.json").read_text())
    batch = "bs8_max1024" if benchmark == "wikitext" else "bs8"
    expected = recorded[f"fx_{benchmark}|{tiny_llama.name}_{batch}"]
    named = {
        metric_name(*key.split(",")): value for key, value in expected.items() if ",none" in key or "match," in key
    }
    named = {name: value for name, value in named.items() if "stderr" not in name}
    assert {name: found.scores.metrics[name].value for name in named} == pytest.approx(named, rel=1e-6)
    assert len(named) > 0
    lines = [json.loads(line) for line in (parity / f"lmeval_expected/fx_{benchmark}.jsonl").read_text().splitlines()]
    check_recorded(found.samples.to_pylist(), lines, f"{tiny_llama.name}_{batch}")


def check_recorded(rows: list[dict[str, Any]], lines: list[dict[str, Any]], config: str) -> None:
    if "generation" in lines[0]:
        mine = {line["doc_id"]: line["generation"] for line in lines if line["config"] == config}
        assert {int(row["id"]): row["text"] for row in rows} == mine
    elif "loglikelihood" in lines[0]:
        mine = {line["doc_id"]: line["loglikelihood"] for line in lines if line["config"] == config}
        assert {int(row["id"]): math.fsum(row["log_likelihoods"]) for row in rows} == pytest.approx(mine, rel=1e-5)
    else:
        for row, line in zip(rows, lines, strict=True):
            assert row["log_likelihoods"] == pytest.approx(line[config]["loglikelihood"], abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["mmlu", "glue", "blimp"])
def test_a_benchmark_is_found_in_the_file_where_lm_evals_index_has_it(folder: str) -> None:
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    manager = lm_eval.tasks.TaskManager(include_path=root / folder, include_defaults=False)
    assert len(manager.all_subtasks) >= 9
    for name in manager.all_subtasks:
        assert benchmark_file(name, None) == manager.task_index[name].yaml_path


@pytest.mark.slow
def test_our_engine_can_be_handed_to_lm_eval(
    model: LoadedModel, benchmarks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from earnest.evaluation.harness.model import EngineLM

    monkeypatch.chdir(benchmarks)
    ours, theirs = (
        by_lm_eval(lm, "nano_text", benchmarks)["results"]["nano_text"]
        for lm in (EngineLM(Engine(model)), hugging_face(model))
    )
    numbers = {key: value for key, value in theirs.items() if not isinstance(value, str)}
    assert {key: ours[key] for key in numbers} == pytest.approx(numbers, rel=1e-4)
    assert len(numbers) > 2


@pytest.mark.slow
def test_a_chat_templates_prompts_equal_lm_evals(
    model: LoadedModel, benchmarks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(benchmarks)
    tuned = replace(model, tokenizer=copy.deepcopy(model.tokenizer))
    tuned.tokenizer.chat_template = TEMPLATE
    spec = asked("nano_write", benchmarks, chat_template=True, system="Be brief.", shots=2)
    options = {"apply_chat_template": True, "system_instruction": "Be brief.", "num_fewshot": 2}
    check_equal(
        evaluate(tuned, spec, "lm_eval"),
        by_lm_eval(hugging_face(tuned), "nano_write", benchmarks, **options),
        "nano_write",
    )
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        evaluate(model, spec, "lm_eval")


@pytest.mark.slow
def test_a_chat_model_of_a_sweep_is_asked_in_its_form(model: LoadedModel, benchmarks: Path) -> None:
    engine = Engine(replace(model, chat="llama2"))
    lm_eval.measure(engine, asked("nano_write", benchmarks, limit=1), "lm_eval")
    read = engine.tokenizer.decode(engine.written[0][0].ids, skip_special_tokens=True)
    assert read.startswith("[INST] Answer in a word.")
    assert read.endswith("Answer: [/INST]")


@pytest.mark.slow
def test_an_ensemble_whose_antiexpert_is_its_base_answers_as_its_expert(
    make_model: Callable[..., LoadedModel], benchmarks: Path
) -> None:
    base, expert = (make_model(seed=seed, max_position_embeddings=256) for seed in (0, 1))
    for benchmark in ("nano_choice", "nano_write"):
        steered, alone = (
            evaluate(one, asked(benchmark, benchmarks), "lm_eval") for one in (Ensemble(base, expert, base), expert)
        )
        assert steered.samples["prediction"] == alone.samples["prediction"]
        assert steered.scores.main == alone.scores.main
    assert steered.scores.token_shift is not None
    assert sum(steered.samples["changed_tokens"].to_pylist()) > 0


@pytest.mark.slow
def test_a_compressed_checkpoint_scores_as_its_export_does_in_lm_eval(
    benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(benchmarks)
    half, options = Magnitude(pattern=Unstructured(sparsity=0.5)), {"length": None, "seed": 0, "dtype": "float32"}
    place = tmp_path / "half"
    compress_once(
        "nano:small", half, place, data="nano", column="text", split="train", samples=1, device="cpu",
        on_block=lambda *_: None, **options,
    )  # fmt: skip
    export_dense(place, tmp_path / "dense")
    subject, reference = open_subject(str(place)), hugging_face(tmp_path / "dense")
    for benchmark in ("nano_choice", "nano_write"):
        ours = evaluate(subject, asked(benchmark, benchmarks), "lm_eval")
        check_equal(ours, by_lm_eval(reference, benchmark, benchmarks), benchmark)


@pytest.mark.slow
def test_the_users_rows_take_the_place_of_a_benchmarks_own(model: LoadedModel, tmp_path: Path) -> None:
    rows = [
        {
            "question": f"How much is {i} and {i}?",
            "choices": {"text": [str(i), str(2 * i)], "label": ["A", "B"]},
            "answerKey": "B",
        }
        for i in range(3, 9)
    ]
    for split in ("train", "test", "validation"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
    spec = LMEval(benchmark="arc_easy", data=str(tmp_path), shots=1, limit=4)
    found = evaluate(model, spec, find_benchmark(spec).path)
    assert (found.scores.task, found.scores.headline, found.scores.asked) == ("lm_eval.arc_easy", "acc", 4)
    assert found.samples["gold"].to_pylist() == ["6", "8", "10", "12"]
    alone = LMEval(benchmark="arc_easy", data=str(tmp_path / "test.parquet"), shots=0)
    assert evaluate(model, alone, alone.data).scores.asked == 6
    with pytest.raises(UserError, match="has no split for the 2 demonstrations"):
        find_benchmark(alone.model_copy(update={"shots": 2}))
    pq.write_table(pa.Table.from_pylist([{"question": "Who?"}]), tmp_path / "test.parquet")
    with pytest.raises(UserError, match=r"arc_easy: cannot be opened .*'choices' is undefined"):
        find_benchmark(alone)


@pytest.mark.slow
def test_a_folder_that_is_called_lm_eval_is_not_taken_for_a_benchmarks_data(
    benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = find_benchmark(asked("nano_choice", benchmarks))
    (tmp_path / "lm_eval").mkdir()
    monkeypatch.chdir(tmp_path)  # as in a checkout of lm-eval itself
    assert find_benchmark(asked("nano_choice", benchmarks)) == elsewhere


@pytest.mark.slow
def test_a_step_is_named_by_what_a_benchmark_consists_of_and_not_by_where_it_lies(
    benchmarks: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(benchmarks, tmp_path / "moved")
    before = find_benchmark(asked("nano_choice", benchmarks)).digest
    assert find_benchmark(asked("nano_choice", moved)).digest == before
    assert find_benchmark(asked("nano_text", moved)).digest != before
    (moved / "another.yaml").write_text("task: another\n")
    find_benchmark(asked("nano_coded", moved))  # its code is compiled, which leaves a file
    assert find_benchmark(asked("nano_choice", moved)).digest == before
    rows = [json.loads(line) for line in (moved / "test.jsonl").read_text().splitlines()]
    write_rows(tmp_path / "test.jsonl", rows)
    write_rows(tmp_path / "train.jsonl", rows)
    elsewhere = find_benchmark(asked("nano_choice", moved, data=str(tmp_path))).digest
    write_rows(tmp_path / "test.jsonl", rows[1:])
    assert len({before, elsewhere, find_benchmark(asked("nano_choice", moved, data=str(tmp_path))).digest}) == 3
    (moved / "helpers.py").write_text((moved / "helpers.py").read_text() + "\n")
    assert find_benchmark(asked("nano_choice", moved)).digest != before
    definition = moved / "nano_choice.yaml"
    definition.write_text(definition.read_text().replace("Question:", "Asked:"))
    assert find_benchmark(asked("nano_choice", moved)).digest != before


@pytest.mark.slow
def test_a_document_that_gets_no_number_is_counted_and_left_out(
    make_model: Callable[..., LoadedModel], benchmarks: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (benchmarks / "test.jsonl").read_text().splitlines()]
    rows[3]["choices"] = [*rows[3]["choices"][:3], "word " * 300]
    write_rows(tmp_path / "test.jsonl", rows)
    spec = asked("nano_choice", benchmarks, data=str(tmp_path / "test.jsonl"), shots=0)
    found = evaluate(make_model(), spec, spec.data)
    assert (found.scores.asked, found.scores.scored, found.scores.failed, found.scores.main.n) == (16, 15, 1, 15)
    assert found.samples["score"][3].as_py() is None
    broken = make_model(seed=7)
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(math.nan)
    for benchmark in ("nano_choice", "nano_write"):
        with pytest.raises(UserError, match="logits are not finite"):
            evaluate(broken, asked(benchmark, benchmarks), "lm_eval")


@pytest.mark.slow
def test_a_definition_whose_own_code_fails_is_named(model: LoadedModel, benchmarks: Path, tmp_path: Path) -> None:
    mistaken = shutil.copytree(benchmarks, tmp_path / "mistaken")
    code = (mistaken / "helpers.py").read_text()
    (mistaken / "helpers.py").write_text(code.replace('values[row["label"]]', 'values[row["labl"]]'))
    with pytest.raises(UserError, match=r"nano_coded: its metrics cannot be computed \(KeyError: 'labl'\)"):
        evaluate(model, asked("nano_coded", mistaken, shots=0), "lm_eval")


@pytest.mark.slow
def test_what_a_benchmark_samples_is_decided_by_the_seed(model: LoadedModel, benchmarks: Path) -> None:
    texts = [
        evaluate(model, asked("nano_drawn", benchmarks, seed=seed, shots=0), "lm_eval").samples["text"].to_pylist()
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"benchmark": "nano_group"}, "a group of benchmarks; ask for them one by one, such as nano_choice, nano_text"),
        ({"benchmark": "nano_choce"}, "no such benchmark in .* or lm-eval; near it: nano_choice"),
        ({"benchmark": "nano_code"}, "runs code that a model wrote, .*set unsafe_code = true"),
        ({"benchmark": "nano_zero", "shots": 3}, "shots = 3: it is defined without demonstrations"),
        ({"benchmark": "nano_choice", "include": "/nowhere"}, "include /nowhere: no such folder"),
        ({"benchmark": "nano_choice", "split": "dev"}, "nano_choice: cannot be opened .*dev"),
        ({"benchmark": "arc_easy"}, "cannot be opened .*Couldn't reach 'allenai/ai2_arc'.*\n.*name yours with data"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_its_remedy(benchmarks: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        find_benchmark(LMEval(**{"include": str(benchmarks), **fields}))


def test_without_lm_eval_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # Python's own way to say that a module is not there
    with pytest.raises(UserError, match=r"lm_eval:gsm8k: needs lm-eval; .*pip install 'earnest\[lm-eval\]'"):
        find_benchmark(LMEval(benchmark="gsm8k"))


def test_a_benchmark_is_asked_for_by_its_name() -> None:
    task = read_task({"task": "lm_eval:AraDiCE_boolq_egy", "shots": 2})
    assert isinstance(task, LMEval)
    assert (task.benchmark, task.label) == ("AraDiCE_boolq_egy", "lm_eval.aradice_boolq_egy")
    assert read_task(task.model_dump(mode="json")) == task
    with pytest.raises(UserError, match="benchmark"):
        read_task({"task": "lm_eval:"})


def test_a_mean_is_made_of_the_samples_own_values() -> None:
    shares, means = figure([1, 0, 1.0, True], np.mean), figure([0.5, 0.25], np.mean)
    assert (shares.scores, shares.estimate.value, shares.estimate.n) == ((1.0, 0.0, 1.0, 1.0), 0.75, 4)
    assert (means.scores, means.is_mean) == ((0.5, 0.25), True)


def test_the_jackknife_of_a_mean_is_the_values_themselves() -> None:
    values = [0.0, 3.0, 4.0, 9.0]
    assert influences(4.0, values, np.mean) == pytest.approx(values)


def test_a_corpus_metrics_scores_average_to_it_and_spread_as_the_delta_method_says() -> None:
    nats = np.random.default_rng(0).normal(2.0, 0.5, 900)  # more than are left out one by one
    found = figure([(-one, 1) for one in nats], lambda pairs: math.exp(-np.mean([ll for ll, _ in pairs])))
    value = math.exp(nats.mean())
    assert np.mean(found.scores) == pytest.approx(value, rel=1e-12)
    assert found.estimate.stderr == pytest.approx(value * nats.std(ddof=1) / math.sqrt(900), rel=0.1)
    assert not found.is_mean


def test_a_metrics_name_has_no_sign_that_others_cannot_write_and_is_no_column_of_all_tasks() -> None:
    names = [
        ("acc", "none"),
        ("exact_match", "strict-match"),
        ("pass@1", "create_test"),
        ("chrf++", "none"),
        ("score", "none"),
    ]
    made = ["acc", "exact_match_strict_match", "pass_at_1_create_test", "chrf", "lm_eval_score"]
    assert [metric_name(*one) for one in names] == made
