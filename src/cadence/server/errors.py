"""Errors as the OpenAI API shows them: one JSON object that starts with the key `error`.

Whatever goes wrong, from a wrong path to a bug, leaves in this shape; the official clients map the
status to their typed exceptions. `x-should-retry: false` keeps them from repeating a request that is
itself at fault, `Retry-After` tells them when an overloaded server is worth asking again.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from cadence.errors import CadenceError, InternalError, InvalidRequest, NotFound, RequestError, RequestTimeout

__all__ = ["as_cadence_error", "error_object", "error_response", "install_error_handlers", "refuse_socket"]

JSON = "application/json"
_BUG = "The server failed on this request."


def as_cadence_error(error: BaseException) -> CadenceError:
    """The error itself when we raised it on purpose, else a bug of which nothing is told."""
    return error if isinstance(error, CadenceError) else InternalError(_BUG)


def error_object(error: CadenceError) -> dict[str, Any]:
    """The value of the key `error`."""
    return {"message": str(error), "type": error.error_type, "param": error.param, "code": error.code}


def error_response(error: CadenceError, headers: dict[str, str] | None = None) -> Response:
    """The HTTP answer of an error.

    Args:
        error: what to tell; its class gives the status.
        headers: further headers (`Allow` of a 405).
    """
    headers = dict(headers or {})
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, RequestError) and not isinstance(error, RequestTimeout):
        headers["x-should-retry"] = "false"
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = json.dumps({"error": error_object(error)}, ensure_ascii=False).encode()
    return Response(body, error.http_status, headers, JSON)


async def refuse_socket(websocket: WebSocket, error: CadenceError) -> None:
    """Answer a WebSocket's handshake with the HTTP error; where the server cannot, with a bare refusal."""
    websocket.scope["socket_status"] = error.http_status
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(error_response(error))
    else:
        await websocket.close(1008, error.code)


def install_error_handlers(app: FastAPI) -> None:
    """Give every error that reaches the application this shape."""
    app.add_exception_handler(CadenceError, _on_cadence_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


async def _on_cadence_error(request: Request, error: Exception) -> Response:
    return error_response(as_cadence_error(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Errors of the router: no such path, or no such method on it."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        shown: CadenceError = InvalidRequest("This method is not allowed here.", code="method_not_allowed")
    elif error.status_code == 404:
        shown = NotFound("There is no such path on this server.", code="path_not_found")
    else:
        shown = InvalidRequest("The request could not be handled.")
    response = error_response(shown, dict(error.headers or {}))
    response.status_code = error.status_code
    return response


async def _on_validation_error(request: Request, error: Exception) -> Response:
    """Path and query parameters that FastAPI refused; bodies are checked by `schema.parse`."""
    assert isinstance(error, RequestValidationError)
    where = next(iter(error.errors()), {"loc": ()})["loc"]
    param = ".".join(str(step) for step in where[1:]) or None
    return error_response(InvalidRequest("A parameter of the request is not valid.", param=param))
