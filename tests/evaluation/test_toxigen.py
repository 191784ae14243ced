"""Continuations are judged toxic by a classifier that was proved when it was loaded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from earnest.decoding.ensemble import Ensemble
from earnest.evaluation.run import evaluate
from earnest.evaluation.tasks import needed_columns, toxigen
from earnest.models.classifier import Classifier, load_classifier
from earnest.models.source import resolve
from earnest.plan import EVALUATE
from earnest.planning import make_plan
from earnest.specs import Sweep, ToxiGen, UserError, read_task
from earnest.steps import run_step
from earnest.store import Store
from earnest.sweep import find_inputs, inspect_models
from evaluation.scripted import Scripted
from evaluation.tiny_models import VOCABULARY

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 64,
}  # fmt: skip
TEXTS = ["Ann sings.", "", "Bob was born in 1804 and plays the flute.", "@", "they studied botany", "no " * 90]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SIZES, num_labels=2))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():  # so that the texts fall on both sides
        logits = torch.cat([model.eval()(torch.tensor([tokenizer(text)["input_ids"][:64]])).logits for text in TEXTS])
        model.classifier.bias[0] += (logits[:, 1] - logits[:, 0]).mean()
    target = tmp_path_factory.mktemp("classifier")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return load_classifier(resolve(str(folder)))


@torch.inference_mode()
def one_by_one(classifier: Classifier, text: str) -> torch.Tensor:
    ids = classifier.tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
    return classifier.model(input_ids=ids["input_ids"]).logits[0].softmax(-1)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    rows = [{"prompt": f"- they sing\n- they {verb}\n-", "group": verb[:3]} for verb in ("run", "swim", "run", "fly")]
    return write(tmp_path / "p.jsonl", rows)


def test_a_batch_says_what_each_text_alone_would_be_taken_for(classifier: Classifier) -> None:
    found, cut = classifier.probabilities(TEXTS)
    expected = torch.stack([one_by_one(classifier, text) for text in TEXTS])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert cut == [False] * 5 + [True]
    assert {int(row.argmax()) for row in expected} == {0, 1}, "the texts must tell the classes apart"


def test_without_a_padding_token_texts_are_read_one_by_one(classifier: Classifier, folder: Path) -> None:
    alone = load_classifier(resolve(str(folder)))
    alone.tokenizer.pad_token = None
    torch.testing.assert_close(alone.probabilities(TEXTS)[0], classifier.probabilities(TEXTS)[0], atol=1e-5, rtol=1e-4)


def test_a_continuation_alone_is_judged_and_silence_is_told(
    make_model, classifier: Classifier, folder: Path, prompts: str
) -> None:
    subject = Scripted(classifier.tokenizer, TEXTS[:4])
    subject.loaded = make_model()
    task = ToxiGen(data="p", classifier=str(folder))
    found = toxigen.measure(subject, task, prompts)
    expected = [float(one_by_one(classifier, text).argmax()) for text in TEXTS[:4]]
    assert [sample.score for sample in found.samples] == expected
    assert found.metrics["toxic"].value == sum(expected) / 4
    assert found.metrics["empty"].value == 0.25
    assert found.samples[0].prompt == "- they sing\n- they run\n-"
    assert [sample.domain for sample in found.samples] == ["run", "swi", "run", "fly"]
    assert {(prompt.stops, prompt.max_tokens) for prompt in subject.asked} == {(("\n",), 512)}
    other = toxigen.measure(subject, task.model_copy(update={"toxic_label": 0}), prompts)
    assert other.metrics["toxic"].value == 1 - sum(expected) / 4


def test_lower_is_better_on_a_model_and_on_an_ensemble(make_model, folder: Path, prompts: str) -> None:
    models = [make_model(seed=seed) for seed in range(3)]
    task = ToxiGen(data="p", classifier=str(folder), max_tokens=6, limit=2)
    for subject in (models[0], Ensemble(*models, alpha=0.5)):
        scores = evaluate(subject, task, prompts).scores
        assert (scores.headline, scores.higher_is_better, scores.asked, scores.scored) == ("toxic", False, 2, 2)
        assert set(scores.groups["domain"]) == {"run"}


def test_a_classifier_without_a_head_is_refused(tmp_path: Path, tokenizer) -> None:
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"missing keys, the first is classifier\.bias"):
        load_classifier(resolve(str(tmp_path)))


def test_a_class_that_is_not_there_is_refused(make_model, folder: Path, prompts: str) -> None:
    with pytest.raises(UserError, match=r"toxic_label 2, but .* has 2 classes; set it to at most 1"):
        evaluate(make_model(), ToxiGen(data="p", classifier=str(folder), toxic_label=2), prompts)


def test_a_row_without_a_prompt_is_named(folder: Path, tmp_path: Path) -> None:
    task = ToxiGen(data="p", classifier=str(folder))
    path = write(tmp_path / "p.jsonl", [{"prompt": "- x\n-"}, {"prompt": None}])
    with pytest.raises(UserError, match="row 1: column 'prompt' holds nothing, not text"):
        toxigen.items(task, path)
    with pytest.raises(UserError, match="no column 'prompt' or 'text'; its columns are words"):
        needed_columns(task, write(tmp_path / "q.jsonl", [{"words": "x"}]))


def test_a_step_is_named_by_the_classifiers_weights(folder: Path, prompts: str) -> None:
    fields = {"task": "toxigen", "data": prompts, "classifier": str(folder)}
    sweep = Sweep.model_validate({"name": "s", "model": "nano:large", "compress": [], "tasks": [fields]})
    inputs = find_inputs(sweep, inspect_models(sweep))
    assert inputs.helpers == {str(folder): resolve(str(folder)).digest}

    def named(digest: str) -> list[str]:
        changed = replace(inputs, helpers={str(folder): digest})
        return [step.digest for step in make_plan(sweep, changed).steps.values() if step.kind == EVALUATE]

    assert named("a") == named("a") != named("b")


def test_a_step_runs_from_what_the_plan_says_of_it(folder: Path, prompts: str, tmp_path: Path) -> None:
    fields = {"task": "toxigen", "data": prompts, "classifier": str(folder), "max_tokens": 4}
    sweep = Sweep.model_validate({"name": "s", "model": "nano:small", "compress": [], "tasks": [fields]})
    (step,) = (
        s for s in make_plan(sweep, find_inputs(sweep, inspect_models(sweep))).steps.values() if s.kind == EVALUATE
    )
    store = Store(str(tmp_path / "store"))
    summary = run_step(step, store, "cpu", lambda _: None)
    scores = json.loads((store.fetch(EVALUATE, summary.digest) / "scores.json").read_text())
    assert (scores["task"], scores["asked"], scores["scored"], scores["higher_is_better"]) == ("toxigen", 4, 4, False)


def test_toxigen_needs_a_classifier() -> None:
    with pytest.raises(UserError, match="classifier: Field required"):
        read_task({"task": "toxigen", "data": "p"})
