"""A base behind an OpenAI-compatible endpoint is steered among the tokens that it tells, over real HTTP."""

import copy
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import torch
from typer.testing import CliRunner

from decoding.endpoint import Endpoint, running
from earnest.cli import app
from earnest.decoding import endpoint as client
from earnest.decoding.account import account
from earnest.decoding.black_box import BlackBox, certain, missing_mass
from earnest.decoding.distribution import ModelDistribution
from earnest.decoding.ensemble import Ensemble, Pair
from earnest.decoding.generation import Prompt, continue_prompts
from earnest.decoding.tokens import TokenTexts
from earnest.models.loading import LoadedModel
from earnest.specs import UserError

TEXTS = [[1, 20, 30, 40], [1, 9]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)


@pytest.fixture
def listening() -> Iterator[Callable[..., Endpoint]]:
    """Endpoints that listen until the test is over."""
    open_contexts = []

    def listen(loaded: LoadedModel, **manner) -> Endpoint:
        context = running(Endpoint(loaded, **manner))
        open_contexts.append(context)
        return context.__enter__()

    yield listen
    for context in open_contexts:
        context.__exit__(None, None, None)


def box_of(endpoint: Endpoint, top_k: int = 5, key_env: str | None = None) -> BlackBox:
    return BlackBox(endpoint.url, "it", endpoint.loaded.tokenizer, top_k=top_k, key_env=key_env)


def test_what_is_told_are_the_likeliest_tokens_and_the_rest_cannot_come(make_model, listening) -> None:
    loaded = make_model()
    box = box_of(listening(loaded), top_k=7)
    told, exact = box.open(TEXTS), ModelDistribution(loaded).open(TEXTS).logits.log_softmax(-1)
    best, ids = exact.topk(7)
    assert told.logits.shape == (2, 700)
    assert torch.equal(told.logits.topk(7).indices, ids)
    torch.testing.assert_close(told.logits.gather(-1, ids), best, atol=1e-5, rtol=0)
    assert int(told.logits.isfinite().sum()) == 14
    torch.testing.assert_close(told.missing, 1 - best.exp().sum(-1).double(), atol=1e-5, rtol=0)
    outside = exact.masked_fill(told.logits.isfinite(), -torch.inf).amax(-1)
    assert bool((told.most >= outside - 1e-5).all())


def test_each_step_sends_the_texts_as_token_ids_and_asks_for_one_token(make_model, listening) -> None:
    endpoint = listening(make_model())
    session = box_of(endpoint).open(TEXTS)
    session.advance(torch.tensor([50, 60]))
    assert sorted(body["prompt"] for body in endpoint.bodies) == sorted([*TEXTS, [*TEXTS[0], 50], [*TEXTS[1], 60]])
    assert {(body["model"], body["max_tokens"], body["temperature"], body["logprobs"]) for body in endpoint.bodies} == {
        ("it", 1, 1, 5)
    }


def test_reading_ahead_and_leaving_rows_are_as_with_a_model(make_model, listening) -> None:
    loaded = make_model()
    told, model = box_of(listening(loaded), top_k=700).open(TEXTS), ModelDistribution(loaded).open(TEXTS)
    for session in (told, model):
        session.ahead = session.read([[50, 51, 52], [60]])
        session.read([[70], [71, 72]])
        session.keep(torch.tensor([1]))
        session.advance(torch.tensor([80]))
    exact = model.ahead.log_softmax(-1)
    torch.testing.assert_close(told.ahead[0], exact[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(told.ahead[1, 0], exact[1, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(told.logits, model.logits.log_softmax(-1), atol=1e-4, rtol=0)


def test_told_everything_the_ensemble_is_the_exact_one(make_model, listening) -> None:
    base, expert, anti = (make_model(seed=seed) for seed in range(3))
    box = box_of(listening(base), top_k=700)
    prompts = [Prompt(tuple(text), (), 8) for text in TEXTS]
    for alpha in (0.7, "adaptive"):
        steered = continue_prompts(Ensemble.of(box, [Pair(expert, anti, alpha)]), prompts, 1000)
        assert steered == continue_prompts(Ensemble(base, expert, anti, alpha), prompts, 1000)
    assert box.tally.most_missing < 1e-4


def test_without_an_antiexpert_the_base_stands_there_among_what_was_told(make_model, listening) -> None:
    base, expert = make_model(seed=0), make_model(seed=1)
    box = box_of(listening(base))
    found = Ensemble.of(box, [Pair(expert, None, 0.4)]).open(TEXTS).logits
    exact = Ensemble(base, expert, alpha=0.4).open(TEXTS).logits
    told = found.isfinite()
    assert told.sum(-1).tolist() == [5, 5]
    torch.testing.assert_close(
        found.log_softmax(-1)[told], exact.masked_fill(~told, -torch.inf).log_softmax(-1)[told], atol=1e-4, rtol=0
    )


@torch.inference_mode()
def test_a_certain_token_is_the_one_of_the_whole_distribution(make_model, listening) -> None:
    """Untrained models are nearly flat, which is the hard case: little is certain, and what is certain is right."""
    base, expert, anti = (make_model(seed=seed) for seed in range(3))
    for parameter in base.model.get_output_embeddings().parameters():
        parameter.mul_(4)
    texts = [[1, 20 + n, 30] for n in range(80)]
    box = box_of(listening(base), top_k=3)
    session = box.open(texts)
    b, e, a = (ModelDistribution(model).open(texts).logits for model in (base, expert, anti))
    shifts = 0.5 * (e - a)
    sure = certain(session.logits, session.most, shifts)
    right = (session.logits + shifts).argmax(-1) == (b + shifts).argmax(-1)
    assert 0 < int(sure.sum()) < 80
    assert bool(right[sure].all())
    assert not bool(right.all())


def test_the_mass_that_was_not_returned_is_tallied(make_model, listening) -> None:
    box = box_of(listening(make_model()))
    session = box.open(TEXTS)
    first = session.missing
    session.advance(torch.tensor([50, 60]))
    both = torch.cat([first, session.missing])
    assert (box.tally.answers, box.tally.requests, box.tally.unclear) == (4, 4, 0)
    assert box.tally.mean_missing == pytest.approx(float(both.mean()))
    assert box.tally.most_missing == pytest.approx(float(both.max()))
    assert missing_mass(torch.full((1, 3), -torch.inf)).tolist() == [1.0]


@pytest.mark.parametrize("shows_end", [True, False])
def test_the_end_of_a_text_is_told_also_where_it_was_drawn(make_model, listening, shows_end: bool) -> None:
    """The end made all but sure, an endpoint that shows nothing of it is asked a second time."""
    loaded = make_model()
    head = loaded.model.lm_head
    loaded.model.lm_head = torch.nn.Linear(head.in_features, head.out_features)
    with torch.no_grad():
        loaded.model.lm_head.weight.copy_(head.weight)
        loaded.model.lm_head.bias.zero_()[2] = 30.0
    box = box_of(listening(loaded, shows_end=shows_end))
    session = box.open(TEXTS)
    assert session.logits.argmax(-1).tolist() == [2, 2]
    assert box.tally.requests == (2 if shows_end else 4)
    (generation, _) = continue_prompts(box, [Prompt(tuple(text), (), 4) for text in TEXTS], 1000)
    assert (generation.ids, generation.finish) == ((), "end")


def test_tokens_told_by_id_are_read_too(make_model, listening) -> None:
    loaded = make_model()
    told = [box_of(listening(loaded, names_ids=names)).open(TEXTS).logits for names in (True, False)]
    assert torch.equal(*told)


def test_every_token_of_a_byte_level_vocabulary_has_a_name_of_its_own(nano) -> None:
    """Parts of characters too: as their bytes, in OpenAI's form."""
    tokenizer = nano("small").tokenizer
    texts = TokenTexts(tokenizer)
    names = [texts.name(token) for token in range(len(tokenizer))]
    assert len(set(names)) == len(names)
    assert names[tokenizer.convert_tokens_to_ids("Ċ")] == "\n"
    assert names[tokenizer.convert_tokens_to_ids("Ã")] == "bytes:\\xc3"


def test_strings_that_may_be_several_tokens_are_left_out_and_counted(make_model, listening) -> None:
    """The tokenizer here takes two tokens for one text, so that neither is ever told apart."""
    loaded = make_model()
    best = ModelDistribution(loaded).open(TEXTS[:1]).logits[0].topk(2).indices.tolist()
    endpoint = listening(loaded)
    tokenizer = copy.deepcopy(loaded.tokenizer)
    decode = tokenizer.decode

    def same_for_both(ids, **options):
        return decode([best[0] if token == best[1] else token for token in ids], **options)

    tokenizer.decode = same_for_both
    box = BlackBox(endpoint.url, "it", tokenizer, top_k=5)
    session = box.open(TEXTS[:1])
    assert not bool(session.logits[0, best[0]].isfinite())
    assert box.tally.unclear >= 1
    exact = ModelDistribution(loaded).open(TEXTS[:1]).logits[0].log_softmax(-1)
    assert float(session.most) == pytest.approx(float(exact[best[0]]), abs=1e-5)


@torch.inference_mode()
def test_names_of_no_token_are_one_clear_error(make_model, nano, listening) -> None:
    """The endpoint's model has 1536 tokens and likes one that the tokenizer here, with 700, does not have."""
    loaded = nano("small")
    logits = loaded.model(torch.tensor([[1, token] for token in range(700)])).logits[:, -1]
    text = [1, int((logits.argmax(-1) >= 700).nonzero()[0])]
    box = BlackBox(listening(loaded, names_ids=True).url, "it", make_model().tokenizer, top_k=1)
    with pytest.raises(UserError, match=r"none of the returned tokens, such as 'token_id:\d+', names one token"):
        box.open([text])


def test_what_passes_by_itself_is_waited_for_as_long_as_the_endpoint_says(make_model, listening) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    endpoint = listening(make_model(), faults=[(429, {"Retry-After": "1"}), (503, {}), (429, {"Retry-After": soon})])
    begun = datetime.now(UTC)
    assert box_of(endpoint).open(TEXTS[:1]).logits.isfinite().any()
    assert datetime.now(UTC) - begun >= timedelta(seconds=1)
    assert len(endpoint.bodies) == 4


@pytest.mark.parametrize(
    ("faults", "said", "asked"),
    [
        ([(503, {})] * 9, r"503: fault 503 \(after 5 attempts\)", 5),
        ([(429, {"Retry-After": "3600"})], r"429: fault 429 \(after 1 attempts\)", 1),
        ([(400, {})], "400: fault 400$", 1),
    ],
)
def test_what_does_not_pass_is_one_clear_error(make_model, listening, faults, said: str, asked: int) -> None:
    endpoint = listening(make_model(), faults=faults)
    with pytest.raises(UserError, match=said):
        box_of(endpoint).open(TEXTS[:1])
    assert len(endpoint.bodies) == asked


def test_the_key_comes_from_the_environment_and_stands_in_no_message(make_model, listening, monkeypatch) -> None:
    endpoint = listening(make_model(), key="right-key")
    monkeypatch.setenv("BLACK_BOX_KEY", "wrong-key")
    with pytest.raises(UserError, match=r"401: wrong key: Bearer \[key\]; is the key in BLACK_BOX_KEY right") as caught:
        box_of(endpoint, key_env="BLACK_BOX_KEY").open(TEXTS)
    assert "wrong-key" not in str(caught.value)
    monkeypatch.setenv("BLACK_BOX_KEY", "right-key\n")
    assert box_of(endpoint, key_env="BLACK_BOX_KEY").open(TEXTS).logits.isfinite().any()


def test_mistakes_are_refused_before_anything_is_sent(make_model, monkeypatch) -> None:
    tokenizer = make_model().tokenizer
    for url in ("127.0.0.1:8000/v1", "ftp://here/v1", "http://", "http://[::1"):
        with pytest.raises(UserError, match="not the address of an API"):
            BlackBox(url, "it", tokenizer)
    with pytest.raises(UserError, match="top_k 0: ask the endpoint for at least one token"):
        BlackBox("http://127.0.0.1:9/v1", "it", tokenizer, top_k=0)
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(UserError, match="NO_SUCH_KEY: holds no key"):
        BlackBox("http://127.0.0.1:9/v1", "it", tokenizer, key_env="NO_SUCH_KEY")
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/v1#it: ConnectError.*after 5 attempts"):
        BlackBox("http://127.0.0.1:9/v1", "it", tokenizer).open(TEXTS)


def test_a_base_with_other_tokens_than_its_experts_is_refused(make_model) -> None:
    expert = make_model()
    tokenizer = copy.deepcopy(expert.tokenizer)
    tokenizer.add_tokens(["<odd>"])
    with pytest.raises(UserError, match=r"different vocabularies: token '<odd>' is 700 and None"):
        Ensemble.of(BlackBox("http://127.0.0.1:9/v1", "it", tokenizer), [Pair(expert)])


def test_a_black_box_writes_and_is_accounted_for_but_not_scored(make_model, listening) -> None:
    base, expert, anti = (make_model(seed=seed) for seed in range(3))
    ensemble = Ensemble.of(box_of(listening(base)), [Pair(expert, anti, 0.7)])
    prompt = Prompt((1, 20, 30), (), 6)
    (generation,) = continue_prompts(ensemble, [prompt], 1000)
    accounts = account(ensemble, prompt, generation.ids)
    assert [entry.combined.top[0].token for entry in accounts] == list(generation.ids)
    assert {len(entry.base.top) for entry in accounts} == {5}
    assert accounts[0].base.model.endswith("/v1#it")
    for scored in ("base", "running"):
        with pytest.raises(UserError, match="is a black box, which can write but not be scored"):
            getattr(ensemble, scored)


def generated(*arguments: object) -> tuple[str, str]:
    """What `earnest generate` prints on stdout and stderr; a user's mistake is raised."""
    done = CliRunner().invoke(app, ["generate", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_the_command_line_steers_a_black_box(nano, listening) -> None:
    endpoint = listening(nano("large"))
    pair = ("--expert", "nano:small-tuned", "--antiexpert", "nano:small", "--max-tokens", 12, "--stop", "\\n")
    prompt = "Question: Who was Sumil?\\nAnswer:"
    exact, nothing = generated(prompt, "--base", "nano:large", *pair)
    told, tally = generated(prompt, "--base", f"{endpoint.url}#it", "--top-k", 50, *pair)
    assert (told, nothing) == (exact, "")
    assert f"{len(endpoint.bodies)} requests; the API kept back " in tally
    assert {body["logprobs"] for body in endpoint.bodies} == {50}


def test_the_command_line_says_what_a_black_box_needs() -> None:
    with pytest.raises(UserError, match="name the endpoint's model too, as in http://here/v1#llama"):
        generated("Q", "--base", "http://here/v1", "--expert", "nano:small-tuned")
    with pytest.raises(UserError, match="is a black box; name an --expert"):
        generated("Q", "--base", "http://here/v1#it")


@pytest.mark.slow
@pytest.mark.parametrize(("top_k", "share"), [(5, 0.85), (20, 0.98)])
def test_nano_answers_agree_with_the_exact_ensemble(nano, short_prompts, listening, top_k: int, share: float) -> None:
    base, expert, anti = nano("large"), nano("small-tuned"), nano("small")
    prompts = [Prompt(ids, ("\n",), 16) for ids in short_prompts[:100]]
    exact = continue_prompts(Ensemble(base, expert, anti), prompts, 20_000)
    box = box_of(listening(base), top_k=top_k)
    told = continue_prompts(Ensemble.of(box, [Pair(expert, anti)]), prompts, 20_000)
    assert sum(one.text == other.text for one, other in zip(exact, told, strict=True)) >= share * len(prompts)
    assert box.tally.unclear == 0
