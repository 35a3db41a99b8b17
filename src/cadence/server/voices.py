"""/v1/audio/voices: what requests may name as a voice, and voices that users bring."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from cadence.errors import Forbidden, InvalidRequest, NotFound
from cadence.server.body import is_json, read_json
from cadence.server.context import Context
from cadence.server.form import Form, read_form
from cadence.server.openapi import VOICE_ROUTE, errors, json_answer
from cadence.server.schema import parse
from cadence.server.schema_voices import (
    Voice,
    VoiceCreated,
    VoiceDeleted,
    VoiceDetail,
    VoiceForm,
    VoiceList,
    uploaded_voice,
)
from cadence.server.upload import parse_upload
from cadence.server.voice import DEFAULT, find_voice, is_reserved, no_such_voice, voice_aliases
from cadence.server.voiced_engine import VoicedEngine
from cadence.types import ModelInfo
from cadence.voices.consents import CONSENT_PREFIX
from cadence.voices.library import StoredVoice, VoiceLibrary, check_name, folded
from cadence.voices.sample import make_sample

__all__ = ["FORM_BYTES", "MAX_FILES", "json_response", "voices_router"]

FORM_BYTES = 1 << 20  # room in a body beside the recording
MAX_FILES = 4  # so that a file too many is refused by its name


def json_response(answer: BaseModel) -> Response:
    """A 200 with a JSON body."""
    return Response(answer.model_dump_json(), media_type="application/json")


def voices_router(context: Context) -> APIRouter:
    """The routes, bound to a server's context."""
    router = APIRouter(default_response_class=Response)
    listed = json_answer(VoiceList, "All voices, the checkpoint's first.")
    found = json_answer(VoiceDetail, "The voice.")
    deleted = json_answer(VoiceDeleted, "The voice is gone; answers that speak with it go on.")

    @router.get("/v1/audio/voices", responses={**listed, **errors(400, 401, 500)})
    async def list_voices(legacy: bool = False) -> Response:
        """All voices; `legacy` gives bare names, as vLLM-Omni does."""
        voices = _voices(context.engine.info, _stored(context))
        uploaded = [uploaded_voice(voice) for voice in _stored(context).values()]
        names = [voice.name for voice in voices]
        return json_response(VoiceList(voices=names if legacy else voices, uploaded_voices=uploaded))

    @router.post("/v1/audio/voices", **VOICE_ROUTE)
    async def create_voice(request: HttpRequest) -> Response:
        """Keep a recording as a voice that every endpoint can speak with at once."""
        return json_response(await _create(context, request))

    @router.get("/v1/audio/voices/{voice_id}", responses={**found, **errors(401, 404, 500)})
    async def get_voice(voice_id: str) -> Response:
        """One voice, by its id or an alias."""
        name = find_voice(context.engine.info, voice_id)
        for voice in _voices(context.engine.info, _stored(context)):
            if voice.id == name:
                stored = _stored(context).get(folded(name)) if voice.type == "audio_sample" else None
                uploaded = None if stored is None else uploaded_voice(stored)
                return json_response(VoiceDetail(**dict(voice), uploaded=uploaded))
        raise _not_found(context.engine.info, voice_id)

    @router.delete("/v1/audio/voices/{voice_id}", responses={**deleted, **errors(401, 403, 404, 500)})
    async def delete_voice(voice_id: str) -> Response:
        """Remove an uploaded voice; answers that speak with it go on."""
        return json_response(await _delete(context, voice_id))

    return router


def _stored(context: Context) -> Mapping[str, StoredVoice]:
    return context.voices.voices() if context.voices is not None else {}


def _voices(info: ModelInfo, stored: Mapping[str, StoredVoice]) -> list[Voice]:
    """All voices, the default one first."""
    aliases = voice_aliases(info.voices)
    built_in = [
        Voice(
            id=name,
            name=name,
            created_at=info.created,
            type="built_in",
            aliases=[alias for alias, of in aliases.items() if of == name],
        )
        for name in dict.fromkeys((DEFAULT, *info.voices) if info.can_speak else ())
    ]
    return built_in + [_uploaded(voice) for voice in stored.values() if voice.name not in info.voices]


def _uploaded(voice: StoredVoice) -> Voice:
    return Voice(id=voice.name, name=voice.name, created_at=voice.created_at, type="audio_sample")


async def _create(context: Context, request: HttpRequest) -> VoiceCreated:
    library, engine = _keeping(context)
    body, data = parse_upload(VoiceForm, await _read(context, request), "audio_sample")
    if body.type == "prompt":
        raise InvalidRequest(
            "Voices are made from recordings here, not from descriptions.",
            param="type",
            code="unsupported_field",
        )
    name = check_name(body.name)
    if is_reserved(context.engine.info, name):
        raise InvalidRequest(
            f"The name {name!r} belongs to a voice of the model.", param="name", code="voice_name_reserved"
        )
    await _check_consent(context, body.consent)
    async with context.decoders:
        sample = await asyncio.to_thread(make_sample, data, text=body.ref_text or None, param="audio_sample")

    def keep() -> StoredVoice:
        return library.add(
            name,
            sample,
            consent=body.consent,
            ref_text=body.ref_text or None,
            speaker_description=body.speaker_description or None,
        )

    await asyncio.to_thread(library.check_room, name, sample)
    async with engine.warm(sample):  # so that its first request need not wait
        stored = await asyncio.to_thread(keep)
    return VoiceCreated(**dict(_uploaded(stored)), voice=uploaded_voice(stored))


async def _read(context: Context, request: HttpRequest) -> Form:
    """The form. OpenAI's voices from descriptions may come as JSON: read, to be refused by name."""
    config = context.config
    if is_json(request):
        data = await read_json(request, max_bytes=FORM_BYTES, stall_s=config.body_stall_s)
        parse(VoiceForm, data)
        raise InvalidRequest(
            "A voice needs the file 'audio_sample': send a form (multipart/form-data).",
            param="audio_sample",
            code="missing_field",
        )
    max_bytes = config.max_voice_upload_bytes + FORM_BYTES
    return await read_form(request, max_bytes=max_bytes, stall_s=config.body_stall_s, max_files=MAX_FILES)


async def _check_consent(context: Context, consent: str) -> None:
    if not consent.startswith(CONSENT_PREFIX) or context.consents is None:
        return
    if await asyncio.to_thread(context.consents.find, consent) is None:
        raise InvalidRequest("There is no such consent.", param="consent", code="consent_not_found")


async def _delete(context: Context, voice_id: str) -> VoiceDeleted:
    info = context.engine.info
    if is_reserved(info, voice_id) and find_voice(info, voice_id) is not None:
        raise Forbidden("The model's own voices cannot be deleted.", param="voice_id", code="voice_built_in")
    library, engine = _keeping(context)
    stored = library.voices().get(folded(voice_id.strip()))
    if not await asyncio.to_thread(library.remove, voice_id):
        raise _not_found(info, voice_id)
    await engine.forget_removed()
    name = stored.name if stored is not None else voice_id
    return VoiceDeleted(id=name, message=f"Voice {name!r} deleted.")


def _keeping(context: Context) -> tuple[VoiceLibrary, VoicedEngine]:
    if context.voices is None or not isinstance(context.engine, VoicedEngine):
        raise Forbidden("This server does not keep voices.", code="uploads_disabled")
    return context.voices, context.engine


def _not_found(info: ModelInfo, name: str) -> NotFound:
    error = no_such_voice(info, name, "voice_id")
    return NotFound(error.message, param=error.param, code=error.code, hint=error.hint)
