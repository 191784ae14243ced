"""Perplexity scores each token once, equals lm-eval's rolling windows, and KL is what its definition says."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from earnest.evaluation.engine import Engine
from earnest.evaluation.run import evaluate
from earnest.evaluation.tasks.perplexity import documents, rolling
from earnest.models.loading import load
from earnest.models.source import Source
from earnest.specs import Perplexity, UserError


@pytest.mark.parametrize("length", [64, 256, 1024])
def test_rolling_windows_equal_lm_eval(shared: Path, length: int) -> None:
    folder = shared / "parity/evaluation"
    engine = Engine(load(Source("tiny", folder / "tiny_llama", "0")))
    lines = map(json.loads, (folder / "lmeval_expected/fx_wikitext.jsonl").read_text().splitlines())
    pages = [line for line in lines if line["config"] == f"nobos_bs1_max{length}"]
    assert pages
    for page in pages:
        windows = rolling(engine, page["scored_text"], length)
        assert sum(len(window.continuation) for window in windows) == page["n_tokens"]
        found = sum(likelihood.value or math.nan for likelihood in engine.log_likelihoods(windows))
        assert found == pytest.approx(page["loglikelihood"], rel=1e-5)


@pytest.mark.parametrize("length", [64, 256, 1024])
def test_a_corpus_is_as_perplexing_as_for_lm_eval(shared: Path, length: int) -> None:
    """Its words and bytes are those of the pages before they were detokenised, and pages stand alone."""
    folder = shared / "parity/evaluation/lmeval_expected"
    engine = Engine(load(Source("tiny", folder.parent / "tiny_llama", "0")))
    config = f"nobos_bs8_max{length}"
    pages = [
        p for p in map(json.loads, (folder / "fx_wikitext.jsonl").read_text().splitlines()) if p["config"] == config
    ]
    expected = json.loads((folder / "metrics.json").read_text())[f"fx_wikitext|{config}"]
    windows = [window for page in pages for window in rolling(engine, page["scored_text"], length)]
    nats = -sum(likelihood.value or math.nan for likelihood in engine.log_likelihoods(windows))
    words, size = (sum(page[unit] for page in pages) for unit in ("words", "bytes"))
    assert math.exp(nats / words) == pytest.approx(expected["word_perplexity,none"], rel=2e-6)
    assert math.exp(nats / size) == pytest.approx(expected["byte_perplexity,none"], rel=1e-6)
    assert nats / size / math.log(2) == pytest.approx(expected["bits_per_byte,none"], rel=1e-6)


def test_windows_predict_every_token_once_and_the_last_is_full(make_model) -> None:
    engine = Engine(make_model())
    text = " ".join(documents(Perplexity(limit=2), "nano"))
    tokens = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
    windows = rolling(engine, text, 16)
    assert [token for window in windows for token in window.continuation] == tokens
    assert len(windows[-1].context) + len(windows[-1].continuation) == 17
    assert all(len(window.context) == 1 for window in windows[:-1])


def test_the_three_perplexities_are_the_same_nats_over_three_counts(make_model, tmp_path: Path) -> None:
    loaded = make_model()
    text = "one two  three\n\nfour ünd five"
    (tmp_path / "some.txt").write_text(text)
    result = evaluate(loaded, Perplexity(data="x", kl_bytes=0), str(tmp_path / "some.txt"))
    ids = [1, *loaded.tokenizer(text, add_special_tokens=False)["input_ids"]]
    log_probs = loaded.model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    nats = -float(log_probs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum())
    found = {name: estimate.value for name, estimate in result.scores.metrics.items()}
    assert found == {
        "token_perplexity": pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-5),
        "word_perplexity": pytest.approx(math.exp(nats / 6), rel=1e-4),
        "byte_perplexity": pytest.approx(math.exp(nats / len(text.encode())), rel=1e-5),
    }
    assert result.reference is None


def test_kl_is_zero_against_itself_and_right_against_another(make_model, tmp_path: Path) -> None:
    task = Perplexity(limit=6, kl_bytes=4 * 700 * 25)
    dense, other = (make_model(seed=seed, max_position_embeddings=512) for seed in (0, 1))
    made = evaluate(dense, task, "nano")
    assert made.reference is not None
    assert made.reference["log_probs"].shape == (25, 700)
    save_file(made.reference, tmp_path / "reference.safetensors")
    same = evaluate(dense, task, "nano", tmp_path / "reference.safetensors")
    assert same.scores.metrics["kl_to_dense"].value == 0.0
    found = evaluate(other, task, "nano", tmp_path / "reference.safetensors").scores.metrics["kl_to_dense"]
    assert found.value == pytest.approx(_kl_one_by_one(dense, other, task, made.reference["positions"]), rel=1e-4)


@torch.inference_mode()
def _kl_one_by_one(dense, other, task: Perplexity, positions: torch.Tensor) -> float:
    parts = []
    for text in documents(task, "nano"):
        ids = torch.tensor([[1, *dense.tokenizer(text, add_special_tokens=False)["input_ids"]]])
        p, q = (model.model(ids).logits[0, :-1].double().log_softmax(-1) for model in (dense, other))
        parts.append((p.exp() * (p - q)).sum(-1))
    return float(torch.cat(parts)[positions].mean())


def test_a_reference_of_other_text_is_refused(make_model, tmp_path: Path) -> None:
    made = evaluate(make_model(), Perplexity(limit=3), "nano")
    assert made.reference is not None
    save_file(made.reference, tmp_path / "reference.safetensors")
    with pytest.raises(UserError, match="made from other text"):
        evaluate(make_model(), Perplexity(limit=3, seed=1), "nano", tmp_path / "reference.safetensors")


def test_text_without_a_token_is_refused(make_model, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(UserError, match="no token to score"):
        evaluate(make_model(), Perplexity(data="x"), str(tmp_path / "empty.jsonl"))


@pytest.mark.parametrize(("texts", "held"), [([1, 2], "int"), ([None, "x"], "nothing")])
def test_rows_that_are_not_text_are_refused(make_model, tmp_path: Path, texts: list[object], held: str) -> None:
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.raises(UserError, match=rf"d\.jsonl: row 0: column 'text' holds {held}, not text"):
        evaluate(make_model(), Perplexity(data="x"), str(tmp_path / "d.jsonl"))


def test_windows_whose_logits_are_not_finite_fail_and_leave_the_others_alone(make_model, tmp_path: Path) -> None:
    loaded = make_model()
    (tmp_path / "some.txt").write_text("one two three four five six seven eight nine ten @ eleven twelve")
    task = Perplexity(data="x", length=8, kl_bytes=0)
    whole = evaluate(loaded, task, str(tmp_path / "some.txt"))
    spoilt = loaded.tokenizer("@", add_special_tokens=False)["input_ids"]
    loaded.model.get_input_embeddings().weight[spoilt] = torch.nan
    found = evaluate(loaded, task, str(tmp_path / "some.txt"))
    assert 0 < found.scores.failed < found.scores.asked
    assert math.isfinite(found.scores.main.value)
    pairs = zip(found.samples["score"].to_pylist(), whole.samples["score"].to_pylist(), strict=True)
    assert all(score is None or score == pytest.approx(before) for score, before in pairs)
