"""The HTTP side: OpenAI's API over an ensemble, wherever that runs. `make_app` is all that others need.

POST /v1/completions  /v1/chat/completions  /v1/responses  GET /v1/models     with a key where keys are configured
GET /v1/ensemble                                                      with a key, too
GET /                                                                 a page to see it think
GET /metrics                                                          with a key that may
GET /health  GET /ready                                               alive; and able to answer
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

import earnest
from earnest.decoding.tokens import TokenTexts
from earnest.specs import UserError
from serve.asked import ChatBody, CompletionBody
from serve.config import Config, Key
from serve.errors import ApiError, install
from serve.guard import Guard
from serve.metrics import Metrics
from serve.orders import Clerk, Order
from serve.page import add_page
from serve.prompts import Prompts
from serve.quota import Quota
from serve.replies import (
    ChatReply,
    CompletionReply,
    EnsembleReply,
    ErrorReply,
    ModelReply,
    ModelsReply,
    PairReply,
    ResponseReply,
    StateReply,
)
from serve.responses import Responder, ResponseBody
from serve.running import lost
from serve.schema import openapi
from serve.seam import EnsembleHandle, EnsembleLostError
from serve.traces import Tracer
from serve.turns import EventStream, LeftError, Turn, unless_left

B = TypeVar("B", CompletionBody, ChatBody)

READY_S = 5.0
LONG_BODY = 32_768
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Gateway:
    """What one gateway process knows: its config, which `configure` replaces at once and whole, and its books."""

    def __init__(self, config: Config, ensemble: EnsembleHandle, replica: str) -> None:
        self.config, self.ensemble = config, ensemble
        self.metrics, self.quota = Metrics(replica), Quota()
        self.tracer = Tracer(config.traces, replica)
        self.began = int(time.time())
        self._prompts = Prompts(config)
        self._tokens = TokenTexts(self._prompts.tokenizer)
        self._context: int | None = None

    def configure(self, config: Config) -> None:
        """Take another config for the requests to come; those under way go on with theirs.

        Raises:
            UserError: keys are asked for now, and would not be then.
        """
        if self.config.keys and not config.keys:
            raise UserError("keys: none is left: that would serve anybody; keep at least one key")
        self.config = config

    async def clerk(self) -> Clerk:
        """Who takes orders now. Raises ApiError where the ensemble does not say what it is."""
        if self._context is None:
            try:
                self._context = (await self.ensemble.describe()).max_length
            except EnsembleLostError as error:
                raise lost(str(error)) from error
        return Clerk(self.config, self._prompts, self._tokens, self._context)

    async def answer(self, request: Request, order: Order, key: Key, body: ResponseBody | None = None) -> Response:
        """Run an order and answer it, as a response where that is the body."""
        config = self.config
        tracer = self.tracer if self.tracer.draws(config.traces.rate) else None
        turn = Turn(order, key, request.url.path, metrics=self.metrics, quota=self.quota, tracer=tracer)
        seconds = config.limits.timeout_s
        told = turn if body is None else Responder(body, turn)
        try:
            if order.body.stream:
                events = told.events(self.ensemble, seconds)
                return await unless_left(request.receive, lambda: EventStream.begun(events))
            return JSONResponse(await unless_left(request.receive, lambda: told.whole(self.ensemble, seconds)))
        except LeftError:
            return Response(status_code=499)

    def models(self) -> list[ModelReply]:
        """The ensemble under its own name, and every model alone."""
        return [ModelReply(id=name, created=self.began) for name in (self.config.name, *self.config.models)]

    def card(self, key: Key) -> EnsembleReply:
        """What the ensemble is made of."""
        config, limit = self.config, self.config.limits.max_tokens
        pairs = {name: pair for name, pair in config.pairs.items() if key.pairs is None or name in key.pairs}
        return EnsembleReply(
            name=config.name,
            base=config.base,
            pairs=[PairReply(name=name, **pair.model_dump()) for name, pair in pairs.items()],
            default_pair=config.steered_by if config.steered_by in pairs else next(iter(pairs), None),
            max_tokens=min(limit, key.max_tokens or limit),
            examples=list(config.examples),
        )


def make_app(
    config: Config, ensemble: EnsembleHandle, *, replica: str = "", started: Callable[[], object] | None = None
) -> FastAPI:
    """The gateway as an ASGI app; `app.state.configure(config)` changes what may change while requests run.

    Args:
        config: a checked config.
        ensemble: what decodes; not asked before the first request.
        replica: the name of this process in metrics and traces.
        started: is called on the server's event loop before the first request.

    Raises:
        UserError: a model or template is not to be found, or vocabularies differ.
    """
    gateway = Gateway(config, ensemble, replica)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if started is not None:
            started()
        yield
        await asyncio.to_thread(gateway.tracer.close)

    # The usual pages of documentation load their scripts from elsewhere; the schema itself is at /openapi.json.
    app = FastAPI(title="earnest", version=earnest.__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.configure = gateway.configure
    app.add_middleware(Guard, config=lambda: gateway.config, metrics=gateway.metrics)
    if config.cors:  # outside of the guard: a preflight has no key, and a refusal is to be read, too
        app.add_middleware(
            CORSMiddleware, allow_origins=config.cors, allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=["Retry-After"], max_age=600,
        )  # fmt: skip
    install(app)
    _add_completions(app, gateway)
    _add_models(app, gateway)
    _add_state(app, gateway)
    add_page(app)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return app


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": said}
    for status, said in {
        400: "the request breaks a rule", 401: "no key, or an unknown one", 403: "the key may not do this",
        404: "no such model", 408: "the body did not come in time", 413: "the body is too large",
        431: "the headers are too long",
        429: "too much is asked; Retry-After says when to return",
        500: "internal error", 503: "the ensemble is lost, or takes no more requests", 504: "not finished in time",
    }.items()
}  # fmt: skip
"""Every error has the same shape; 422 is never used."""


def _answers(reply: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": reply, "content": {"text/event-stream": {"schema": {}}}}, **REFUSALS}


def _add_completions(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/completions", response_model=None, responses=_answers(CompletionReply))
    async def completions(request: Request, body: CompletionBody) -> Response:
        """Continue texts."""
        key: Key = request.state.key
        order = await _ordered(request, (await gateway.clerk()).completion, body, key)
        return await gateway.answer(request, order, key)

    @app.post("/v1/chat/completions", response_model=None, responses=_answers(ChatReply))
    async def chat_completions(request: Request, body: ChatBody) -> Response:
        """Continue a conversation."""
        key: Key = request.state.key
        order = await _ordered(request, (await gateway.clerk()).chat, body, key)
        return await gateway.answer(request, order, key)

    @app.post("/v1/responses", response_model=None, responses=_answers(ResponseReply))
    async def responses(request: Request, body: ResponseBody) -> Response:
        """Continue a conversation, in the shape of the newer API."""
        key: Key = request.state.key
        order = await _ordered(request, (await gateway.clerk()).chat, body.chat(), key)
        return await gateway.answer(request, order, key, body)


async def _ordered(request: Request, take: Callable[[B, Key], Order], body: B, key: Key) -> Order:
    """Take an order; a long text is turned into tokens beside the event loop, which has streams to serve."""
    if request.state.body_bytes > LONG_BODY:
        return await asyncio.to_thread(take, body, key)
    return take(body, key)


def _add_models(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/v1/models", responses=REFUSALS)
    async def models() -> ModelsReply:
        """Which models may be asked."""
        return ModelsReply(data=gateway.models())

    @app.get("/v1/models/{model}", responses=REFUSALS)
    async def model(model: str) -> ModelReply:
        """One of them."""
        for known in gateway.models():
            if known.id == model:
                return known
        raise ApiError(404, f"model {model!r} is not served", param="model", code="model_not_found")

    @app.get("/v1/ensemble", responses=REFUSALS)
    async def ensemble(request: Request) -> EnsembleReply:
        """What the ensemble is made of: its base, its pairs."""
        return gateway.card(request.state.key)


def _add_state(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/health", responses=REFUSALS)
    async def health() -> StateReply:
        """Whether this process answers."""
        return StateReply(status="alive")

    @app.get("/ready", responses=REFUSALS)
    async def ready() -> StateReply:
        """Whether the ensemble behind it does, too."""
        try:
            async with asyncio.timeout(READY_S):
                await gateway.ensemble.describe()
        except (EnsembleLostError, TimeoutError) as error:
            raise lost(str(error) or f"no answer within {READY_S:g} s") from error
        return StateReply(status="ready")

    @app.get("/metrics", response_model=None, responses={200: {"content": {"text/plain": {}}}, **REFUSALS})
    async def metrics() -> Response:
        """Figures for Prometheus."""
        try:
            async with asyncio.timeout(READY_S):
                gauges = await gateway.ensemble.gauges()
        except (EnsembleLostError, TimeoutError):
            gauges = None
        return Response(gateway.metrics.page(gauges), media_type=METRICS_TYPE)
