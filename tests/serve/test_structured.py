"""JSON mode and JSON of a schema: always valid, chosen from the mixed logits, the same however it is drafted."""

import json
from typing import Any, Literal

import openai
import pydantic
import pytest
import torch
from serve.ensemble import Ensemble

from earnest.decoding.encoding import encode
from earnest.decoding.grammar import Grammars, json_grammar
from earnest.decoding.requests import Mixture, Request, Steering
from earnest.decoding.sampling import Sampling
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "field": {"enum": ["geology", "law", "botany"]},
        "year": {"type": "integer", "minimum": 1900, "maximum": 1999},
        "alive": {"type": "boolean"},
        "names": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 1, "maxItems": 2},
    },
    "required": ["field", "year", "alive", "names"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
MESSAGES: Any = [{"role": "user", "content": "Where was Belelx Thaifu born?"}]


def valid(text: str) -> dict[str, Any]:
    """The parsed object, which the schema allows."""
    import jsonschema

    found: dict[str, Any] = json.loads(text)
    jsonschema.validate(found, SCHEMA)
    return found


@pytest.mark.parametrize("model", ["earnest", "small"])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_an_answer_is_of_its_schema(client: openai.OpenAI, model: str, temperature: float) -> None:
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, response_format=FORMAT, temperature=temperature, max_tokens=200, n=4, seed=3
    )
    assert [choice.finish_reason for choice in answer.choices] == ["stop"] * 4
    for choice in answer.choices:
        valid(choice.message.content or "")


def test_a_stream_is_of_its_schema(client: openai.OpenAI) -> None:
    pieces = client.chat.completions.create(
        model="earnest", messages=MESSAGES, response_format=FORMAT, max_tokens=200, temperature=1, seed=1, stream=True
    )
    valid("".join(piece.choices[0].delta.content or "" for piece in pieces))


def test_json_mode_is_an_object(client: openai.OpenAI) -> None:
    for seed in range(3):
        answer = client.chat.completions.create(
            model="earnest", messages=MESSAGES, response_format={"type": "json_object"}, max_tokens=250, seed=seed,
            temperature=0.7,
        )  # fmt: skip
        choice = answer.choices[0]
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content or ""), dict)
        else:
            assert (choice.message.content or "").startswith("{")


@pytest.mark.parametrize("fields", [{"ignore_eos": True}, {"min_tokens": 60}, {"logit_bias": {"2": -100}}])
def test_nothing_is_written_behind_the_grammars_end(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    answer = client.chat.completions.create(
        model="earnest", messages=MESSAGES, response_format=FORMAT, temperature=0, max_tokens=200, extra_body=fields
    )
    assert answer.choices[0].finish_reason == "stop"
    valid(answer.choices[0].message.content or "")


class Person(pydantic.BaseModel):
    """What `parse` asks for."""

    field: Literal["geology", "law"]
    year: int = pydantic.Field(ge=1900, le=1999)


def test_the_clients_parse_gives_a_model(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="earnest", messages=MESSAGES, response_format=Person, max_tokens=100, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


@pytest.mark.parametrize("schema", [
    {"type": "nothing"}, {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}, {"not": {}},
    {"type": "string", "pattern": "("},
])  # fmt: skip
def test_a_schema_that_is_none_is_refused(client: openai.OpenAI, schema: dict[str, Any]) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="earnest", messages=MESSAGES, response_format=wanted)
    assert refused.value.param == "response_format"
    assert "the schema is not understood" in refused.value.message


@pytest.mark.parametrize("wanted", [{"type": "json_schema"}, {"type": "xml"}, {"type": "text", "json_schema": {}}])
def test_a_format_that_is_none_is_refused(client: openai.OpenAI, wanted: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="response_format"):
        client.chat.completions.create(model="earnest", messages=MESSAGES, response_format=wanted)


@pytest.fixture(scope="module")
def models() -> dict[str, LoadedModel]:
    return {name: load(resolve(f"nano:{name}"), dtype="float32") for name in ("large", "small-tuned", "small")}


def by_hand(models: dict[str, LoadedModel], ids: list[int], grammar: str, most: int) -> list[int]:
    """Greedy, token by token, without a cache: the mask on the mixed logits of plain forward passes."""
    tokenizer = models["large"].tokenizer
    guide, written = Grammars(tokenizer, [tokenizer.eos_token_id]).guide(grammar), list[int]()
    while len(written) < most:
        with torch.inference_mode():
            base, expert, anti = (
                models[name].model(input_ids=torch.tensor([ids + written])).logits[0, -1]
                for name in ("large", "small-tuned", "small")
            )
        allowed = guide.allowed(written, len(base))
        assert allowed is not None
        token = int((base + expert - anti).masked_fill(~allowed, -torch.inf).argmax())
        if token == tokenizer.eos_token_id:
            break
        written.append(token)
    return written


@pytest.mark.parametrize("draft", [True, False])
def test_the_mask_lies_on_the_mixed_logits_whatever_is_drafted(
    models: dict[str, LoadedModel], ensemble: Ensemble, draft: bool
) -> None:
    import asyncio

    grammar = json_grammar(SCHEMA)
    (ids,) = encode(models["large"].tokenizer, ["Q: Which field is Tromorl Larbroth an expert in?\nA:"])
    mixture = Mixture("large", (Steering("small-tuned", "small"),))
    request = Request(tuple(ids), mixture, 80, grammar=grammar, draft=draft)

    async def asked() -> list[int]:
        return [token async for chunks in ensemble.stream(request) for chunk in chunks for token in chunk.ids]

    found = asyncio.run(asked())
    assert found == by_hand(models, ids, grammar, 80)
    valid(models["large"].tokenizer.decode(found))


def test_sampled_json_is_the_same_however_it_is_drafted(models: dict[str, LoadedModel], ensemble: Ensemble) -> None:
    import asyncio

    (ids,) = encode(models["large"].tokenizer, ["Tell me about"])
    mixture = Mixture("large", (Steering("small-tuned", "small"),))

    async def asked(draft: bool) -> list[int]:
        sampling = Sampling(temperature=1.0, seed=11)
        request = Request(tuple(ids), mixture, 80, grammar=json_grammar(SCHEMA), draft=draft, sampling=sampling)
        return [token async for chunks in ensemble.stream(request) for chunk in chunks for token in chunk.ids]

    assert asyncio.run(asked(True)) == asyncio.run(asked(False))
