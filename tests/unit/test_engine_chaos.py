"""Random traffic over fake stages: every answer ends exactly once and nothing stays behind."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from engine_kit import Kit, ask, assert_idle, sound_of, text_of

from cadence.engine import Engine
from cadence.errors import CadenceError
from cadence.types import CODE_SAMPLES, Done, Event, SamplingParams, ThinkerRequest

NUM_REQUESTS = 200


@pytest.fixture(scope="session")
def kit(tiny_checkpoint: Path) -> Kit:
    return Kit(tiny_checkpoint)


async def run_one(engine: Engine, number: int, seed: int, ends: dict[int, list[str]]) -> list[Event]:
    """One client: reads to the end, or leaves, cancels or aborts at a random moment."""
    dice = random.Random(f"{seed} {number}")
    await asyncio.sleep(dice.random() * 0.2)
    output = dice.choice(["text", "speech"])
    request = ask(str(number), output=output, sampling=SamplingParams(seed=number))  # type: ignore[arg-type]
    fate = dice.choice(["read", "read", "leave", "cancel", "abort"])
    stop_at = dice.randrange(12)
    events: list[Event] = []

    async def read() -> None:
        try:
            async for event in engine.generate(request):
                events.append(event)
                if isinstance(event, Done):
                    ends[number].append("done")
                if fate == "leave" and len(events) == stop_at:
                    ends[number].append("left")
                    break
                if dice.random() < 0.05:
                    await asyncio.sleep(0.01)
        except CadenceError as error:
            ends[number].append(type(error).__name__)
        except asyncio.CancelledError:
            if "done" not in ends[number]:  # else it was this reader that dawdled after its end
                ends[number].append("cancelled")
            raise

    reader = asyncio.create_task(read())
    if fate in ("cancel", "abort"):
        await asyncio.sleep(dice.random() * 0.1)
        if fate == "cancel":
            reader.cancel()
        else:
            await engine.abort(str(number))
    await asyncio.wait({reader})
    return events


async def test_every_answer_ends_exactly_once(kit: Kit) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")

    def script(request: ThinkerRequest) -> list[int]:
        dice = random.Random(request.sampling.seed)
        kind = dice.randrange(4)
        if kind == 0:
            return [kit.special.eot]
        if kind == 1:
            return kit.text(f"number {request.sampling.seed}")
        return kit.speech(f"number {request.sampling.seed}", dice.choice([0, 1, 4, 25, 29, 100]))

    engine, thinker, token2wav = kit.engine(
        script, thinker={"delay_s": 0.001}, max_running=8, max_waiting=NUM_REQUESTS
    )
    before = len(asyncio.all_tasks())
    ends: dict[int, list[str]] = {number: [] for number in range(NUM_REQUESTS)}
    answers = await asyncio.gather(*(run_one(engine, n, seed, ends) for n in range(NUM_REQUESTS)))
    assert await engine.drain(5)
    for number, events in enumerate(answers):
        told = [end for end in ends[number] if end != "left"]
        assert len(told) <= 1 and len(ends[number]) >= 1, (number, ends[number])
        if told == ["done"]:
            done = events[-1]
            assert isinstance(done, Done)
            assert text_of(events) in ("", f"number {number}")
            if sound_of(events).size:
                assert sound_of(events).size == done.usage.completion_audio_tokens * CODE_SAMPLES
    await assert_idle(engine, thinker, token2wav)
    assert len(asyncio.all_tasks()) <= before
