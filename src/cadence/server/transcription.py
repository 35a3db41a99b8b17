"""POST /v1/audio/transcriptions and /v1/audio/translations: sound of any length in, text out."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from cadence.audio.pieces import Piece
from cadence.errors import CadenceError, InvalidRequest, RequestError
from cadence.server.context import Context, new_id
from cadence.server.errors import as_cadence_error, error_object
from cadence.server.form import Form, read_form
from cadence.server.hearing import Heard, hear
from cadence.server.listen_plan import make_plan
from cadence.server.openapi import TRANSCRIPTION_ROUTE, TRANSLATION_ROUTE
from cadence.server.recording import Recording
from cadence.server.schema import parse
from cadence.server.schema_listen import ListenForm, TranscriptionForm, TranslationForm
from cadence.server.stream import STREAM_HEADERS, Answer, Sender, closing, sse
from cadence.server.transcript import Transcript
from cadence.types import Request, TextDelta

__all__ = ["transcription_router"]

_FIELDS = {"max_tokens": "max_completion_tokens", "messages": "prompt"}


def transcription_router(context: Context) -> APIRouter:
    """The routes, bound to a server's context."""
    router = APIRouter()

    @router.post("/v1/audio/transcriptions", **TRANSCRIPTION_ROUTE)
    async def create_transcription(request: HttpRequest) -> Response:
        """Write down what is said."""
        return await _answer(context, request, TranscriptionForm)

    @router.post("/v1/audio/translations", **TRANSLATION_ROUTE)
    async def create_translation(request: HttpRequest) -> Response:
        """Write down what is said in English, or another language."""
        return await _answer(context, request, TranslationForm)

    return router


async def _answer(context: Context, request: HttpRequest, kind: type[ListenForm]) -> Response:
    config = context.config
    form = await read_form(request, max_bytes=config.max_body_bytes, stall_s=config.body_stall_s)
    job = _ListenJob(context, _take_file(form), parse(kind, form.fields))
    return Answer(job.work, stall_s=config.send_stall_s)


def _take_file(form: Form) -> bytes:
    """The one file of the form."""
    data = form.files.pop("file", None)
    for name in form.files:
        raise InvalidRequest(f"Unknown file {name[:100]!r}.", param=name[:100], code="unknown_field")
    if "file" in form.fields:
        raise InvalidRequest("'file' must be a file, not a text.", param="file", code="invalid_value")
    if data is None:
        raise InvalidRequest("Field 'file' is required.", param="file", code="missing_field")
    return data


class _ListenJob:
    """One recording to write down.

    Raises:
        InvalidRequest, NotFound: what the schema cannot check.
    """

    def __init__(self, context: Context, data: bytes, form: ListenForm) -> None:
        context.check_model(form.model)
        self._context = context
        self._plan = make_plan(
            form, context.engine.default_sampling["text"], thinks=context.engine.info.thinks
        )
        self._id = f"listen-{new_id()}"
        self._recording = Recording(
            data,
            self._plan.policy,
            make_detector=context.make_detector,
            max_seconds=context.config.max_recording_s,
            decoders=context.decoders,
            param="file",
        )

    async def work(self, sender: Sender) -> None:
        """Read the recording, ask the model piece by piece, answer."""
        transcript = Transcript(self._plan.shape)
        async with closing(hear(self._recording.pieces(), self._ask, self._context)) as events:
            if self._plan.stream:
                await _send_events(sender, events, transcript)
                return
            try:
                async for event in events:
                    transcript.add(event)
            except RequestError as error:
                raise _own_names(error) from None
        body, media_type = transcript.body(self._recording.duration_s)
        headers = {"Content-Type": media_type, "X-Finish-Reason": transcript.finish_reason}
        await sender.whole(body, headers)

    def _ask(self, number: int, piece: Piece) -> Request:
        max_model_len = self._context.engine.info.max_model_len
        return self._plan.request(self._id, number, piece, max_model_len=max_model_len)


async def _send_events(
    sender: Sender, events: AsyncIterator[TextDelta | Heard], transcript: Transcript
) -> None:
    """Deltas as they are written, then one `done` or one `error`."""
    headers = {"Content-Type": "text/event-stream; charset=utf-8", **STREAM_HEADERS}
    try:
        async for event in events:
            if not sender.started:
                await sender.start(headers)
            for data in transcript.add(event):
                await sender.write(data)
    except Exception as error:  # the request border: the stream itself must tell
        own = _own_names(error)
        if not sender.started:
            raise own from None
        await sender.write(sse({"error": error_object(as_cadence_error(own))}))
        if not isinstance(error, CadenceError):
            raise
    else:
        if not sender.started:  # there was nothing to hear
            await sender.start(headers)
        await sender.write(transcript.done())
    await sender.finish()


def _own_names(error: Exception) -> Exception:
    """The same error, naming the field at fault as this endpoint does, not as the engine."""
    if isinstance(error, RequestError):
        error.param = _FIELDS.get(error.param or "", error.param)
    return error
