"""GET /v1/audio/voices: what requests may name as a voice."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from cadence.server.context import Context
from cadence.server.openapi import errors, json_answer
from cadence.server.schema_answers import Voice, VoiceList

__all__ = ["voices_router"]


def voices_router(context: Context) -> APIRouter:
    """The route, bound to a server's context."""
    router = APIRouter(default_response_class=Response)
    found = json_answer(VoiceList, "The voices of the checkpoint, the default one first.")

    @router.get("/v1/audio/voices", responses={**found, **errors(401, 500)})
    async def list_voices() -> Response:
        voices = [Voice(id=name, name=name) for name in context.engine.info.voices]
        return Response(VoiceList(voices=voices).model_dump_json(), media_type="application/json")

    return router
