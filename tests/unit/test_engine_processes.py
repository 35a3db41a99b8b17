"""The engine over stages in child processes: random traffic, with one process killed in the middle."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from engine_kit import Kit, ask, collect, sound_of, text_of

from cadence.config import EngineConfig
from cadence.engine import Engine
from cadence.errors import CadenceError, NotReady, RequestAborted, StageFailed
from cadence.prompt import PromptBuilder
from cadence.runtime.client import ThinkerClient, Token2WavClient
from cadence.runtime.stages import StageSpec
from cadence.runtime.supervisor import Supervisor, SupervisorPolicy
from cadence.types import CODE_SAMPLES, Done, ModelInfo, SamplingParams

NUM_CODES = 42
POLICY = SupervisorPolicy(tick_s=0.05, first_backoff_s=0.05, stop_s=3)


@asynccontextmanager
async def supervised(root: Path) -> AsyncIterator[tuple[Engine, Supervisor, Supervisor]]:
    kit = Kit(root)
    script = kit.speech("hello there", NUM_CODES)
    brain = Supervisor(StageSpec("fake_thinker", "", {"script": script, "delay_s": 0.002}), policy=POLICY)
    voice = Supervisor(StageSpec("fake_token2wav", "", {}), policy=POLICY)
    await asyncio.gather(brain.start(), voice.start())
    engine = Engine(
        ThinkerClient(brain),
        Token2WavClient(voice),
        tokenizer=kit.tokenizer,
        prompt_builder=PromptBuilder(kit.tokenizer),
        info=ModelInfo(model_id="fake", max_model_len=4096, voices=voice.voices),
        config=EngineConfig(max_running=16, max_waiting=200),
        default_sampling={"text": SamplingParams(), "speech": SamplingParams()},
        monitors={"thinker": brain.status, "token2wav": voice.status},
    )
    try:
        yield engine, brain, voice
    finally:
        await engine.aclose()


async def client(engine: Engine, number: int, seed: int) -> str:
    """One client with a fate of its own; returns how its answer ended."""
    dice = random.Random(f"{seed} {number}")
    await asyncio.sleep(dice.random())
    output = dice.choice(["text", "speech"])
    fate = dice.choice(["read", "read", "leave", "cancel", "abort"])
    request = ask(str(number), output=output)

    async def read() -> str:
        seen = 0
        try:
            async for event in engine.generate(request):
                seen += 1
                if isinstance(event, Done):
                    return "done"
                if fate == "leave" and seen > 3:
                    return "left"
        except CadenceError as error:
            return type(error).__name__
        return "no end"

    reader = asyncio.create_task(read())
    if fate in ("cancel", "abort"):
        await asyncio.sleep(dice.random() * 0.2)
        if fate == "abort":
            await engine.abort(str(number))
        else:
            reader.cancel()
    try:
        return await reader
    except asyncio.CancelledError:
        return "cancelled"


async def test_random_traffic_with_a_kill_in_the_middle(tiny_checkpoint: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    async with supervised(tiny_checkpoint) as (engine, _, voice):
        crowd = [asyncio.create_task(client(engine, number, seed)) for number in range(60)]
        await asyncio.sleep(0.5)
        assert voice.pid is not None
        os.kill(voice.pid, signal.SIGKILL)
        ends = await asyncio.wait_for(asyncio.gather(*crowd), 30)
        legal = {
            "done",
            "left",
            "cancelled",
            RequestAborted.__name__,
            StageFailed.__name__,
            NotReady.__name__,
        }
        assert set(ends) <= legal, ends
        assert "done" in ends

        # what is written goes on without the vocoder, and speech comes back by itself
        assert text_of(await collect(engine, ask("after"))) == "hello there"
        async with asyncio.timeout(20):
            while not engine.health().ready:  # noqa: ASYNC110 - a condition in another process
                await asyncio.sleep(0.02)
        events = await collect(engine, ask("spoken", output="speech"))
        assert sound_of(events).size == NUM_CODES * CODE_SAMPLES

        await asyncio.sleep(1.2)  # gauges come with the beat
        stats = await engine.stats()
        for gauge in ("num_answers", "thinker_num_running", "token2wav_num_sessions"):
            assert stats[gauge] == 0, gauge
        assert stats["token2wav_num_restarts"] == 1


async def test_a_request_for_a_dead_stage_is_refused_at_once(tiny_checkpoint: Path) -> None:
    async with supervised(tiny_checkpoint) as (engine, brain, _):
        assert brain.pid is not None
        os.kill(brain.pid, signal.SIGKILL)
        await asyncio.sleep(0.15)
        health = engine.health()
        assert not health.ready and health.alive and "restarting" in health.detail
        with pytest.raises(NotReady) as caught:
            await collect(engine, ask())
        assert caught.value.retry_after_s is not None and caught.value.retry_after_s >= 1
