"""Answers with awkward numbers of speech codes, over the real vocoder: none hangs, each has its length."""

from __future__ import annotations

import asyncio
from pathlib import Path

from engine_kit import Kit, ask, collect, sound_of, text_of

from cadence.config import EngineConfig, Token2WavConfig
from cadence.engine import Engine
from cadence.prompt import PromptBuilder
from cadence.runtime.fake_stages import FakeThinker
from cadence.token2wav.local import LocalToken2Wav
from cadence.types import CODE_SAMPLES, Done, ModelInfo, SamplingParams, ThinkerRequest

COUNTS = (0, 1, 3, 8, 9, 25, 29)


async def test_every_number_of_codes_ends_with_its_length(tiny_checkpoint: Path) -> None:
    kit = Kit(tiny_checkpoint)

    def script(request: ThinkerRequest) -> list[int]:
        return kit.speech("hi", request.sampling.seed or 0)  # the seed says how many codes

    config = Token2WavConfig(threads=1, dtype="float32", num_steps=2)
    token2wav = await asyncio.to_thread(LocalToken2Wav.load, tiny_checkpoint, config)
    engine = Engine(
        FakeThinker(script),
        token2wav,
        tokenizer=kit.tokenizer,
        prompt_builder=PromptBuilder(kit.tokenizer),
        info=ModelInfo(model_id="m", max_model_len=4096, voices=await token2wav.voices()),
        config=EngineConfig(),
        default_sampling={"text": SamplingParams(), "speech": SamplingParams()},
    )
    try:
        requests = [
            ask(f"{n} {chunked}", output="speech", sampling=SamplingParams(seed=n), async_chunk=chunked)
            for n in COUNTS
            for chunked in (True, False)
        ]
        answers = await asyncio.wait_for(asyncio.gather(*(collect(engine, r) for r in requests)), 60)
        for request, events in zip(requests, answers, strict=True):
            assert sound_of(events).size == (request.sampling.seed or 0) * CODE_SAMPLES, request.request_id
            assert text_of(events) == "hi" and isinstance(events[-1], Done)
        assert (await token2wav.stats())["num_sessions"] == 0
    finally:
        await engine.aclose()
