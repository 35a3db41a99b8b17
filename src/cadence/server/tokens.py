"""POST /tokenize and /detokenize: text to the model's ids and back, as vLLM's clients ask for it."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from cadence.errors import InvalidRequest
from cadence.server.body import read_json
from cadence.server.context import Context
from cadence.server.openapi import DETOKENIZE_ROUTE, TOKENIZE_ROUTE
from cadence.server.schema import parse
from cadence.server.schema_tokens import DetokenizeBody, Detokenized, TokenizeBody, Tokenized

__all__ = ["tokens_router"]


def tokens_router(context: Context) -> APIRouter:
    """The routes, bound to a server's context."""
    router = APIRouter()
    engine, config = context.engine, context.config

    @router.post("/tokenize", **TOKENIZE_ROUTE)
    async def tokenize(request: HttpRequest) -> Response:
        """The ids of a text."""
        data = await read_json(request, max_bytes=config.max_body_bytes, stall_s=config.body_stall_s)
        body = parse(TokenizeBody, data)
        context.check_model(body.model)
        if len(body.prompt) > config.max_input_chars:
            raise InvalidRequest(
                f"The text has {len(body.prompt)} characters, the limit is {config.max_input_chars}.",
                param="prompt",
                code="input_too_long",
            )
        found = await asyncio.to_thread(engine.tokenize, body.prompt)
        answer = Tokenized(
            count=len(found),
            max_model_len=engine.info.max_model_len,
            tokens=[token for token, _ in found],
            token_strs=[text for _, text in found] if body.return_token_strs else None,
        )
        return Response(answer.model_dump_json(), media_type="application/json")

    @router.post("/detokenize", **DETOKENIZE_ROUTE)
    async def detokenize(request: HttpRequest) -> Response:
        """The text of ids."""
        data = await read_json(request, max_bytes=config.max_body_bytes, stall_s=config.body_stall_s)
        body = parse(DetokenizeBody, data)
        context.check_model(body.model)
        text = await asyncio.to_thread(engine.detokenize, body.tokens)
        return Response(Detokenized(prompt=text).model_dump_json(), media_type="application/json")

    return router
