"""A real OpenAI-compatible endpoint on a free port, which tells the k likeliest tokens of a model in this process."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from earnest.decoding.tokens import TokenTexts
from earnest.models.loading import LoadedModel


@dataclass
class Endpoint:
    """How it behaves, and what it was asked. `faults` are answered first: a status and its headers each."""

    loaded: LoadedModel
    key: str | None = None
    shows_end: bool = True
    names_ids: bool = False
    faults: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def app(self) -> FastAPI:
        app, texts, lock = FastAPI(), TokenTexts(self.loaded.tokenizer), threading.Lock()
        end = self.loaded.tokenizer.eos_token_id

        def name(token: int) -> str:
            return f"token_id:{token}" if self.names_ids else texts.name(token)

        @app.post("/v1/completions")
        async def completions(request: Request) -> JSONResponse:
            body = await request.json()
            self.bodies.append(body)
            if self.faults:
                status, headers = self.faults.pop(0)
                return JSONResponse({"error": {"message": f"fault {status}"}}, status, headers)
            given = request.headers.get("Authorization")
            if self.key and given != f"Bearer {self.key}":
                return JSONResponse({"error": {"message": f"wrong key: {given}"}}, 401)
            with lock, torch.inference_mode():
                logits = self.loaded.model(torch.tensor([body["prompt"]])).logits[0, -1].float()
            log_probs, biased = logits.log_softmax(-1), logits.clone()
            for token, bias in body.get("logit_bias", {}).items():
                biased[int(token)] += bias
            drawn = int(
                torch.multinomial(biased.softmax(-1), 1, generator=torch.Generator().manual_seed(len(self.bodies)))
            )
            if drawn == end and not self.shows_end:
                return answer(None, "stop")
            top = {
                name(token): value
                for value, token in zip(*(found.tolist() for found in log_probs.topk(body["logprobs"])), strict=True)
            }
            return answer(top | {name(drawn): float(log_probs[drawn])}, "length")

        return app


def answer(top: dict[str, float] | None, finish: str) -> JSONResponse:
    logprobs = {"tokens": [], "token_logprobs": [], "top_logprobs": [] if top is None else [top], "text_offset": []}
    return JSONResponse({"choices": [{"index": 0, "text": "", "logprobs": logprobs, "finish_reason": finish}]})


@contextmanager
def running(endpoint: Endpoint) -> Iterator[Endpoint]:
    """The endpoint, listening while the context lasts."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        endpoint.url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        server = uvicorn.Server(uvicorn.Config(endpoint.app(), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [held]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield endpoint
        server.should_exit = True
        thread.join(10)
