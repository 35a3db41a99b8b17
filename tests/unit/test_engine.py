"""The engine over fake stages: what it yields, refuses and cleans up."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from engine_kit import Kit, ask, assert_idle, collect, sound_of, text_of

from cadence.answers.plan import num_speech_ids
from cadence.config import EngineConfig
from cadence.engine import Engine
from cadence.errors import (
    CadenceError,
    DeadlineExceeded,
    InvalidRequest,
    NotReady,
    Overloaded,
    PromptTooLong,
    RequestAborted,
    StageFailed,
)
from cadence.prompt import PromptBuilder
from cadence.runtime.fake_stages import StageFault, tone
from cadence.types import (
    CODE_SAMPLES,
    AudioChunk,
    Done,
    Message,
    Request,
    SamplingParams,
    TextDelta,
    TextPart,
    VoiceSample,
)


@pytest.fixture(scope="session")
def kit(tiny_checkpoint: Path) -> Kit:
    return Kit(tiny_checkpoint)


async def test_text_answer_never_opens_token2wav(kit: Kit) -> None:
    codes = [kit.special.id_of(code) for code in range(20)]  # a model may sample them all the same
    engine, thinker, token2wav = kit.engine([*codes, *kit.text("Grüß dich, 世界")])
    events = await collect(engine, ask())
    done = events[-1]
    assert text_of(events) == "Grüß dich, 世界" and not sound_of(events).size
    assert isinstance(done, Done) and done.finish_reason == "stop"
    assert done.usage.completion_tokens == 20 + len(kit.text("Grüß dich, 世界"))
    assert token2wav.num_started == 0
    await assert_idle(engine, thinker, token2wav)


@pytest.mark.parametrize("async_chunk", [True, False])
async def test_speech_answer_has_transcript_and_exact_length(kit: Kit, async_chunk: bool) -> None:
    engine, *stages = kit.engine(kit.speech("hello there", 42), async_chunk=not async_chunk)
    request = ask(output="speech", sampling=SamplingParams(seed=7), async_chunk=async_chunk)
    events = await collect(engine, request)
    done = events[-1]
    assert text_of(events) == "hello there"
    assert np.array_equal(sound_of(events), tone("default", 7, 0, 42 * CODE_SAMPLES))
    assert sum(isinstance(event, AudioChunk) for event in events) == (9 if async_chunk else 1)
    assert isinstance(done, Done) and done.usage.completion_audio_tokens == 42
    assert done.timings.audio_s == pytest.approx(42 / 25) and done.timings.first_audio_s is not None
    await assert_idle(engine, *stages)


async def test_a_recording_takes_the_place_of_a_voice(kit: Kit) -> None:
    engine, thinker, token2wav = kit.engine(kit.speech("hello there", 42))
    sample = VoiceSample("a key", b"a recording")
    await engine.prepare_voice(sample)
    assert token2wav.prepared == {"a key"}
    request = ask(output="speech", voice="not of the checkpoint", voice_sample=sample)
    request = dataclasses.replace(request, sampling=SamplingParams(seed=7))
    assert np.array_equal(sound_of(await collect(engine, request)), tone("a key", 7, 0, 42 * CODE_SAMPLES))
    with pytest.raises(InvalidRequest):
        await collect(engine, dataclasses.replace(request, voice_sample=None))
    await engine.forget_voice("a key")
    assert token2wav.prepared == set()
    await assert_idle(engine, thinker, token2wav)


async def test_speech_without_codes_is_legal(kit: Kit) -> None:
    engine, _, token2wav = kit.engine([kit.special.tts_end, kit.special.eot])
    events = await collect(engine, ask(output="speech"))
    assert [type(event) for event in events] == [Done]
    assert token2wav.num_started == 0


async def test_seed_is_drawn_once_for_both_stages(kit: Kit) -> None:
    seen: list[int | None] = []

    def script(request: object) -> list[int]:
        seen.append(request.sampling.seed)  # type: ignore[attr-defined]
        return kit.speech("hi", 8)

    engine, *_ = kit.engine(script)
    first = await collect(engine, ask(output="speech"))
    await collect(engine, ask(output="speech"))
    assert seen[0] is not None and seen[0] != seen[1]
    assert np.array_equal(sound_of(first), tone("default", seen[0], 0, 8 * CODE_SAMPLES))


async def test_verbatim_forces_the_text_and_bounds_the_length(kit: Kit) -> None:
    seen = []

    def script(request: object) -> list[int]:
        seen.append(request)
        return kit.speech("read this", 8)

    engine, *_ = kit.engine(script)
    system = Message("system", (TextPart("Whisper."),))
    await collect(engine, Request(request_id="v", messages=(system,), output="speech", verbatim="read this"))
    ids = kit.tokenizer.encode("read this")
    assert seen[0].forced_text_ids == tuple(ids)
    assert seen[0].sampling.max_tokens == num_speech_ids(len(ids))
    assert kit.tokenizer.decode(seen[0].prompt.ids, skip_special=False) == (
        "<|BOT|>system\nWhisper.<|EOT|><|BOT|>human\nread this<|EOT|><|BOT|>assistant\n<tts_start>"
    )
    with pytest.raises(InvalidRequest):
        await collect(engine, Request(request_id="v", messages=(), output="speech", verbatim=""))
    endless = Message("system", (TextPart("x y " * 2000),))
    with pytest.raises(PromptTooLong):
        await collect(engine, Request(request_id="v", messages=(endless,), output="speech", verbatim="Hi."))


async def test_stop_strings_cut_across_steps_and_abort_the_thinker(kit: Kit) -> None:
    engine, *stages = kit.engine(kit.text("one two STOP three " * 50))
    events = await collect(engine, ask(sampling=SamplingParams(stop=("zz", "STOP"))))
    done = events[-1]
    assert text_of(events) == "one two "
    assert isinstance(done, Done) and (done.finish_reason, done.stop_match) == ("stop", "STOP")
    assert done.usage.completion_tokens < 40
    await assert_idle(engine, *stages)
    events = await collect(engine, ask(sampling=SamplingParams(stop=("STOPPED", "three one two STOP!"))))
    assert text_of(events) == "one two STOP three " * 50


async def test_max_tokens_and_context(kit: Kit) -> None:
    seen: list[int | None] = []

    def script(request: object) -> list[int]:
        seen.append(request.sampling.max_tokens)  # type: ignore[attr-defined]
        return kit.text("a b c d e f g")

    defaults = {"text": SamplingParams(max_tokens=90), "speech": SamplingParams()}
    engine, *_ = kit.engine(script, max_model_len=100, default_sampling=defaults)
    cut = (await collect(engine, ask(sampling=SamplingParams(max_tokens=3))))[-1]
    assert isinstance(cut, Done) and cut.finish_reason == "length"
    await collect(engine, ask())
    num_prompt = cut.usage.prompt_tokens
    assert seen == [3, 100 - num_prompt]
    with pytest.raises(PromptTooLong):
        await collect(engine, ask(sampling=SamplingParams(max_tokens=99)))
    await collect(engine, ask(sampling=SamplingParams(max_tokens=90)))  # the server's own limit yields
    assert seen[-1] == 100 - num_prompt or num_prompt <= 10
    with pytest.raises(PromptTooLong):
        await collect(engine, ask(text="word " * 200))


async def test_logprobs_pair_with_text(kit: Kit) -> None:
    engine, *_ = kit.engine(kit.text("hello 世界 bye"))
    events = await collect(engine, ask(sampling=SamplingParams(logprobs=1)))
    logprobs = [p for event in events if isinstance(event, TextDelta) for p in event.logprobs]
    assert [p.token_id for p in logprobs] == kit.tokenizer.encode("hello 世界 bye")
    assert logprobs[0].top == ((logprobs[0].token_id, logprobs[0].token, -0.5),)


async def test_refusals(kit: Kit) -> None:
    engine, *_ = kit.engine(kit.text("x"))
    with pytest.raises(InvalidRequest) as caught:
        await collect(engine, ask(output="speech", voice="alloy"))
    assert caught.value.code == "voice_not_found" and "default_male" in caught.value.message
    with pytest.raises(InvalidRequest):
        await collect(engine, ask(verbatim="said"))


async def test_a_server_without_token2wav_only_writes(kit: Kit) -> None:
    engine, thinker, _ = kit.engine(kit.text("fine"))
    mute = Engine(
        thinker,
        None,
        tokenizer=engine.tokenizer,
        prompt_builder=PromptBuilder(engine.tokenizer),
        info=dataclasses.replace(engine.info, can_speak=False, voices=()),
        config=EngineConfig(thinker_only=True),
        default_sampling=engine.default_sampling,
    )
    assert text_of(await collect(mute, ask())) == "fine"
    with pytest.raises(InvalidRequest) as caught:
        await collect(mute, ask(output="speech"))
    assert caught.value.code == "no_speech"
    assert "token2wav_num_sessions" not in await mute.stats()
    await mute.aclose()


async def test_queue_full_and_queue_timeout(kit: Kit) -> None:
    engine, *stages = kit.engine(
        kit.text("x"), thinker={"delay_s": 30}, max_running=1, max_waiting=1, max_queue_s=0.05
    )
    running = asyncio.create_task(collect(engine, ask("a")))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(collect(engine, ask("b")))
    await asyncio.sleep(0.01)
    assert engine.health().num_waiting == 1
    with pytest.raises(Overloaded) as caught:
        await collect(engine, ask("c"))
    assert caught.value.retry_after_s is not None and caught.value.retry_after_s >= 1
    with pytest.raises(InvalidRequest):
        await collect(engine, ask("a"))
    with pytest.raises(Overloaded):
        await waiting
    await engine.abort("a")
    with pytest.raises(RequestAborted):
        await running
    await assert_idle(engine, *stages)


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("stage", ["thinker", "token2wav"])
async def test_stage_errors_end_the_answer(kit: Kit, stage: str, after: int) -> None:
    secret = "the user's words"
    fault = {stage: {"fault": StageFault(after, ValueError(secret)), "delay_s": 0.0}}
    engine, *stages = kit.engine(kit.speech("hello there my friend", 60), **fault)
    with pytest.raises(StageFailed) as caught:
        await collect(engine, ask(output="speech"))
    assert secret not in caught.value.message
    await assert_idle(engine, *stages)


async def test_a_stage_that_only_fails_makes_the_engine_unhealthy(kit: Kit) -> None:
    engine, thinker, _ = kit.engine(kit.text("x"), thinker={"fault": StageFault(0, OSError())})
    for _ in range(5):
        assert engine.health().ready and engine.health().alive
        with pytest.raises(StageFailed):
            await collect(engine, ask())
    assert not engine.health().ready and not engine.health().alive
    thinker.fault = None
    await collect(engine, ask())
    assert engine.health().ready and engine.health().alive


async def test_unexpected_errors_hide_internals(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    def script(request: object) -> list[int]:
        raise ValueError(" ".join(["canary", "words"]))

    engine, *stages = kit.engine(script)
    with pytest.raises(CadenceError) as caught:
        await collect(engine, ask())
    assert "canary" not in caught.value.message and "canary words" not in caplog.text
    assert "ValueError" in caplog.text
    await assert_idle(engine, *stages)


@pytest.mark.parametrize(
    ("fault", "limits"),
    [
        ({"thinker": {"fault": StageFault(0)}}, {"first_output_s": 0.05}),
        ({"thinker": {"fault": StageFault(4)}}, {"stall_s": 0.05}),
        ({"token2wav": {"fault": StageFault(2)}}, {"stall_s": 0.05}),
        ({"thinker": {"delay_s": 0.02}}, {"deadline_s": 0.1}),
    ],
)
async def test_stalls_and_deadlines(kit: Kit, fault: dict, limits: dict) -> None:
    engine, *stages = kit.engine(kit.speech("hello there my friend", 80), **fault, **limits)
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(collect(engine, ask(output="speech")), 5)
    await assert_idle(engine, *stages)


async def test_a_slow_reader_is_not_a_stall(kit: Kit) -> None:
    engine, *stages = kit.engine(kit.speech("hello there my friend", 200), stall_s=0.05)
    events = []
    async for event in engine.generate(ask(output="speech")):
        if len(events) in (3, 5):
            await asyncio.sleep(0.15)
        events.append(event)
    assert sound_of(events).size == 200 * CODE_SAMPLES
    await assert_idle(engine, *stages)


async def test_backpressure_bounds_what_is_rendered_ahead(kit: Kit) -> None:
    engine, thinker, token2wav = kit.engine(kit.speech("hi", 2000))
    stream = engine.generate(ask(output="speech"))
    for _ in range(3):
        await anext(stream)
    await asyncio.sleep(0.1)
    answer = engine._answers["r"]
    assert answer.mailbox.num_events <= 16
    await stream.aclose()
    await assert_idle(engine, thinker, token2wav)


async def test_cleanup_survives_repeated_cancellation(kit: Kit) -> None:
    """Some frameworks cancel a handler again at every await of its clean-up."""
    engine, *stages = kit.engine(kit.speech("hello", 400), thinker={"delay_s": 0.005})
    reader = asyncio.create_task(collect(engine, ask(output="speech")))
    await asyncio.sleep(0.03)
    for _ in range(5):
        reader.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await reader
    await engine.drain(1)
    await assert_idle(engine, *stages)


async def test_drain_and_close(kit: Kit) -> None:
    engine, *_ = kit.engine(kit.text("a b c"), thinker={"delay_s": 0.01})
    running = asyncio.create_task(collect(engine, ask("a")))
    await asyncio.sleep(0.01)
    draining = asyncio.create_task(engine.drain(5))
    await asyncio.sleep(0)
    assert not engine.health().ready
    with pytest.raises(NotReady):
        await collect(engine, ask("b"))
    assert await draining and isinstance((await running)[-1], Done)
    engine, thinker, token2wav = kit.engine(kit.text("a"), thinker={"delay_s": 30})
    running = asyncio.create_task(collect(engine, ask("a")))
    await asyncio.sleep(0.01)
    assert not await engine.drain(0.01)
    await engine.aclose()
    with pytest.raises(NotReady):
        await running
    await assert_idle(engine, thinker, token2wav)


async def test_metrics_count_what_happened(kit: Kit) -> None:
    engine, *_ = kit.engine(kit.speech("hi", 25))
    await collect(engine, ask(output="speech"))
    with pytest.raises(InvalidRequest):
        await collect(engine, Request(request_id="q", messages=(), output="text"))
    with pytest.raises(InvalidRequest):
        await collect(engine, ask(output="speech", voice="nobody"))
    text = (await engine.render_metrics()).decode()
    assert 'vllm_omni:requests_success_total{finished_reason="stop",model_name="fake"} 1.0' in text
    assert 'vllm_omni:requests_failed_total{model_name="fake",reason="invalid_request"} 2.0' in text
    assert 'vllm_omni:speech_stream_completed_total{model_name="fake"} 1.0' in text
    assert 'cadence:audio_chunk_gap_s_count{model_name="fake"} 4.0' in text
    assert 'vllm_omni:audio_duration_s_sum{model_name="fake"} 1.0' in text
    assert 'cadence:thinker_kv_tokens_total{model_name="fake"} 1024.0' in text
