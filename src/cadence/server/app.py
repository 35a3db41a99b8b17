"""The HTTP application: routes, and what stands around them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import cadence
from cadence.config import ServerConfig
from cadence.engine_base import EngineClient
from cadence.server.auth import OPEN_PATHS, ApiKeyMiddleware, KeyRing
from cadence.server.chat import chat_router
from cadence.server.consents import consents_router
from cadence.server.context import Context
from cadence.server.errors import install_error_handlers
from cadence.server.middleware import AdmissionMiddleware, BorderMiddleware
from cadence.server.models import models_router
from cadence.server.openapi import install_openapi
from cadence.server.playground import playground_routes
from cadence.server.realtime.route import realtime_router
from cadence.server.run import run_app
from cadence.server.speech import speech_router
from cadence.server.speech_stream.route import speech_stream_router
from cadence.server.tokens import tokens_router
from cadence.server.transcription import transcription_router
from cadence.server.voice import voice_names
from cadence.server.voices import voices_router

__all__ = ["create_app", "run_server"]


def create_app(engine: EngineClient, config: ServerConfig) -> FastAPI:
    """An application that answers with `engine`, which stays the caller's to close."""
    return _build(Context(engine, config))


async def run_server(
    engine: EngineClient, config: ServerConfig, *, on_listening: Callable[[str], None] | None = None
) -> None:
    """Serve until a signal ends it; see `run.run_app`. The engine stays the caller's to close."""
    context = Context(engine, config)
    await run_app(_build(context), context, on_listening)


def _build(context: Context) -> FastAPI:
    config = context.config
    app = FastAPI(
        title="Cadence",
        version=cadence.__version__,
        description="Step-Audio 2 over the OpenAI API.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.context = context
    for make_router in (
        models_router,
        voices_router,
        consents_router,
        speech_router,
        transcription_router,
        chat_router,
        realtime_router,
        speech_stream_router,
        tokens_router,
    ):
        app.include_router(make_router(context))
    page = playground_routes() if config.playground else []
    app.router.routes.extend(page)
    keys = KeyRing(config.api_keys)
    install_error_handlers(app)
    install_openapi(app, lambda: voice_names(context.engine.info), with_keys=bool(keys))
    # Added last stands outermost: CORS, then the border, then keys, then admission.
    app.add_middleware(AdmissionMiddleware, context=context)
    app.add_middleware(ApiKeyMiddleware, keys=keys, open_paths=OPEN_PATHS.union(route.path for route in page))
    app.add_middleware(BorderMiddleware)
    if config.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.allowed_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=[
                *("X-Request-Id", "X-Sample-Rate", "X-Finish-Reason", "Retry-After"),
                *("X-Word-Timestamps", "X-Word-Timestamps-Omitted"),
            ],
        )
    for name in ("httpx", "httpcore"):  # they log whole URLs, which belong to the user
        logging.getLogger(name).setLevel(logging.WARNING)
    return app
