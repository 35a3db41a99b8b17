"""Nothing that a user wrote, and no key, is ever logged: the canary test."""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import Any

import httpx
import numpy as np
import pytest

from cadence.audio.encode import encode_wav
from cadence.config import ServerConfig
from cadence.errors import StageFailed
from cadence.fake import FakeEngine, FakeFault

from .conftest import Live, run_live

CANARY = "canary-7d1f"
KEY = "key-canary-7d1f"
SOUND = base64.b64encode(encode_wav(np.full(160, 0.123, np.float32), 16_000)).decode()


def bodies() -> list[tuple[str, Any]]:
    ask = {"role": "user", "content": [{"type": "text", "text": CANARY}]}
    audio = {"type": "input_audio", "input_audio": {"data": SOUND, "format": "wav"}}
    url = {"type": "audio_url", "audio_url": f"http://localhost:9/{CANARY}"}
    return [
        ("/v1/audio/speech", {"input": CANARY, "instructions": CANARY}),
        ("/v1/audio/speech", {"input": CANARY, "stream": True}),
        ("/v1/audio/speech", {"input": CANARY, "voice": CANARY}),
        ("/v1/audio/speech", {"input": CANARY, CANARY: CANARY}),
        ("/v1/audio/speech", {"input": CANARY, "model": CANARY}),
        ("/v1/chat/completions", {"messages": [ask], "user": CANARY}),
        ("/v1/chat/completions", {"messages": [ask, {"role": "user", "content": [audio]}], "stream": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [url]}]}),
        (f"/v1/{CANARY}?q={CANARY}", {}),
    ]


async def send_all(live: Live, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}", "User-Agent": CANARY}
    async with live.http(headers=headers) as client:
        for path, body in bodies():
            try:
                await client.post(path, json=body)
            except httpx.RemoteProtocolError:
                assert live.engine.fault is not None
        await client.get(f"/v1/models/{CANARY}")
        await client.request(CANARY.upper(), "/v1/models")


async def test_canary(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    config = ServerConfig(api_keys=(KEY,), allowed_media_domains=("localhost",), url_fetch_s=1)
    faults = (None, FakeFault(0, RuntimeError(CANARY)), FakeFault(4, RuntimeError(CANARY)))
    with run_live(FakeEngine(), config) as live:
        for fault in (*faults, FakeFault(4, StageFailed(CANARY))):
            live.engine.fault = fault
            await send_all(live, KEY)
        await send_all(live, "wrong-" + KEY)
        async with live.http(headers={"Authorization": f"Bearer {KEY}"}) as client:
            metrics = (await client.get("/metrics")).text
    out, err = capfd.readouterr()
    logged = "\n".join(caplog.handler.format(record) for record in caplog.records) + out + err + metrics
    for secret in (CANARY, KEY, SOUND[40:80]):
        assert secret.lower() not in logged.lower()
    for expected in ("POST /v1/audio/speech 200", "RuntimeError in", "broke off: stage_failed", "? "):
        assert expected in logged
    await asyncio.sleep(0)


async def test_metrics_do_not_grow_with_what_is_asked(client: httpx.AsyncClient) -> None:
    before = len((await client.get("/metrics")).text.splitlines())
    for i in range(50):
        await client.get(f"/random/{i}")
        await client.post("/v1/audio/speech", json={"input": "a", "voice": f"v{i}", "model": f"m{i}"})
    assert len((await client.get("/metrics")).text.splitlines()) == before
