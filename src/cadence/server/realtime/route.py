"""The route of `/v1/realtime`."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter
from starlette.websockets import WebSocket

from cadence.errors import CadenceError
from cadence.server.context import Context
from cadence.server.errors import refuse_socket
from cadence.server.realtime.session import Session
from cadence.server.realtime.settings import TRANSCRIBERS, Settings
from cadence.server.socket import serve_socket

__all__ = ["realtime_router"]


def realtime_router(context: Context) -> APIRouter:
    """The route, bound to a server's context."""
    router = APIRouter()

    @router.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        """A spoken conversation."""
        try:
            settings = _settings(context, websocket.query_params)
        except CadenceError as error:
            await refuse_socket(websocket, error)
            return
        await serve_socket(websocket, context, lambda socket: Session(socket, context, settings))

    return router


def _settings(context: Context, query: Mapping[str, str]) -> Settings:
    """Those that a session begins with; raises NotFound or InvalidRequest.

    OpenAI's clients ask for sessions without answers with `intent=transcription`, and may name a model of
    OpenAI's that does nothing else.
    """
    only_transcribes = query.get("intent") == "transcription"
    model = query.get("model")
    if only_transcribes and model in TRANSCRIBERS:
        model = None
    return Settings.initial(context, context.check_model(model), only_transcribes=only_transcribes)
