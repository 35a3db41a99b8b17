"""Ending a server: what runs is finished, what comes is sent elsewhere."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading

import httpx
import pytest

from cadence.config import ServerConfig
from cadence.errors import ConfigError
from cadence.fake import FakeEngine
from cadence.server.app import create_app, run_server

from .conftest import until

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals arrive in the main thread"
)


class Running:
    """`run_server` in a task of the test's own loop."""

    def __init__(self, engine: FakeEngine, drain_s: float = 5.0) -> None:
        self.engine = engine
        self.url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        config = ServerConfig(port=0, drain_s=drain_s)
        self.task = asyncio.create_task(run_server(engine, config, on_listening=self.url.set_result))

    async def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=await self.url, timeout=10)


async def test_a_signal_drains() -> None:
    engine = FakeEngine(delay_s=0.05)
    running = Running(engine)
    async with await running.client() as client:
        whole = {"input": "one two three four", "stream": False}
        speaking = asyncio.create_task(client.post("/v1/audio/speech", json=whole))
        await until(lambda: engine.num_active == 1)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.02)
        for method, path in (("GET", "/readyz"), ("GET", "/health"), ("POST", "/v1/audio/speech")):
            refused = await client.request(method, path)
            assert refused.status_code == 503, path
            assert refused.text.startswith('{"error"') and "retry-after" in refused.headers
        assert (await client.get("/livez")).status_code == 200
        assert (await speaking).status_code == 200
    await asyncio.wait_for(running.task, 10)
    with pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient() as client:
            await client.get(f"{await running.url}/livez")


async def test_draining_ends_in_time() -> None:
    engine = FakeEngine(delay_s=30.0)
    running = Running(engine, drain_s=0.1)
    async with await running.client() as client:
        stuck = asyncio.create_task(client.post("/v1/audio/speech", json={"input": "one"}))
        await until(lambda: engine.num_active == 1)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running.task, 10)
        with pytest.raises(httpx.HTTPError):
            (await stuck).raise_for_status()
    assert engine.num_active == 0


async def test_a_second_signal_ends_at_once() -> None:
    engine = FakeEngine(delay_s=30.0)
    running = Running(engine, drain_s=60.0)
    async with await running.client() as client:
        stuck = asyncio.create_task(client.post("/v1/audio/speech", json={"input": "one"}))
        await until(lambda: engine.num_active == 1)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(running.task, 10)
        await engine.aclose()
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)


async def test_a_taken_port_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}"):
            await run_server(FakeEngine(), ServerConfig(port=port))


async def test_probes_follow_the_engine() -> None:
    engine = FakeEngine()
    transport = httpx.ASGITransport(create_app(engine, ServerConfig()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

        async def states() -> list[int]:
            return [(await client.get(path)).status_code for path in ("/health", "/readyz", "/livez")]

        assert await states() == [200, 200, 200]
        engine.ready = False
        assert await states() == [503, 503, 200]
        engine.ready, engine.alive = True, False
        assert (await states())[2] == 503
