"""The route of `/v1/realtime`."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.websockets import WebSocket

from cadence.errors import CadenceError
from cadence.server.context import Context
from cadence.server.errors import refuse_socket
from cadence.server.realtime.session import Session
from cadence.server.socket import serve_socket

__all__ = ["realtime_router"]


def realtime_router(context: Context) -> APIRouter:
    """The route, bound to a server's context."""
    router = APIRouter()

    @router.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        """A spoken conversation."""
        try:
            model = context.check_model(websocket.query_params.get("model"))
        except CadenceError as error:
            await refuse_socket(websocket, error)
            return
        await serve_socket(websocket, context, lambda socket: Session(socket, context, model))

    return router
