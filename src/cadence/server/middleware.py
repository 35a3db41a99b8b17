"""The border around the application: request ids, the access log, the last resort, and admission."""

from __future__ import annotations

import logging
import re
import time
import traceback

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cadence.errors import CadenceError, InternalError, InvalidRequest, NotReady, Overloaded
from cadence.server.context import Context, new_id
from cadence.server.errors import error_response

__all__ = ["AdmissionMiddleware", "BorderMiddleware", "where_of"]

logger = logging.getLogger("cadence.server")
access_logger = logging.getLogger("cadence.access")

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
MAX_LARGE_BODIES = 8
CLIENT_LEFT = 499  # for the log only: nobody is there to read it
_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"}
)


class BorderMiddleware:
    """Gives each request an id, logs it without its content, and turns what nobody caught into a 500.

    A client may send its own `X-Request-Id`; the answer carries it back. The log names the route's
    template, never the path, query or body, so that nothing a user wrote ends up in it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "websocket":
            await self._serve_socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        try:
            if given and not (len(given) == 1 and REQUEST_ID.fullmatch(given[0])):
                raise InvalidRequest(
                    "X-Request-Id must be 1 to 128 letters, digits or any of . _ : -", param="X-Request-Id"
                )
            if given:
                exchange.request_id = given[0].decode()
            scope.setdefault("state", {})["request_id"] = exchange.request_id
            await self._app(scope, receive, exchange.send)
        except CadenceError as error:
            await exchange.fail(error, receive)
        except Exception as error:  # noqa: BLE001 - the request border
            logger.error("bug in request %s: %s", exchange.request_id, where_of(error))
            await exchange.fail(InternalError("The server failed on this request."), receive)
        finally:
            exchange.log()

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket. Its line in the log has the code it was closed with, or the status of a refusal."""
        request_id, started_s = new_id(), time.monotonic()
        scope.setdefault("state", {})["request_id"] = request_id
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the request border; the socket is closed by now
            logger.error("bug in socket %s: %s", request_id, where_of(error))
        finally:
            route = getattr(scope.get("route"), "path", "-")
            seconds = time.monotonic() - started_s
            status = scope.get("socket_status", CLIENT_LEFT)
            access_logger.info("WS %s %d %.1f s id=%s", route, status, seconds, request_id)


class _Exchange:
    """One request and its answer: what was sent so far."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.request_id = new_id()
        self._scope = scope
        self._send = send
        self._started_s = time.monotonic()
        self._status: int | None = None
        self._num_bytes = 0

    async def send(self, message: Message) -> None:
        """Pass on what the application sends, with the id in its headers."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = {
                **message,
                "headers": [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())],
            }
        elif message["type"] == "http.response.body":
            self._num_bytes += len(message.get("body", b""))
        await self._send(message)

    async def fail(self, error: CadenceError, receive: Receive) -> None:
        """Answer with an error. When an answer is under way, leaving it unfinished drops the connection."""
        if self._status is None:
            await error_response(error)(self._scope, receive, self.send)

    def log(self) -> None:
        """One line about the exchange."""
        method, route = self._scope["method"], self._scope.get("route")
        access_logger.info(
            "%s %s %d %.0f ms %d bytes id=%s",
            method if method in _METHODS else "?",
            getattr(route, "path", "-"),
            self._status or CLIENT_LEFT,
            1000 * (time.monotonic() - self._started_s),
            self._num_bytes,
            self.request_id,
        )


def where_of(error: BaseException) -> str:
    """An exception's class and call path. Not its message: that may quote what the user wrote."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    path = " > ".join(
        f"{frame.name} ({frame.filename.rsplit('/', 1)[-1]}:{frame.lineno})" for frame in frames
    )
    return f"{type(error).__name__} in {path}"


class AdmissionMiddleware:
    """Refuses new work while the server drains or has too much at once: requests, or bytes of bodies."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        context = self._context
        if context.draining:
            error = NotReady("The server is shutting down.", retry_after_s=5)
            await error_response(error, {"Connection": "close"})(scope, receive, send)
        elif context.num_inflight >= context.config.max_inflight:
            full = Overloaded(f"The server has {context.num_inflight} requests at once, which is its limit.")
            await error_response(full)(scope, receive, send)
        else:
            body = _CountedBody(context, receive)
            context.num_inflight += 1
            try:
                await self._app(scope, body.receive, send)
            finally:
                context.num_inflight -= 1
                context.num_body_bytes -= body.num_bytes


class _CountedBody:
    """Counts a body's bytes as they come; all bodies together may hold as much as a few of the largest."""

    def __init__(self, context: Context, receive: Receive) -> None:
        self.num_bytes = 0
        self._context = context
        self._receive = receive

    async def receive(self) -> Message:
        """The next message; raises Overloaded when there is no room for it."""
        message = await self._receive()
        size = len(message.get("body", b""))
        context = self._context
        if size and context.num_body_bytes + size > MAX_LARGE_BODIES * context.config.max_body_bytes:
            raise Overloaded("The server holds as many large requests as it can.")
        self.num_bytes += size
        context.num_body_bytes += size
        return message
