"""Conversations over several turns: earlier speech by id and as codes, roles, open turns."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from cadence.config import ServerConfig
from cadence.fake import FakeEngine
from cadence.server.app import create_app
from cadence.types import Message, RepeatPart, SpeechPart, TextPart

from .conftest import Live
from .test_chat_openai import ASK, chat, chunks

SPOKEN = {"modalities": ["text", "audio"], "audio": {"voice": "default", "format": "wav"}}
NEXT = {"role": "user", "content": "And you?"}


def parts(live: Live, at: int = 1) -> tuple[Any, ...]:
    return live.engine.requests[-1].messages[at].content


# ------------------------------------------------------------------ by id
async def test_a_spoken_answer_is_repeated_by_its_id(live: Live) -> None:
    first = (await chat(live, **SPOKEN)).choices[0].message
    assert first.audio.expires_at > 1_700_000_000
    await chat(live, messages=[*ASK, {"role": "assistant", "audio": {"id": first.audio.id}}, NEXT], **SPOKEN)
    [part] = parts(live)
    assert isinstance(part, RepeatPart) and len(part.ids) > 20
    num_codes = first.tts_content["tts_audio"].count("<audio_")
    assert sum(i >= 151_696 for i in part.ids) == num_codes, "text and codes, as they were written"


async def test_a_streamed_answer_is_repeated_too(live: Live) -> None:
    got = await chunks(live, modalities=["text", "audio"], audio={"voice": "default", "format": "pcm16"})
    audios = [c.choices[0].delta.audio for c in got if getattr(c.choices[0].delta, "audio", None)]
    assert audios[-1].expires_at > got[0].created
    await chat(live, messages=[*ASK, {"role": "assistant", "audio": {"id": audios[0].id}}, NEXT])
    assert isinstance(parts(live)[0], RepeatPart)


@pytest.mark.parametrize("fields", [SPOKEN, {"audio": {"voice": "default", "format": "wav"}}])
async def test_a_dumped_answer_can_be_sent_back_as_it_is(live: Live, fields: dict[str, Any]) -> None:
    first = (await chat(live, **fields)).choices[0].message
    await chat(live, messages=[*ASK, first.model_dump(), NEXT])
    [part] = parts(live)
    assert isinstance(part, RepeatPart), "its text is not said twice"


async def test_every_one_of_several_answers_is_kept(live: Live) -> None:
    answer = await chat(live, n=3, **SPOKEN)
    ids = {choice.message.audio.id for choice in answer.choices}
    assert len(ids) == 3
    for audio_id in ids:
        await chat(live, messages=[*ASK, {"role": "assistant", "audio": {"id": audio_id}}, NEXT])


async def test_an_unknown_id_is_said_so(live: Live) -> None:
    before = len(live.engine.requests)
    with pytest.raises(openai.NotFoundError) as caught:
        await chat(live, messages=[*ASK, {"role": "assistant", "audio": {"id": "audio_no"}}, NEXT])
    assert (caught.value.code, caught.value.param) == ("audio_not_found", "messages.1.audio.id")
    assert len(live.engine.requests) == before


async def test_other_content_than_was_said_is_refused(live: Live) -> None:
    first = (await chat(live, **SPOKEN)).choices[0].message
    message = {"role": "assistant", "content": "Something else.", "audio": {"id": first.audio.id}}
    with pytest.raises(openai.BadRequestError) as caught:
        await chat(live, messages=[*ASK, message, NEXT])
    assert caught.value.code == "conflicting_fields"


async def test_answers_expire_and_their_codes_stand_in(engine: FakeEngine) -> None:
    app = create_app(engine, ServerConfig(spoken_keep_s=0))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.post("/v1/chat/completions", json={"messages": ASK, **SPOKEN})
        message = answer.json()["choices"][0]["message"]
        body = {"messages": [*ASK, {"role": "assistant", "audio": {"id": message["audio"]["id"]}}, NEXT]}
        gone = await client.post("/v1/chat/completions", json=body)
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "audio_not_found")
        back = await client.post("/v1/chat/completions", json={"messages": [*ASK, message, NEXT]})
        assert back.status_code == 200, back.text
        [part] = engine.requests[-1].messages[1].content
        assert isinstance(part, SpeechPart) and part.text == message["tts_content"]["tts_text"]


async def test_text_answers_are_not_kept(live: Live) -> None:
    message = (await chat(live)).choices[0].message
    assert message.audio is None and not hasattr(message, "tts_content")


# ------------------------------------------------------------------ tts_content
async def test_tts_content_out_whole_and_streamed(live: Live) -> None:
    whole = (await chat(live, **SPOKEN)).choices[0].message.tts_content
    assert whole["tts_text"] == "You said: How are you?"
    codes = [f"<audio_{n}>" for n in range(whole["tts_audio"].count("<"))]
    assert whole["tts_audio"] == "".join(codes) and codes
    got = await chunks(live, modalities=["audio"], audio={"voice": "default", "format": "pcm16"})
    deltas = [c.choices[0].delta.tts_content for c in got if hasattr(c.choices[0].delta, "tts_content")]
    assert {key: "".join(delta[key] for delta in deltas) for key in whole} == whole


async def test_tts_content_in(live: Live) -> None:
    message = {
        "role": "assistant",
        "content": "By the way",
        "tts_content": {"tts_text": "Fine.", "tts_audio": "<audio_12><audio_6560><audio_6561>"},
    }
    await chat(live, messages=[*ASK, message, NEXT])
    assert parts(live) == (SpeechPart("Fine.", (12, 6560)), TextPart("By the way"))


# ------------------------------------------------------------------ roles and turns
async def test_the_models_own_roles(live: Live) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "tool_json_schemas", "content": "[]"},
        {"role": "human", "content": "Look."},
        {"role": "input", "content": "a"},
        {"role": "function_output", "content": [{"type": "text", "text": "b"}]},
    ]
    await chat(live, messages=messages)
    roles = [message.role for message in live.engine.requests[-1].messages]
    assert roles == ["system", "tool_json_schemas", "user", "input", "input"]


@pytest.mark.parametrize(
    ("fields", "turn"),
    [
        ({}, "new"),
        ({"add_generation_prompt": True}, "new"),
        ({"add_generation_prompt": False}, "none"),
        ({"continue_final_message": True}, "continue"),
        ({"continue_final_message": True, "add_generation_prompt": False}, "continue"),
    ],
)
async def test_how_the_prompt_ends(live: Live, fields: dict[str, Any], turn: str) -> None:
    messages = [*ASK, {"role": "assistant", "content": "Well,"}]
    await chat(live, messages=messages, extra_body=fields)
    assert live.engine.requests[-1].turn == turn
    assert live.engine.requests[-1].messages[-1] == Message("assistant", (TextPart("Well,"),))


@pytest.mark.parametrize(
    ("content", "turn", "output"),
    [
        ("Well,", "continue", "text"),
        ("<tts_start>", "new", "speech"),
        ("Hm. <tts_start>", "continue", "speech"),
    ],
)
async def test_an_open_message_goes_on(live: Live, content: str, turn: str, output: str) -> None:
    messages = [*ASK, {"role": "assistant", "content": content, "eot": False}]
    await chat(live, messages=messages)
    request = live.engine.requests[-1]
    assert (request.turn, request.output) == (turn, output)


async def test_special_tokens_are_shown_when_asked_for(live: Live) -> None:
    await chat(live, extra_body={"skip_special_tokens": False})
    assert live.engine.requests[-1].sampling.skip_special_tokens is False
