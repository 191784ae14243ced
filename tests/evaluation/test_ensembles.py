"""An ensemble is a subject like any other: every task runs on the combined logits, and alpha 0 is the base."""

import copy
import math
import random
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from earnest.decoding.account import account
from earnest.decoding.ensemble import Ensemble, Pair
from earnest.decoding.generation import Prompt
from earnest.evaluation.engine import Engine
from earnest.evaluation.run import evaluate
from earnest.evaluation.shift import pieces, token_shift, words_of
from earnest.evaluation.tasks.perplexity import divergence, documents, rolling
from earnest.evaluation.tokens import Request
from earnest.models.loading import LoadedModel
from earnest.specs import Biography, ClosedBook, MultipleChoice, Perplexity


def some_requests(count: int = 40) -> list[Request]:
    rng = random.Random(3)
    block = tuple(rng.randrange(3, 690) for _ in range(30))
    contexts = [block + tuple(rng.randrange(3, 690) for _ in range(rng.choice([1, 5, 20]))) for _ in range(6)] + [(1,)]
    options = [tuple(rng.randrange(3, 690) for _ in range(rng.choice([1, 2, 18]))) for _ in range(8)]
    return [Request(rng.choice(contexts), rng.choice(options)) for _ in range(count)]


@torch.inference_mode()
def combined(models: list[LoadedModel], alpha: float, tokens: tuple[int, ...]) -> torch.Tensor:
    """Full logits [tokens, vocabulary] of three models by plain forwards, combined in float32."""
    base, expert, anti = (model.model(torch.tensor([tokens])).logits[0].float() for model in models)
    return base + alpha * (expert - anti)


@pytest.mark.parametrize(
    "families", [("Llama", "Llama", "Llama"), ("Qwen3", "GPT2", "Llama"), ("Llama", "Gemma2", "Gemma2")]
)
@pytest.mark.parametrize("budget", [1, 100, 5000])
def test_log_likelihoods_equal_those_of_the_full_logits_of_three_models(make_model, families, budget: int) -> None:
    models = [make_model(family, seed=seed) for seed, family in enumerate(families)]
    requests = some_requests()
    found = Engine(Ensemble(*models, alpha=0.7), budget).log_likelihoods(requests)
    for request, likelihood in zip(requests, found, strict=True):
        whole = request.context + request.continuation
        log_probs = combined(models, 0.7, whole[:-1])[-len(request.continuation) :].log_softmax(-1)
        targets = torch.tensor(request.continuation)
        assert likelihood.value == pytest.approx(float(log_probs[range(len(targets)), targets].sum()), abs=5e-4)
        assert likelihood.greedy == bool((log_probs.argmax(-1) == targets).all())


def test_every_model_reads_what_requests_share_once(make_model) -> None:
    block = tuple(range(10, 70))
    engine = Engine(Ensemble(*(make_model(seed=seed) for seed in range(3))))
    engine.log_likelihoods([Request((*block, 100 + i), (5, 6)) for i in range(10)])
    assert engine.tokens_forwarded == 3 * (60 + 10 * 2)


@pytest.mark.parametrize(
    "task", [ClosedBook(limit=12), MultipleChoice(limit=8), Perplexity(limit=6, length=64), Biography(limit=3)]
)
@pytest.mark.parametrize("rows", [700, 720])
def test_alpha_zero_is_the_base_bit_for_bit_and_costs_only_the_base(make_model, task, rows: int) -> None:
    """Also where the base's head has rows that are no token, which an ensemble masks and a model does not."""
    base, expert, anti = (
        make_model(seed=0, vocab_size=rows, max_position_embeddings=512),
        make_model(seed=1),
        make_model(seed=2),
    )
    ensemble = Ensemble(base, expert, anti, alpha=0.0)
    alone, steered = evaluate(base, task, "nano"), evaluate(ensemble, task, "nano")
    assert steered.scores == alone.scores
    assert steered.samples.equals(alone.samples)
    assert [member.tokens_forwarded for member in ensemble.members] == [0, 0, 0]


def test_perplexity_is_that_of_the_ensemble_and_so_is_its_divergence_from_dense(make_model, tmp_path: Path) -> None:
    models = [make_model(seed=seed) for seed in range(3)]
    task = Perplexity(limit=4, length=64)
    dense = evaluate(models[0], task, "nano")
    assert dense.reference is not None
    save_file(dense.reference, tmp_path / "reference.safetensors")
    found = evaluate(Ensemble(*models, alpha=0.5), task, "nano", tmp_path / "reference.safetensors")
    itself = evaluate(Ensemble(*models, alpha=0.0), task, "nano", tmp_path / "reference.safetensors")
    assert itself.scores.metrics["kl_to_dense"].value == 0
    nats, count, kl = 0.0, 0, 0.0
    engine = Engine(models[0])
    for window in (window for text in documents(task, "nano") for window in rolling(engine, text, task.length)):
        tokens, targets = (window.context + window.continuation)[:-1], torch.tensor(window.continuation)
        whole = combined(models, 0.5, tokens)[-len(targets) :].log_softmax(-1)
        base = combined(models, 0.0, tokens)[-len(targets) :].log_softmax(-1)
        nats -= float(whole[range(len(targets)), targets].sum())
        kl += float((base.exp() * (base - whole)).sum())
        count += len(targets)
    assert found.scores.main.value == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert found.scores.metrics["kl_to_dense"].value == pytest.approx(kl / count, rel=1e-3)


def test_what_an_ensemble_can_never_say_is_left_out_of_the_divergence() -> None:
    dense = torch.tensor([[0.5, 0.25, 0.25]]).log()
    subject = torch.tensor([[0.5, 0.5, 0.0, 0.0]]).log()
    kept = torch.tensor([2 / 3, 1 / 3])
    expected = float((kept * (kept / 0.5).log()).sum())
    assert float(divergence(dense, subject)[0]) == pytest.approx(expected, rel=1e-6)
    assert float(divergence(dense, dense)[0]) == 0


def test_token_shifts_equal_the_account_of_every_token(make_model) -> None:
    models = [make_model(seed=seed) for seed in range(3)]
    ensemble = Ensemble(*models, alpha=0.6)
    engine = Engine(ensemble)
    prompts = [Prompt((1, 20, 30, 40), (), 12), Prompt((1, 9), (), 12), Prompt(tuple(range(5, 135)), (), 9)]
    made = engine.generate(prompts)
    found, texts = token_shift(engine)
    told = [account(ensemble, prompt, text.ids) for prompt, text in zip(prompts, made, strict=True)]
    assert [text.changed for text in texts] == [tuple(token.changed for token in tokens) for tokens in told]
    every = [token for tokens in told for token in tokens]
    assert found.tokens == len(every)
    assert found.changed.value == sum(token.changed for token in every) / len(every)
    expected = sum(abs(token.log_prob_shift) for token in every) / len(every)
    assert found.shift.value == pytest.approx(expected, rel=1e-4)
    assert [text.instead for text in texts] == [tuple(t.base.top[0].token for t in tokens) for tokens in told]


def test_a_base_that_agrees_is_told_so(make_model) -> None:
    """An expert that only sharpens the base changes no token, and words that never change are not listed."""
    base = make_model(seed=0)
    sharper = make_model(seed=0)
    sharper.model = copy.deepcopy(base.model)
    with torch.no_grad():
        sharper.model.lm_head.weight.mul_(2.0)
    result = evaluate(Ensemble(base, sharper), ClosedBook(limit=5), "nano")
    shift = result.scores.token_shift
    assert shift is not None
    assert (shift.changed.value, shift.words) == (0.0, ())
    assert shift.shift.value > 0.1


def test_samples_say_how_many_of_their_tokens_were_changed(make_model) -> None:
    result = evaluate(Ensemble(make_model(seed=0), make_model(seed=1), alpha=0.5), ClosedBook(limit=5), "nano")
    shift = result.scores.token_shift
    assert shift is not None
    changed, tokens = (sum(result.samples[name].to_pylist()) for name in ("changed_tokens", "tokens"))
    assert (tokens, changed / tokens) == (shift.tokens, pytest.approx(shift.changed.value))
    assert result.samples.schema.field("token_shift").type == pa.float64()
    assert sum(word.changed for word in shift.words) <= changed


def test_a_model_alone_has_no_token_shift(make_model) -> None:
    result = evaluate(make_model(), ClosedBook(limit=3), "nano")
    assert result.scores.token_shift is None
    assert "changed_tokens" not in result.samples.column_names


def test_words_begin_at_spaces_and_where_letters_meet_signs() -> None:
    parts = [" Vi", "enna", ".", "\n", "She", " was", " 4", "2", "!?"]
    words = ["".join(parts[a:b]) for a, b in words_of(parts)]
    assert words == [" Vienna", ".", "\n", "She", " was", " 42", "!?"]
    assert list(words_of([])) == []


def test_pieces_of_a_text_spell_it(tokenizer) -> None:
    text = "Ada Vell studied botany; she was born in 1804.\nQ: Who?"
    written = pieces(tokenizer)
    assert "".join(map(written, tokenizer(text, add_special_tokens=False)["input_ids"])) == text


def test_several_pairs_predict_together(make_model) -> None:
    base, one, other = (make_model(seed=seed) for seed in range(3))
    request = Request((1, 20, 30), (40, 50))
    found = Engine(Ensemble.of(base, [Pair(one, None, 0.5), Pair(other, one, -0.25)])).log_likelihoods([request])
    with torch.inference_mode():
        b, e, f = (m.model(torch.tensor([[1, 20, 30, 40]])).logits[0, -2:] for m in (base, one, other))
    log_probs = (b + 0.5 * (e - b) - 0.25 * (f - e)).log_softmax(-1)
    assert found[0].value == pytest.approx(float(log_probs[0, 40] + log_probs[1, 50]), abs=1e-4)
