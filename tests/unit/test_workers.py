"""Stages in child processes: the same behaviour across the border, and what happens when one dies."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import psutil
import pytest

from cadence.errors import InternalError, InvalidRequest, NotReady, RequestAborted, StageFailed
from cadence.runtime.client import ThinkerClient, Token2WavClient
from cadence.runtime.fake_stages import tone
from cadence.runtime.launch import start_stages
from cadence.runtime.stages import StageSpec
from cadence.runtime.supervisor import Supervisor, SupervisorPolicy, backoff_s
from cadence.runtime.wire import (
    FrameReader,
    decode_output,
    decode_request,
    encode_output,
    encode_request,
    pack,
    unpack,
)
from cadence.types import (
    CODE_SAMPLES,
    AudioChunk,
    AudioSpan,
    Prompt,
    SamplingParams,
    SpeechRequest,
    StepOutput,
    ThinkerRequest,
)

QUICK = SupervisorPolicy(tick_s=0.05, silent_s=1.0, frozen_s=2.0, first_backoff_s=0.05, stop_s=3)


def thinker_spec(**config: Any) -> StageSpec:
    return StageSpec("fake_thinker", "", config)


def request(request_id: str = "r", **fields: Any) -> ThinkerRequest:
    fields.setdefault("sampling", SamplingParams(max_tokens=1000))
    return ThinkerRequest(request_id=request_id, prompt=Prompt(ids=(1, 2)), **fields)


async def codes_of(*batches: Sequence[int]) -> AsyncIterator[Sequence[int]]:
    for batch in batches:
        await asyncio.sleep(0)
        yield batch


async def until(condition: Any, timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - a condition in another process
            await asyncio.sleep(0.02)


def test_everything_that_crosses_the_border_comes_back_the_same() -> None:
    mel = np.random.default_rng(0).standard_normal((128, 7)).astype(np.float32)
    wanted = ThinkerRequest(
        request_id="r",
        prompt=Prompt(ids=(1, 2, 3), spans=(AudioSpan(1, 2),), mels=(mel,)),
        sampling=SamplingParams(
            stop=("a", "b"), stop_token_ids=(4,), logit_bias={5: -1.5}, seed=(1 << 62) - 1, max_tokens=9
        ),
        forced_text_ids=(7, 8),
    )
    got = decode_request(unpack(pack({"t": "x", "v": encode_request(wanted)})[4:])["v"])
    assert isinstance(got, ThinkerRequest)
    assert np.array_equal(got.prompt.mels[0], mel) and got.prompt.mels[0].dtype == np.float32
    assert (got.prompt.ids, got.prompt.spans) == (wanted.prompt.ids, wanted.prompt.spans)
    assert (got.sampling, got.forced_text_ids) == (wanted.sampling, wanted.forced_text_ids)
    speech = SpeechRequest(request_id="s", voice="v", seed=3, streaming=False)
    assert decode_request(encode_request(speech)) == speech
    step = StepOutput((1, 2), "stop", 2, ((-0.5, ((1, -0.5), (2, -1.0))), (-0.1, ())))
    assert decode_output(unpack(pack({"t": "x", "v": encode_output(step)})[4:])["v"]) == step
    chunk = decode_output(unpack(pack({"t": "x", "v": encode_output(AudioChunk(mel[0]))})[4:])["v"])
    assert isinstance(chunk, AudioChunk) and np.array_equal(chunk.samples, mel[0])


async def test_broken_frames_are_one_clear_error() -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    dice = random.Random(seed)
    whole = pack({"t": "out", "value": {"samples": np.zeros(3, np.float32)}, "ids": [1, 2], "x": None})
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        reader = asyncio.StreamReader()
        reader.feed_data(bytes(data[: dice.randrange(len(data) + 1)]))
        reader.feed_eof()
        with contextlib.suppress(StageFailed):
            frame = await FrameReader(reader).next()
            assert frame is None or "t" in frame


def test_backoff_grows_to_a_bound() -> None:
    policy = SupervisorPolicy()
    pauses = [backoff_s(n, policy) for n in range(1, 100)]
    assert pauses == sorted(pauses) and pauses[0] == 0.25 and pauses[-1] == 30


async def test_thinker_streams_aborts_and_recovers_from_a_kill() -> None:
    supervisor = Supervisor(thinker_spec(script=list(range(200)), delay_s=0.01), policy=QUICK)
    thinker = ThinkerClient(supervisor)
    await supervisor.start()
    try:
        # many at once, one of them closed early, one aborted across the border
        early = thinker.generate(request("early"))
        assert (await anext(early)).ids == (0,)
        aborted = asyncio.create_task(_ids(thinker, "aborted"))
        whole = asyncio.create_task(_ids(thinker, "whole"))
        await asyncio.sleep(0.1)
        await early.aclose()  # type: ignore[attr-defined]
        await thinker.abort("aborted")
        with pytest.raises(RequestAborted):
            await aborted
        assert await whole == list(range(200))
        await asyncio.sleep(1.1)  # a beat or two later the gauges say so
        assert (await thinker.stats())["num_running"] == 0

        held = asyncio.create_task(_ids(thinker, "held"))
        await asyncio.sleep(0.1)
        first_pid = supervisor.pid
        os.kill(first_pid, signal.SIGKILL)
        with pytest.raises(StageFailed):
            await asyncio.wait_for(held, 1)
        assert supervisor.status().down
        with pytest.raises(NotReady) as caught:
            await _ids(thinker, "refused")
        assert caught.value.retry_after_s is not None
        await until(lambda: supervisor.status().state == "ready")
        assert supervisor.pid != first_pid and supervisor.num_restarts == 1
        assert await _ids(thinker, "again") == list(range(200))
    finally:
        await thinker.aclose()
    assert not psutil.pid_exists(supervisor.pid)


async def _ids(thinker: ThinkerClient, request_id: str) -> list[int]:
    return [token for step in [s async for s in thinker.generate(request(request_id))] for token in step.ids]


async def test_token2wav_streams_and_a_frozen_process_is_replaced() -> None:
    supervisor = Supervisor(StageSpec("fake_token2wav", "", {}), policy=QUICK)
    token2wav = Token2WavClient(supervisor)
    await supervisor.start()
    try:
        assert await token2wav.voices() == ("default", "default_female", "default_male")
        speech = SpeechRequest(request_id="s", seed=3)
        chunks = [c async for c in token2wav.generate(speech, codes_of([1, 2, 3], range(40), []))]
        sound = np.concatenate([chunk.samples for chunk in chunks])
        assert len(chunks) == 9 and np.array_equal(sound, tone("default", 3, 0, 43 * CODE_SAMPLES))
        assert not [c async for c in token2wav.generate(speech, codes_of())]
        with pytest.raises(InvalidRequest) as caught:
            unknown = SpeechRequest(request_id="u", voice="nobody")
            [c async for c in token2wav.generate(unknown, codes_of([1]))]
        assert caught.value.code == "voice_not_found"

        waiting: asyncio.Event = asyncio.Event()

        async def endless() -> AsyncIterator[Sequence[int]]:
            yield [1]
            await waiting.wait()

        held = asyncio.create_task(_drain(token2wav, endless()))
        await asyncio.sleep(0.1)
        frozen = supervisor.pid
        os.kill(frozen, signal.SIGSTOP)
        await until(lambda: supervisor.status().state == "unresponsive")
        with pytest.raises(StageFailed):
            await asyncio.wait_for(held, 10)
        await until(lambda: supervisor.status().state == "ready")
        assert not psutil.pid_exists(frozen)
    finally:
        await token2wav.aclose()


async def _drain(token2wav: Token2WavClient, codes: AsyncIterator[Sequence[int]]) -> None:
    async for _ in token2wav.generate(SpeechRequest(request_id="h"), codes):
        pass


@pytest.mark.parametrize("fault", [{"hang_after": 3}, {"fail_after": 0}])
async def test_a_stage_that_hangs_or_only_fails_is_started_anew(fault: dict[str, int]) -> None:
    policy = dataclasses.replace(QUICK, hung_s=0.7)
    supervisor = Supervisor(thinker_spec(script=list(range(9)), **fault), policy=policy)
    thinker = ThinkerClient(supervisor)
    await supervisor.start()
    try:
        for _ in range(3 if "fail_after" in fault else 1):
            with pytest.raises(StageFailed) as caught:
                await asyncio.wait_for(_ids(thinker, "r"), 10)
            assert "as asked" not in caught.value.message
        await until(lambda: supervisor.num_restarts == 1 and supervisor.status().state == "ready")
    finally:
        await thinker.aclose()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_to_the_whole_service_leave_the_stage_to_the_engine(number: signal.Signals) -> None:
    supervisor = Supervisor(thinker_spec(script=list(range(30)), delay_s=0.01), policy=QUICK)
    thinker = ThinkerClient(supervisor)
    await supervisor.start()
    try:
        held = asyncio.create_task(_ids(thinker, "held"))
        await asyncio.sleep(0.1)
        os.kill(supervisor.pid, number)
        assert await held == list(range(30))
        assert await _ids(thinker, "next") == list(range(30))
        assert supervisor.num_restarts == 0
    finally:
        await thinker.aclose()


async def test_a_stage_that_cannot_load_is_a_clear_error() -> None:
    said: list[str] = []
    spec = thinker_spec(no_such_option=1)
    supervisor = Supervisor(spec, progress=lambda text, share: said.append(text), policy=QUICK)
    with pytest.raises(Exception) as caught:
        await supervisor.start()
    assert "no_such_option" not in str(caught.value)
    assert said and supervisor.status().state == "failed"
    assert not psutil.pid_exists(supervisor.pid)


async def test_one_stage_that_fails_stops_the_other() -> None:
    specs = [thinker_spec(script=[1]), StageSpec("fake_token2wav", "", {"no_such_option": 1})]
    before = set(psutil.Process().children())
    with pytest.raises(InternalError):
        await start_stages(specs, in_process=False, progress=lambda text, fraction: None)
    assert set(psutil.Process().children()) == before


def test_the_child_ends_with_its_parent() -> None:
    program = """
        import asyncio
        from cadence.runtime.stages import StageSpec
        from cadence.runtime.supervisor import Supervisor

        async def main():
            supervisor = Supervisor(StageSpec("fake_thinker", "", {"script": [1]}))
            await supervisor.start()
            print(supervisor.pid, flush=True)
            await asyncio.sleep(60)

        asyncio.run(main())
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    child.wait(10)
