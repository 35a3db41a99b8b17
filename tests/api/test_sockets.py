"""WebSockets as such: who may open one, how long it lives, what it can cost, and how it ends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from cadence.audio.encode import pcm16
from cadence.config import ServerConfig
from cadence.fake import FakeEngine
from cadence.server import protocol
from cadence.server.app import run_server

from .conftest import WAIT_S, Live, run_live, until

KEY = "first-key"


@contextmanager
def serving(engine: FakeEngine | None = None, **settings: Any) -> Iterator[Live]:
    with run_live(engine or FakeEngine(), ServerConfig(**settings)) as live:
        yield live


def opening(live: Live, path: str = "/v1/realtime", **options: Any) -> connect:
    return connect(live.url.replace("http", "ws", 1) + path, **options)


async def refusal(live: Live, path: str = "/v1/realtime", **options: Any) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as caught:
        async with opening(live, path, **options):
            pass
    response = caught.value.response
    return response.status_code, json.loads(response.body)["error"]["code"]


async def receive(connection: ClientConnection) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(await asyncio.wait_for(connection.recv(), WAIT_S))
    return data


async def receive_until(connection: ClientConnection, kind: str) -> dict[str, Any]:
    while (event := await receive(connection))["type"] != kind:
        assert event["type"] != "error", event
    return event


async def closed(connection: ClientConnection) -> int | None:
    """The code that the server closed with, whatever it sends before."""
    with pytest.raises(ConnectionClosed):
        while True:
            await asyncio.wait_for(connection.recv(), WAIT_S)
    return connection.close_code


STORY = {
    "type": "conversation.item.create",
    "item": {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "a long story " * 400}],
    },
}


async def tell_a_story(connection: ClientConnection) -> None:
    await receive_until(connection, "session.created")
    await connection.send(json.dumps(STORY))
    await connection.send(json.dumps({"type": "response.create"}))
    await receive_until(connection, "response.output_audio.delta")


async def test_keys() -> None:
    with serving(api_keys=(KEY,)) as live:
        assert await refusal(live) == (401, "invalid_api_key")
        wrong = {"Authorization": "Bearer second-key"}
        assert await refusal(live, additional_headers=wrong) == (401, "invalid_api_key")
        async with opening(live, additional_headers={"Authorization": f"Bearer {KEY}"}) as connection:
            assert (await receive(connection))["type"] == "session.created"
        offered = ["realtime", f"openai-insecure-api-key.{KEY}"]
        async with opening(live, subprotocols=offered) as connection:
            assert connection.subprotocol == "realtime"
        assert (await refusal(live, subprotocols=["realtime", "openai-insecure-api-key.x"]))[0] == 401
        twice = [*offered, "openai-insecure-api-key.x"]
        assert (await refusal(live, subprotocols=twice))[0] == 401


async def test_pages_of_other_origins_are_kept_out() -> None:
    with serving(allowed_origins=("https://page.example",)) as live:
        assert await refusal(live, origin="https://other.example") == (403, "origin_not_allowed")
        for origin in ("https://page.example", live.url, None):
            async with opening(live, origin=origin):
                pass


async def test_the_model_is_checked(live: Live) -> None:
    assert await refusal(live, "/v1/realtime?model=other") == (404, "model_not_found")
    async with opening(live, "/v1/realtime?model=fake") as connection:
        assert (await receive(connection))["session"]["model"] == "fake"


async def test_sockets_are_limited() -> None:
    with serving(max_sockets=2) as live:
        async with opening(live), opening(live):
            assert await refusal(live) == (429, "overloaded")
        for _ in range(3):  # places are given back
            async with asyncio.timeout(WAIT_S):
                while True:
                    try:
                        async with opening(live), opening(live):
                            break
                    except InvalidStatus:
                        await asyncio.sleep(0.01)


async def test_silence_ends_a_session() -> None:
    with serving(socket_idle_s=0.2) as live:
        async with opening(live) as connection:
            await receive_until(connection, "session.created")
            assert (await receive(connection))["error"]["code"] == "session_expired"
            assert await closed(connection) == 1001


async def test_a_session_ends_at_its_time() -> None:
    with serving(session_s=0.5) as live:
        async with opening(live) as connection:
            await receive_until(connection, "session.created")

            async def never_be_silent() -> None:
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        await connection.send(json.dumps({"type": "input_audio_buffer.clear"}))
                        await asyncio.sleep(0.01)

            talking, kinds = asyncio.create_task(never_be_silent()), set()
            with pytest.raises(ConnectionClosed):
                while True:  # what was sent before the end is read even if the client's own words fail
                    event = await receive(connection)
                    kinds.add(event.get("error", event).get("code", event["type"]))
            await talking
            assert kinds == {"input_audio_buffer.cleared", "session_expired"}
            assert connection.close_code == 1001


async def test_a_socket_outlives_the_time_for_a_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "FIRST_REQUEST_S", 0.1)
    with serving() as live:
        async with opening(live) as connection:
            await receive_until(connection, "session.created")
            await asyncio.sleep(0.3)
            await connection.send(json.dumps({"type": "input_audio_buffer.clear"}))
            assert (await receive(connection))["type"] == "input_audio_buffer.cleared"


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ("{", None, "invalid_json"),
        (b"\0\1", None, "invalid_event"),
        ("[1]", "type", "invalid_event"),
        ('{"type": "nope"}', "type", "unknown_event"),
        ('{"type": "response.create", "x": 1}', "x", "unknown_field"),
        ('{"type": "input_audio_buffer.append", "audio": "?"}', "audio", "invalid_base64"),
        ('{"type": "input_audio_buffer.append", "audio": "AAAA"}', "audio", "invalid_audio"),
        ('{"type": "input_audio_buffer.commit"}', None, "input_audio_buffer_commit_empty"),
        ('{"type": "conversation.item.truncate", "item_id": "x"}', "content_index", "missing_field"),
        ('{"type": "response.create", "response": {"seed": "x"}}', "response.seed", "invalid_value"),
        (
            '{"type": "response.create", "response": {"audio": {"output": {"voice": "x"}}}}',
            "response.audio.output.voice",
            "voice_not_found",
        ),
        (
            '{"type": "conversation.item.create", "item": {"type": "message", "role": "user"}}',
            "item.content",
            "missing_field",
        ),
        (
            '{"type": "conversation.item.create", "item": {"type": "message", "role": "user",'
            ' "content": [{"type": "input_image", "image_url": "x"}]}}',
            "item.content.0.image_url",
            "unsupported_field",
        ),
        (
            '{"type": "response.create", "response": {"input": [{"type": "item_reference", "id": "x"}]}}',
            "response.input.0.id",
            "item_not_found",
        ),
    ],
)
async def test_a_bad_event_is_told_and_survived(
    live: Live, message: str | bytes, param: str | None, code: str
) -> None:
    async with opening(live) as connection:
        await receive_until(connection, "session.created")
        await connection.send(message)
        error = (await receive(connection))["error"]
        assert (error["param"], error["code"]) == (param, code)
        assert error["type"] == "invalid_request_error" and error["message"]
        await connection.send(json.dumps({"type": "input_audio_buffer.clear"}))
        assert (await receive(connection))["type"] == "input_audio_buffer.cleared"


async def test_a_bug_is_told_without_its_content(monkeypatch: pytest.MonkeyPatch, live: Live) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("cadence.server.realtime.input_buffer.InputBuffer.clear", fail)
    async with opening(live) as connection:
        await receive_until(connection, "session.created")
        await connection.send(json.dumps({"type": "input_audio_buffer.clear", "event_id": "e"}))
        event = await receive(connection)
    assert (event["error"]["code"], event["error"]["event_id"]) == ("internal_error", "e")
    assert "secret" not in json.dumps(event)


async def test_a_message_too_large_closes_the_socket() -> None:
    with serving(socket_message_bytes=1000) as live:
        async with opening(live) as connection:
            await connection.send("x" * 1001)
            assert await closed(connection) == 1009


async def test_a_turn_too_long_is_refused_whole() -> None:
    second = base64.b64encode(pcm16(np.zeros(24_000, np.float32))).decode()
    append = json.dumps({"type": "input_audio_buffer.append", "audio": second})
    manual = {"type": "session.update", "session": {"audio": {"input": {"turn_detection": None}}}}
    with serving(max_turn_s=2.0) as live:
        async with opening(live) as connection:
            await receive_until(connection, "session.created")
            await connection.send(json.dumps(manual))
            await receive_until(connection, "session.updated")
            for _ in range(3):
                await connection.send(append)
            error = (await receive(connection))["error"]
            assert (error["code"], error["param"]) == ("input_audio_buffer_full", "audio")
            await connection.send(json.dumps({"type": "input_audio_buffer.commit"}))
            await receive_until(connection, "input_audio_buffer.committed")


async def test_a_client_that_does_not_read_is_cut_off_and_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "LINGER_S", 0.3)
    engine = FakeEngine()
    with serving(engine, send_stall_s=0.3) as live:
        async with opening(live, max_queue=1) as connection:
            await tell_a_story(connection)
            connection.transport.pause_reading()
            await until(lambda: engine.num_active == 0)
            assert engine.num_aborted == 1
            connection.transport.resume_reading()
            assert await closed(connection) == 1006  # without a word: it would not have been read


async def test_vllms_mini_protocol(live: Live) -> None:
    async with opening(live) as connection:
        created = await receive_until(connection, "session.created")
        assert created["id"] and created["created"]
        await connection.send(json.dumps({"type": "session.update", "model": "other"}))
        error = await receive(connection)
        assert isinstance(error["error"], str) and error["code"] == "model_not_found"
        await connection.send(json.dumps({"type": "session.update", "model": "fake"}))
        await connection.send(json.dumps({"type": "input_audio_buffer.commit"}))
        sound = base64.b64encode(bytes(32_000)).decode()
        for _ in range(2):
            await connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": sound}))
        await connection.send(json.dumps({"type": "input_audio_buffer.commit", "final": True}))
        text = ""
        while (event := await receive(connection))["type"] == "transcription.delta":
            text += event["delta"]
        assert event["type"] == "transcription.done" and event["text"] == text
        assert text == "I heard 2.00 seconds of audio."
        assert event["usage"]["total_tokens"] > event["usage"]["completion_tokens"] > 0


async def test_the_log_has_no_query_and_no_content(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), serving() as live:
        async with opening(live, "/v1/realtime?model=fake&api_key=secret") as connection:
            await receive(connection)
            await connection.send('{"secret": ')
            await receive(connection)
        await until(lambda: any("WS /v1/realtime" in record.getMessage() for record in caplog.records))
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("cadence")]
    assert any("WS /v1/realtime 1000" in line for line in lines)
    assert not any("secret" in line for line in lines)


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals arrive in the main thread"
)
async def test_draining_lets_an_answer_end_then_closes() -> None:
    engine = FakeEngine(delay_s=0.02)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    config = ServerConfig(port=port, drain_s=10.0)
    task = asyncio.create_task(run_server(engine, config, on_listening=ready.set_result))
    live = Live(await ready, engine)
    async with opening(live) as idle, opening(live) as busy:
        await receive_until(idle, "session.created")
        await receive_until(busy, "session.created")
        short = json.loads(json.dumps(STORY))
        short["item"]["content"][0]["text"] = "one two three"
        await busy.send(json.dumps(short))
        await busy.send(json.dumps({"type": "response.create"}))
        await receive_until(busy, "response.output_audio.delta")
        os.kill(os.getpid(), signal.SIGTERM)
        assert await closed(idle) == 1012
        assert (await receive_until(busy, "response.done"))["response"]["status"] == "completed"
        assert await closed(busy) == 1012
    await asyncio.wait_for(task, WAIT_S)
