"""OpenAI's own client is served: texts, chats, streams, choices, log-probabilities, usage."""

from typing import Any

import openai
import pytest

from earnest.decoding.encoding import encode
from earnest.decoding.ensemble import Ensemble as Loop
from earnest.decoding.generation import generate
from earnest.models.loading import load
from earnest.models.source import resolve

PROMPT = "Q: Where was Mirko Talen born?\nA:"
GREEDY: dict[str, Any] = {"model": "earnest", "temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module")
def loop() -> Loop:
    """The plain three-model loop, as the reference."""
    large, tuned, small = (load(resolve(f"nano:{name}"), dtype="float32") for name in ("large", "small-tuned", "small"))
    return Loop(large, tuned, small)


def test_models_are_the_ensemble_and_every_member(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"earnest", "large", "large-tuned", "small-tuned", "small"}
    assert client.models.retrieve("earnest").object == "model"


@pytest.mark.parametrize("prompt", [PROMPT, "Tell me about Mirko Talen.", "The town"])
def test_a_greedy_completion_is_the_plain_loops(client: openai.OpenAI, loop: Loop, prompt: str) -> None:
    answer = client.completions.create(prompt=prompt, **GREEDY)
    (expected,) = generate(loop, [prompt], max_tokens=24)
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == ("length" if expected.finish == "length" else "stop")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(encode(loop.tokenizer, [prompt])[0])
    assert answer.usage.completion_tokens in (len(expected.ids), len(expected.ids) + 1)


def test_a_member_answers_alone_by_its_own_name(client: openai.OpenAI, loop: Loop) -> None:
    answer = client.completions.create(prompt=PROMPT, **{**GREEDY, "model": "large"})
    (expected,) = generate(loop.base, [PROMPT], max_tokens=24)
    assert answer.choices[0].text == expected.text


def test_a_stream_has_the_same_text_and_ends_with_its_usage(client: openai.OpenAI) -> None:
    whole = client.completions.create(prompt=PROMPT, **GREEDY)
    pieces = list(
        client.completions.create(prompt=PROMPT, stream=True, stream_options={"include_usage": True}, **GREEDY)
    )
    *told, last = pieces
    assert "".join(piece.choices[0].text for piece in told) == whole.choices[0].text
    assert [piece.choices[0].finish_reason for piece in told][-1] == whole.choices[0].finish_reason
    assert last.choices == []
    assert last.usage is not None
    assert whole.usage is not None
    assert last.usage.total_tokens == whole.usage.total_tokens
    assert all(piece.usage is None for piece in told)


def test_prompts_may_be_strings_lists_token_ids_and_lists_of_these(client: openai.OpenAI, loop: Loop) -> None:
    ids = encode(loop.tokenizer, [PROMPT])[0]
    one = client.completions.create(prompt=PROMPT, **GREEDY).choices[0].text
    assert client.completions.create(prompt=[PROMPT], **GREEDY).choices[0].text == one
    assert client.completions.create(prompt=ids, **GREEDY).choices[0].text == one
    assert client.completions.create(prompt=[ids], **GREEDY).choices[0].text == one
    several = client.completions.create(prompt=["The town", PROMPT], n=2, **GREEDY)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in several.choices[2:]] == [one, one]


def test_choices_are_seeded_each_and_together_repeatable(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "earnest", "max_tokens": 16, "seed": 7, "prompt": "Tell me about", "n": 4}
    once, again = (client.completions.create(**settings) for _ in range(2))
    texts = [choice.text for choice in once.choices]
    assert texts == [choice.text for choice in again.choices]
    assert len(set(texts)) > 1
    other = client.completions.create(**{**settings, "seed": 8})
    assert texts != [choice.text for choice in other.choices]


def test_one_prompt_asked_twice_at_once_is_drawn_twice(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "earnest", "max_tokens": 16, "prompt": ["Tell me about"] * 4}
    assert len({choice.text for choice in client.completions.create(**settings).choices}) > 1
    assert len({choice.text for choice in client.completions.create(seed=7, **settings).choices}) == 1


def test_choices_of_a_stream_are_those_of_the_whole(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "earnest", "max_tokens": 16, "seed": 7, "prompt": "Tell me about", "n": 3}
    whole = client.completions.create(**settings)
    texts = ["", "", ""]
    for piece in client.completions.create(stream=True, **settings):
        texts[piece.choices[0].index] += piece.choices[0].text
    assert texts == [choice.text for choice in whole.choices]


def test_a_stop_string_ends_a_text_and_is_not_in_it(client: openai.OpenAI) -> None:
    whole = client.completions.create(prompt="Tell me about Mirko Talen.", **GREEDY).choices[0].text
    word = whole.split()[4]
    for stop in (word, [word, "never written"]):
        answer = client.completions.create(prompt="Tell me about Mirko Talen.", stop=stop, **GREEDY)
        assert answer.choices[0].text == whole[: whole.index(word)]
        assert answer.choices[0].finish_reason == "stop"


def test_completion_logprobs_have_openais_shape(client: openai.OpenAI) -> None:
    answer = client.completions.create(prompt=PROMPT, logprobs=3, **GREEDY)
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.token_logprobs is not None
    assert found.top_logprobs is not None
    text = answer.choices[0].text
    assert "".join(found.tokens).startswith(text)
    assert found.text_offset == [len("".join(found.tokens[:place])) for place in range(len(found.tokens))]
    for token, value, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        assert len(top) == 3
        assert top[token] == value == max(top.values())


def test_chat_logprobs_have_openais_shape(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        messages=[{"role": "user", "content": "Where was Mirko Talen born?"}], logprobs=True, top_logprobs=2, **GREEDY
    )
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.content
    assert "".join(one.token for one in found.content).startswith(answer.choices[0].message.content or "")
    for one in found.content:
        assert bytes(one.bytes or []).decode() == one.token
        assert [top.logprob for top in one.top_logprobs] == sorted((t.logprob for t in one.top_logprobs), reverse=True)
        assert one.top_logprobs[0].token == one.token
        assert len(one.top_logprobs) == 2


def test_a_chat_is_the_completion_of_its_template(client: openai.OpenAI) -> None:
    question = "Where was Mirko Talen born?"
    chat = client.chat.completions.create(messages=[{"role": "user", "content": question}], **GREEDY)
    text = client.completions.create(prompt=f"Q: {question}\nA:", stop="\n", **GREEDY)
    assert chat.choices[0].message.content == text.choices[0].text
    assert chat.choices[0].message.role == "assistant"
    streamed = client.chat.completions.create(messages=[{"role": "user", "content": question}], stream=True, **GREEDY)
    deltas = [piece.choices[0].delta for piece in streamed]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == chat.choices[0].message.content


def test_messages_may_come_in_parts_and_names_of_settings_in_two_forms(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=[{"role": "user", "content": "Who is it?"}], **GREEDY)
    parts = client.chat.completions.create(
        model="earnest",
        temperature=0,
        max_completion_tokens=24,
        messages=[{"role": "user", "content": [{"type": "text", "text": "Who "}, {"type": "text", "text": "is it?"}]}],
    )
    assert parts.choices[0].message.content == whole.choices[0].message.content


def test_echo_gives_the_prompt_back(client: openai.OpenAI) -> None:
    plain = client.completions.create(prompt=PROMPT, **GREEDY).choices[0].text
    assert client.completions.create(prompt=PROMPT, echo=True, **GREEDY).choices[0].text == PROMPT + plain
    pieces = client.completions.create(prompt=PROMPT, echo=True, stream=True, **GREEDY)
    assert "".join(piece.choices[0].text for piece in pieces) == PROMPT + plain


def test_a_bias_of_minus_100_bans_a_token(client: openai.OpenAI, loop: Loop) -> None:
    found = client.completions.create(prompt="The town", logprobs=1, **GREEDY).choices[0].logprobs
    assert found is not None
    assert found.tokens
    banned = encode(loop.tokenizer, [found.tokens[0]])[0][-1]
    other = client.completions.create(prompt="The town", logit_bias={str(banned): -100}, **GREEDY)
    assert not other.choices[0].text.startswith(found.tokens[0])


def test_penalties_change_what_is_repeated(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {**GREEDY, "max_tokens": 60, "prompt": "the the the the the"}
    plain = client.completions.create(**settings).choices[0].text.split()
    penalised = client.completions.create(frequency_penalty=2, presence_penalty=2, **settings).choices[0].text.split()
    assert len(set(penalised)) / len(penalised) > len(set(plain)) / len(plain)


def test_what_openai_defines_and_nobody_needs_is_ignored(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        messages=[{"role": "user", "content": "Who?"}], user="me", metadata={"a": "b"}, store=False,
        service_tier="auto", response_format={"type": "text"}, **GREEDY,
    )  # fmt: skip
    assert answer.choices[0].message.content


def test_errors_are_the_clients_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(prompt="a", model="nothing")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="no such parameter"):
        client.completions.create(prompt="a", model="earnest", extra_body={"nonsense": 1})
    with pytest.raises(openai.BadRequestError, match="not supported"):
        client.chat.completions.create(
            model="earnest",
            messages=[{"role": "user", "content": "a"}],
            tools=[{"type": "function", "function": {"name": "f"}}],
        )
