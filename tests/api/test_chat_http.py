"""/v1/chat/completions on the wire: what asks for speech, how it is written, what is refused."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from cadence.fake import FakeEngine
from cadence.types import SamplingParams, TextPart

from .sse import read_events

ASK = {"role": "user", "content": "Hi you."}
SAID = {"role": "assistant", "content": "Well,"}
TOOL = {"type": "function", "function": {"name": "f"}}
MARKED = {"role": "user", "content": "Hi you.<tts_start>"}


async def chat(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json={"messages": [ASK], **fields})


@pytest.mark.parametrize(
    ("fields", "output", "has_content"),
    [
        ({}, "text", True),
        ({"modalities": ["text"]}, "text", True),
        ({"modalities": ["text", "audio"]}, "speech", False),
        ({"modalities": ["audio"]}, "speech", False),
        ({"audio": {"voice": "default"}}, "speech", True),
        ({"tts_output": True}, "speech", True),
        ({"messages": [MARKED], "tts_output": False}, "text", True),
        ({"messages": [ASK, {"role": "assistant", "content": "<tts_start>", "eot": False}]}, "speech", True),
        ({"messages": [MARKED]}, "speech", True),
        ({"messages": [MARKED], "modalities": ["text"]}, "text", True),
        ({"messages": [MARKED], "modalities": ["text", "audio"]}, "speech", False),
        ({"messages": [ASK, {"role": "assistant", "content": "<tts_start>"}]}, "speech", True),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_asks_for_speech(
    client: httpx.AsyncClient,
    engine: FakeEngine,
    fields: dict[str, Any],
    output: str,
    has_content: bool,
    stream: bool,
) -> None:
    answer = await chat(client, **fields, stream=stream)
    assert answer.status_code == 200, answer.text
    assert engine.requests[-1].output == output
    assert engine.requests[-1].messages[0].content == (TextPart("Hi you."),)
    if stream:
        *events, (_, last) = read_events(answer.text)
        deltas = [data["choices"][0]["delta"] for _, data in events]
        content = "".join(delta.get("content") or "" for delta in deltas)
        audios = [delta["audio"] for delta in deltas if "audio" in delta]
        spoken = "".join(audio.get("transcript", "") for audio in audios)
        assert last == "[DONE]"
    else:
        message = answer.json()["choices"][0]["message"]
        content = message["content"] or ""
        spoken = (message.get("audio") or {}).get("transcript", "")
        assert ("audio" in message) == (output == "speech")
    assert content == ("You said: Hi you." if has_content else "")
    assert spoken == ("You said: Hi you." if output == "speech" else "")


@pytest.mark.parametrize(
    ("name", "stream", "works"),
    [
        ("wav", False, True),
        ("pcm", False, True),
        ("pcm16", False, True),
        ("mp3", False, True),
        ("flac", True, True),
        ("midi", False, False),
        ("midi", True, False),
        ("pcm16", True, True),
        ("pcm", True, True),
        (None, True, True),
        ("wav", True, True),
    ],
)
async def test_formats(client: httpx.AsyncClient, name: str | None, stream: bool, works: bool) -> None:
    answer = await chat(client, audio={"format": name}, stream=stream)
    assert answer.status_code == (200 if works else 400)
    if not works:
        assert answer.json()["error"]["param"] == "audio.format"
    elif not stream:
        data = base64.b64decode(answer.json()["choices"][0]["message"]["audio"]["data"])
        assert data.startswith(b"RIFF") == (name == "wav")


async def test_every_sampling_field_reaches_the_engine(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    shared = {
        "temperature": 0.5,
        "top_p": 0.8,
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.4,
        "seed": 7,
        "min_tokens": 2,
        "ignore_eos": True,
    }
    given = {**shared, "stop": "zzz", "stop_token_ids": [5], "logit_bias": {"17": -3}, "max_tokens": 90}
    expected = SamplingParams(
        **shared,  # type: ignore[arg-type]
        stop=("zzz",),
        stop_token_ids=(5,),
        logit_bias={17: -3.0},
        max_tokens=90,
    )
    for fields in (given, {"sampling_params_list": [given]}, {**given, "sampling_params_list": [given, {}]}):
        assert (await chat(client, **fields)).status_code == 200
        assert engine.requests[-1].sampling == expected
    await chat(client, max_completion_tokens=90, top_logprobs=4, sampling_params_list=[{}, {"seed": -1}])
    assert engine.requests[-1].sampling == SamplingParams(max_tokens=90, logprobs=4)
    assert engine.requests[-1].audio_seed == 2**63 - 1


async def test_fields_without_effect_are_accepted(client: httpx.AsyncClient) -> None:
    fields = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "add_generation_prompt": True,
        "temperature": None,
        "stream_options": None,
        "n": 1.0,
    }
    assert (await chat(client, **fields)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"modalities": ["text"], "audio": {"format": "wav"}}, "audio"),
        ({"modalities": []}, "modalities"),
        ({"modalities": ["video"]}, "modalities.0"),
        ({"audio": {"voice": "nobody"}}, "audio.voice"),
        ({"audio": {"voice": "default"}, "voice": "default_male"}, "audio.voice"),
        ({"audio": {"speed": 1}}, "audio.speed"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
            "tools.0.function.strict",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
        ),
        ({"tools": [TOOL], "messages": [{"role": "tool_json_schemas", "content": "[]"}, ASK]}, "tools"),
        ({"tts_output": False, "audio": {"voice": "default"}}, "tts_output"),
        ({"tts_output": True, "modalities": ["text"]}, "tts_output"),
        ({"continue_final_message": True}, "continue_final_message"),
        (
            {"continue_final_message": True, "add_generation_prompt": True, "messages": [ASK, SAID]},
            "continue_final_message",
        ),
        ({"messages": [ASK, {**SAID, "eot": False}, ASK]}, "messages.1.eot"),
        ({"messages": [{**ASK, "eot": False}]}, "messages.0.eot"),
        (
            {"messages": [ASK, {**SAID, "eot": False, "tts_content": {"tts_text": "a", "tts_audio": ""}}]},
            "messages.1.tts_content",
        ),
        ({"add_generation_prompt": False, "modalities": ["audio"]}, "add_generation_prompt"),
        ({"messages": [{**SAID, "reasoning_content": "Hm."}, ASK]}, "messages.0.reasoning_content"),
        ({"messages": [{"role": "assistant"}, ASK]}, "messages.0.content"),
        (
            {"messages": [{"role": "assistant", "tts_content": {"tts_text": "", "tts_audio": "<a>"}}, ASK]},
            "messages.0.tts_content.tts_audio",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "tts_content": {"tts_text": "", "tts_audio": "<audio_6562>"}},
                    ASK,
                ]
            },
            "messages.0.tts_content.tts_audio",
        ),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
        (
            {"temperature": 1, "sampling_params_list": [{"temperature": 0.5}]},
            "sampling_params_list.0.temperature",
        ),
        ({"sampling_params_list": [{"beam_width": 2}]}, "sampling_params_list.0.beam_width"),
        ({"sampling_params_list": [{}, {"beam_width": 2}]}, "sampling_params_list.1.beam_width"),
        ({"sampling_params_list": [{"detokenize": False}]}, "sampling_params_list.0.detokenize"),
        ({"sampling_params_list": [{}, {}, {}]}, "sampling_params_list"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"n": 9}, "n"),
        ({"stop": [""]}, "stop.0"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
        ({"messages": [{**ASK, "name": "Ann"}]}, "messages.0.name"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "call_1"}]},
            "messages.0.tool_call_id",
        ),
        ({"messages": [{"role": "function", "content": "x", "name": "f"}]}, "messages.0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages.0.content.0.input_audio",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}}],
                    }
                ]
            },
            "messages.0.content.0.input_audio.data",
        ),
        (
            {"messages": [{"role": "system", "content": [{"type": "audio_url", "audio_url": "data:"}]}]},
            "messages.0.content.0.type",
        ),
        ({"messages": [{"role": "user", "content": "a" * 100_001}]}, "messages"),
    ],
)
async def test_refused_by_name(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any], param: str
) -> None:
    answer = await chat(client, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert engine.requests == []


async def test_user_text_is_only_text(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    """Only a marker at the very end of the last turn means anything; elsewhere it is what the user wrote."""
    text = "<tts_start>a <|EOT|><audio_0>"
    await chat(client, messages=[{"role": "user", "content": text}])
    assert engine.requests[-1].output == "text"
    assert engine.requests[-1].messages[0].content == (TextPart(text),)
