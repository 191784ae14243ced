"""Errors in OpenAI's shape, one for every status, as a response and as an event of a stream."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

log = logging.getLogger(__name__)

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {
    400: "invalid_value", 401: "invalid_api_key", 403: "permission_denied", 404: "not_found", 405: "method_not_allowed",
    408: "timeout", 413: "request_too_large", 429: "rate_limit_exceeded",
    431: "request_too_large", 500: "internal_error", 503: "overloaded", 504: "timeout",
}  # fmt: skip


class ApiError(Exception):
    """What a client is told: a status, a message that names value, rule and remedy, the parameter at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.headers = status, message, param, dict(headers or {})
        self.code = code or CODES.get(status)

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's clients read it."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The error as a response."""
        return Response(self._json(), self.status, self.headers, "application/json")

    def event(self) -> bytes:
        """The error as the last event of a stream whose status has been sent already."""
        return b"data: " + self._json() + b"\n\n"

    def _json(self) -> bytes:
        return json.dumps(self.body()).encode("ascii")  # a client's lone surrogates stay escaped


def busy(message: str, retry_after: float, code: str | None = None) -> ApiError:
    """Too much was asked; come back in some whole seconds."""
    return ApiError(429, message, code=code, headers={"Retry-After": str(max(1, round(retry_after + 0.5)))})


def install(app: FastAPI) -> None:
    """Let the app answer all errors in this shape."""
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_unexpected)


async def _answer_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = {
        404: f"{request.url.path} is not served here",
        405: f"{request.method} is not allowed here",
        400: "the body is not valid UTF-8 JSON",
    }.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, detail, headers=error.headers).response()


async def _answer_unexpected(_: Request, __: Exception) -> Response:
    return ApiError(500, "internal error; it is in the server's log").response()


async def _answer_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    broken: dict[str, list[Mapping[str, Any]]] = {}
    for problem in error.errors():
        if problem["type"] == "json_invalid":
            return ApiError(400, "the body is not valid JSON", code="invalid_json").response()
        broken.setdefault(str(next(iter(problem["loc"][1:]), "")), []).append(problem)
    message = "; ".join(_said(problems) for problems in list(broken.values())[:3])
    return ApiError(400, message, param=next(iter(broken)) or None, code="invalid_value").response()


def _said(problems: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with one parameter, in words; its value is shown where it is short.

    Of a union every alternative complains. The one that was meant got past the types, or else furthest; where several
    got equally far, each of them would do.
    """
    meant = max(map(_got, problems))
    first, *rest = [problem for problem in problems if _got(problem) == meant]
    others = [problem for problem in rest if problem["loc"][-1] == first["loc"][-1] or _names_a_type(first["loc"][-1])]
    where = ".".join(str(part) for part in first["loc"][1:] if not _names_a_type(part)) or "body"
    if first["type"] in ("none_required", "unsupported"):
        return f"{where}: not supported by this server; leave it out"
    if first["type"] == "extra_forbidden":
        return f"{where}: no such parameter; leave it out"
    rules = dict.fromkeys(str(one["msg"]).removeprefix("Value error, ") for one in (first, *others))
    value = first.get("input")
    shown = f"{value!r}: " if isinstance(value, str | int | float) and len(str(value)) <= 80 else ""
    return f"{where}: {shown}" + " or ".join(rules)


def _got(problem: Mapping[str, Any]) -> tuple[int, int]:
    """How far an alternative got: a wrong `type` of an object decides before all else about it."""
    kind, loc = problem["type"], problem["loc"]
    if loc[-1] == "type":
        return 2, len(loc)
    return int(not (kind.endswith("_type") or kind == "literal_error")), len(loc)


def _names_a_type(part: str | int) -> bool:
    """Whether this step of a location is pydantic's name for an alternative of a union."""
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part or "-" in part)
