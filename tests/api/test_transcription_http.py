"""Transcription at the HTTP level: any container, any length, broken files, faults, clients who leave."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from audio_files import FORMATS, audio_file, film, video_file
from cadence.audio.encode import encode_wav
from cadence.audio.resample import resample
from cadence.config import ServerConfig
from cadence.errors import NotReady, Overloaded, StageFailed
from cadence.fake import FakeEngine, FakeFault
from cadence.types import AudioPart, Event, Request
from talker import talk

from .conftest import Live, run_live, until
from .sse import read_events

RATE_HZ = 16_000
PATH = "/v1/audio/transcriptions"
SPEECH = talk(1.5)
WAV = encode_wav(SPEECH, RATE_HZ)
PAUSE = np.zeros(int(2.2 * RATE_HZ), np.float32)


def utterances(count: int) -> bytes:
    """Utterances of different lengths, so that the fake's answers tell them apart."""
    parts = [part for i in range(count) for part in (talk(0.6 + 0.1 * i), PAUSE)]
    return encode_wav(np.concatenate(parts), RATE_HZ)


async def post(client: httpx.AsyncClient, file: bytes, *, path: str = PATH, **fields: Any) -> httpx.Response:
    return await client.post(path, files={"file": ("audio", file)}, data=fields)


def heard(engine: FakeEngine) -> list[int]:
    """Samples of each piece asked about, in the order of the recording."""
    numbered = sorted(engine.requests, key=lambda request: int(request.request_id.rpartition("-")[2]))
    return [request.messages[1].content[0].samples.size for request in numbered]  # type: ignore[union-attr]


# ------------------------------------------------------------------ files
CONTAINERS = {
    **{
        f"{container} {codec} {rate}": (container, codec, rate, layout)
        for container, codec, rate, layout, _ in FORMATS
    },
    "m4a": ("ipod", "aac", 44_100, "stereo"),
    "aac": ("adts", "aac", 48_000, "mono"),
    "matroska": ("matroska", "pcm_s16le", 48_000, "stereo"),
}


@pytest.mark.parametrize("name", CONTAINERS)
async def test_any_container(client: httpx.AsyncClient, engine: FakeEngine, name: str) -> None:
    container, codec, rate_hz, layout = CONTAINERS[name]
    data = audio_file(
        resample(SPEECH, RATE_HZ, rate_hz), rate_hz, container=container, codec=codec, layout=layout
    )
    answer = await post(client, data, response_format="verbose_json")
    assert answer.status_code == 200, answer.text
    assert answer.json()["duration"] == pytest.approx(1.5, abs=0.1)
    assert len(engine.requests) == 1 and heard(engine)[0] == pytest.approx(1.5 * RATE_HZ, rel=0.1)


async def test_the_sound_of_a_film(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    answer = await post(client, film(resample(SPEECH, RATE_HZ, 44_100), 44_100))
    assert answer.status_code == 200 and answer.json()["text"].startswith("I heard")


BROKEN = {
    "empty": (b"", 400, "invalid_audio"),
    "text": (b"hello " * 1000, 400, "invalid_audio"),
    "header alone": (WAV[:44], 400, "invalid_audio"),
    "film without sound": (video_file(), 400, "invalid_audio"),
    "a moment": (encode_wav(SPEECH[:800], RATE_HZ), 400, "audio_too_short"),
    "too long": (encode_wav(np.zeros(21 * RATE_HZ, np.float32), RATE_HZ), 413, "audio_too_long"),
    "too large": (bytes(3 << 20), 413, "payload_too_large"),
}


@pytest.fixture(scope="module")
def _strict() -> Iterator[Live]:
    with run_live(FakeEngine(), ServerConfig(max_recording_s=20.0, max_body_bytes=2 << 20)) as live:
        yield live


@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize("name", BROKEN)
async def test_broken_files(_strict: Live, name: str, stream: str) -> None:
    data, status, code = BROKEN[name]
    async with _strict.http() as client:
        answer = await post(client, data, stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    if code != "payload_too_large":
        assert answer.json()["error"]["param"] == "file"


async def test_not_a_form(client: httpx.AsyncClient) -> None:
    assert (await client.post(PATH, json={"file": "x"})).status_code == 415
    for body, param in ({"file": (None, "text")}, "file"), ({"model": (None, "fake")}, "file"):
        answer = await client.post(PATH, files=body)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == param
    two = [("file", ("a", WAV)), ("other", ("b", WAV))]
    assert (await client.post(PATH, files=two)).status_code == 400
    one = await client.post(PATH, files={"sound": ("a", WAV)})
    assert one.json()["error"]["param"] == "sound" and one.json()["error"]["code"] == "unknown_field"


# ------------------------------------------------------------------ long recordings
class Hurried(FakeEngine):
    """The first piece is answered after the ones behind it."""

    async def generate(self, request: Request) -> AsyncIterator[Event]:
        if request.request_id.endswith("-0"):
            await until(lambda: len(self.requests) > 2)
        async for event in super().generate(request):
            yield event


@pytest.mark.parametrize("engine", [Hurried()])
async def test_pieces_are_joined_in_order(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    answer = await post(client, utterances(7))
    sizes = heard(engine)
    assert len(sizes) == 7 and sizes == sorted(sizes)
    assert not engine.requests[0].request_id.endswith("-0")
    expected = " ".join(f"I heard {size / RATE_HZ:.2f} seconds of audio." for size in sizes)
    assert answer.json()["text"] == expected


async def test_a_full_queue_at_the_start_is_told(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.max_active = 0
    for stream in ("true", "false"):
        answer = await post(client, WAV, stream=stream)
        assert answer.status_code == 429 and answer.headers["retry-after"]


async def test_continuous_speech_loses_and_repeats_nothing(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    sound = np.tile(talk(10.0), 7)
    answer = await post(client, encode_wav(sound, RATE_HZ))
    assert answer.status_code == 200
    assert sum(heard(engine)) == sound.size
    assert max(heard(engine)) <= 25 * RATE_HZ
    numbered = sorted(engine.requests, key=lambda request: request.request_id)
    parts = [request.messages[1].content[0] for request in numbered]
    joined = np.concatenate([part.samples for part in parts if isinstance(part, AudioPart)])
    np.testing.assert_allclose(joined, sound, atol=1e-4)


async def test_only_a_few_pieces_at_once(engine: FakeEngine) -> None:
    with run_live(engine, ServerConfig(max_pieces_inflight=2)) as live:
        engine.fault = FakeFault(1)  # hangs after a word
        async with live.http() as client:
            task = asyncio.create_task(post(client, utterances(6)))
            await until(lambda: engine.num_active == 2)
            await asyncio.sleep(0.3)  # time enough for a third, if there were a place
            assert len(engine.requests) == 2
            task.cancel()
            await until(lambda: engine.num_active == 0)


async def test_a_full_queue_in_the_middle_is_waited_for(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (
        Overloaded("Full.", retry_after_s=0),
        NotReady("Restarting.", retry_after_s=0),
        StageFailed("Broke."),
    ):
        live.engine.requests.clear()
        live.engine.fault = _once_each(error)
        async with live.http() as client:
            answer = await post(client, utterances(3))
        assert answer.status_code == 200 and answer.json()["text"].count("I heard") == 3


def _once_each(error: Exception) -> Callable[[Request], FakeFault | None]:
    """Every piece but the first fails at its first try."""
    seen: set[str] = set()

    def fault(request: Request) -> FakeFault | None:
        if request.request_id.endswith("-0") or request.request_id in seen:
            return None
        seen.add(request.request_id)
        return FakeFault(0, error)

    return fault


async def test_a_piece_that_keeps_failing_fails_the_whole(live: Live) -> None:
    live.engine.fault = lambda request: (
        FakeFault(2, StageFailed("Broke.")) if request.request_id[-1] == "1" else None
    )
    async with live.http() as client:
        answer = await post(client, utterances(3))
        assert answer.status_code == 500 and answer.json()["error"]["code"] == "stage_failed"
        stream = await post(client, utterances(3), stream="true")
    events = [data for _, data in read_events(stream.text)]
    assert events[-1]["error"]["code"] == "stage_failed"
    assert not any(event.get("type") == "transcript.text.done" for event in events)


async def test_a_length_stop_is_told(client: httpx.AsyncClient) -> None:
    answer = await post(client, WAV, max_completion_tokens="2")
    assert answer.headers["x-finish-reason"] == "length" and answer.json()["text"] == "I heard"
    stream = read_events((await post(client, WAV, max_completion_tokens="2", stream="true")).text)
    assert stream[-1][1]["finish_reason"] == "length"
    assert (await post(client, WAV)).headers["x-finish-reason"] == "stop"


# ------------------------------------------------------------------ clients who leave
@pytest.mark.parametrize("stream", ["true", "false"])
async def test_a_client_who_leaves_takes_the_work_along(live: Live, stream: str) -> None:
    live.engine.fault = FakeFault(1)  # hangs after a word
    async with live.http() as client:
        task = asyncio.create_task(post(client, utterances(6), stream=stream))
        await until(lambda: live.engine.num_active == 4)
        task.cancel()
        await until(lambda: live.engine.num_active == 0, 2.0)
    assert len(live.engine.requests) == 4 and live.engine.num_aborted == 4


async def test_usage_in_a_stream_is_a_choice(client: httpx.AsyncClient) -> None:
    with_usage = read_events((await post(client, WAV, stream="true")).text)[-1][1]
    without = read_events((await post(client, WAV, stream="true", stream_include_usage="false")).text)[-1][1]
    assert with_usage["usage"]["type"] == "tokens" and "usage" not in without


async def test_translation_to_another_language(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    answer = await post(client, WAV, path="/v1/audio/translations", to_language="zh")
    assert answer.json().keys() == {"text"}
    assert "翻译成中文" in engine.requests[0].messages[0].content[0].text  # type: ignore[union-attr]
    assert engine.requests[0].sampling.temperature == 0.1


async def test_empty_fields_ask_for_nothing(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    """What forms of web clients send when nothing was filled in."""
    assert (await post(client, WAV, language="", prompt="", model="fake")).status_code == 200
    assert engine.requests[0].messages[0].content[0].text == "请记录下你所听到的语音内容。"  # type: ignore[union-attr]


async def test_chunking_strategy_as_json(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    wish = '{"type": "server_vad", "silence_duration_ms": 4000}'
    assert (await post(client, utterances(3), chunking_strategy=wish)).status_code == 200
    assert len(engine.requests) == 1
    bad = await post(client, WAV, chunking_strategy='{"type": "server_vad", "threshold": 2}')
    assert bad.status_code == 400 and bad.json()["error"]["param"] == "chunking_strategy.threshold"
    assert (await post(client, WAV, chunking_strategy="{")).status_code == 400


THINKER = FakeEngine(info=dataclasses.replace(FakeEngine().info, thinks=True))


@pytest.mark.parametrize("engine", [THINKER])
async def test_reasoning_is_left_out(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    verbose = (await post(client, utterances(2), response_format="verbose_json")).json()
    assert verbose["text"].startswith("I heard") and all(s["tokens"] for s in verbose["segments"])
    answer = (await post(client, utterances(2))).json()
    assert answer["text"].startswith("I heard") and answer["text"].count("I heard") == 2
    assert "think" not in answer["text"].lower()
    events = [data for _, data in read_events((await post(client, utterances(2), stream="true")).text)]
    assert "".join(event.get("delta", "") for event in events) == answer["text"] == events[-1]["text"]
