"""/v1/chat/completions as the official client uses it."""

from __future__ import annotations

import asyncio
import base64
import io
import wave
from typing import Any

import numpy as np
import openai
import pytest

from cadence.audio.encode import encode_wav
from cadence.errors import StageFailed
from cadence.fake import FakeFault

from .conftest import Live

ASK = [{"role": "user", "content": "How are you?"}]
SPOKEN = {"modalities": ["text", "audio"], "audio": {"voice": "default_male", "format": "wav"}}


def recording(seconds: float) -> str:
    """A WAV file in base64."""
    samples = np.sin(np.arange(int(16_000 * seconds), dtype=np.float32) / 10)
    return base64.b64encode(encode_wav(samples, 16_000)).decode()


async def chat(live: Live, **options: Any) -> Any:
    async with live.openai() as client:
        return await client.chat.completions.create(**{"model": "fake", "messages": ASK, **options})


async def chunks(live: Live, **options: Any) -> list[Any]:
    async with live.openai() as client:
        stream = await client.chat.completions.create(
            **{"model": "fake", "messages": ASK, "stream": True, **options}
        )
        return [chunk async for chunk in stream]


async def test_text(live: Live) -> None:
    answer = await chat(live)
    [choice] = answer.choices
    assert choice.message.content == "You said: How are you?"
    assert choice.message.audio is None
    assert choice.finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model == "fake"


async def test_input_audio_is_heard(live: Live) -> None:
    part = {"type": "input_audio", "input_audio": {"data": recording(1.5), "format": "wav"}}
    answer = await chat(live, messages=[{"role": "user", "content": [part, part]}])
    assert answer.choices[0].message.content == "I heard 3.00 seconds of audio."
    assert answer.usage.prompt_tokens_details.audio_tokens == 37


async def test_spoken_answer(live: Live) -> None:
    answer = await chat(live, **SPOKEN)
    message = answer.choices[0].message
    assert message.content is None
    assert message.audio.transcript == "You said: How are you?"
    assert message.audio.id.startswith("audio_")
    with wave.open(io.BytesIO(base64.b64decode(message.audio.data))) as file:
        assert file.getframerate() == 24_000
    assert answer.usage.completion_tokens_details.audio_tokens > 0
    assert live.engine.requests[-1].voice == "default_male"


async def test_streamed_text(live: Live) -> None:
    got = await chunks(live, stream_options={"include_usage": True})
    assert got[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in got if c.choices) == "You said: How are you?"
    assert [c.choices[0].finish_reason for c in got if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert got[-1].choices == [] and got[-1].usage.completion_tokens == 5
    assert all(c.usage is None for c in got[:-1])
    assert len({c.id for c in got}) == 1


async def test_streamed_speech(live: Live) -> None:
    got = await chunks(live, modalities=["text", "audio"], audio={"voice": "default", "format": "pcm16"})
    audios = [c.choices[0].delta.audio for c in got if getattr(c.choices[0].delta, "audio", None)]
    assert len({audio.id for audio in audios}) == 1
    assert "".join(audio.transcript or "" for audio in audios) == "You said: How are you?"
    sound = b"".join(base64.b64decode(audio.data or "") for audio in audios)
    assert len(sound) > 0 and len(sound) % (2 * 960) == 0
    assert isinstance(audios[-1].expires_at, int)
    assert all(c.choices[0].delta.content is None for c in got)
    assert [c.choices[0].finish_reason for c in got].count("stop") == 1


async def test_streamed_and_whole_say_the_same(live: Live) -> None:
    whole = await chat(live, modalities=["audio"], audio={"voice": "default", "format": "pcm16"}, seed=3)
    got = await chunks(live, modalities=["audio"], audio={"voice": "default", "format": "pcm16"}, seed=3)
    audios = [c.choices[0].delta.audio for c in got if getattr(c.choices[0].delta, "audio", None)]
    sound = b"".join(base64.b64decode(audio.data or "") for audio in audios)
    assert sound == base64.b64decode(whole.choices[0].message.audio.data)


async def test_several_answers(live: Live) -> None:
    answer = await chat(live, n=3, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert sorted(request.sampling.seed for request in live.engine.requests) == [5, 6, 7]
    assert len({request.request_id for request in live.engine.requests}) == 3
    one = await chat(live, n=1)
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens
    assert answer.usage.completion_tokens == 3 * one.usage.completion_tokens


async def test_several_streamed_answers(live: Live) -> None:
    got = await chunks(live, n=8, stream_options={"include_usage": True})
    for index in range(8):
        mine = [c.choices[0] for c in got if c.choices and c.choices[0].index == index]
        assert "".join(choice.delta.content or "" for choice in mine) == "You said: How are you?"
        assert [choice.finish_reason for choice in mine if choice.finish_reason] == ["stop"]


async def test_one_of_several_fails(live: Live) -> None:
    live.engine.fault = lambda r: FakeFault(1, StageFailed("No.")) if r.request_id.endswith("-1") else None
    with pytest.raises(openai.InternalServerError, match=r"No\."):
        await chat(live, n=3)
    with pytest.raises(openai.APIError, match=r"No\."):
        await chunks(live, n=3)


async def test_logprobs(live: Live) -> None:
    content = (await chat(live, logprobs=True, top_logprobs=3)).choices[0].logprobs.content
    assert "".join(token.token for token in content) == "You said: How are you?"
    assert [len(token.top_logprobs) for token in content] == [3] * 5
    assert bytes(content[0].bytes).decode() == content[0].token
    got = await chunks(live, logprobs=True)
    tokens = [t for c in got if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert [token.token for token in tokens] == [token.token for token in content]


async def test_length_and_stop(live: Live) -> None:
    assert (await chat(live, max_tokens=2)).choices[0].finish_reason == "length"
    assert (await chat(live, max_completion_tokens=2)).choices[0].message.content == "You said:"
    stopped = (await chat(live, stop=["How"])).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("You said: ", "stop")


async def test_error_on_the_way(live: Live) -> None:
    live.engine.fault = FakeFault(2, StageFailed("The stage broke."))
    async with live.openai() as client:
        stream = await client.chat.completions.create(model="fake", messages=ASK, stream=True)  # type: ignore[arg-type]
        with pytest.raises(openai.APIError, match=r"The stage broke\."):
            async for _ in stream:
                pass


async def test_typed_errors(live: Live) -> None:
    with pytest.raises(openai.NotFoundError):
        await chat(live, model="gpt-9")
    with pytest.raises(openai.BadRequestError):
        await chat(live, temperature=3)
    live.engine.max_active = 1
    with pytest.raises(openai.RateLimitError):
        await chat(live, n=2)
    live.engine.ready = False
    with pytest.raises(openai.InternalServerError):
        await chunks(live)


async def test_history_and_roles(live: Live) -> None:
    first = (await chat(live)).choices[0].message
    messages = [
        {"role": "developer", "content": "Be brief."},
        *ASK,
        first.model_dump(),
        {"role": "human", "content": "And you?"},
    ]
    await chat(live, messages=messages)
    heard = live.engine.requests[-1].messages
    assert [message.role for message in heard] == ["system", "user", "assistant", "user"]
    assert heard[2].content[0].text == "You said: How are you?"  # type: ignore[union-attr]


async def test_models(live: Live) -> None:
    async with live.openai() as client:
        [model] = (await client.models.list()).data
        assert (await client.models.retrieve("fake")).id == model.id == "fake"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("stepfun-ai/none")


async def test_sync_client_streams(live: Live) -> None:
    def call() -> str:
        with openai.OpenAI(base_url=f"{live.url}/v1", api_key="EMPTY") as client:
            stream = client.chat.completions.create(model="fake", messages=ASK, stream=True)  # type: ignore[arg-type]
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert await asyncio.to_thread(call) == "You said: How are you?"
