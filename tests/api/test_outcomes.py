"""GET /v1/audio/speech/{request_id}: how a stream ended, whatever the connection did."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from cadence.errors import NotFound, StageFailed
from cadence.fake import FakeEngine, FakeFault
from cadence.server.outcomes import Outcomes

from .conftest import Live, until


async def outcome_of(client: httpx.AsyncClient, request_id: str) -> dict[str, object]:
    answer = await client.get(f"/v1/audio/speech/{request_id}")
    assert answer.status_code == 200
    found: dict[str, object] = answer.json()
    return found


async def test_completed_and_failed(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    for stream in (None, True, False):
        headers = {"X-Request-Id": f"good-{stream}"}
        await client.post("/v1/audio/speech", json={"input": "Hi.", "stream": stream}, headers=headers)
        found = await outcome_of(client, f"good-{stream}")
        assert (found["status"], found["finish_reason"], found["error"]) == ("completed", "stop", None)
        assert found["usage"]
    engine.fault = FakeFault(3, StageFailed("It broke."))
    headers = {"X-Request-Id": "bad"}
    await client.post("/v1/audio/speech", json={"input": "One two.", "stream": True}, headers=headers)
    found = await outcome_of(client, "bad")
    assert found["status"] == "failed" and "It broke." in str(found["error"])
    assert (await client.get("/v1/audio/speech/none")).status_code == 404


async def test_running_and_aborted(live: Live) -> None:
    live.engine.fault = FakeFault(3)
    async with live.http() as client:
        body = {"input": "one two three"}
        post = client.post("/v1/audio/speech", json=body, headers={"X-Request-Id": "leaver"})
        task = asyncio.create_task(post)
        await until(lambda: live.engine.num_active == 1)
        assert (await outcome_of(client, "leaver"))["status"] == "running"
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await until(lambda: live.engine.num_active == 0)
        assert (await outcome_of(client, "leaver"))["status"] == "aborted"


def test_only_the_last_are_kept() -> None:
    outcomes = Outcomes(max_kept=2)
    for name in ("a", "b", "a", "c"):
        with outcomes.follow(name):
            pass
    assert {outcomes.find(name).request_id for name in ("a", "c")} == {"a", "c"}
    with pytest.raises(NotFound):
        outcomes.find("b")
