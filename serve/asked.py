"""What clients may ask: OpenAI's request bodies, strictly typed, and the extension `proxy`.

What OpenAI defines and this server ignores is taken; what it defines and this server cannot do is typed as null, so
that the OpenAPI schema says so too. Anything else is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

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


class Asked(BaseModel):
    """A piece of a body: frozen, no unknown keys, no conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StreamOptions(Asked):
    """`include_usage` asks for one more chunk with the usage; obfuscation is not done here."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


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
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1, description="beyond OpenAI; 0 keeps all")] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10, description="beyond OpenAI")] | None = None
    proxy: ProxyOptions | None = None

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
        return Sampling(**fields, logit_bias=bias, seed=seed if self.seed is None else self.seed, logprobs=logprobs)


SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "repetition_penalty", "presence_penalty", "frequency_penalty")


class CompletionBody(Common):
    """POST /v1/completions."""

    prompt: (
        Text | Annotated[list[Text], Field(min_length=1)] | TokenIds | Annotated[list[TokenIds], Field(min_length=1)]
    )
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Literal[1] | None = None
    suffix: Unsupported = None

    @model_validator(mode="after")
    def _echo_without_logprobs(self) -> Self:
        if self.echo and self.logprobs is not None:
            raise ValueError("echo with logprobs: log-probabilities of prompts are not kept; leave one of them out")
        if self.best_of is not None and (self.n or 1) > 1:
            raise ValueError(f"best_of 1 with n {self.n}: leave best_of out")
        return self


class TextPart(Asked):
    """A part of a message; only text is read."""

    type: Literal["text"]
    text: Content


class Message(Asked):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | Annotated[list[TextPart], Field(min_length=1)]
    name: Ignored = None
    refusal: Unsupported = None
    audio: Unsupported = None
    annotations: Ignored = None
    tool_calls: Unsupported = None
    function_call: Unsupported = None

    @property
    def text(self) -> str:
        """The content, its parts put together."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponseFormat(Asked):
    """Plain text is the only one."""

    type: Literal["text"]


class ChatBody(Common):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=INT64)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    tool_choice: Literal["none"] | None = None
    tools: Unsupported = None
    functions: Unsupported = None
    function_call: Unsupported = None
    audio: Unsupported = None
    prediction: Unsupported = None
    reasoning_effort: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
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
