"""OpenAI's newer API, POST /v1/responses, as far as a chat carries it: a text or messages in, one message out.

A body becomes a chat's, its answer becomes a response. Nothing is stored, so that no response goes on from an earlier
one, and tools are not called.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from pydantic import Field

from serve.answers import Json
from serve.asked import (
    INT64,
    Asked,
    ChatBody,
    Content,
    Ignored,
    JsonSchema,
    Message,
    Nothing,
    ProxyOptions,
    Unsupported,
)
from serve.errors import ApiError
from serve.seam import EnsembleHandle
from serve.turns import Turn


class InputPart(Asked):
    """A part of a message; only text is read."""

    type: Literal["input_text", "output_text", "text"]
    text: Content
    annotations: Ignored = None
    logprobs: Ignored = None


class InputMessage(Asked):
    """One turn, as it is asked or as a response held it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | Annotated[list[InputPart], Field(min_length=1)]
    type: Literal["message"] | None = None
    id: Ignored = None
    status: Ignored = None
    phase: Ignored = None

    @property
    def message(self) -> Json:
        """The same turn of a chat."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class PlainFormat(Asked):
    """Text, or a JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(JsonSchema):
    """JSON of a schema."""

    type: Literal["json_schema"]


class TextOptions(Asked):
    """What the text is."""

    format: PlainFormat | SchemaFormat | None = None
    verbosity: Annotated[Literal["medium"] | None, Field(description="not supported")] = None


class ResponseBody(Asked):
    """POST /v1/responses."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Annotated[str, Field(min_length=1)] | Annotated[list[InputMessage], Field(min_length=1)]
    instructions: Content | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=INT64)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    stream: bool | None = None
    text: TextOptions | None = None
    proxy: ProxyOptions | None = None
    tools: Nothing = None
    tool_choice: Literal["none", "auto"] | None = None
    truncation: Literal["disabled"] | None = None
    include: Nothing = None
    previous_response_id: Unsupported = None
    conversation: Unsupported = None
    prompt: Unsupported = None
    reasoning: Unsupported = None
    background: Annotated[Literal[False] | None, Field(description="not supported")] = None
    metadata: Ignored = None
    store: Ignored = None
    user: Ignored = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    parallel_tool_calls: Ignored = None

    def chat(self) -> ChatBody:
        """The chat that is meant."""
        first = [Message(role="system", content=self.instructions)] if self.instructions else []
        turns = [InputMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        wanted = self.text.format if self.text else None
        form: Json | None = None
        if isinstance(wanted, SchemaFormat):
            form = {"type": "json_schema", "json_schema": {"name": wanted.name, "schema": wanted.schema_}}
        elif wanted is not None:
            form = {"type": wanted.type}
        return ChatBody(
            model=self.model,
            messages=[*first, *(Message(**turn.message) for turn in turns)],
            max_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stream=self.stream,
            response_format=form,  # type: ignore[arg-type]
            proxy=self.proxy,
        )


class Responder:
    """Tells one chat's answer as a response."""

    def __init__(self, body: ResponseBody, turn: Turn) -> None:
        self._body, self._turn = body, turn
        self._id, self._item, self._began = f"resp_{uuid.uuid4().hex}", f"msg_{uuid.uuid4().hex}", int(time.time())

    async def whole(self, ensemble: EnsembleHandle, timeout_s: float) -> Json:
        """The response at its end. Raises ApiError."""
        answer = await self._turn.whole(ensemble, timeout_s)
        choice = answer["choices"][0]
        return self._response(choice["message"]["content"], choice["finish_reason"], answer["usage"])

    async def events(self, ensemble: EnsembleHandle, timeout_s: float) -> AsyncGenerator[bytes, None]:
        """The response as typed events. Raises ApiError before the first; later ones are the event `error`."""
        number, text, reason = 0, "", None

        def event(kind: str, **fields: Any) -> bytes:
            nonlocal number
            told = {"type": kind, "sequence_number": number, **fields}
            number += 1
            return f"event: {kind}\ndata: {json.dumps(told, ensure_ascii=False)}\n\n".encode()

        place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        try:
            async with aclosing(self._turn.pieces(ensemble, timeout_s)) as pieces:
                async for piece in pieces:
                    if not number:
                        yield event("response.created", response=self._response(None, None, None))
                        yield event("response.in_progress", response=self._response(None, None, None))
                        yield event("response.output_item.added", output_index=0, item=self._message(None))
                        yield event("response.content_part.added", **place, part=_part(""))
                    if said := piece["delta"].get("content"):
                        text += said
                        yield event("response.output_text.delta", **place, delta=said, logprobs=[])
                    reason = piece["finish_reason"] or reason
        except ApiError as error:
            if not number:
                raise
            yield event("error", code=error.code, message=error.message, param=error.param)
            return
        yield event("response.output_text.done", **place, text=text, logprobs=[])
        yield event("response.content_part.done", **place, part=_part(text))
        yield event("response.output_item.done", output_index=0, item=self._message(text))
        response = self._response(text, reason, self._turn.usage())
        yield event(f"response.{response['status']}", response=response)

    def _response(self, text: str | None, reason: str | None, usage: Json | None) -> Json:
        """The response; without a text it has only begun."""
        cut = reason == "length"
        status = "in_progress" if text is None else "incomplete" if cut else "completed"
        wanted = self._body.text.format if self._body.text else None
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._began,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": self._body.instructions,
            "max_output_tokens": self._body.max_output_tokens,
            "model": self._body.model,
            "output": [] if text is None else [self._message(text)],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0 if self._body.temperature is None else self._body.temperature,
            "text": {"format": wanted.model_dump(by_alias=True, exclude_none=True) if wanted else {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0 if self._body.top_p is None else self._body.top_p,
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
            "metadata": {},
        }

    def _message(self, text: str | None) -> Json:
        status, content = ("in_progress", []) if text is None else ("completed", [_part(text)])
        return {"id": self._item, "type": "message", "role": "assistant", "status": status, "content": content}


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Json) -> Json:
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": usage["prompt_tokens_details"],
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
