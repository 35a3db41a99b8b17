"""Answers that are produced while the client may leave.

`Answer` runs the whole work of a request (fetching audio, waiting for the engine, sending) in one task
and watches the connection beside it. When the client goes, the task is cancelled at once, also before
the first byte: Starlette's own streaming response would notice only when it next sends, and would leave
closing the generator to the garbage collector.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cadence.errors import CadenceError, RequestAborted
from cadence.server.errors import as_cadence_error

__all__ = ["STREAM_HEADERS", "Answer", "Sender", "closing", "sse"]

T = TypeVar("T")
_PIECE_BYTES = 256 << 10

logger = logging.getLogger("cadence.server")

STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Told to proxies: pass every chunk on at once, keep none."""


class Sender:
    """The sending half of one HTTP exchange. A reader who stalls for `stall_s` counts as gone."""

    def __init__(self, send: Send, stall_s: float) -> None:
        self._send = send
        self._stall_s = stall_s
        self.started = False
        self._gone = False

    async def start(self, headers: Mapping[str, str], status: int = 200) -> None:
        """Send status and headers; from here on errors can no longer change the status."""
        self.started = True
        pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._put({"type": "http.response.start", "status": status, "headers": pairs})

    async def write(self, data: bytes) -> None:
        """Send one chunk; waits while the client reads slower than we send."""
        if data:
            await self._put({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self) -> None:
        """End the answer cleanly. An answer without this is seen as broken by the client."""
        await self._put({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a complete answer with its length; in pieces, so that only a stalled reader is cut off."""
        await self.start({**headers, "Content-Length": str(len(body))})
        for start in range(0, len(body), _PIECE_BYTES):
            await self.write(body[start : start + _PIECE_BYTES])
        await self.finish()

    async def _put(self, message: dict[str, Any]) -> None:
        if self._gone:
            raise RequestAborted("The connection is gone.")
        try:
            async with asyncio.timeout(self._stall_s):
                await self._send(message)
        except TimeoutError:
            self._gone = True
            raise RequestAborted(f"The client read nothing for {self._stall_s:g} seconds.") from None
        except OSError:
            self._gone = True
            raise RequestAborted("The connection is gone.") from None


class Answer(Response):
    """An ASGI answer made by `work(sender)`, which ends when it is done or when the client leaves.

    An error before the first byte goes to the error handlers and becomes a proper HTTP error. After
    it, the answer stays unfinished: the server then drops the connection without the final chunk,
    which every HTTP client reports.
    """

    def __init__(self, work: Callable[[Sender], Awaitable[None]], *, stall_s: float) -> None:
        super().__init__()
        self._work = work
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        sender = Sender(send, self._stall_s)
        work = asyncio.ensure_future(self._work(sender))
        watch = asyncio.create_task(_client_left(receive))
        try:
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            watch.cancel()
            await asyncio.wait((work, watch))  # the engine has let go of the request before we return
        error = None if work.cancelled() else work.exception()
        if error is None:
            return
        if not sender.started:
            raise error
        request_id = scope.get("state", {}).get("request_id", "?")
        logger.warning("request %s broke off: %s", request_id, as_cadence_error(error).code)
        if not isinstance(error, CadenceError):
            raise error  # a bug: the border logs where


async def _client_left(receive: Receive) -> None:
    """Wait until the client is gone; anything else it sends has been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def closing(events: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close a generator when the block is left, in whatever way: what it holds is freed then, not later."""
    try:
        yield events
    finally:
        aclose = getattr(events, "aclose", None)
        if aclose is not None:
            await aclose()


def sse(data: Mapping[str, Any] | str, *, event: str | None = None) -> bytes:
    """One server-sent event; its data is one line of JSON, or the literal text given."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {text}\n\n".encode()
