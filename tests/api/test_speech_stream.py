"""/v1/audio/speech/stream: text in as it is written, sound out as it is made."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import av
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from cadence.audio.encode import ENCODERS
from cadence.errors import Overloaded, StageFailed
from cadence.fake import FakeEngine, FakeFault
from cadence.server.speech_stream import session as session_module
from cadence.types import CODE_SAMPLES, Request

from .conftest import WAIT_S, Live, until
from .test_sockets import closed, opening, serving

PATH = "/v1/audio/speech/stream"


class Stream:
    """A connection, and everything that came over it."""

    def __init__(self, connection: ClientConnection) -> None:
        self.it = connection
        self.events: list[dict[str, Any]] = []
        self.sound: list[bytes] = []
        """The binary messages since the last `audio.start`."""

    async def send(self, kind: str, **fields: Any) -> None:
        await self.it.send(json.dumps({"type": kind, **fields}))

    async def say(self, text: str, *, done: bool = True) -> None:
        for start in range(0, len(text), 3):  # as a language model writes it
            await self.send("input.text", text=text[start : start + 3])
        if done:
            await self.send("input.done")

    async def next(self) -> dict[str, Any] | bytes:
        message = await asyncio.wait_for(self.it.recv(), WAIT_S)
        if isinstance(message, bytes):
            self.sound.append(message)
            return message
        event: dict[str, Any] = json.loads(message)
        self.events.append(event)
        if event["type"] == "audio.start":
            self.sound.clear()
        return event

    async def until(self, kind: str) -> dict[str, Any]:
        while True:
            event = await self.next()
            if isinstance(event, dict):
                if event["type"] == kind:
                    return event
                assert event["type"] != "error", event

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]


class streaming:
    def __init__(self, live: Live, **config: Any) -> None:
        self._opening = opening(live, PATH)
        self._config = config

    async def __aenter__(self) -> Stream:
        stream = Stream(await self._opening.__aenter__())
        await stream.send("session.config", **self._config)
        return stream

    async def __aexit__(self, *details: Any) -> None:
        await self._opening.__aexit__(*details)


def decoded_s(data: bytes) -> float:
    """Seconds of sound in a file."""
    with av.open(io.BytesIO(data)) as file:
        return sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


async def test_an_utterance(live: Live) -> None:
    async with streaming(live, voice="default_male") as stream:
        await stream.say("Hello there. How are you?")
        end = await stream.until("session.done")
        (data,) = stream.sound
        await stream.send("session.close")
        assert await closed(stream.it) == 1000
    assert stream.kinds() == ["audio.start", "audio.done", "session.done"]
    start, done, _ = stream.events
    assert start["sentence_text"] == "Hello there. How are you?"
    assert (start["format"], start["sample_rate"], start["channels"]) == ("wav", 24_000, 1)
    assert (done["total_bytes"], done["error"], done["finish_reason"]) == (len(data), False, "stop")
    assert decoded_s(data) == pytest.approx((len(data) - 44) / 48_000)
    assert end == {"type": "session.done", "utterance_index": 0, "total_sentences": 1}
    (request,) = live.engine.requests
    assert (request.verbatim, request.voice) == ("Hello there. How are you?", "default_male")


async def test_sentences_are_spoken_before_the_text_is_complete(live: Live) -> None:
    config = {"split_granularity": "sentence", "response_format": "pcm", "stream_audio": True}
    async with streaming(live, **config) as stream:
        await stream.say("First sentence. Second one. And", done=False)
        for index in range(2):
            done = await stream.until("audio.done")
            assert (done["utterance_index"], done["sentence_index"]) == (0, index)
            assert len(stream.sound) > 1 and sum(map(len, stream.sound)) == done["total_bytes"]
        await stream.say(" the last.")
        end = await stream.until("session.done")
    assert end["total_sentences"] == 3
    said = [request.verbatim for request in live.engine.requests]
    assert said == ["First sentence.", "Second one.", "And the last."]
    starts = [event["sentence_text"] for event in stream.events if event["type"] == "audio.start"]
    assert starts == said


async def test_clauses(live: Live) -> None:
    async with streaming(live, split_granularity="clause") as stream:
        await stream.say("When you are ready to go, call me.")
        assert (await stream.until("session.done"))["total_sentences"] == 2


@pytest.mark.parametrize("name", sorted(ENCODERS))
@pytest.mark.parametrize("stream_audio", [False, True])
async def test_every_format(live: Live, name: str, stream_audio: bool) -> None:
    async with streaming(live, response_format=name, stream_audio=stream_audio, sample_rate=16_000) as stream:
        await stream.say("Every format.")
        await stream.until("session.done")
    data = b"".join(stream.sound)
    usage = next(event["usage"] for event in stream.events if event["type"] == "audio.done")
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    seconds = len(data) / 32_000 if name == "pcm" else decoded_s(data)
    codes = sum(max(4, len(word)) for word in ("Every", " format."))
    assert seconds == pytest.approx(codes * CODE_SAMPLES / 24_000, abs=0.07)


@pytest.mark.parametrize("speed", [1.0, 2.0])
async def test_word_timestamps(live: Live, speed: float) -> None:
    config = {"response_format": "pcm", "stream_audio": True, "split_granularity": "sentence", "speed": speed}
    async with streaming(live, **config, word_timestamps=True) as stream:
        await stream.say("One two. Three.")
        await stream.until("session.done")
    assert not stream.sound
    chunks = [event for event in stream.events if event["type"] == "audio.chunk"]
    first = [event for event in chunks if event["sentence_index"] == 0]
    assert [event["chunk_id"] for event in first] == list(range(len(first)))
    assert [event["chunk_start_ms"] for event in first[1:]] == [event["chunk_end_ms"] for event in first[:-1]]
    done = next(event for event in stream.events if event["type"] == "audio.done")
    data = b"".join(base64.b64decode(event["audio_b64"]) for event in first)
    assert done["total_bytes"] == len(data) == 2 * round(9 * CODE_SAMPLES / speed)
    *sounding, last = first
    assert all(event["timestamps"] is None for event in sounding) and not last["audio_b64"]
    ms = round(40 / speed)
    assert last["timestamps"] == [
        {"word": "One", "start_ms": 0, "end_ms": 4 * ms},
        {"word": "two.", "start_ms": 4 * ms, "end_ms": 9 * ms},
    ]
    assert [word["word"] for word in chunks[-1]["timestamps"]] == ["Three."]


async def test_word_timestamps_need_samples(live: Live) -> None:
    async with streaming(live) as stream:
        await stream.send("session.config", word_timestamps=True)
        error = await stream.next()
        assert isinstance(error, dict)
        assert (error["code"], error["param"]) == ("conflicting_fields", "word_timestamps")


async def test_cancel_while_speaking(live: Live) -> None:
    live.engine.delay_s = 0.02
    config = {"split_granularity": "sentence", "response_format": "pcm", "stream_audio": True}
    async with streaming(live, **config) as stream:
        await stream.say("A long story. " * 20, done=False)
        await stream.until("audio.start")
        await stream.next()
        await stream.send("input.cancel")
        answer = await stream.until("input.cancelled")
        assert answer["utterance_index"] == 0
        assert stream.events[-2]["cancelled"] is True and stream.kinds()[-2] == "audio.done"
        live.engine.delay_s = 0.0
        await stream.say("Next.")
        event = await stream.next()
        assert isinstance(event, dict), "sound after the acknowledgement"
        assert (event["type"], event["utterance_index"], event["sentence_text"]) == (
            "audio.start",
            1,
            "Next.",
        )
        assert (await stream.until("session.done"))["utterance_index"] == 1
    await until(lambda: live.engine.num_active == 0)
    assert live.engine.num_aborted == 1
    assert len(live.engine.requests) < 5


async def test_cancel_drops_text_that_waits(live: Live) -> None:
    async with streaming(live) as stream:
        await stream.send("input.cancel")
        assert (await stream.until("input.cancelled"))["utterance_index"] is None
        await stream.say("Never heard. ", done=False)
        await stream.send("input.cancel")
        assert (await stream.until("input.cancelled"))["utterance_index"] == 0
        await stream.say("Heard.")
        assert (await stream.until("session.done"))["utterance_index"] == 1
    assert [request.verbatim for request in live.engine.requests] == ["Heard."]


async def test_many_utterances_on_one_socket(live: Live) -> None:
    async with streaming(live, response_format="pcm", stream_audio=True) as stream:
        for number in range(100):
            await stream.say(f"Utterance number {number}.")
            end = await stream.until("session.done")
            assert (end["utterance_index"], end["total_sentences"]) == (number, 1)
        await stream.send("input.done")
        assert (await stream.until("session.done"))["total_sentences"] == 0
    assert len(live.engine.requests) == 100 and live.engine.num_active == 0


async def test_utterances_may_be_written_ahead(live: Live) -> None:
    live.engine.delay_s = 0.01
    async with streaming(live, response_format="pcm") as stream:
        for text in ("One.", "Two.", "Three."):
            await stream.say(text)
        ends = [await stream.until("session.done") for _ in range(3)]
    assert [end["utterance_index"] for end in ends] == [0, 1, 2]
    assert [request.verbatim for request in live.engine.requests] == ["One.", "Two.", "Three."]


async def test_the_config_may_change_between_utterances(live: Live) -> None:
    async with streaming(live) as stream:
        await stream.say("One.", done=False)
        await stream.send("session.config", voice="default_male")
        error = await stream.next()
        assert isinstance(error, dict) and error["code"] == "utterance_in_progress"
        await stream.send("input.done")
        await stream.until("session.done")
        await stream.send("session.config", voice="nope")
        error = await stream.next()
        assert isinstance(error, dict)
        assert (error["code"], error["param"]) == ("voice_not_found", "voice")
        await stream.send("session.config", voice="default_female")
        await stream.say("Two.")
        await stream.until("session.done")
    assert [request.voice for request in live.engine.requests] == ["default", "default_female"]


@pytest.mark.parametrize("stream_audio", [False, True])
async def test_a_failure_ends_the_utterance_not_the_stream(live: Live, stream_audio: bool) -> None:
    def second_fails(request: Request) -> FakeFault | None:
        return FakeFault(2, StageFailed("The stage broke.")) if request.verbatim == "Two." else None

    live.engine.fault = second_fails
    config = {"split_granularity": "sentence", "response_format": "pcm", "stream_audio": stream_audio}
    async with streaming(live, **config) as stream:
        await stream.say("One. Two. Three.")
        while stream.kinds()[-1:] != ["session.done"]:
            await stream.next()
        error = next(event for event in stream.events if event["type"] == "error")
        assert (error["message"], error["code"]) == ("The stage broke.", "stage_failed")
        assert (error["utterance_index"], error["sentence_index"]) == (0, 1)
        assert error.get("action") == ("discard" if stream_audio else None)
        assert [event["error"] for event in stream.events if event["type"] == "audio.done"] == [False, True]
        assert stream.events[-1]["error"] is True
        await stream.say("Four.")
        assert "error" not in await stream.until("session.done")
    assert [request.verbatim for request in live.engine.requests] == ["One.", "Two.", "Four."]


async def test_an_overloaded_engine_is_told(live: Live) -> None:
    live.engine.fault = FakeFault(0, Overloaded("Full.", retry_after_s=3))
    async with streaming(live) as stream:
        await stream.say("One.")
        while stream.kinds()[-1:] != ["session.done"]:
            await stream.next()
    assert stream.kinds() == ["audio.start", "error", "audio.done", "session.done"]
    assert stream.events[1]["code"] == "overloaded"


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ("{", None, "invalid_json"),
        ('{"type": "nope"}', "type", "unknown_event"),
        ('{"type": "input.text"}', "text", "missing_field"),
        ('{"type": "input.text", "text": "a", "x": 1}', "x", "unknown_field"),
        ('{"type": "session.config", "input": "a"}', "input", "unknown_field"),
        ('{"type": "session.config", "speed": 9}', "speed", "invalid_value"),
        ('{"type": "session.config", "split_granularity": "word"}', "split_granularity", "invalid_value"),
        ('{"type": "session.config", "model": "other"}', "model", "model_not_found"),
        (json.dumps({"type": "input.text", "text": "x" * (128 << 10)}), None, "payload_too_large"),
    ],
)
async def test_a_bad_message_is_told_and_survived(
    live: Live, message: str, param: str | None, code: str
) -> None:
    async with streaming(live) as stream:
        await stream.it.send(message)
        error = await stream.next()
        assert isinstance(error, dict) and (error["param"], error["code"]) == (param, code)
        await stream.say("Still here.")
        await stream.until("session.done")


async def test_text_that_waits_is_bounded() -> None:
    with serving(max_input_chars=10) as live:
        async with streaming(live) as stream:
            await stream.send("input.text", text="123456")
            await stream.send("input.text", text="123456")
            error = await stream.next()
            assert isinstance(error, dict)
            assert (error["code"], error["param"]) == ("input_too_long", "text")


async def test_it_begins_with_a_config(live: Live) -> None:
    async with opening(live, PATH) as connection:
        await connection.send('{"type": "input.text", "text": "a"}')
        assert json.loads(await connection.recv())["type"] == "error"
        assert await closed(connection) == 1008


async def test_silence_ends_it(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "CONFIG_WAIT_S", 0.1)
    async with opening(live, PATH) as connection:
        assert json.loads(await connection.recv())["code"] == "idle_timeout"
        assert await closed(connection) == 1001
    with serving(FakeEngine(delay_s=0.1), socket_idle_s=0.2) as slow:
        async with streaming(slow) as stream:
            await stream.say("This takes longer than that.")
            await stream.until("session.done")  # who listens is not idle
            error = await stream.next()
            assert isinstance(error, dict) and error["code"] == "idle_timeout"


async def test_the_engine_is_free_when_the_client_leaves(live: Live) -> None:
    live.engine.delay_s = 0.02
    async with streaming(live, stream_audio=True) as stream:
        await stream.say("a long story " * 20)
        await stream.until("audio.start")
    await until(lambda: live.engine.num_active == 0)
    assert live.engine.num_aborted == 1


async def test_closing_lets_what_was_sent_be_heard(live: Live) -> None:
    live.engine.delay_s = 0.01
    async with streaming(live, response_format="pcm") as stream:
        await stream.say("One. Two.")
        await stream.send("session.close")
        await stream.until("session.done")
        with pytest.raises(ConnectionClosed):
            await stream.next()
