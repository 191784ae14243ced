"""Each model may be spoken to in its own way: templates, system prompts, forms."""

from pathlib import Path

import pytest
from serve.config import Config
from serve.errors import ApiError
from serve.prompts import Prompts

from earnest.decoding.encoding import encode
from earnest.decoding.requests import Mixture, Steering
from earnest.decoding.tokens import TokenTexts

MIXTURE = Mixture("large", (Steering("small-tuned", "small"),))


def with_models(config: Config, **changes: dict[str, str]) -> Config:
    models = {
        name: model.model_copy(update=changes.get(name.replace("-", "_"), {})) for name, model in config.models.items()
    }
    return config.model_copy(update={"models": models})


@pytest.fixture(scope="module")
def prompts(config: Config) -> Prompts:
    return Prompts(config)


@pytest.mark.parametrize(("messages", "expected"), [
    ([("user", "Where was Mirko born?")], "Q: Where was Mirko born?\nA:"),
    ([("user", "Q: Where was Mirko born?")], "Q: Where was Mirko born?\nA:"),
    ([("user", "Passage: He is old.\nQ: Who?")], "Passage: He is old.\nQ: Who?\nA:"),
    ([("user", "Tell me about Mirko.")], "Tell me about Mirko."),
    ([("system", "Passage: He is old."), ("user", "Who?")], "Passage: He is old.\nQ: Who?\nA:"),
    ([("user", "Who?"), ("assistant", " Mirko\n"), ("user", "Where?")], "Q: Who?\nA: Mirko\nQ: Where?\nA:"),
])  # fmt: skip
def test_the_plain_template_speaks_as_the_nano_family_does(
    prompts: Prompts, messages: list[tuple[str, str]], expected: str
) -> None:
    turns = [{"role": role, "content": content} for role, content in messages]
    ids, forms = prompts.read_conversation(turns, MIXTURE)
    assert ids == tuple(encode(prompts.tokenizer, [expected])[0])
    assert forms == {}


def test_models_with_their_own_ways_read_their_own_forms(config: Config, tmp_path: Path) -> None:
    template = tmp_path / "turns.jinja"
    template.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}[assistant]", "utf-8")
    own = with_models(
        config,
        small_tuned={"chat_template": str(template), "system": "Be brief."},
        small={"chat_template": "raw"},
    )
    prompts = Prompts(own)
    ids, forms = prompts.read_conversation([{"role": "user", "content": "Who?"}], MIXTURE)
    decoded = {name: prompts.text(form) for name, form in forms.items()}
    assert prompts.text(ids) == "Q: Who?\nA:"
    assert decoded == {"small-tuned": "[system] Be brief. [user] Who? [assistant]", "small": "Who?"}


def test_a_conversation_with_a_system_prompt_keeps_it(config: Config) -> None:
    prompts = Prompts(with_models(config, large={"system": "Be brief."}))
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?"}]
    assert prompts.text(prompts.read_conversation(turns, Mixture("large"))[0]) == "Be kind.\nQ: Who?\nA:"
    assert prompts.text(prompts.read_conversation(turns[1:], Mixture("large"))[0]) == "Be brief.\nQ: Who?\nA:"


def test_a_template_that_refuses_a_conversation_is_heard(config: Config, tmp_path: Path) -> None:
    template = tmp_path / "strict.jinja"
    template.write_text("{{ raise_exception('roles must alternate') }}", "utf-8")
    prompts = Prompts(with_models(config, large={"chat_template": str(template)}))
    with pytest.raises(ApiError, match="roles must alternate"):
        prompts.read_conversation([{"role": "user", "content": "Who?"}], Mixture("large"))


def test_a_template_cannot_reach_beyond_itself(config: Config, tmp_path: Path) -> None:
    template = tmp_path / "evil.jinja"
    template.write_text("{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}", "utf-8")
    prompts = Prompts(with_models(config, large={"chat_template": str(template)}))
    with pytest.raises(ApiError, match="large says"):
        prompts.read_conversation([{"role": "user", "content": "Who?"}], Mixture("large"))


def test_tokens_show_their_text_and_their_bytes(prompts: Prompts) -> None:
    tokens = TokenTexts(prompts.tokenizer)
    text = "The town of Ünal 🦆\n"
    ids = encode(prompts.tokenizer, [text])[0][1:]
    assert b"".join(bytes(tokens.raw(token) or ()) for token in ids).decode() == text
    parts = [token for token in ids if tokens.name(token).startswith("bytes:")]
    assert parts, "a duck is not one token here"
    assert tokens.text(prompts.tokenizer.eos_token_id) == "</s>"
