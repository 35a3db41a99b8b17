"""/v1/audio/speech on the wire: headers, the three ways to send sound, and what is passed to the engine."""

from __future__ import annotations

import base64
import struct
from typing import Any

import httpx
import pytest

from cadence.config import ServerConfig
from cadence.errors import PromptTooLong, StageFailed
from cadence.fake import FakeEngine, FakeFault
from cadence.server.app import create_app
from cadence.types import ModelInfo, SamplingParams

from .sse import read_events

UNKNOWN_SIZE = 0xFFFFFFFF
HEADER_BYTES = 44


async def speak(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/v1/audio/speech", json={"input": "Hello you.", **fields})


def wav_sizes(data: bytes) -> tuple[int, int]:
    """The RIFF size and the data size of a header."""
    return struct.unpack_from("<I", data, 4)[0], struct.unpack_from("<I", data, 40)[0]


async def test_streamed_wav_has_open_sizes(client: httpx.AsyncClient) -> None:
    answer = await speak(client)
    assert wav_sizes(answer.content) == (UNKNOWN_SIZE, UNKNOWN_SIZE)
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-request-id"]


async def test_whole_wav_has_true_sizes_and_usage(client: httpx.AsyncClient) -> None:
    answer = await speak(client, stream=False)
    size = len(answer.content)
    assert wav_sizes(answer.content) == (size - 8, size - HEADER_BYTES)
    assert int(answer.headers["content-length"]) == size
    assert answer.headers["x-finish-reason"] == "stop"
    counts = {
        name: int(answer.headers[f"x-vllm-omni-{name}-tokens"]) for name in ("input", "output", "total")
    }
    assert counts["total"] == counts["input"] + counts["output"] > 0


@pytest.mark.parametrize(
    ("fields", "content_type"),
    [
        ({}, "audio/wav"),
        ({"response_format": "pcm"}, "audio/pcm"),
        ({"stream_format": "audio"}, "audio/wav"),
        ({"stream": True, "stream_format": "audio"}, "audio/wav"),
        ({"stream": False, "stream_format": "audio"}, "audio/wav"),
        ({"stream": True}, "text/event-stream; charset=utf-8"),
        ({"stream_format": "sse"}, "text/event-stream; charset=utf-8"),
    ],
)
async def test_ways_to_send(client: httpx.AsyncClient, fields: dict[str, Any], content_type: str) -> None:
    answer = await speak(client, **fields)
    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)


async def test_events_carry_the_same_file(client: httpx.AsyncClient) -> None:
    *deltas, (last, done) = read_events((await speak(client, stream=True)).text)
    sound = b"".join(base64.b64decode(data["audio"]) for _, data in deltas)
    assert sound == (await speak(client)).content
    assert {name for name, _ in deltas} == {"speech.audio.delta"}
    assert all(data["type"] == name and data["response_format"] == "wav" for name, data in deltas)
    assert last == done["type"] == "speech.audio.done"
    assert done["finish_reason"] == "stop"
    usage = done["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert set(usage["input_token_details"]) == {"text_tokens", "audio_tokens"}


async def test_events_end_with_the_error(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.fault = FakeFault(3, StageFailed("The stage broke."))
    name, data = read_events((await speak(client, stream=True)).text)[-1]
    assert name == data["type"] == "speech.audio.error"
    assert data["error"]["message"] == "The stage broke."
    assert (data["error"]["code"], data["error"]["action"]) == ("stage_failed", "discard")


async def test_error_before_the_first_sound_is_an_http_error(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.fault = FakeFault(1, StageFailed("The stage broke."))  # after some text, before any sound
    for fields in ({}, {"stream": True}, {"stream": False}):
        answer = await speak(client, **fields)
        assert answer.status_code == 500
        assert answer.text.startswith('{"error"')


async def test_no_sound_is_an_error(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert (await speak(client, max_new_tokens=4)).status_code == 400
    engine._default_sampling = {"speech": SamplingParams(max_tokens=1)}
    answer = await speak(client, verbatim=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_audio")


async def test_a_default_limit_does_not_cut_verbatim_speech(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine._default_sampling = {"speech": SamplingParams(max_tokens=1, top_k=5)}
    assert (await speak(client, seed=1)).status_code == 200
    assert engine.requests[-1].sampling == SamplingParams(seed=1, top_k=5)
    await speak(client, max_new_tokens=50)
    assert engine.requests[-1].sampling.max_tokens == 50


async def test_errors_of_the_engine_name_fields_of_this_route(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for engines, ours in (("messages", "input"), ("max_tokens", "max_new_tokens"), ("voice", "voice")):
        engine.fault = FakeFault(0, PromptTooLong("Too long.", param=engines))
        assert (await speak(client)).json()["error"]["param"] == ours


async def test_every_field_reaches_the_engine(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    sampling = {
        "temperature": 0.5,
        "top_p": 0.8,
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.4,
        "seed": 7,
    }
    fields = {"instructions": "Whisper.", "speaker": "default_male", "async_chunk": False}
    await speak(client, **sampling, **fields, max_new_tokens=500, extra_params={"top_p": 0.8})
    request = engine.requests[-1]
    assert request.sampling == SamplingParams(**sampling, max_tokens=500)
    assert (request.output, request.verbatim) == ("speech", "Hello you.")
    assert (request.voice, request.async_chunk) == ("default_male", False)
    [system] = request.messages
    assert (system.role, system.content[0]) == ("system", type(system.content[0])("Whisper."))


async def test_free_reading_is_a_prompt(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await speak(client, verbatim=False)
    request = engine.requests[-1]
    assert request.verbatim is None
    assert [message.role for message in request.messages] == ["system", "user"]


async def test_null_and_neutral_fields_ask_for_nothing(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    neutral = {
        "voice": None,
        "seed": None,
        "speed": 1,
        "sample_rate": 24000,
        "language": "Auto",
        "ref_audio": None,
        "word_timestamps": False,
        "extra_params": None,
    }
    assert (await speak(client, **neutral)).status_code == 200
    assert engine.requests[-1].sampling == SamplingParams()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": 5}, "input"),
        ({"input": "a" * 100_001}, "input"),
        ({"voice": {"id": "nobody"}}, "voice"),
        ({"voice": {"name": "x"}}, "voice.id"),
        ({"voice": "default", "speaker": "default_male"}, "voice"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"seed": 2**63}, "seed"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"extra_params": {"top_q": 1}}, "extra_params.top_q"),
        ({"extra_params": {"seed": "x"}}, "extra_params.seed"),
        ({"speed": True}, "speed"),
        ({"speed": 0.2}, "speed"),
        ({"sample_rate": 7999}, "sample_rate"),
        ({"sample_rate": 48001}, "sample_rate"),
        ({"sample_rate": 40000, "response_format": "mp3"}, "sample_rate"),
        ({"word_timestamps": True, "stream_format": "audio"}, "word_timestamps"),
        ({"word_timestamps": "yes"}, "word_timestamps"),
        ({"input": "😀 🎉", "normalization_options": {"emoji": True}}, "input"),
        (
            {"normalization_options": {"phone_normalization": True}},
            "normalization_options.phone_normalization",
        ),
        ({"stream": "yes"}, "stream"),
        ({"stream": False, "stream_format": "sse"}, "stream_format"),
        ({"stream_format": "ws"}, "stream_format"),
        ({"verbatim": 1}, "verbatim"),
    ],
)
async def test_refused_by_name(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any], param: str
) -> None:
    answer = await speak(client, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert answer.headers["x-should-retry"] == "false"
    assert engine.requests == []


async def test_a_server_that_cannot_speak() -> None:
    info = ModelInfo(model_id="mute", max_model_len=100, voices=(), can_speak=False)
    transport = httpx.ASGITransport(create_app(FakeEngine(info=info), ServerConfig()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await speak(client)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_speech")


async def test_voices_are_listed_default_first(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    listed = (await client.get("/v1/audio/voices")).json()
    assert [voice["id"] for voice in listed["voices"]] == list(engine.info.voices)
    assert listed["uploaded_voices"] == []
