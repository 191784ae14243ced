"""What clients may ask: OpenAI's request bodies, strictly typed, and the extension `proxy`.

What OpenAI defines and this server ignores is taken; what it, or vLLM, defines and this server cannot do is typed as
the values under which nothing is asked for, so that the OpenAPI schema says so too. Anything else is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from earnest.decoding.sampling import Sampling
from serve.config import Alpha

MOST_LOGPROBS = 20
MOST_STOPS = 16
MOST_PAIRS = 8
INT64 = 2**63 - 1

Text = Annotated[str, Field(min_length=1)]
Content = Annotated[str, Field(min_length=0)]  # a bare str would let lone surrogates through
Stop = Annotated[str, Field(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
PairName = Annotated[str, Field(min_length=1, max_length=64)]
Unsupported = Annotated[None, Field(description="not supported")]
Ignored = Annotated[Any, Field(description="taken and ignored", exclude=True)]


def _but_for(*values: Any) -> BeforeValidator:
    """Refuses all but null and some values, which ask for nothing."""

    def checked(value: Any) -> Any:
        if value is not None and value not in values:
            raise PydanticCustomError("unsupported", "not supported")
        return value

    return BeforeValidator(checked)


Nothing = Annotated[Annotated[list[Any], Field(max_length=0)] | None, _but_for([]), Field(description="not supported")]
Empty = Annotated[Annotated[str, Field(max_length=0)] | None, _but_for(""), Field(description="not supported")]
No = Annotated[Literal[False] | None, _but_for(False), Field(description="not supported")]
Yes = Annotated[Literal[True] | None, _but_for(True), Field(description="always so")]


class Asked(BaseModel):
    """A piece of a body: frozen, no unknown keys, no conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StreamOptions(Asked):
    """`include_usage` asks for one more chunk with the usage; obfuscation is not done here."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None
    continuous_usage_stats: Literal[False] | None = None


class ProxyOptions(Asked):
    """How the base is steered, and what is told of it.

    `alpha` sets how strongly, `adaptive` solves for it at every token; `pair` names a pair or several at once;
    `account` true, or a number of candidates, adds what every model thought of each token.
    """

    alpha: Alpha | None = None
    pair: PairName | Annotated[list[PairName], Field(min_length=1, max_length=MOST_PAIRS)] | None = None
    account: bool | Annotated[int, Field(ge=1, le=MOST_LOGPROBS)] | None = None

    @property
    def pairs(self) -> tuple[str, ...]:
        """The pairs by name, none where none is named."""
        return (self.pair,) if isinstance(self.pair, str) else tuple(self.pair or ())

    @property
    def candidates(self) -> int | None:
        """How many candidates of every model are shown with each token; None without an account."""
        return 5 if self.account is True else self.account or None


class JsonSchema(Asked):
    """A schema that the answer keeps to; it always does, `strict` or not."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: Ignored = None
    strict: bool | None = None


class ResponseFormat(Asked):
    """What the answer is: text, a JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError(f"type {self.type}: json_schema belongs to type json_schema, and to no other")
        return self

    @property
    def schema_asked(self) -> dict[str, Any] | None:
        """The schema of what is answered; None for plain text."""
        if self.type == "text":
            return None
        return {"type": "object"} if self.json_schema is None else self.json_schema.schema_


class Common(Asked):
    """What both endpoints share."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=INT64)] | None = None
    n: Annotated[int, Field(ge=1, le=INT64)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-INT64 - 1, le=INT64)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[TokenKey, Bias], Field(max_length=1024)] | None = None
    user: Ignored = None
    response_format: ResponseFormat | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1, description="beyond OpenAI; 0 and -1 keep all")] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, description="beyond OpenAI")] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=INT64, description="beyond OpenAI")] | None = None
    ignore_eos: Annotated[bool, Field(description="beyond OpenAI")] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=256, description="beyond OpenAI")] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10, description="beyond OpenAI")] | None = None
    proxy: ProxyOptions | None = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    skip_special_tokens: Yes = None
    spaces_between_special_tokens: Ignored = None
    include_stop_str_in_output: No = None
    use_beam_search: No = None
    length_penalty: Annotated[float, Field(ge=1, le=1)] | None = None
    truncate_prompt_tokens: Unsupported = None
    prompt_logprobs: Unsupported = None

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream = true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, seed: int, logprobs: int | None) -> Sampling:
        """These settings as the decoder knows them; OpenAI's default temperature is 1."""
        given = {name: getattr(self, name) for name in SAMPLING_FIELDS}
        bias = tuple(sorted((int(token), value) for token, value in (self.logit_bias or {}).items()))
        fields = {"temperature": 1.0} | {name: value for name, value in given.items() if value is not None}
        fields["top_k"] = max(0, self.top_k or 0)
        return Sampling(**fields, logit_bias=bias, seed=seed if self.seed is None else self.seed, logprobs=logprobs)


SAMPLING_FIELDS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


class CompletionBody(Common):
    """POST /v1/completions."""

    prompt: (
        Text | Annotated[list[Text], Field(min_length=1)] | TokenIds | Annotated[list[TokenIds], Field(min_length=1)]
    )
    max_tokens: Annotated[int, Field(ge=0, le=INT64)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=INT64)] | None = None
    suffix: Empty = None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        n = self.n or 1
        if self.best_of is not None and self.best_of < n:
            raise ValueError(f"best_of {self.best_of} with n {n}: ask for at least n, or leave best_of out")
        if self.stream and (self.best_of or n) > n:
            raise ValueError(f"best_of {self.best_of} with stream: the best is known at the end; leave one of them out")
        return self


class TextPart(Asked):
    """A part of a message; only text is read."""

    type: Literal["text"]
    text: Content
    cache_control: Ignored = None


class Message(Asked):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | Annotated[list[TextPart], Field(min_length=1)] | None
    name: Ignored = None
    refusal: Unsupported = None
    audio: Unsupported = None
    annotations: Ignored = None
    cache_control: Ignored = None
    reasoning: Ignored = None
    reasoning_content: Ignored = None
    reasoning_details: Ignored = None
    thinking_blocks: Ignored = None
    provider_specific_fields: Ignored = None
    tool_calls: Nothing = None
    function_call: Unsupported = None

    @property
    def text(self) -> str:
        """The content, its parts put together; nothing where it is null."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)


class ChatBody(Common):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=INT64)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    tools: Nothing = None
    functions: Unsupported = None
    function_call: Literal["none", "auto"] | None = None
    audio: Unsupported = None
    prediction: Ignored = None
    reasoning_effort: Annotated[Literal["none"] | None, _but_for("none")] = None
    verbosity: Annotated[Literal["medium"] | None, _but_for("medium")] = None
    web_search_options: Unsupported = None
    add_generation_prompt: Yes = None
    continue_final_message: No = None
    echo: No = None
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    parallel_tool_calls: Ignored = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs = true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self
