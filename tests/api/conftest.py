"""A real server on a real socket, answering with the fake engine; and the app alone, without a socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import httpx
import openai
import pytest
import uvicorn

from cadence.config import ServerConfig
from cadence.fake import FakeEngine
from cadence.server.app import create_app
from cadence.server.protocol import HttpProtocol, WebSocketProtocol

WAIT_S = 10.0


@dataclass
class Live:
    """A running server."""

    url: str
    engine: FakeEngine

    def openai(self, **options: object) -> openai.AsyncOpenAI:
        """The official client, without its retries."""
        settings = {"base_url": f"{self.url}/v1", "api_key": "EMPTY", "max_retries": 0, **options}
        return openai.AsyncOpenAI(**settings)  # type: ignore[arg-type]

    def http(self, **options: object) -> httpx.AsyncClient:
        """A plain HTTP client."""
        return httpx.AsyncClient(base_url=self.url, timeout=WAIT_S, **options)  # type: ignore[arg-type]


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals belong to pytest


@contextlib.contextmanager
def run_live(engine: FakeEngine, config: ServerConfig) -> Iterator[Live]:
    """Serve in a thread of its own until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(engine, config)
    server = _Server(
        uvicorn.Config(
            app,
            http=HttpProtocol,
            ws=WebSocketProtocol,
            ws_max_size=config.socket_message_bytes,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield Live(f"http://127.0.0.1:{listener.getsockname()[1]}", engine)
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        listener.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """Wait for something that another thread brings about."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "this never happened"
        time.sleep(0.005)


async def until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """`wait_until` for tests that are coroutines."""
    await asyncio.to_thread(wait_until, condition, timeout_s)


@pytest.fixture(scope="session")
def _shared_live() -> Iterator[Live]:
    with run_live(FakeEngine(), ServerConfig()) as live:
        yield live


@pytest.fixture
def live(_shared_live: Live) -> Iterator[Live]:
    """The shared server; its fake engine is as new for each test, and must end idle."""
    engine = _shared_live.engine
    engine.requests.clear()
    engine.num_aborted = 0
    yield _shared_live
    engine.delay_s, engine.fault, engine.max_active, engine.ready, engine.alive = 0.0, None, 64, True, True
    wait_until(lambda: engine.num_active == 0)


@pytest.fixture
def engine() -> FakeEngine:
    """A fake engine for `client`."""
    return FakeEngine()


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    """The application without a socket; it must end idle."""
    transport = httpx.ASGITransport(create_app(engine, ServerConfig()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    assert engine.num_active == 0
