"""The page at `/`, on which people try the server: files of this package, read once, sent as they are.

The page talks to the public API like any other client, so nothing here knows the engine. It is sent
without a key (there is nothing secret in it) and asks for one itself when the API wants it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["playground_routes"]

INDEX = "index.html"
PREFIX = "/playground/"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Everything comes from this server; nothing is inline, framed, or made from strings.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _File:
    """One file: what is sent, and the tag by which browsers know that it has not changed."""

    content: bytes
    media_type: str
    etag: str


def playground_routes() -> list[Route]:
    """One route for each file. There is no path to go astray on: what is not listed does not exist."""
    return [Route(path, _sender(file), methods=["GET"]) for path, file in _FILES.items()]


def _sender(file: _File) -> Callable[[Request], Awaitable[Response]]:
    async def send(request: Request) -> Response:
        headers = {**_HEADERS, "ETag": file.etag}
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.media_type)

    return send


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, _File]]:
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        suffix = "." + item.name.rpartition(".")[2]
        if item.is_dir():
            yield from _walk(item, f"{prefix}{item.name}/")
        elif suffix in _TYPES:
            content = item.read_bytes()
            etag = f'"{sha256(content).hexdigest()[:32]}"'
            path = "/" if item.name == INDEX and prefix == PREFIX else prefix + item.name
            yield path, _File(content, _TYPES[suffix], etag)


_FILES: Mapping[str, _File] = dict(_walk(resources.files("cadence.server") / "web", PREFIX))
