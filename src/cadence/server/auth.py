"""API keys. With keys set, every route but the probes and the playground's files needs one,
`/metrics` and unknown paths included."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import sha256

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from cadence.errors import Unauthorized
from cadence.server.errors import error_response, refuse_socket

__all__ = ["KEY_PROTOCOL", "OPEN_PATHS", "ApiKeyMiddleware", "KeyRing"]

KEY_PROTOCOL = "openai-insecure-api-key."
"""Browsers cannot set headers on a WebSocket: they offer their key as a subprotocol of this prefix."""

OPEN_PATHS = frozenset({"/health", "/ping", "/livez", "/readyz", "/version"})
"""What load balancers and orchestrators ask, without a key; none of it tells about requests."""


class KeyRing:
    """Accepted keys, held as digests. Comparing takes the same time whichever key matches, or none."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accepts(self, key: bytes) -> bool:
        """Whether `key` is one of ours."""
        presented = sha256(key).digest()
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(presented, digest)
        return found


class ApiKeyMiddleware:
    """Lets requests pass that carry `Authorization: Bearer KEY` with an accepted key; all to `open_paths`."""

    def __init__(self, app: ASGIApp, keys: KeyRing, open_paths: frozenset[str] = OPEN_PATHS) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if not self._guards(scope) or self._keys.accepts(_bearer(scope)):
            await self._app(scope, receive, send)
            return
        error = Unauthorized("A valid API key is needed: send Authorization: Bearer KEY.")
        if scope["type"] == "http":
            await error_response(error)(scope, receive, send)
        else:
            await refuse_socket(WebSocket(scope, receive, send), error)

    def _guards(self, scope: Scope) -> bool:
        asks = scope["type"] in ("http", "websocket")
        return asks and bool(self._keys) and scope["path"] not in self._open_paths


def _bearer(scope: Scope) -> bytes:
    """The key of the request; empty when there is none, or more than one to choose from."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if scope["type"] == "websocket":
        keys = [name[len(KEY_PROTOCOL) :] for name in scope["subprotocols"] if name.startswith(KEY_PROTOCOL)]
        values += [b"bearer " + key.encode("latin-1", "replace") for key in keys]
    if len(values) != 1:
        return b""
    scheme, _, key = bytes(values[0]).partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""
