"""What the server says about itself: models, probes, version, load, metrics."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

import cadence
from cadence.errors import NotReady
from cadence.metrics import CONTENT_TYPE
from cadence.server.context import Context
from cadence.server.errors import error_response
from cadence.server.openapi import errors, json_answer
from cadence.server.schema_answers import Health, Load, Model, ModelList, Version

__all__ = ["models_router"]

_METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}
_PROBE_ERRORS = errors(500, 503)
_ERRORS = errors(401, 500)


def models_router(context: Context) -> APIRouter:
    """The routes, bound to a server's context."""
    router = APIRouter(default_response_class=Response)
    _add_models(router, context)
    _add_probes(router, context)

    @router.get("/version", responses={**json_answer(Version, "The version."), **errors(500)})
    async def version() -> Response:
        """The server's version."""
        return _json(Version(version=cadence.__version__))

    @router.get("/load", responses={**json_answer(Load, "The load."), **_ERRORS})
    async def load() -> Response:
        """Requests in the server now."""
        health = context.engine.health()
        return _json(Load(server_load=health.num_running + health.num_waiting))

    @router.get("/metrics", responses={**_METRICS, **_ERRORS})
    async def metrics() -> Response:
        """Counters, histograms and gauges for Prometheus."""
        text = await context.engine.render_metrics()
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    return router


def _add_models(router: APIRouter, context: Context) -> None:
    @router.get("/v1/models", responses={**json_answer(ModelList, "All names."), **_ERRORS})
    async def list_models() -> Response:
        """Every name that requests may use."""
        return _json(ModelList(data=[_model(context, name) for name in context.model_names()]))

    found = json_answer(Model, "The model.")

    @router.get("/v1/models/{model_id:path}", responses={**found, **errors(401, 404, 500)})
    async def get_model(model_id: str) -> Response:
        """One name that requests may use."""
        return _json(_model(context, context.check_model(model_id)))


def _add_probes(router: APIRouter, context: Context) -> None:
    @router.get("/health", responses={**json_answer(Health, "Serving."), **_PROBE_ERRORS})
    async def health() -> Response:
        """Whether requests are answered."""
        return _probe(context, "healthy")

    @router.get("/ping", responses={**json_answer(Health, "Serving."), **_PROBE_ERRORS})
    async def ping() -> Response:
        """The same as /health, under the name that some platforms ask for."""
        return _probe(context, "healthy")

    @router.get("/readyz", responses={**json_answer(Health, "Send requests here."), **_PROBE_ERRORS})
    async def readyz() -> Response:
        """Whether to send requests here."""
        return _probe(context, "ready")

    @router.get("/livez", responses={**json_answer(Health, "Leave it running."), **_PROBE_ERRORS})
    async def livez() -> Response:
        """Whether to leave the server running."""
        return _probe(context, "alive")


def _probe(context: Context, status: Literal["healthy", "ready", "alive"]) -> Response:
    """200 with the state, or 503: not worth keeping (`alive`), or not to be sent requests (the others)."""
    health = context.engine.health()
    good = health.alive if status == "alive" else health.ready and not context.draining
    if not good:
        detail = "The server is shutting down." if context.draining else health.detail
        return error_response(NotReady(detail or f"The server is not {status}."))
    return _json(
        Health(
            status=status,
            num_running=health.num_running,
            num_waiting=health.num_waiting,
            stages=dict(health.stages),
        )
    )


def _model(context: Context, name: str) -> Model:
    info = context.engine.info
    return Model(
        id=name,
        created=info.created,
        root=info.model_id,
        max_model_len=info.max_model_len,
        random_weights=info.random_weights,
    )


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")
