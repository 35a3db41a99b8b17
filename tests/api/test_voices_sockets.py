"""Uploaded voices and brought recordings over WebSockets: the same as over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cadence.server import reference

from .conftest import Live
from .test_speech_stream import streaming
from .voice_kit import keeping, recording


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with keeping(tmp_path / "voices") as live:
        yield live


async def upload(live: Live, name: str, **sound: Any) -> None:
    async with live.http() as http:
        form, files = {"name": name, "consent": "x"}, {"audio_sample": ("a.wav", recording(**sound))}
        answer: httpx.Response = await http.post("/v1/audio/voices", data=form, files=files)
    assert answer.status_code == 200, answer.text


async def test_an_uploaded_voice_in_a_stream(live: Live) -> None:
    await upload(live, "Anna")
    async with streaming(live, voice="ANNA") as stream:
        await stream.say("Hello there.")
        await stream.until("session.done")
    sample = live.engine.requests[-1].voice_sample
    assert sample is not None and live.engine.prepared == {sample.key}


async def test_a_stream_reads_its_recording_once(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    num_read = 0
    real = reference.make_sample

    def counting(*args: Any, **options: Any) -> Any:
        nonlocal num_read
        num_read += 1
        return real(*args, **options)

    monkeypatch.setattr(reference, "make_sample", counting)
    sound = base64.b64encode(recording()).decode()
    async with streaming(live, ref_audio=sound, split_granularity="sentence") as stream:
        await stream.say("One is here. Two is here. Three is here.")
        await stream.until("session.done")
    keys = {request.voice_sample.key for request in live.engine.requests if request.voice_sample}
    assert len(live.engine.requests) == 3 and len(keys) == 1 and num_read == 1


async def test_a_bad_recording_is_told_when_it_comes(live: Live) -> None:
    async with streaming(live, ref_audio="!") as stream:
        event = json.loads(await stream.it.recv())
    assert (event["type"], event["code"], event["param"]) == ("error", "invalid_base64", "ref_audio")


async def test_an_uploaded_voice_in_a_conversation(live: Live) -> None:
    await upload(live, "Anna")
    async with live.openai() as client, client.realtime.connect(model="fake") as connection:
        await connection.session.update(
            session={"type": "realtime", "audio": {"output": {"voice": "anna"}}}  # type: ignore[typeddict-item]
        )
        item: Any = {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "Hello."}],
        }
        await connection.conversation.item.create(item=item)
        await connection.response.create()
        async for event in connection:
            assert event.type != "error", event
            if event.type == "response.done":
                break
    assert live.engine.requests[-1].voice_sample is not None
