"""The route of `/v1/audio/speech/stream`."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.websockets import WebSocket

from cadence.server.context import Context
from cadence.server.socket import serve_socket
from cadence.server.speech_stream.session import SpeechStream

__all__ = ["speech_stream_router"]


def speech_stream_router(context: Context) -> APIRouter:
    """The route, bound to a server's context."""
    router = APIRouter()

    @router.websocket("/v1/audio/speech/stream")
    async def speech_stream(websocket: WebSocket) -> None:
        """Text in as it is written, sound out."""
        await serve_socket(websocket, context, lambda socket: SpeechStream(socket, context))

    return router
