"""API keys, the load limit, CORS, and the document about them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from cadence.config import ServerConfig
from cadence.fake import FakeEngine, FakeFault
from cadence.server.app import create_app
from cadence.server.auth import OPEN_PATHS, KeyRing

KEYS = ("first-key", "zweiter-schlüssel")


def client_of(config: ServerConfig, engine: FakeEngine | None = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(engine or FakeEngine(), config))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def bearer(key: str | bytes) -> dict[str, Any]:
    raw = key.encode() if isinstance(key, str) else key
    return {b"Authorization": b"Bearer " + raw}


async def test_every_route_but_the_probes_needs_a_key() -> None:
    app = create_app(FakeEngine(), ServerConfig(api_keys=KEYS))
    routes = {(method.upper(), path) for path, item in app.openapi()["paths"].items() for method in item}
    routes |= {("GET", "/openapi.json"), ("GET", "/nope"), ("POST", "/v1/nope"), ("OPTIONS", "/v1/models")}
    async with client_of(ServerConfig(api_keys=KEYS)) as client:
        for method, path in routes:
            answer = await client.request(method, path)
            assert (answer.status_code == 401) == (path not in OPEN_PATHS), path
            assert path in OPEN_PATHS or answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (bearer(KEYS[0]), 200),
        (bearer(KEYS[1]), 200),
        ({b"authorization": b"bearer first-key"}, 200),
        (bearer("first-ke"), 401),
        (bearer("first-key2"), 401),
        (bearer(""), 401),
        (bearer(b"\xff\xfe"), 401),
        ({b"Authorization": b"Basic first-key"}, 401),
        ({b"Authorization": b"first-key"}, 401),
        ({b"X-Api-Key": b"first-key"}, 401),
        ({}, 401),
    ],
)
async def test_keys(headers: dict[Any, Any], status: int) -> None:
    async with client_of(ServerConfig(api_keys=KEYS)) as client:
        answer = await client.get("/v1/models", headers=list(headers.items()))
    assert answer.status_code == status
    assert status == 200 or answer.json()["error"]["code"] == "invalid_api_key"


async def test_two_keys_at_once_are_none() -> None:
    async with client_of(ServerConfig(api_keys=KEYS)) as client:
        headers = [("Authorization", "Bearer first-key"), ("Authorization", "Bearer x")]
        assert (await client.get("/v1/models", headers=headers)).status_code == 401


async def test_no_keys_set_means_open() -> None:
    async with client_of(ServerConfig()) as client:
        assert (await client.get("/v1/models", headers=bearer("whatever"))).status_code == 200


def test_all_keys_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bytes] = []

    def compare(a: bytes, b: bytes) -> bool:
        calls.append(b)
        return a == b

    monkeypatch.setattr("cadence.server.auth.hmac.compare_digest", compare)
    assert KeyRing(("a", "b", "c")).accepts(b"a")
    assert len(calls) == 3


async def test_too_many_at_once_are_refused_before_their_body_is_read() -> None:
    async with client_of(ServerConfig(max_inflight=0)) as client:
        answer = await client.post("/v1/audio/speech", content=b"not even JSON")
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await client.get("/health")).status_code == 200


async def test_a_failed_request_gives_its_place_back() -> None:
    engine = FakeEngine(fault=FakeFault(0, RuntimeError()))
    async with client_of(ServerConfig(max_inflight=1), engine) as client:
        for _ in range(3):
            assert (await client.post("/v1/audio/speech", json={"input": "a"})).status_code == 500


async def test_cors_is_off_unless_asked_for() -> None:
    origin = {"Origin": "https://page.example"}
    preflight = {**origin, "Access-Control-Request-Method": "POST"}
    async with client_of(ServerConfig(api_keys=KEYS)) as client:
        assert "access-control-allow-origin" not in (await client.get("/health", headers=origin)).headers
    config = ServerConfig(api_keys=KEYS, allowed_origins=("https://page.example",))
    async with client_of(config) as client:
        answer = await client.options("/v1/audio/speech", headers=preflight)
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        refused = await client.get("/v1/models", headers=origin)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://page.example"
        other = await client.get("/health", headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers
