"""Running the application on uvicorn, and ending it without cutting anyone off."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from cadence.errors import ConfigError
from cadence.server.context import Context
from cadence.server.protocol import HttpProtocol, WebSocketProtocol

__all__ = ["run_app"]

logger = logging.getLogger("cadence.server")

_FLUSH_S = 2.0  # after draining: time for the last bytes to reach their readers
_HEADER_BYTES = 64 << 10
_BACKLOG = 2048
_KEEP_ALIVE_S = 75  # longer than load balancers keep their side, so that they close first


async def run_app(app: FastAPI, context: Context, on_listening: Callable[[str], None] | None = None) -> None:
    """Serve on the configured host and port until a signal comes.

    `on_listening` gets the URL once connections are accepted.

    The first SIGTERM or SIGINT: `/readyz` and new requests get 503 while those running finish, for up
    to `drain_s` seconds; then the sockets close. A second signal ends it at once.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    config = context.config
    listener = _listen(config.host, config.port)
    server = _DrainingServer(
        uvicorn.Config(
            app,
            http=HttpProtocol,  # on h11: strict, and bounds the size of headers
            h11_max_incomplete_event_size=_HEADER_BYTES,
            ws=WebSocketProtocol,
            ws_max_size=config.socket_message_bytes,
            ws_per_message_deflate=False,  # sound does not shrink; its windows would cost memory
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(_FLUSH_S),
        ),
        context,
    )
    server.on_started = lambda: on_listening(_url(listener)) if on_listening else None
    try:
        await server.serve(sockets=[listener])
    finally:
        listener.close()


def _url(listener: socket.socket) -> str:
    """The listener's address as a client writes it; a wildcard address is reached over loopback."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host} port {port}: {error.strerror or error}.", param="port"
        ) from error


class _DrainingServer(uvicorn.Server):
    """A uvicorn server whose first signal drains."""

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self._context = context
        self._drain: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.on_started: Callable[[], None] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections; signals are already handled by then."""
        await super().startup(sockets)
        self.on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called in the main thread, between any two instructions of it."""
        self._loop.call_soon_threadsafe(self._on_signal, sig)

    def _on_signal(self, sig: int) -> None:
        if self._context.draining:
            logger.warning("second signal: ending at once")
            self.force_exit = self.should_exit = True
            return
        self._context.draining = True
        self._context.drain_started.set()
        logger.info("%s: finishing %d requests", signal.Signals(sig).name, self._context.num_inflight)
        self._drain = asyncio.create_task(self._finish_requests())

    async def _finish_requests(self) -> None:
        drained = await self._context.engine.drain(self._context.config.drain_s)
        if not drained:
            logger.warning("some requests did not end in time")
        self.should_exit = True
