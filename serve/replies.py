"""The shapes of answers for the OpenAPI schema. Answers are written by `answers`; tests hold them against these."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Reply(BaseModel):
    """A piece of an answer, with nothing in it that is not said here."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Reply):
    """What went wrong, the parameter at fault where there is one."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """An error in OpenAI's shape."""

    error: ErrorDetail


class PromptTokensDetails(Reply):
    """Tokens that the prefix cache held."""

    cached_tokens: int


class Drafting(Reply):
    """How an answer was decoded; seconds are those of the slowest choice."""

    drafted: int
    accepted: int
    rounds: int
    seconds_queued: float
    seconds_to_first: float
    seconds: float


class UsageReply(Reply):
    """Tokens in and out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    proxy: Drafting | None = None


class ProxyReply(Reply):
    """How a choice was steered; `tokens` are accounts as `earnest.decoding.account.TokenAccount` describes them."""

    tokens: list[dict[str, Any]] | None = None
    pair: str | list[str] | None = None
    alpha: float | Literal["adaptive"] | list[float | Literal["adaptive"]] | None = None
    changed: float | None = None


class CompletionLogprobs(Reply):
    """Log-probabilities of a completion's tokens, in nats, of the combined logits before temperature and the like."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Reply):
    """One continuation."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]
    proxy: ProxyReply | None = None


class CompletionReply(Reply):
    """The answer of /v1/completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageReply


class ChatCandidate(Reply):
    """A token and its log-probability; no bytes where the tokenizer does not tell those of a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatToken(ChatCandidate):
    """A written token beside the likeliest ones."""

    top_logprobs: list[ChatCandidate]


class ChatLogprobs(Reply):
    """Log-probabilities of a message's tokens."""

    content: list[ChatToken]
    refusal: None


class ChatMessage(Reply):
    """What was answered."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Reply):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]
    proxy: ProxyReply | None = None


class ChatReply(Reply):
    """The answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageReply


class ResponseUsage(Reply):
    """Tokens in and out, in the words of the newer API."""

    input_tokens: int
    input_tokens_details: PromptTokensDetails
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class OutputText(Reply):
    """What was answered."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputMessage(Reply):
    """The one message of a response."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["in_progress", "completed"]
    content: list[OutputText]


class ResponseReply(Reply):
    """The answer of /v1/responses."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    error: None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool
    previous_response_id: None
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str
    tools: list[Any]
    top_p: float
    truncation: str
    usage: ResponseUsage
    metadata: dict[str, Any]


class ModelReply(Reply):
    """One model that may be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "earnest"


class ModelsReply(Reply):
    """All models that may be asked."""

    object: Literal["list"] = "list"
    data: list[ModelReply]


class PairReply(Reply):
    """A pair by its models' names, and how strongly it steers where a request does not say."""

    name: str
    expert: str
    antiexpert: str | None
    alpha: float | Literal["adaptive"]


class EnsembleReply(Reply):
    """What the ensemble is made of, as far as the key may use it, and prompts to begin with."""

    name: str
    base: str
    pairs: list[PairReply]
    default_pair: str | None
    max_tokens: int
    examples: list[str]


class StateReply(Reply):
    """How the server is."""

    status: str
