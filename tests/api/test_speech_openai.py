"""/v1/audio/speech as the official client uses it."""

from __future__ import annotations

import asyncio
import io
import wave
from pathlib import Path

import av
import numpy as np
import openai
import pytest

from cadence.audio.encode import MEDIA_TYPES
from cadence.errors import StageFailed
from cadence.fake import FakeFault
from cadence.types import SamplingParams

from .conftest import Live, until

HEADER_BYTES = 44


def decode(data: bytes) -> tuple[np.ndarray, int]:
    """Samples [S] of a mono file, in its own type, and the rate."""
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(audio=0))
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]), frames[0].sample_rate


async def test_whole_body(live: Live) -> None:
    async with live.openai() as client:
        answer = await client.audio.speech.create(model="fake", voice="default", input="Hello there.")
    assert answer.content[:4] == b"RIFF"
    assert len(answer.content) > HEADER_BYTES


async def test_to_file_is_a_playable_wav(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    async with live.openai() as client:
        create = client.audio.speech.with_streaming_response.create
        async with create(model="fake", voice="default", input="Hello there.") as answer:
            assert answer.headers["content-type"] == "audio/wav"
            assert answer.headers["x-sample-rate"] == "24000"
            assert "content-length" not in answer.headers
            await answer.stream_to_file(path)
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24000, 1, 2)


async def test_bytes_come_before_the_end(live: Live) -> None:
    live.engine.delay_s = 0.05
    async with live.openai() as client:
        create = client.audio.speech.with_streaming_response.create
        async with create(
            model="fake", voice="default", input="one two three four", response_format="pcm"
        ) as answer:
            first = await anext(answer.iter_bytes())
            assert live.engine.num_active == 1
            assert first
    await until(lambda: live.engine.num_active == 0)


async def test_streamed_and_whole_are_the_same_sound(live: Live) -> None:
    async with live.openai() as client:
        options = {"model": "fake", "voice": "default_male", "input": "The same.", "response_format": "pcm"}
        streamed = await client.audio.speech.create(**options)
        whole = await client.audio.speech.create(**options, extra_body={"stream": False})
    assert streamed.content == whole.content
    assert int(whole.response.headers["content-length"]) == len(whole.content)


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
async def test_formats_start_before_the_end_and_play(live: Live, name: str) -> None:
    live.engine.delay_s = 0.02
    options = {
        "model": "fake",
        "voice": "default",
        "input": "one two three four five",
        "response_format": name,
    }
    async with live.openai() as client:
        create = client.audio.speech.with_streaming_response.create
        async with create(**options) as answer:
            stream = answer.iter_bytes()
            data = await anext(stream)
            assert live.engine.num_active == 1, "the first bytes leave while the speech is being made"
            data += b"".join([chunk async for chunk in stream])
            assert answer.headers["content-type"] == MEDIA_TYPES[name]
        whole = await client.audio.speech.create(**options, extra_body={"stream": False})
    sound_s = 24 * 0.04  # the fake speaks a code for each character, at least 4 for a word
    if name == "pcm":
        assert data == whole.content
        return
    for file in (data, whole.content):
        samples, rate_hz = decode(file)
        assert samples.size / rate_hz == pytest.approx(sound_s, abs=1024 / 24_000)
    if name in ("wav", "flac"):
        assert np.array_equal(decode(data)[0], decode(whole.content)[0])


async def test_speed_and_sample_rate(live: Live) -> None:
    options = {"model": "fake", "voice": "default", "input": "one two three four", "response_format": "pcm"}
    async with live.openai() as client:
        plain = await client.audio.speech.create(**options)
        fast = await client.audio.speech.create(**options, speed=2.0, extra_body={"sample_rate": 48_000})
        slow = await client.audio.speech.create(**options, speed=0.25, extra_body={"sample_rate": 8_000})
    assert len(fast.content) == len(plain.content)  # half as long, twice the rate
    assert len(slow.content) == len(plain.content) * 4 // 3
    assert (fast.response.headers["x-sample-rate"], slow.response.headers["x-sample-rate"]) == (
        "48000",
        "8000",
    )


async def test_sync_client(live: Live) -> None:
    def call() -> bytes:
        with openai.OpenAI(base_url=f"{live.url}/v1", api_key="EMPTY", max_retries=0) as client:
            return client.audio.speech.create(
                model="fake", voice="default", input="Hi.", extra_body={"stream": False}
            ).content

    with wave.open(io.BytesIO(await asyncio.to_thread(call))) as file:
        assert file.getnframes() > 0


async def test_voice_object_and_openai_names(live: Live) -> None:
    async with live.openai() as client:
        for voice, expected in (
            ({"id": "default_male"}, "default_male"),
            ("alloy", "default_female"),
            ("onyx", "default_male"),
            ("DEFAULT", "default"),
        ):
            await client.audio.speech.create(model="fake", voice=voice, input="Hi.")  # type: ignore[arg-type]
            assert live.engine.requests[-1].voice == expected


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"voice": "nobody"}, "voice"),
        ({"input": " \n"}, "input"),
        ({"response_format": "midi"}, "response_format"),
        ({"speed": 4.5}, "speed"),
        ({"extra_body": {"ref_audio": "data:,"}}, "ref_audio"),
        ({"extra_body": {"no_such_field": 1}}, "no_such_field"),
        ({"extra_body": {"extra_params": {"top_p": 0.5}, "top_p": 0.6}}, "extra_params.top_p"),
    ],
)
async def test_refused_by_name(live: Live, options: dict[str, object], param: str) -> None:
    async with live.openai(max_retries=2) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.audio.speech.create(
                **{"model": "fake", "voice": "default", "input": "Hi.", **options}
            )
    assert caught.value.param == param
    assert live.engine.requests == []


async def test_unknown_model(live: Live) -> None:
    async with live.openai() as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.audio.speech.create(model="gpt-9", voice="default", input="Hi.")
    assert caught.value.code == "model_not_found"


async def test_typed_errors_of_the_server(live: Live) -> None:
    async with live.openai() as client:

        async def speak() -> None:
            await client.audio.speech.create(model="fake", voice="default", input="Hi.")

        live.engine.max_active = 0
        with pytest.raises(openai.RateLimitError) as full:
            await speak()
        assert int(full.value.response.headers["retry-after"]) >= 1
        live.engine.max_active, live.engine.ready = 64, False
        with pytest.raises(openai.InternalServerError) as not_ready:
            await speak()
        assert not_ready.value.status_code == 503
        assert "retry-after" in not_ready.value.response.headers
        live.engine.ready, live.engine.fault = True, FakeFault(0, StageFailed("The stage broke."))
        with pytest.raises(openai.InternalServerError, match=r"The stage broke\."):
            await speak()


async def test_failure_on_the_way_is_seen(live: Live) -> None:
    live.engine.fault = FakeFault(4, StageFailed("The stage broke."))
    async with live.openai() as client:
        with pytest.raises(Exception) as caught:
            await client.audio.speech.create(model="fake", voice="default", input="one two three")
    assert "incomplete" in str(caught.value) or isinstance(caught.value, openai.APIConnectionError)


async def test_cut_speech_is_seen(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"model": "fake", "voice": "default", "input": "one two three four"}
    async with live.openai() as client:
        own = await client.audio.speech.create(**options, extra_body={"max_new_tokens": 12})
        cut = {"speech": SamplingParams(max_tokens=12), "text": SamplingParams()}
        monkeypatch.setattr(live.engine, "_default_sampling", cut)
        with pytest.raises(Exception):  # noqa: B017 - as above
            await client.audio.speech.create(**options, extra_body={"verbatim": False})
        whole = await client.audio.speech.create(**options, extra_body={"verbatim": False, "stream": False})
    assert whole.response.headers["x-finish-reason"] == "length"
    async with live.http() as http:
        outcome = (await http.get(f"/v1/audio/speech/{own.response.headers['x-request-id']}")).json()
    assert (outcome["status"], outcome["finish_reason"]) == ("completed", "length")
