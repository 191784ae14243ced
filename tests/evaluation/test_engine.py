"""Log-likelihoods are the model's own, whatever else is in the batch."""

import random

import pytest
import torch

from earnest.decoding.forward import Past
from earnest.evaluation.engine import Engine, batches
from earnest.evaluation.prefixes import Segment, forest
from earnest.evaluation.tokens import Request
from earnest.models.loading import LoadedModel

FAMILIES = [
    "Llama",
    "Qwen3",
    "GPT2",
    "OPT",
    "Mistral",
    "Gemma2",
    "Gemma3Text",
    "GPTNeo",
    "Mpt",
    "Bloom",
    "Phi3",
    "Mamba",
]


def some_requests(count: int = 40) -> list[Request]:
    """Contexts of which some share long beginnings, some are beginnings of others, and some stand alone."""
    rng = random.Random(5)
    block = tuple(rng.randrange(3, 700) for _ in range(30))
    questions = [block + tuple(rng.randrange(3, 700) for _ in range(rng.choice([1, 5, 20]))) for _ in range(6)]
    contexts = [*questions, block, block[:20], questions[0] + questions[1][30:], (1,), (7, 8, 9)]
    options = [tuple(rng.randrange(3, 700) for _ in range(rng.choice([1, 1, 2, 18]))) for _ in range(8)]
    return [Request(rng.choice(contexts), rng.choice(options)) for _ in range(count)]


@torch.inference_mode()
def alone(loaded: LoadedModel, request: Request) -> tuple[float, bool]:
    """The same by one plain forward of transformers, in float64 sums."""
    whole = (request.context + request.continuation)[-(loaded.max_length + 1) :]
    logits = loaded.model(torch.tensor([whole])).logits[0, -len(request.continuation) - 1 : -1]
    log_probs = logits.float().log_softmax(-1)
    targets = torch.tensor(request.continuation)
    value = log_probs[torch.arange(len(targets)), targets].double().sum()
    return float(value), bool((log_probs.argmax(-1) == targets).all())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [1, 100, 5000])
def test_results_do_not_depend_on_the_batch(make_model, family: str, budget: int) -> None:
    loaded = make_model(family)
    requests = some_requests()
    found = Engine(loaded, budget).log_likelihoods(requests)
    for request, likelihood in zip(requests, found, strict=True):
        value, greedy = alone(loaded, request)
        assert likelihood.value == pytest.approx(value, abs=2e-4)
        assert likelihood.greedy == greedy


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "GPT2"])
def test_what_a_large_family_shares_does_not_show_either(make_model, family: str) -> None:
    loaded = make_model(family)
    rng = random.Random(2)
    block = tuple(rng.randrange(3, 700) for _ in range(70))
    contexts = [block + tuple(rng.randrange(3, 700) for _ in range(20 + i)) for i in range(12)]
    requests = [Request(context, option) for context in contexts for option in [(5,), (7, 8, 9)]]
    engine = Engine(loaded)
    found = engine.log_likelihoods(requests)
    for request, likelihood in zip(requests, found, strict=True):
        value, greedy = alone(loaded, request)
        assert likelihood.value == pytest.approx(value, abs=2e-4)
        assert likelihood.greedy == greedy
    assert engine.tokens_forwarded == 70 + sum(len(context) - 70 + 2 for context in contexts)
    assert Engine(loaded).log_likelihoods(requests) == found, "two runs are equal, bit for bit"


def test_the_likeliest_continuation_is_greedy(make_model) -> None:
    loaded = make_model()
    context = (1, 50, 60, 70)
    best = loaded.model.generate(torch.tensor([context]), max_new_tokens=3, do_sample=False, eos_token_id=None)
    continuation = tuple(best[0, 4:].tolist())
    other = (*continuation[:2], (continuation[2] + 1) % 700)
    found = Engine(loaded).log_likelihoods([Request(context, continuation), Request(context, other)])
    assert [likelihood.greedy for likelihood in found] == [True, False]


def test_what_requests_share_is_read_once(make_model) -> None:
    loaded = make_model()
    block = tuple(range(10, 70))
    engine = Engine(loaded)
    engine.log_likelihoods([Request((*block, 100 + i), (5, 6)) for i in range(10)])
    assert engine.tokens_forwarded == 60 + 10 * 2


def test_a_past_that_must_be_copied_is_copied_for_one_batch_at_a_time(make_model, monkeypatch) -> None:
    copied: list[int] = []
    rows = Past.rows
    monkeypatch.setattr(Past, "rows", lambda past, index: copied.append(len(index) * past.slots) or rows(past, index))
    block = tuple(range(10, 70))
    engine = Engine(make_model("GPT2"), budget=400)
    assert not engine.readers.shares
    copied.clear()  # what the probe at load took
    engine.log_likelihoods([Request((*block, 100 + i), (5, 6)) for i in range(30)])
    assert sum(copied) == 30 * len(block)
    assert max(copied) <= 400


def test_one_token_continuations_share_one_row(make_model) -> None:
    engine = Engine(make_model())
    engine.log_likelihoods([Request((4, 5, 6), (letter,)) for letter in range(20, 24)])
    assert engine.tokens_forwarded == 3


@pytest.mark.parametrize("family", ["Mistral", "Gemma2", "Gemma3Text", "GPTNeo", "Bloom"])
def test_models_with_windows_and_positions_of_their_own_share_what_requests_begin_with(make_model, family: str) -> None:
    engine = Engine(make_model(family))
    engine.log_likelihoods([Request((*range(10, 70), 100 + i), (5, 6)) for i in range(3)])
    assert engine.tokens_forwarded == 60 + 3 * 2


def test_what_is_read_otherwise_in_a_longer_text_is_not_shared(make_model) -> None:
    engine = Engine(make_model("Phi3"))
    shorter, longer = ([Request((*range(10, n), 100 + i), (5, 6)) for i in range(3)] for n in (30, 60))
    engine.log_likelihoods(shorter)
    assert engine.tokens_forwarded == 20 + 3 * 2
    engine.log_likelihoods(longer)
    assert engine.tokens_forwarded == 20 + 3 * 2 + 3 * 52


def test_a_text_that_its_last_token_makes_long_is_read_to_its_end(make_model) -> None:
    loaded = make_model("Phi3")  # its rope changes beyond 32 tokens
    context = tuple(range(10, 38))
    requests = [Request(context, tuple(range(50, 50 + n))) for n in (3, 4, 5, 6)]
    for request, found in zip(requests, Engine(loaded).log_likelihoods(requests), strict=True):
        assert found.value == pytest.approx(alone(loaded, request)[0], abs=2e-4)


def test_a_context_too_long_is_cut_from_the_left(make_model) -> None:
    loaded = make_model()
    rng = random.Random(1)
    long = Request(tuple(rng.randrange(3, 700) for _ in range(200)), (5, 6, 7))
    exact = Request(long.context[-126:], (5, 6, 7))
    found = Engine(loaded).log_likelihoods([long, exact])
    assert [likelihood.cut for likelihood in found] == [74, 0]  # 200 + 3 - (128 + 1)
    assert found[0].value == found[1].value


def test_a_continuation_longer_than_the_model_has_no_value(make_model) -> None:
    found = Engine(make_model()).log_likelihoods([Request((1,), (5,) * 129), Request((1,), (5,) * 128)])
    assert found[0].value is None
    assert found[1].value is not None


def test_progress_ends_with_all_that_was_asked(make_model) -> None:
    heard: list[tuple[int, int]] = []
    requests = some_requests()
    Engine(make_model(), 100).log_likelihoods(requests, lambda done, whole: heard.append((done, whole)))
    whole = sum(len(request.continuation) for request in requests)
    assert heard == sorted(heard)
    assert heard[-1] == (whole, whole)


def test_no_requests_give_no_results(make_model) -> None:
    assert Engine(make_model()).log_likelihoods([]) == []


def test_batches_hold_each_row_once_within_the_budget() -> None:
    lengths = [7, 3, 50, 3, 8, 1]
    made = list(batches(lengths, budget=20, past=2))
    assert sorted(row for batch in made for row in batch) == list(range(6))
    assert all(len(batch) == 1 or len(batch) * (2 + max(lengths[i] for i in batch)) <= 20 for batch in made)


def paths(segments: list[Segment], before: tuple[int, ...] = ()) -> dict[int, tuple[int, ...]]:
    spelt: dict[int, tuple[int, ...]] = {}
    for segment in segments:
        assert segment.start == len(before)
        assert segment.tokens
        whole = before + segment.tokens
        spelt |= dict.fromkeys(segment.ends, whole) | paths(segment.children, whole)
    return spelt


def test_a_forest_spells_every_row() -> None:
    rng = random.Random(0)
    rows = list({tuple(rng.choice((1, 2)) for _ in range(rng.randrange(1, 30))) for _ in range(200)})
    for shortest in (1, 2, 5, 100):
        assert paths(forest(rows, shortest)) == dict(enumerate(rows))


def test_a_forest_shares_every_long_prefix() -> None:
    rows = [(1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 7), (1, 2, 3, 8), (9,)]
    shared = forest(rows, shortest=2)
    assert [segment.tokens for segment in shared] == [(1, 2, 3), (9,)]
    assert sorted(child.tokens for child in shared[0].children) == [(4, 5), (8,)]
