"""Below the application: what is not HTTP gets an answer, and silence is not waited for."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from cadence.errors import InvalidRequest
from cadence.server.errors import error_response

__all__ = ["HttpProtocol", "WebSocketProtocol"]

FIRST_REQUEST_S = 20.0
LINGER_S = 10.0


class HttpProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with three changes at its edges.

    Malformed requests get the error object that all others get. A connection that has not sent the
    head of its first request after `FIRST_REQUEST_S` seconds is closed; uvicorn would keep it for ever.
    What is written leaves at once.
    """

    _silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        _send_at_once(transport)
        self._silence = self.loop.call_later(FIRST_REQUEST_S, self._close_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._silence is not None:
            self._silence.cancel()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """The connection becomes a WebSocket: its silence is another matter."""
        if self._silence is not None:
            self._silence.cancel()
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        """Answer what could not be parsed as HTTP, and close."""
        response = error_response(
            InvalidRequest("This is not a valid HTTP request."), {"Connection": "close"}
        )
        head = h11.Response(status_code=400, headers=response.raw_headers, reason=b"Bad Request")
        for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _close_if_silent(self) -> None:
        first_cycle: object = self.cycle  # None until a request's head was read
        if first_cycle is None and not self.transport.is_closing():
            self.transport.close()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket. A peer that does not read what is left for it is not waited for longer than
    `LINGER_S` after the end; uvicorn would keep its connection."""

    async def run_asgi(self) -> None:
        """Run the application on this connection, to its end."""
        await super().run_asgi()
        self.loop.call_later(LINGER_S, self.transport.abort)


def _send_at_once(transport: Any) -> None:
    """No waiting for the peer's acknowledgement before a small packet: a first sound behind its headers would
    be 40 ms late. asyncio sees to it only where the listening socket was made with a protocol number."""
    found = transport.get_extra_info("socket")
    if found is not None and found.family in (socket.AF_INET, socket.AF_INET6):
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
