"""Chat models are asked in the published forms, and a model that steers may read another form than its base."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from earnest.decoding.ensemble import Ensemble
from earnest.decoding.generation import Prompt, continue_prompts
from earnest.evaluation.chat import PLAIN, Manner, direct, read_as, steers
from earnest.evaluation.conversations import converse
from earnest.evaluation.engine import Engine
from earnest.evaluation.run import evaluate
from earnest.evaluation.tasks import gsm8k, toxigen, truthful_qa
from earnest.models.loading import LoadedModel
from earnest.plan import Inputs
from earnest.planning import make_plan
from earnest.specs import GSM8K, AlpacaFarm, ClosedBook, Sweep, UserError
from evaluation.tiny_models import MakeModel

SYSTEM = "You are a helpful, respectful and honest assistant."
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.fixture
def llama(tokenizer: Any) -> LoadedModel:
    return LoadedModel(None, tokenizer, "chat", "d", Path(), "llama2")


def test_a_chat_model_that_answers_itself_is_asked_as_published(llama: LoadedModel) -> None:
    task = GSM8K(data="g", style="proxy_tuning")
    asked = gsm8k.question(task, {"question": "What is 1 + 1?"})
    assert direct(llama, asked, gsm8k.MANNERS["proxy_tuning"]) == (
        "[INST] Answer the following question.\n\nQuestion: What is 1 + 1? [/INST] Answer:"
    )
    letters = "Why?\nA. x\nB. y\n\nThe answer is:"
    assert direct(llama, letters, Manner(truthful_qa.LETTER_PREFIX, SYSTEM)) == (
        f"[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\nWhy?\nA. x\nB. y [/INST] The answer is:"
    )
    assert direct(llama, "- one\n- two\n-", toxigen.MANNER) == "[INST] Complete the following: - one\n- two\n- [/INST]"
    assert direct(llama, "Name a colour.", PLAIN) == "[INST] Name a colour. [/INST]"


def test_a_chat_model_that_steers_reads_the_bases_prompt_as_published(llama: LoadedModel) -> None:
    """The figures of the ensemble come from these spaces, and from a question that loses its own "Answer:"."""
    assert steers(llama, "- one\n- two\n-", toxigen.MANNER) == "[INST] - one\n- two\n- [/INST]"
    assert steers(llama, "Why?\n\nAnswer:", Manner("Answer:", SYSTEM)) == (
        f"[INST]<<SYS>>\n{SYSTEM}\n<</SYS>>\n\n Why? [/INST] Answer:"
    )
    asked = gsm8k.question(GSM8K(data="g", style="proxy_tuning"), {"question": "Answer: is it 2?"})
    assert steers(llama, asked, gsm8k.MANNERS["proxy_tuning"]) == (
        "[INST] Answer the following question.\n\nQuestion:  is it 2? [/INST] Answer:"
    )


def test_a_models_own_template_is_its_tokenizers(llama: LoadedModel, tokenizer: Any, monkeypatch: Any) -> None:
    own = replace(llama, chat="template")
    with pytest.raises(UserError, match="no chat template"):
        direct(own, "Why?", PLAIN)
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)
    said = "<system>Be kind.<user>Why?<assistant> Answer:"
    assert direct(own, "Why?\n\nAnswer:", Manner("Answer:", "Be kind.")) == said
    assert steers(own, "Why?\n\nAnswer:", Manner("Answer:", "Be kind.")) == said


def test_models_without_a_form_read_plain_text(make_model: MakeModel) -> None:
    base, expert, anti = (make_model(seed=seed) for seed in range(3))
    engine = Engine(Ensemble(base, replace(expert, chat="llama2"), anti))
    plain = tuple(base.tokenizer("Q: a\nA:")["input_ids"])
    form = tuple(base.tokenizer("[INST] Q: a\nA: [/INST]")["input_ids"])
    assert read_as(engine, ["Q: a\nA:"], PLAIN) == [(plain, (form, plain))]
    assert read_as(Engine(base), ["Q: a\nA:"], PLAIN) == [(plain, ())]
    alone = Engine(replace(base, chat="llama2"))
    assert read_as(alone, ["Q: a\nA:"], PLAIN) == [(form, ())]


@pytest.mark.slow
def test_a_task_writes_what_the_ensemble_writes_of_both_forms(make_model: MakeModel) -> None:
    base, expert, anti = (make_model(seed=seed, max_position_embeddings=512) for seed in range(3))
    talking = Ensemble(base, replace(expert, chat="llama2"), anti)
    task = ClosedBook(limit=4, max_tokens=6)
    found, plain = (evaluate(subject, task, "nano") for subject in (talking, Ensemble(base, expert, anti)))
    ids, forms = read_as(Engine(talking), [_first_prompt(task)], PLAIN)[0]
    (made,) = continue_prompts(talking, [Prompt(ids, ("\n",), 6, forms)], talking.budget)
    assert found.samples["prediction"][0].as_py() == made.text.strip()
    assert found.samples["prompt_hash"] == plain.samples["prompt_hash"]
    assert found.samples["prediction"] != plain.samples["prediction"]
    assert found.scores.token_shift is None
    assert plain.scores.token_shift is not None


def _first_prompt(task: ClosedBook) -> str:
    from earnest.evaluation.tasks.closed_book import nano_items

    return nano_items(task)[0].prompt


def test_judged_answers_are_written_in_the_same_forms(make_model: MakeModel) -> None:
    base, expert, anti = (make_model(seed=seed) for seed in range(3))
    engine = Engine(Ensemble(base, replace(expert, chat="llama2"), anti))
    converse(engine, AlpacaFarm(), [["Name a colour."]], (), 3)
    ((prompt, _),) = engine.written
    assert prompt.ids == tuple(base.tokenizer("Name a colour.")["input_ids"])
    assert prompt.forms == (tuple(base.tokenizer("[INST] Name a colour. [/INST]")["input_ids"]), prompt.ids)


FIELDS: dict[str, Any] = {
    "name": "s",
    "model": "b",
    "compress": [],
    "proxy": [{"name": "p", "expert": "e", "antiexpert": "a", "target": "t"}],
    "tasks": [{"task": "closed_book"}],
}
INPUTS = Inputs(models={name: (name, name.upper()) for name in "beat"}, data={"nano|test": ("nano", "D")}, versions={})


def test_a_sweep_says_which_models_are_talked_to_and_only_their_steps_change() -> None:
    chat = {"e": "llama2", "t": "template"}
    plain, talking = (make_plan(Sweep.model_validate({**FIELDS, "chat": forms}), INPUTS) for forms in ({}, chat))
    base, target, steered = (talking.steps[cell.evaluate["closed_book"]] for cell in talking.cells)
    assert "chat" not in base.spec
    assert base.digest in plain.steps
    assert target.spec["chat"] == {"base": "template"}
    assert steered.spec["chat"] == {"expert": "llama2"}
    assert {target.digest, steered.digest}.isdisjoint(plain.steps)
    with pytest.raises(ValueError, match="no model 'x' in this sweep; it has b, e, a, t"):
        Sweep.model_validate({**FIELDS, "chat": {"x": "llama2"}})
