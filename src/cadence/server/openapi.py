"""The OpenAPI document: what each route takes and every way it can answer.

Bodies are read and checked by our own code (`body`, `schema`), so their descriptions are added here
rather than derived from handler signatures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cadence.audio.encode import MEDIA_TYPES
from cadence.server.schema_answers import (
    ChatCompletion,
    ErrorBody,
    Health,
    Load,
    Model,
    ModelList,
    SpeechBatch,
    SpeechOutcome,
    Transcription,
    Translation,
    VerboseTranscription,
    Version,
)
from cadence.server.schema_chat import ChatBody
from cadence.server.schema_listen import TranscriptionForm, TranslationForm
from cadence.server.schema_speech import VOICES_HERE, SpeechBatchBody, SpeechBody
from cadence.server.schema_tokens import DetokenizeBody, Detokenized, TokenizeBody, Tokenized
from cadence.server.schema_voices import (
    ConsentAnswer,
    ConsentDeleted,
    ConsentForm,
    ConsentList,
    ConsentRename,
    VoiceCreated,
    VoiceDeleted,
    VoiceDetail,
    VoiceForm,
    VoiceList,
)

__all__ = [
    "BATCH_ROUTE",
    "CHAT_ROUTE",
    "CONSENT_RENAME_ROUTE",
    "CONSENT_ROUTE",
    "DETOKENIZE_ROUTE",
    "SPEECH_ROUTE",
    "TOKENIZE_ROUTE",
    "TRANSCRIPTION_ROUTE",
    "TRANSLATION_ROUTE",
    "VOICE_ROUTE",
    "errors",
    "install_openapi",
    "json_answer",
]

_REF = "#/components/schemas/{model}"
_BODIES: tuple[type[BaseModel], ...] = (
    *(ChatBody, SpeechBody, SpeechBatchBody, TranscriptionForm, TranslationForm),
    *(ConsentForm, ConsentRename, VoiceForm, TokenizeBody, DetokenizeBody),
)
_ANSWERS: tuple[type[BaseModel], ...] = (
    *(ChatCompletion, ErrorBody, Health, Load),
    *(Model, ModelList, SpeechOutcome, Transcription, Translation, VerboseTranscription, Version),
    *(SpeechBatch, Tokenized, Detokenized),
    *(ConsentAnswer, ConsentDeleted, ConsentList, VoiceCreated, VoiceDeleted, VoiceDetail, VoiceList),
)
_MEANINGS = {
    400: "The request is not valid; `param` names the field.",
    401: "No valid API key.",
    403: "This server may not read that URL or path, or does not allow this.",
    404: "No such model or object.",
    408: "The client stopped sending.",
    409: "There is one of this name already.",
    413: "The body or the audio in it is larger than allowed.",
    415: "The body is not of the type that this route reads.",
    429: "Too many requests; see Retry-After.",
    500: "The server failed.",
    503: "Not ready, or shutting down; see Retry-After.",
    504: "The answer took too long.",
}
_POST_ERRORS = (400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504)


def _ref(kind: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=kind.__name__)}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Descriptions of error answers."""
    content = {"application/json": {"schema": _ref(ErrorBody)}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in statuses}


def json_answer(kind: type[BaseModel], text: str) -> dict[int | str, dict[str, Any]]:
    """Description of a 200 with a JSON body."""
    return {200: {"description": text, "content": {"application/json": {"schema": _ref(kind)}}}}


def _post(
    kind: type[BaseModel], summary: str, answer: dict[str, Any], *, media_type: str = "application/json"
) -> dict[str, Any]:
    """Keyword arguments of a POST route."""
    body = {"required": True, "content": {media_type: {"schema": _ref(kind)}}}
    return {
        "summary": summary,
        "response_model": None,
        "responses": {200: answer, **errors(*_POST_ERRORS)},
        "openapi_extra": {"requestBody": body},
    }


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_EVENTS: dict[str, Any] = {}

BATCH_ROUTE = _post(
    SpeechBatchBody,
    "Read several texts aloud",
    {
        "description": "A result or an error for each text.",
        "content": {"application/json": {"schema": _ref(SpeechBatch)}},
    },
)
SPEECH_ROUTE = _post(
    SpeechBody,
    "Read a text aloud",
    {
        "description": "The sound, or server-sent events with it.",
        "content": {**dict.fromkeys(MEDIA_TYPES.values(), _BINARY), "text/event-stream": _EVENTS},
    },
)
CHAT_ROUTE = _post(
    ChatBody,
    "Answer messages in text or speech",
    {
        "description": "The answer, or server-sent events with its chunks.",
        "content": {"application/json": {"schema": _ref(ChatCompletion)}, "text/event-stream": _EVENTS},
    },
)


def _listening(kind: type[BaseModel], summary: str, answer: type[BaseModel]) -> dict[str, Any]:
    """Keyword arguments of a route that reads a sound file."""
    whole = {"anyOf": [_ref(answer), _ref(VerboseTranscription)]}
    content = {
        "application/json": {"schema": whole},
        "text/plain": {"schema": {"type": "string"}},
        "text/event-stream": _EVENTS,
    }
    description = {"description": "The text, with times where asked for.", "content": content}
    return _post(kind, summary, description, media_type="multipart/form-data")


TRANSCRIPTION_ROUTE = _listening(TranscriptionForm, "Write down what is said", Transcription)
TOKENIZE_ROUTE = _post(TokenizeBody, "Text to token ids", json_answer(Tokenized, "The ids.")[200])
DETOKENIZE_ROUTE = _post(DetokenizeBody, "Token ids to text", json_answer(Detokenized, "The text.")[200])
TRANSLATION_ROUTE = _listening(TranslationForm, "Write down what is said in English", Translation)


def _upload(kind: type[BaseModel], summary: str, answer: type[BaseModel]) -> dict[str, Any]:
    """Keyword arguments of a route that keeps one recording."""
    route = _post(kind, summary, json_answer(answer, "It is kept.")[200], media_type="multipart/form-data")
    route["responses"] |= errors(409)
    return route


VOICE_ROUTE = _upload(VoiceForm, "Keep a voice", VoiceCreated)
CONSENT_ROUTE = _upload(ConsentForm, "Keep a consent", ConsentAnswer)
CONSENT_RENAME_ROUTE = _post(
    ConsentRename, "Change a consent's label", json_answer(ConsentAnswer, "The consent.")[200]
)


def install_openapi(app: FastAPI, voices: Callable[[], list[str]], *, with_keys: bool) -> None:
    """Make `app.openapi()` return the whole document, with the voices there are at the time."""

    def document() -> dict[str, Any]:
        """The document now."""
        found = _document(app, with_keys)
        _list_voices(found["components"], voices())
        return found

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, with_keys: bool) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = found.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for kinds, mode in ((_BODIES, "validation"), (_ANSWERS, "serialization")):
        described = models_json_schema([(kind, mode) for kind in kinds], ref_template=_REF)  # type: ignore[misc]
        schemas.update(described[1].get("$defs", {}))
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for operations in found["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    if with_keys:
        components["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"apiKey": []}]
    return found


def _list_voices(item: Any, voices: list[str]) -> None:
    """Put the names where the schemas ask for them."""
    if isinstance(item, dict):
        if item.pop(VOICES_HERE, False):
            item["enum"] = voices
        for child in item.values():
            _list_voices(child, voices)
    elif isinstance(item, list):
        for child in item:
            _list_voices(child, voices)
