"""The page that lets one see the ensemble think: a few files, served as they are, and nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import Response

from serve.errors import ApiError

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Serve the page at `/` and its parts at `/page/NAME`; both need no key, for they tell nothing of the ensemble."""
    files = {
        path.name: (path.read_bytes(), KINDS[path.suffix])
        for path in Path(__file__).parent.iterdir()
        if path.suffix in KINDS
    }

    @app.get("/", include_in_schema=False, response_model=None)
    async def page() -> Response:
        """The page."""
        return _response(*files["index.html"])

    @app.get("/page/{name}", include_in_schema=False, response_model=None)
    async def part(name: str) -> Response:
        """A part of it."""
        if name not in files:
            raise ApiError(404, f"/page/{name} is not served here")
        return _response(*files[name])


def _response(content: bytes, kind: str) -> Response:
    return Response(content, media_type=kind, headers=HEADERS)
