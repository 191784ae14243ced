"""/v1/responses by OpenAI's own client: what a chat answers, in the shape of the newer API."""

import json
from typing import Any, Literal

import httpx
import openai
import pydantic
import pytest
from serve.replies import ResponseReply

QUESTION = "Where was Belelx Thaifu born?"
ASKED: dict[str, Any] = {"model": "earnest", "temperature": 0, "max_output_tokens": 20}


def chat(client: openai.OpenAI, messages: Any) -> Any:
    return client.chat.completions.create(model="earnest", messages=messages, temperature=0, max_tokens=20)


def test_a_text_is_answered_as_a_chat_would_be(client: openai.OpenAI, url: str) -> None:
    wanted = chat(client, [{"role": "system", "content": "Short."}, {"role": "user", "content": QUESTION}])
    found = client.responses.create(input=QUESTION, instructions="Short.", **ASKED)
    assert found.output_text == wanted.choices[0].message.content
    assert found.status == "completed"
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.output_tokens) == (
        wanted.usage.prompt_tokens,
        wanted.usage.completion_tokens,
    )
    whole = httpx.post(f"{url}/v1/responses", json={"input": QUESTION, **ASKED})
    assert ResponseReply.model_validate(whole.json())


def test_a_history_of_responses_is_read(client: openai.OpenAI) -> None:
    first = client.responses.create(input=QUESTION, **ASKED)
    turns: list[Any] = [{"role": "user", "content": QUESTION}]
    turns += [item.model_dump(exclude_none=True) for item in first.output]
    turns += [{"role": "user", "content": [{"type": "input_text", "text": "Who?"}]}]
    again = client.responses.create(input=turns, **ASKED)
    said = {"role": "assistant", "content": first.output_text}
    wanted = chat(client, [turns[0], said, {"role": "user", "content": "Who?"}])
    assert again.output_text == wanted.choices[0].message.content


def test_a_stream_has_the_text_of_the_whole(client: openai.OpenAI) -> None:
    whole = client.responses.create(input=QUESTION, **ASKED)
    events = list(client.responses.create(input=QUESTION, stream=True, **ASKED))
    assert [event.type for event in events[:4]] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    last = events[-1]
    assert last.type == "response.completed"
    assert (last.response.output_text, last.response.usage) == (whole.output_text, whole.usage)
    with client.responses.stream(input=QUESTION, **ASKED) as stream:
        stream.until_done()
        assert stream.get_final_response().output_text == whole.output_text


def test_too_few_tokens_leave_it_incomplete(client: openai.OpenAI) -> None:
    found = client.responses.create(input="Tell me about Belelx Thaifu.", **{**ASKED, "max_output_tokens": 2})
    assert found.status == "incomplete"
    assert found.incomplete_details is not None
    assert found.incomplete_details.reason == "max_output_tokens"


class Person(pydantic.BaseModel):
    """What `parse` asks for."""

    field: Literal["geology", "law"]


def test_the_clients_parse_gives_a_model(client: openai.OpenAI) -> None:
    found = client.responses.parse(input=QUESTION, text_format=Person, **ASKED)
    assert isinstance(found.output_parsed, Person)
    text: Any = {"format": {"type": "json_object"}}
    plain = client.responses.create(input=QUESTION, text=text, **{**ASKED, "max_output_tokens": 200})
    assert plain.status == "incomplete" or isinstance(json.loads(plain.output_text), dict)


@pytest.mark.parametrize("fields", [
    {"previous_response_id": "resp_1"}, {"tools": [{"type": "web_search"}]}, {"background": True}, {"input": ""},
    {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, {"model": "none"},
])  # fmt: skip
def test_what_a_chat_cannot_carry_is_refused(url: str, fields: dict[str, Any]) -> None:
    answer = httpx.post(f"{url}/v1/responses", json={"input": QUESTION, **ASKED, **fields})
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["message"]
