"""Recordings that requests bring: encoded and prepared once per content, forgotten on request."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from test_token2wav_stage import CODES, CONFIG, feed, speak
from test_voices import wav

from cadence.errors import CadenceError, InvalidAudio, NotReady, StageFailed
from cadence.runtime.client import Token2WavClient
from cadence.runtime.launch import start_stages
from cadence.runtime.stages import StageSpec
from cadence.token2wav.base import Token2Wav
from cadence.token2wav.byte_lru import ByteLru
from cadence.token2wav.kept_encoder import KeptEncoder
from cadence.token2wav.local import LocalToken2Wav
from cadence.token2wav.voices import VoicePrompt
from cadence.types import CODE_SAMPLES, SpeechRequest, VoiceSample
from cadence.voices.sample import make_sample


def sample(seed: int, seconds: float = 1.0) -> VoiceSample:
    return make_sample(wav(seconds, seed=seed))


async def say(
    stage: Token2Wav, voice: VoiceSample | None, *, name: str = "a", streaming: bool = True
) -> np.ndarray:
    request = SpeechRequest(request_id=name, voice_sample=voice, seed=1, streaming=streaming)
    return np.concatenate([chunk.samples async for chunk in stage.generate(request, feed(CODES[:20]))])


@pytest.fixture
def stage(tiny_checkpoint: Path) -> Iterator[LocalToken2Wav]:
    stage = LocalToken2Wav.load(tiny_checkpoint, CONFIG)
    yield stage
    stage._worker.close()


# ------------------------------------------------------------------ the stage
async def test_a_recording_speaks_as_a_voice_of_its_own(stage: LocalToken2Wav, tiny_checkpoint: Path) -> None:
    default = await say(stage, None)
    for streaming in (True, False):
        one, other = [await say(stage, sample(seed), streaming=streaming) for seed in (1, 2)]
        assert one.size == other.size == 20 * CODE_SAMPLES
        assert not np.array_equal(one, other) and not np.array_equal(one, default)
        assert np.array_equal(await say(stage, sample(1), streaming=streaming), one)
    assert np.array_equal(await say(stage, None), default)  # nothing of a guest stays behind
    own = (tiny_checkpoint / "assets" / "default_male.wav").read_bytes()
    brought = make_sample(own)
    assert brought.wav[44:] == own[-len(brought.wav[44:]) :]  # 24 kHz, 16 bit: kept sample by sample
    named = np.concatenate(await speak(stage, "b", CODES[:20], voice="default_male"))
    assert np.array_equal(await say(stage, brought), named)


async def test_a_recording_is_computed_once(stage: LocalToken2Wav) -> None:
    cache = stage._worker._voices
    before = cache.num_prepared
    voices = [sample(1), sample(2)]
    await asyncio.gather(*(say(stage, voices[i % 2], name=str(i), streaming=i % 3 > 0) for i in range(12)))
    assert (cache.num_encoded, cache.num_prepared - before) == (2, 2)
    await stage.prepare_voice(sample(3))
    assert (cache.num_encoded, cache.num_prepared - before) == (3, 3)
    await say(stage, sample(3))
    assert (cache.num_encoded, cache.num_prepared - before) == (3, 3)


async def test_forgetting_frees_the_state_but_not_under_a_stream(stage: LocalToken2Wav) -> None:
    voice = sample(4)
    whole = await say(stage, voice)
    kept = stage._worker._voices._states.get(voice.key)
    assert kept is not None
    state = weakref.ref(kept.keys_values)
    del kept
    held = (await stage.stats())["voice_bytes"]
    stream = stage.generate(SpeechRequest(request_id="b", voice_sample=voice, seed=1), feed(CODES[:20]))
    first = await anext(stream)
    await stage.forget_voice(voice.key)
    assert (await stage.stats())["voice_bytes"] < held
    rest = [chunk.samples async for chunk in stream]
    assert np.array_equal(np.concatenate([first.samples, *rest]), whole)
    await stage.forget_voice("unknown")
    await asyncio.to_thread(lambda: stage._worker._voices._pool.submit(int).result())
    for _ in range(200):  # the rendering thread may still be leaving the last chunk's frame
        gc.collect()
        if state() is None:
            break
        await asyncio.sleep(0.01)
    assert state() is None


async def test_forgetting_reaches_what_is_being_prepared(
    stage: LocalToken2Wav, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, voice = stage._worker._voices, sample(5)
    began, go = threading.Event(), threading.Event()
    real = cache._sampler.prepare

    def slow(*prompt: object) -> object:
        began.set()
        go.wait(10)
        return real(*prompt)  # type: ignore[arg-type]

    monkeypatch.setattr(cache._sampler, "prepare", slow)
    prepared = asyncio.create_task(stage.prepare_voice(voice))
    await asyncio.to_thread(began.wait, 10)
    await stage.forget_voice(voice.key)
    go.set()
    await prepared
    await asyncio.to_thread(lambda: cache._pool.submit(int).result())
    assert cache._states.get(voice.key) is None and cache._prompts.get(voice.key) is None


async def test_nobody_prepares_for_streams_that_left(
    stage: LocalToken2Wav, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = stage._worker._voices
    go = threading.Event()
    blocker = cache._pool.submit(go.wait, 10)
    streams = [
        asyncio.create_task(say(stage, sample(100 + i), name=str(i), streaming=i % 2 == 0)) for i in range(4)
    ]
    while (await stage.stats())["num_sessions"] < 4:  # noqa: ASYNC110 - a condition in another thread
        await asyncio.sleep(0.001)
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    go.set()
    await asyncio.wrap_future(blocker)
    await asyncio.to_thread(lambda: cache._pool.submit(int).result())
    assert cache.num_encoded == 0


async def test_a_recording_that_is_none_fails_alone(stage: LocalToken2Wav) -> None:
    broken = VoiceSample("0" * 32, b"RIFF no")
    with pytest.raises(InvalidAudio):
        await say(stage, broken)
    with pytest.raises(InvalidAudio):
        await stage.prepare_voice(broken)
    assert (await say(stage, None)).size == 20 * CODE_SAMPLES


async def test_a_closed_stage_prepares_nothing(tiny_checkpoint: Path) -> None:
    stage = LocalToken2Wav.load(tiny_checkpoint, CONFIG)
    await stage.aclose()
    with pytest.raises(StageFailed):
        await stage.prepare_voice(sample(1))
    await stage.forget_voice("x")


async def test_the_same_through_a_process(stage: LocalToken2Wav, tiny_checkpoint: Path) -> None:
    voice = sample(6)
    expected = await say(stage, voice)
    spec = StageSpec.token2wav(tiny_checkpoint, CONFIG)
    stages, _ = await start_stages([spec], in_process=False, progress=lambda text, share: None)
    remote = stages["token2wav"]
    assert isinstance(remote, Token2WavClient)
    try:
        await remote.prepare_voice(voice)
        found = await asyncio.gather(*(say(remote, voice, name=str(i)) for i in range(3)))
        for sound in found:  # batches of other sizes round differently
            np.testing.assert_allclose(sound, expected, atol=5e-3)
        with pytest.raises(InvalidAudio):
            await remote.prepare_voice(VoiceSample("0" * 32, b"RIFF no"))
        await until_bytes(remote, lambda held: held > 0)
        held = (await remote.stats())["voice_bytes"]
        await remote.forget_voice(voice.key)
        await until_bytes(remote, lambda left: left < held)
        with pytest.raises(InvalidAudio):
            await say(remote, VoiceSample("1" * 32, b"RIFF no"))
    finally:
        await remote.aclose()
    with pytest.raises(NotReady):
        await remote.prepare_voice(voice)


async def until_bytes(stage: Token2WavClient, condition: Callable[[float], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition((await stage.stats()).get("voice_bytes", 0)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_call_ends_when_the_process_dies() -> None:
    spec = StageSpec("fake_token2wav", "", {})
    stages, _ = await start_stages([spec], in_process=False, progress=lambda text, share: None)
    remote = stages["token2wav"]
    assert isinstance(remote, Token2WavClient)
    try:
        link = remote._supervisor.ready_link()
        link.send({"t": "call", "stream": -1, "method": "no such", "arguments": {}})
        await remote.prepare_voice(VoiceSample("k", b""))  # a broken call harms none
        call = asyncio.create_task(link.call("prepare_voice", key="k", wav=b""))
        await asyncio.sleep(0)
        assert remote._supervisor._process is not None
        remote._supervisor._process.kill()
        try:
            await asyncio.wait_for(call, 10)
        except CadenceError as error:
            assert isinstance(error, StageFailed)
        assert link._calls == {}
    finally:
        await remote.aclose()


# ------------------------------------------------------------------ parts
class Sized:
    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes


def test_the_least_recently_used_goes_first() -> None:
    lru: ByteLru[Sized] = ByteLru(10)
    for key, size in (("a", 4), ("b", 4)):
        lru.put(key, Sized(size))
    assert lru.get("a") is not None
    lru.put("c", Sized(4))
    assert (lru.get("b"), len(lru), lru.num_bytes) == (None, 2, 8)
    lru.put("c", Sized(2))
    assert lru.num_bytes == 6
    lru.put("huge", Sized(99))
    assert (len(lru), lru.num_bytes) == (1, 99)
    lru.drop("huge")
    lru.drop("huge")
    assert (len(lru), lru.num_bytes) == (0, 0)


def test_what_is_to_be_kept_outlives_what_was_used_later() -> None:
    lru: ByteLru[Sized] = ByteLru(10)
    lru.put("default", Sized(4), keep=True)
    for key in "abc":
        lru.put(key, Sized(4))
    assert [lru.get(key) is not None for key in ("default", "a", "b", "c")] == [True, False, False, True]
    lru.put("huge", Sized(99))
    assert [lru.get(key) is not None for key in ("default", "c", "huge")] == [True, False, True]
    lru.put("default", Sized(3))  # the same recording under another name
    lru.put("d", Sized(4))
    assert (lru.get("default") is not None, lru.get("huge"), lru.num_bytes) == (True, None, 7)


class FakeEncoder:
    def encode(self, data: bytes) -> VoicePrompt:
        if not data:
            raise InvalidAudio("empty")
        return VoicePrompt(
            np.zeros(1, np.int32), np.zeros((2, 80), np.float32), np.zeros(192, np.float32), "k"
        )


def test_the_encoder_stays_open_while_it_is_used() -> None:
    made = 0

    def make() -> FakeEncoder:
        nonlocal made
        made += 1
        return FakeEncoder()

    kept = KeptEncoder(make, idle_s=60)  # type: ignore[arg-type, return-value]
    for _ in range(3):
        kept.encode(b"x")
    with pytest.raises(InvalidAudio):
        kept.encode(b"")
    assert made == 1 and kept.is_open
    kept.close()
    assert not kept.is_open
    kept.encode(b"x")
    assert made == 2
    kept.close()
    brief = KeptEncoder(make, idle_s=0.01)  # type: ignore[arg-type, return-value]
    brief.encode(b"x")
    end = time.monotonic() + 10
    while brief.is_open:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_equal_sound_has_equal_keys_whatever_holds_it() -> None:
    data = wav(1.0)
    tagged = data[:36] + b"LIST" + (8).to_bytes(4, "little") + b"INFOxxxx" + data[36:]
    assert make_sample(data) == make_sample(tagged)
    assert make_sample(data).key != make_sample(wav(1.0, seed=1)).key
    stereo = make_sample(wav(1.5, 44_100, channels=2))
    assert (len(stereo.wav) - 44) // 2 == 36_000
