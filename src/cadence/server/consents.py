"""/v1/audio/voice_consents: recordings in which speakers allow a voice of theirs to be made."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Query
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from cadence.errors import Forbidden, InvalidRequest, NotFound
from cadence.server.body import read_json
from cadence.server.context import Context
from cadence.server.form import read_form
from cadence.server.openapi import CONSENT_RENAME_ROUTE, CONSENT_ROUTE, errors, json_answer
from cadence.server.schema import parse
from cadence.server.schema_voices import (
    ConsentAnswer,
    ConsentDeleted,
    ConsentForm,
    ConsentList,
    ConsentRename,
    consent_answer,
)
from cadence.server.upload import parse_upload
from cadence.server.voices import FORM_BYTES, MAX_FILES, json_response
from cadence.voices.consents import Consent, ConsentLibrary
from cadence.voices.sample import make_sample

__all__ = ["consents_router"]


def consents_router(context: Context) -> APIRouter:
    """The routes, bound to a server's context."""
    router = APIRouter(default_response_class=Response)
    config = context.config
    found = json_answer(ConsentAnswer, "The consent.")
    listed = json_answer(ConsentList, "A page of consents, the oldest first.")
    deleted = json_answer(ConsentDeleted, "The consent is gone.")
    path = "/v1/audio/voice_consents"

    @router.post(path, **CONSENT_ROUTE)
    async def create_consent(request: HttpRequest) -> Response:
        """Keep a recording of a consent."""
        library = _library(context)
        max_bytes = config.max_voice_upload_bytes + FORM_BYTES
        form = await read_form(request, max_bytes=max_bytes, stall_s=config.body_stall_s, max_files=MAX_FILES)
        body, data = parse_upload(ConsentForm, form, "recording")
        async with context.decoders:
            sample = await asyncio.to_thread(make_sample, data, param="recording")
        consent = await asyncio.to_thread(library.add, body.name, body.language, sample)
        return json_response(consent_answer(consent))

    @router.get(path, responses={**listed, **errors(400, 401, 403, 500)})
    async def list_consents(after: str | None = None, limit: int = Query(20, ge=1, le=100)) -> Response:
        """A page of consents: those after the one named."""
        return json_response(_page(_library(context).consents(), after, limit))

    @router.get(path + "/{consent_id}", responses={**found, **errors(401, 403, 404, 500)})
    async def get_consent(consent_id: str) -> Response:
        """One consent."""
        return json_response(consent_answer(_known(_library(context).find(consent_id))))

    @router.post(path + "/{consent_id}", **CONSENT_RENAME_ROUTE)
    async def rename_consent(consent_id: str, request: HttpRequest) -> Response:
        """Change a consent's label."""
        data = await read_json(request, max_bytes=FORM_BYTES, stall_s=config.body_stall_s)
        body = parse(ConsentRename, data)
        renamed = await asyncio.to_thread(_library(context).rename, consent_id, body.name)
        return json_response(consent_answer(_known(renamed)))

    @router.delete(path + "/{consent_id}", responses={**deleted, **errors(401, 403, 404, 500)})
    async def delete_consent(consent_id: str) -> Response:
        """Forget a consent; voices made with it stay."""
        if not await asyncio.to_thread(_library(context).remove, consent_id):
            _known(None)
        return json_response(ConsentDeleted(id=consent_id))

    return router


def _page(consents: list[Consent], after: str | None, limit: int) -> ConsentList:
    start = 0
    if after is not None:
        ids = [consent.id for consent in consents]
        if after not in ids:
            raise InvalidRequest("There is no such consent.", param="after", code="consent_not_found")
        start = ids.index(after) + 1
    page = [consent_answer(consent) for consent in consents[start : start + limit]]
    return ConsentList(
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=start + limit < len(consents),
    )


def _known(consent: Consent | None) -> Consent:
    if consent is None:
        raise NotFound("There is no such consent.", param="consent_id", code="consent_not_found")
    return consent


def _library(context: Context) -> ConsentLibrary:
    if context.consents is None:
        raise Forbidden("This server does not keep voices.", code="uploads_disabled")
    return context.consents
