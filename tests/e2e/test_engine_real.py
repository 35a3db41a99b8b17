"""The engine over the real stages, on the small checkpoint: mixed traffic equals each request alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cadence.config import EngineConfig, ServeConfig, ThinkerConfig, Token2WavConfig
from cadence.engine import Engine, start_engine
from cadence.errors import RequestAborted
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

# Batched matrix products round otherwise, and the vocoder's oscillator adds the pitch's last digit up over
# time: at most a hundredth of the sound's level. Another voice, text or seed is off by about 1.
MAX_RELATIVE_ERROR = 0.01


@asynccontextmanager
async def running(root: Path, *, in_process: bool) -> AsyncIterator[Engine]:
    engine = await start_engine(
        ServeConfig(
            model=str(root),
            thinker=ThinkerConfig(threads=1, dtype="float32", kv_cache_tokens=4096),
            token2wav=Token2WavConfig(threads=1, dtype="float32", num_steps=2),
            engine=EngineConfig(in_process=in_process),
        )
    )
    try:
        yield engine
    finally:
        await engine.aclose()


def mixed_requests() -> list[Request]:
    """Sixteen of all kinds: read aloud, transcribe, speech to speech, chat."""
    dice = np.random.default_rng(0)
    requests = []
    for number in range(16):
        sound = AudioPart((0.1 * dice.standard_normal(8000 + 1600 * number)).astype(np.float32))
        text = TextPart(f"request number {number}")
        sampling = SamplingParams(seed=number, max_tokens=15 + number % 4, temperature=0.8, top_p=0.95)
        fields = [
            {"messages": (), "output": "speech", "verbatim": f"say {number}"},
            {"messages": (Message("user", (text, sound)),), "output": "text"},
            {"messages": (Message("user", (sound,)),), "output": "speech"},
            {"messages": (Message("user", (text,)),), "output": "text"},
        ][number % 4]
        voice = ("default", "default_male")[number // 4 % 2]
        requests.append(Request(request_id=f"r{number}", sampling=sampling, voice=voice, **fields))  # type: ignore[arg-type]
    return requests


async def collect(engine: Engine, request: Request) -> list[Event]:
    return [event async for event in engine.generate(request)]


async def leave_early(engine: Engine, request: Request, dice: random.Random) -> None:
    """Ask, and go away at a random moment in a random way."""
    events = dice.randrange(4)

    async def read() -> None:
        seen = 0
        async for _ in engine.generate(request):
            seen += 1
            if seen > events:
                break

    reader = asyncio.create_task(read())
    await asyncio.sleep(dice.random())
    if dice.random() < 0.5:
        await engine.abort(request.request_id)
    else:
        reader.cancel()
    (result,) = await asyncio.gather(reader, return_exceptions=True)
    assert result is None or isinstance(result, RequestAborted | asyncio.CancelledError)


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def sound_of(events: Sequence[Event]) -> np.ndarray:
    chunks = [event.samples for event in events if isinstance(event, AudioChunk)]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)


def assert_same(got: Sequence[Event], wanted: Sequence[Event], name: str) -> None:
    done, alone = got[-1], wanted[-1]
    assert isinstance(done, Done) and isinstance(alone, Done), name
    # What was cached of a prompt depends on the requests before; what comes of it must not.
    usage, usage_alone = (replace(each.usage, prompt_cached_tokens=0) for each in (done, alone))
    assert (usage, done.finish_reason) == (usage_alone, alone.finish_reason), name
    assert text_of(got) == text_of(wanted), name
    heard, expected = sound_of(got), sound_of(wanted)
    assert heard.shape == expected.shape, name
    assert np.linalg.norm(heard - expected) <= MAX_RELATIVE_ERROR * np.linalg.norm(expected), name


async def assert_idle(engine: Engine) -> None:
    """Nothing held; gauges of another process come twice a second."""
    gauges = ("num_answers", "thinker_num_running", "thinker_kv_tokens_used", "token2wav_num_sessions")
    for _ in range(40):
        stats = await engine.stats()
        held = {name: stats.get(name) for name in gauges if stats.get(name) != 0}
        if not held:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(held)


async def crowd(engine: Engine, seed: int) -> list[list[Event]]:
    """All requests at once, among others that leave early."""
    dice = random.Random(seed)
    requests = mixed_requests()
    leavers = [
        Request(
            request_id=f"leaver{n}",
            messages=r.messages,
            output=r.output,
            verbatim=r.verbatim,
            sampling=SamplingParams(seed=n, max_tokens=80),
        )
        for n, r in enumerate(requests[:6])
    ]
    left = [asyncio.create_task(leave_early(engine, request, dice)) for request in leavers]
    answers = await asyncio.wait_for(
        asyncio.gather(*(collect(engine, request) for request in requests)), timeout=90
    )
    await asyncio.gather(*left)
    await assert_idle(engine)
    return list(answers)


@pytest.mark.e2e
async def test_mixed_traffic_equals_each_request_alone(tiny_checkpoint: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    requests = mixed_requests()
    async with running(tiny_checkpoint, in_process=True) as engine:
        alone = [await collect(engine, request) for request in requests]
        together = await crowd(engine, seed)
    async with running(tiny_checkpoint, in_process=False) as engine:
        in_children = await crowd(engine, seed)
        assert engine.health().ready and engine.health().stages == {"thinker": "ready", "token2wav": "ready"}
    for number, request in enumerate(requests):
        assert_same(together[number], alone[number], f"{request.request_id} in a crowd")
        assert_same(in_children[number], alone[number], f"{request.request_id} in child processes")
        done = alone[number][-1]
        assert isinstance(done, Done)
        if request.output == "speech":
            assert sound_of(alone[number]).size == done.usage.completion_audio_tokens * CODE_SAMPLES
        else:
            assert not sound_of(alone[number]).size
    assert sum(sound_of(answer).size > 0 for answer in alone) >= 6
