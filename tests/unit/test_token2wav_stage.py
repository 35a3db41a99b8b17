"""The Token2Wav stage through its protocol: lengths, isolation, aborts, failures."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cadence.config import Token2WavConfig
from cadence.errors import (
    CadenceError,
    CheckpointError,
    ConfigError,
    InvalidRequest,
    RequestAborted,
    StageFailed,
)
from cadence.token2wav import session
from cadence.token2wav.local import LocalToken2Wav, load_runner
from cadence.token2wav.runner import Runner
from cadence.token2wav.whole import WholeSound
from cadence.types import CODE_SAMPLES, ChunkSchedule, SpeechRequest

CODES = [int(code) for code in np.random.default_rng(0).integers(0, 6561, 120)]
CONFIG = Token2WavConfig(device="cpu", threads=1, num_steps=2, max_num_seqs=4, max_batch_size=3)


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> Iterator[LocalToken2Wav]:
    stage = LocalToken2Wav.load(tiny_checkpoint, CONFIG)
    yield stage
    stage._worker.close()


@pytest.fixture
async def stage(loaded: LocalToken2Wav) -> AsyncIterator[LocalToken2Wav]:
    yield loaded
    stats = await loaded.stats()
    assert (stats["num_sessions"], stats["num_waiting"], stats["session_bytes"]) == (0, 0, 0)


async def feed(codes: Sequence[int], size: int = 7) -> AsyncIterator[Sequence[int]]:
    for start in range(0, len(codes), size):
        yield codes[start : start + size]
        await asyncio.sleep(0)


async def speak(
    stage: LocalToken2Wav,
    name: str,
    codes: Sequence[int],
    *,
    voice: str = "default",
    seed: int | None = 1,
    streaming: bool = True,
    size: int = 7,
) -> list[NDArray[np.float32]]:
    request = SpeechRequest(request_id=name, voice=voice, seed=seed, streaming=streaming)
    return [chunk.samples async for chunk in stage.generate(request, feed(codes, size))]


def assert_same_sound(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    # The vocoder sums phases up: rounding differences of the mel, 1e-6, grow in the waveform.
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 5e-3


# ------------------------------------------------------------------ what a checkpoint asks for
def asking(checkpoint: Path, tmp_path: Path, asked: dict[str, object]) -> Path:
    """A copy of the checkpoint with more in its generation config."""
    root = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, root, dirs_exist_ok=True)
    file = root / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | asked))
    return root


async def test_a_checkpoint_may_ask_for_other_steps_and_the_config_has_the_last_word(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    async def sound(configured: int | None, **asked: object) -> NDArray[np.float32]:
        root = asking(tiny_checkpoint, tmp_path, asked)
        stage = LocalToken2Wav.load(root, dataclasses.replace(CONFIG, num_steps=configured))
        chunks = await speak(stage, "a", CODES[:8], streaming=False)
        await stage.aclose()
        return np.concatenate(chunks)

    three = await sound(3)
    assert_same_sound(await sound(None, flow_steps=3), three)
    assert_same_sound(await sound(3, flow_steps=2), three)
    assert_same_sound(await sound(None), await sound(10))
    assert np.abs(await sound(2) - three).max() > 1e-2
    with pytest.raises(CheckpointError, match="flow_steps"):
        await sound(None, flow_steps=0)


def test_a_checkpoint_may_ask_for_a_shorter_history_and_the_config_has_the_last_word(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    def codes(configured: float | None, **asked: object) -> int:
        root = asking(tiny_checkpoint, tmp_path, asked)
        config = dataclasses.replace(CONFIG, flow_history_s=configured)
        return load_runner(root, config).sampler.max_history_codes

    assert codes(None) == 2500  # 100 s, where the reference's positions end
    assert codes(None, flow_history_s=20) == 500
    assert codes(30.0, flow_history_s=20) == 750
    for wrong in (4, 101, True, "20"):
        with pytest.raises(CheckpointError, match="flow_history_s"):
            codes(None, flow_history_s=wrong)


# ------------------------------------------------------------------ warm-up
def test_a_stage_that_cannot_render_does_not_load(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Runner, states: Sequence[object], *args: object) -> list[Exception]:
        return [StageFailed("no kernel") for _ in states]

    monkeypatch.setattr(Runner, "render", broken)
    with pytest.raises(StageFailed, match="no kernel"):
        LocalToken2Wav.load(tiny_checkpoint, CONFIG)


# ------------------------------------------------------------------ lengths
@pytest.mark.parametrize("num_codes", [0, 1, 2, 3, 4, 5, 8, 9, 24, 25, 26, 27, 28, 29])
@pytest.mark.parametrize("streaming", [True, False])
async def test_every_code_becomes_960_samples(stage: LocalToken2Wav, num_codes: int, streaming: bool) -> None:
    chunks = await speak(stage, "a", CODES[:num_codes], streaming=streaming, size=1 + num_codes // 3)
    assert sum(map(len, chunks)) == num_codes * CODE_SAMPLES
    assert all(chunk.dtype == np.float32 and np.abs(chunk).max() <= 1.0 for chunk in chunks)
    if not streaming:
        assert len(chunks) == min(1, num_codes)


async def test_streams_are_served_between_the_pieces_of_a_whole_utterance(
    stage: LocalToken2Wav, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []
    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    advance, render = WholeSound.advance, Runner.render

    def piece(self: WholeSound, max_frames: int) -> bool:
        turns.append("piece")
        loop.call_soon_threadsafe(begun.set)
        return advance(self, max_frames)

    def chunk(self: Runner, *args: Any) -> Any:
        turns.append("chunk")
        return render(self, *args)

    async def later() -> AsyncIterator[Sequence[int]]:
        await begun.wait()
        yield CODES[:12]

    alone = np.concatenate(await speak(stage, "a", CODES, streaming=False))
    monkeypatch.setattr(WholeSound, "advance", piece)
    monkeypatch.setattr(Runner, "render", chunk)
    monkeypatch.setattr("cadence.token2wav.worker.whole_piece", lambda num_streams: 2)
    request = SpeechRequest(request_id="b", voice="default", seed=1, streaming=True)
    whole, _ = await asyncio.gather(
        speak(stage, "a", CODES, streaming=False), anext(stage.generate(request, later()))
    )
    assert_same_sound(np.concatenate(whole), alone)
    assert turns.index("chunk") < len(turns) - 1 - turns[::-1].index("piece")


async def test_the_first_sound_comes_before_the_last_code(stage: LocalToken2Wav) -> None:
    more, enough = asyncio.Event(), ChunkSchedule().first + ChunkSchedule().lookahead

    async def codes() -> AsyncIterator[Sequence[int]]:
        yield CODES[:enough]
        await more.wait()
        yield CODES[enough:20]

    stream = stage.generate(SpeechRequest(request_id="a"), codes())
    first = await anext(stream)
    more.set()
    rest = [chunk async for chunk in stream]
    assert len(first.samples) + sum(len(chunk.samples) for chunk in rest) == 20 * CODE_SAMPLES


@pytest.mark.parametrize("codes_stall", [False, True])
async def test_a_listener_with_enough_to_play_waits_for_one_who_will_soon_run_dry(
    stage: LocalToken2Wav, monkeypatch: pytest.MonkeyPatch, codes_stall: bool
) -> None:
    """One far ahead of its listener has a chunk ready, a young one has not: the young one's comes first,
    unless its codes have stopped coming."""
    monkeypatch.setattr(session, "STALLED_S", 0.0 if codes_stall else 60.0)
    turns: list[int] = []
    render = Runner.render

    def noted(self: Runner, states: Any, chunks: Any, codes: Any) -> Any:
        turns.append(chunks[0].num_codes)
        return render(self, states, chunks, codes)

    monkeypatch.setattr(Runner, "render", noted)
    old_more, old_ready, young_more = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def old_codes() -> AsyncIterator[Sequence[int]]:
        yield CODES * 3  # much more than this test can take
        await old_more.wait()
        yield CODES[:40]
        old_ready.set()

    async def young_codes() -> AsyncIterator[Sequence[int]]:
        yield CODES[:8]
        await young_more.wait()
        yield CODES[8:13]

    async def listen(name: str, codes: AsyncIterator[Sequence[int]], at_least: int) -> None:
        stream, heard = stage.generate(SpeechRequest(request_id=name), codes), 0
        async for chunk in stream:
            heard += len(chunk.samples)
            if heard >= at_least:
                reached[name].set()

    reached = {"old": asyncio.Event(), "young": asyncio.Event()}
    old = asyncio.create_task(listen("old", old_codes(), 300 * CODE_SAMPLES))
    await reached["old"].wait()
    young = asyncio.create_task(listen("young", young_codes(), 1))
    await reached["young"].wait()
    turns.clear()
    old_more.set()
    await old_ready.wait()
    if codes_stall:
        await old
        assert 25 in turns
    else:
        await asyncio.sleep(0.05)
        assert turns == []  # a chunk of 25 is ready, and not rendered
    young_more.set()
    await asyncio.gather(old, young)
    assert codes_stall or (turns[:2] == [5, 3] and 25 in turns[2:])


# ------------------------------------------------------------------ isolation
@pytest.mark.parametrize("in_batches", [True, False])
async def test_streams_beside_each_other_sound_as_alone(
    stage: LocalToken2Wav, monkeypatch: pytest.MonkeyPatch, in_batches: bool
) -> None:
    monkeypatch.setattr(Runner, "gains_by_batches", in_batches)
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    jobs = [
        {
            "codes": rng.sample(CODES, rng.choice([3, 20, 40, 70])),
            "voice": rng.choice(["default_female", "default_male"]),
            "seed": index,
            "size": rng.randrange(1, 30),
            "streaming": index % 4 != 3,
        }
        for index in range(6)
    ]
    alone = [np.concatenate(await speak(stage, "alone", **job)) for job in jobs]
    together = await asyncio.gather(*(speak(stage, str(i), **job) for i, job in enumerate(jobs)))
    for found, expected in zip(together, alone, strict=True):
        assert_same_sound(np.concatenate(found), expected)


async def test_the_seed_makes_the_noise(stage: LocalToken2Wav) -> None:
    one, same, other = [np.concatenate(await speak(stage, "a", CODES[:20], seed=s)) for s in (7, 7, 8)]
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


# ------------------------------------------------------------------ ends
async def test_aborts_in_any_order_leave_nothing(stage: LocalToken2Wav) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    names = [str(i) for i in range(12)]
    tasks = {
        name: asyncio.create_task(
            speak(stage, name, CODES, size=rng.randrange(1, 40), streaming=rng.random() < 0.8)
        )
        for name in names
    }
    rng.shuffle(names)
    for name in names[:10]:
        await asyncio.sleep(rng.random() * 0.05)
        if rng.random() < 0.5:
            await stage.abort(name)
        else:
            tasks[name].cancel()
    ends = await asyncio.gather(*tasks.values(), return_exceptions=True)
    for end in ends:
        assert isinstance(end, list | RequestAborted | asyncio.CancelledError)
    for name in names[10:]:
        assert sum(map(len, tasks[name].result())) == len(CODES) * CODE_SAMPLES
    await stage.abort("unknown")


async def test_closing_the_iterator_ends_the_session(stage: LocalToken2Wav) -> None:
    stream = stage.generate(SpeechRequest(request_id="a"), feed(CODES))
    await anext(stream)
    assert (await stage.stats())["num_sessions"] == 1
    assert (await stage.stats())["session_bytes"] > 0
    await stream.aclose()


async def test_more_streams_than_slots_wait_their_turn(stage: LocalToken2Wav) -> None:
    tasks = [asyncio.create_task(speak(stage, str(i), CODES[:30])) for i in range(9)]
    await asyncio.sleep(0.01)
    stats = await stage.stats()
    assert stats["num_sessions"] <= 4
    for chunks in await asyncio.gather(*tasks):
        assert sum(map(len, chunks)) == 30 * CODE_SAMPLES


async def test_a_reader_that_sleeps_pauses_only_its_own_stream(stage: LocalToken2Wav) -> None:
    sleeper = stage.generate(SpeechRequest(request_id="sleeper"), feed(CODES * 3))
    await anext(sleeper)
    for index in range(3):
        await speak(stage, str(index), CODES[:40])
    rest = [chunk async for chunk in sleeper]
    assert len(rest) > 8


# ------------------------------------------------------------------ failures
async def test_unknown_voices_and_used_ids_are_refused(stage: LocalToken2Wav) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await speak(stage, "a", CODES, voice="nobody")
    assert caught.value.param == "voice"
    stream = stage.generate(SpeechRequest(request_id="a"), feed(CODES))
    await anext(stream)
    with pytest.raises(InvalidRequest):
        await speak(stage, "a", CODES)
    await stream.aclose()


async def test_foreign_codes_end_their_stream_alone(stage: LocalToken2Wav) -> None:
    good, bad, worse = await asyncio.gather(
        speak(stage, "good", CODES),
        speak(stage, "bad", [*CODES[:20], 6561, *CODES[:20]]),
        speak(stage, "worse", [-1]),
        return_exceptions=True,
    )
    assert isinstance(good, list) and sum(map(len, good)) == len(CODES) * CODE_SAMPLES
    assert isinstance(bad, StageFailed) and isinstance(worse, StageFailed)


async def test_a_source_that_breaks_ends_its_stream(stage: LocalToken2Wav) -> None:
    async def broken() -> AsyncIterator[Sequence[int]]:
        yield CODES[:10]
        raise OSError("gone")

    with pytest.raises(StageFailed) as caught:
        async for _ in stage.generate(SpeechRequest(request_id="a"), broken()):
            pass
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("part", ["flow", "vocoder"])
async def test_a_stream_at_fault_fails_alone(
    stage: LocalToken2Wav, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = stage._worker._runner
    target, name = (batch.sampler, "step") if part == "flow" else (batch.vocoder, "stream_batch")
    real, victim = getattr(target, name), SpeechRequest(request_id="victim", seed=5)
    expected = np.concatenate(await speak(stage, "alone", CODES, seed=2))

    def faulty(states: Sequence[object], *rest: object) -> object:
        session = stage._worker._active.get(victim.request_id)
        state = session.state if session else None
        if state is not None and getattr(state, part) in states:
            raise RuntimeError("out of luck")
        return real(states, *rest)

    monkeypatch.setattr(target, name, faulty)
    ends = await asyncio.gather(
        *(speak(stage, str(i), CODES, seed=2) for i in range(2)),
        speak(stage, victim.request_id, CODES, seed=5),
        return_exceptions=True,
    )
    assert isinstance(ends[2], StageFailed) and "luck" not in str(ends[2])
    for end in ends[:2]:
        assert isinstance(end, list)
        assert_same_sound(np.concatenate(end), expected)


async def test_closing_the_stage_ends_what_it_holds(tiny_checkpoint: Path) -> None:
    stage = LocalToken2Wav.load(tiny_checkpoint, CONFIG)
    forever = asyncio.Event()

    async def codes() -> AsyncIterator[Sequence[int]]:
        yield CODES[:30]
        await forever.wait()

    async def read() -> None:
        async for _ in stage.generate(SpeechRequest(request_id="a"), codes()):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    await stage.aclose()
    with pytest.raises(StageFailed):
        await task
    with pytest.raises(CadenceError):
        await speak(stage, "b", CODES)
    await stage.aclose()


def test_bad_configuration_is_refused_at_load(tiny_checkpoint: Path) -> None:
    for config in (
        Token2WavConfig(device="abacus"),
        Token2WavConfig(dtype="float99"),
        Token2WavConfig(schedule=ChunkSchedule(lookahead=1)),
        Token2WavConfig(default_voice="nobody"),
    ):
        with pytest.raises(ConfigError):
            LocalToken2Wav.load(tiny_checkpoint, config)


# ------------------------------------------------------------------ voices
async def test_a_voice_is_prepared_once_whatever_its_name(tiny_checkpoint: Path) -> None:
    stage = LocalToken2Wav.load(tiny_checkpoint, CONFIG)
    try:
        one = (await stage.stats())["voice_bytes"]
        await speak(stage, "a", CODES[:9], voice="default_female")  # the default by another name
        assert (await stage.stats())["voice_bytes"] == one > 0
        await speak(stage, "a", CODES[:9], voice="default_male")
        assert (await stage.stats())["voice_bytes"] > one
    finally:
        await stage.aclose()


async def test_prepared_voices_are_bounded_in_bytes(tiny_checkpoint: Path) -> None:
    stage = LocalToken2Wav.load(tiny_checkpoint, dataclasses.replace(CONFIG, voice_cache_bytes=1))
    try:
        for voice in ("default_male", "default_female", "default_male"):
            await speak(stage, "a", CODES[:9], voice=voice)
            assert len(stage._worker._voices._states) == (
                1 if voice == "default_female" else 2
            )  # the default stays
    finally:
        await stage.aclose()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
async def test_half_precision_sounds_alike_in_length(tiny_checkpoint: Path, dtype: str) -> None:
    stage = LocalToken2Wav.load(tiny_checkpoint, dataclasses.replace(CONFIG, dtype=dtype))
    try:
        for streaming in (True, False):
            sound = np.concatenate(await speak(stage, "a", CODES[:20], streaming=streaming))
            assert len(sound) == 20 * CODE_SAMPLES and np.isfinite(sound).all()
    finally:
        await stage.aclose()


@pytest.mark.parametrize(
    "wrong",
    [
        {"flow_weights": "int3"},
        {"flow_cache": "int8"},
        {"vocoder_weights": "int8"},
        {"flow_window_s": 0.1},
        {"flow_window_s": 31.0},
        {"flow_history_s": 4.0},
        {"flow_history_s": 101.0},
    ],
)
def test_options_of_the_flow_are_refused_by_name(tiny_checkpoint: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LocalToken2Wav.load(tiny_checkpoint, dataclasses.replace(CONFIG, **wrong))
