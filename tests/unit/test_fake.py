"""The test double keeps the promises of EngineClient."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from cadence.errors import InvalidRequest, NotReady, Overloaded, RequestAborted, StageFailed
from cadence.fake import FakeEngine, FakeFault
from cadence.types import (
    CODE_SAMPLES,
    AudioChunk,
    AudioPart,
    Done,
    Event,
    Message,
    Request,
    SamplingParams,
    TextDelta,
    TextPart,
)


def ask(text: str = "hello there friend", **fields: object) -> Request:
    fields.setdefault("request_id", "r1")
    return Request(messages=(Message("user", (TextPart(text),)),), **fields)  # type: ignore[arg-type]


async def collect(engine: FakeEngine, request: Request) -> list[Event]:
    return [event async for event in engine.generate(request)]


def text_of(events: list[Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, TextDelta))


def sound_of(events: list[Event]) -> np.ndarray:
    return np.concatenate([e.samples for e in events if isinstance(e, AudioChunk)])


async def test_text_echo_and_usage() -> None:
    engine = FakeEngine()
    heard = AudioPart(np.zeros(8000, np.float32))
    request = Request(request_id="a", messages=(Message("user", (TextPart("hi you"), heard)),))
    events = await collect(engine, request)
    assert text_of(events) == "You said: hi you I heard 0.50 seconds of audio."
    done = events[-1]
    assert isinstance(done, Done) and done.finish_reason == "stop"
    assert done.usage.prompt_audio_tokens == 6 and done.usage.completion_tokens == 10
    assert sum(isinstance(e, Done) for e in events) == 1 and engine.num_active == 0


async def test_speech_is_deterministic_and_depends_on_voice_and_seed() -> None:
    engine = FakeEngine()

    def say(voice: str, seed: int | None) -> Request:
        return ask(output="speech", verbatim="one two three", voice=voice, sampling=SamplingParams(seed=seed))

    first = await collect(engine, say("default", 1))
    again = await collect(engine, say("default", 1))
    other_seed = await collect(engine, say("default", 2))
    other_voice = await collect(engine, say("default_male", 1))
    assert text_of(first) == "one two three"
    done = first[-1]
    assert isinstance(done, Done)
    assert sound_of(first).size == done.usage.completion_audio_tokens * CODE_SAMPLES
    assert sum(isinstance(e, AudioChunk) for e in first) >= 3
    assert np.array_equal(sound_of(first), sound_of(again))
    assert not np.array_equal(sound_of(first), sound_of(other_seed))
    assert not np.array_equal(sound_of(first), sound_of(other_voice))


async def test_max_tokens_and_stop() -> None:
    engine = FakeEngine()
    cut = (await collect(engine, ask(sampling=SamplingParams(max_tokens=3))))[-1]
    assert isinstance(cut, Done) and cut.finish_reason == "length" and cut.usage.completion_tokens == 3
    stopped = await collect(engine, ask(sampling=SamplingParams(stop=("there",))))
    assert text_of(stopped) == "You said: hello "
    assert isinstance(stopped[-1], Done) and stopped[-1].stop_match == "there"


async def test_admission_errors() -> None:
    engine = FakeEngine(max_active=1, delay_s=60)
    with pytest.raises(InvalidRequest) as caught:
        await collect(engine, ask(output="speech", voice="nobody"))
    assert caught.value.code == "voice_not_found" and "default_male" in caught.value.message
    running = asyncio.create_task(collect(engine, ask()))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await collect(engine, ask(request_id="r2"))
    await engine.abort("r1")
    with pytest.raises(RequestAborted):
        await running
    assert engine.num_active == 0 and engine.num_aborted == 1


async def test_faults_close_and_drain() -> None:
    engine = FakeEngine(fault=FakeFault(after_events=2, error=StageFailed("boom")))
    seen: list[Event] = []
    with pytest.raises(StageFailed):
        async for event in engine.generate(ask()):
            seen.append(event)
    assert len(seen) == 2
    engine.fault = FakeFault(after_events=1)  # hang
    hanging = asyncio.create_task(collect(engine, ask()))
    await asyncio.sleep(0.01)
    assert not await engine.drain(0.01)
    with pytest.raises(NotReady):
        await collect(engine, ask(request_id="r2"))
    await engine.aclose()
    with pytest.raises(NotReady):
        await hanging
    assert engine.num_active == 0 and not engine.health().ready


async def test_closing_the_iterator_releases() -> None:
    engine = FakeEngine()
    stream = engine.generate(ask())
    await anext(stream)
    assert engine.num_active == 1
    await stream.aclose()  # type: ignore[attr-defined]
    assert engine.num_active == 0 and engine.num_aborted == 1
