"""One WebSocket: whether it may open, sending that never piles up, and closing that says why.

A peer that reads slowly slows its own session: a message is written when the one before it has left, so a
socket holds a message and the transport's small buffer, whatever the model produces. A peer that reads
nothing for a while is cut off.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from starlette.websockets import WebSocket, WebSocketDisconnect

from cadence.errors import CadenceError, Forbidden, NotReady, Overloaded
from cadence.server.auth import KEY_PROTOCOL
from cadence.server.context import Context
from cadence.server.errors import refuse_socket

__all__ = ["GOING_AWAY", "NORMAL", "POLICY", "RESTART", "Socket", "SocketGone", "Worker", "serve_socket"]

NORMAL, GOING_AWAY, POLICY, RESTART = 1000, 1001, 1008, 1012


class SocketGone(Exception):
    """The peer has left, or reads nothing: there is nobody to talk to."""


class Socket:
    """An accepted WebSocket. Several tasks may send; one receives."""

    def __init__(self, websocket: WebSocket, *, stall_s: float) -> None:
        self._websocket = websocket
        self._stall_s = stall_s
        self._lock = asyncio.Lock()
        self._gone = asyncio.Event()
        self.close_code = GOING_AWAY
        """How the peer closed it, or we did."""

    async def send(self, *events: Mapping[str, Any]) -> None:
        """Send events as JSON texts, in order and with nothing in between; raises SocketGone."""
        await self._put([{"type": "websocket.send", "text": _json(event)} for event in events])

    async def send_bytes(self, data: bytes) -> None:
        """Send one binary message; raises SocketGone."""
        await self._put([{"type": "websocket.send", "bytes": data}])

    async def receive(self, within_s: float | None = None) -> str | bytes:
        """The next message.

        Raises:
            SocketGone: the peer has left.
            TimeoutError: nothing came in time.
        """
        async with asyncio.timeout(within_s):
            message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            self._gone.set()
            self.close_code = message.get("code") or GOING_AWAY
            raise SocketGone
        text = message.get("text")
        return text if text is not None else bytes(message.get("bytes") or b"")

    async def close(self, code: int, reason: str = "") -> None:
        """End it, saying why. Does nothing on a socket that is closed."""
        if self._gone.is_set():
            return
        try:
            await self._put([{"type": "websocket.close", "code": code, "reason": reason}])
        except SocketGone:
            return
        self.close_code = code
        self._gone.set()

    async def wait_gone(self) -> None:
        """Wait until there is nobody to talk to."""
        await self._gone.wait()

    async def _put(self, messages: Iterable[dict[str, Any]]) -> None:
        try:
            async with asyncio.timeout(self._stall_s), self._lock:
                for message in messages:
                    if self._gone.is_set():
                        raise SocketGone
                    await self._websocket.send(message)
        except (TimeoutError, WebSocketDisconnect, RuntimeError, OSError):
            self._gone.set()
            raise SocketGone from None


class Worker(Protocol):
    """What is done on a socket."""

    async def run(self) -> None:
        """Serve until the peer leaves or there is nothing left to do; the socket is closed afterwards."""
        ...

    async def settle(self) -> None:
        """Wait until nothing is being answered."""
        ...


async def serve_socket(websocket: WebSocket, context: Context, make: Callable[[Socket], Worker]) -> None:
    """Accept a socket and work on it, unless there is a reason not to; a refusal is an HTTP error.

    While the server drains, answers that are being given end first; then the socket closes with 1012.
    """
    refusal = _refusal(websocket, context)
    if refusal is not None:
        await refuse_socket(websocket, refusal)
        return
    socket = Socket(websocket, stall_s=context.config.send_stall_s)
    context.num_sockets += 1
    try:
        await websocket.accept(subprotocol=_subprotocol(websocket))
        await _work(socket, context, make(socket))
    finally:
        context.num_sockets -= 1
        websocket.scope["socket_status"] = socket.close_code


async def _work(socket: Socket, context: Context, worker: Worker) -> None:
    run = asyncio.ensure_future(worker.run())
    others = [
        asyncio.ensure_future(socket.wait_gone()),  # also when a task of the worker's found out
        asyncio.ensure_future(_drained(socket, context, worker)),
    ]
    try:
        await asyncio.wait((run, *others), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (run, *others):
            task.cancel()
        await asyncio.wait((run, *others))  # what the worker held is free before we return
    error = None if run.cancelled() else run.exception()
    if error is not None and not isinstance(error, SocketGone):
        await socket.close(1011, "The server failed.")
        raise error
    await socket.close(NORMAL)


async def _drained(socket: Socket, context: Context, worker: Worker) -> None:
    """Close the socket once the server drains and nothing is being answered on it."""
    await context.drain_started.wait()
    await worker.settle()
    await socket.close(RESTART, "The server is restarting.")


def _refusal(websocket: WebSocket, context: Context) -> CadenceError | None:
    """Why this socket may not open."""
    config = context.config
    if context.draining:
        return NotReady("The server is shutting down.", retry_after_s=5)
    if context.num_sockets >= config.max_sockets:
        return Overloaded(f"The server has {context.num_sockets} sockets open, which is its limit.")
    origin = websocket.headers.get("origin")
    if origin is None or not {"*", origin}.isdisjoint(config.allowed_origins):
        return None
    # A browser lets any page open a socket anywhere; only the server can tell whose page it is.
    if urlsplit(origin).netloc == websocket.headers.get("host"):
        return None
    return Forbidden("Pages of this origin may not connect here.", code="origin_not_allowed")


def _subprotocol(websocket: WebSocket) -> str | None:
    """The first that was offered and carries no key: a browser insists on one of its own."""
    offered = websocket.scope.get("subprotocols", ())
    return next((name for name in offered if not name.startswith(KEY_PROTOCOL)), None)


def _json(event: Mapping[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))
