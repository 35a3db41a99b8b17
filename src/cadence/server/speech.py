"""POST /v1/audio/speech: text in, sound out, sent as it is made unless asked otherwise."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from cadence.server.body import read_json
from cadence.server.context import Context
from cadence.server.openapi import BATCH_ROUTE, SPEECH_ROUTE, errors, json_answer
from cadence.server.schema import parse
from cadence.server.schema_answers import SpeechOutcome
from cadence.server.schema_speech import SpeechBody
from cadence.server.speech_batch import BatchJob
from cadence.server.speech_job import SpeechJob
from cadence.server.stream import Answer

__all__ = ["speech_router"]


def speech_router(context: Context) -> APIRouter:
    """The route, bound to a server's context."""
    router = APIRouter()

    @router.post("/v1/audio/speech", **SPEECH_ROUTE)
    async def create_speech(request: HttpRequest) -> Response:
        """Read a text aloud."""
        config = context.config
        data = await read_json(request, max_bytes=config.max_body_bytes, stall_s=config.body_stall_s)
        job = SpeechJob(context, parse(SpeechBody, data), request.state.request_id)
        return Answer(job.work, stall_s=config.send_stall_s)

    @router.post("/v1/audio/speech/batch", **BATCH_ROUTE)
    async def create_speech_batch(request: HttpRequest) -> Response:
        """Read several texts aloud."""
        config = context.config
        data = await read_json(request, max_bytes=config.max_body_bytes, stall_s=config.body_stall_s)
        return Answer(BatchJob(context, data).work, stall_s=config.send_stall_s)

    found = json_answer(SpeechOutcome, "How it ended, or that it runs.")

    @router.get("/v1/audio/speech/{request_id}", responses={**found, **errors(401, 404, 500)})
    async def get_speech_outcome(request_id: str) -> Response:
        """How a recent speech request ended: what a stream of samples cannot say itself."""
        outcome = context.outcomes.find(request_id)
        return Response(outcome.model_dump_json(), media_type="application/json")

    return router
