"""/v1/realtime with the official client: a script written for OpenAI's service runs against ours."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.realtime import RealtimeServerEvent

from cadence.audio.encode import pcm16
from cadence.errors import PromptTooLong, StageFailed
from cadence.fake import FakeFault
from cadence.server.languages import find_language
from cadence.server.listen_prompt import listen_prompt
from cadence.types import AudioPart, RepeatPart, Request, SpeechPart, TextPart
from talker import talk

from .conftest import WAIT_S, Live, until

RATE_HZ = 24_000
SILENCE = pcm16(np.zeros(RATE_HZ // 10, np.float32))


def spoken(seconds: float, seed: int = 0) -> bytes:
    return pcm16(talk(seconds, seed=seed, rate_hz=RATE_HZ))


class Talk:
    """A connection, and everything that came over it."""

    def __init__(self, connection: AsyncRealtimeConnection) -> None:
        self.it = connection
        self.seen: list[RealtimeServerEvent] = []

    async def until(self, *kinds: str) -> Any:
        """The next event of one of these types; an error that was not asked for fails the test."""
        while True:
            event = await asyncio.wait_for(self.it.recv(), WAIT_S)
            self.seen.append(event)
            if event.type in kinds:
                return event
            assert event.type != "error", event

    async def send_sound(self, data: bytes, *, piece_bytes: int = 4800) -> None:
        for start in range(0, len(data), piece_bytes):
            audio = base64.b64encode(data[start : start + piece_bytes]).decode()
            await self.it.input_audio_buffer.append(audio=audio)

    async def say(self, text: str) -> None:
        part = {"type": "input_text", "text": text}
        await self.it.conversation.item.create(item={"type": "message", "role": "user", "content": [part]})  # type: ignore[typeddict-item]

    def kinds(self) -> list[str]:
        return [event.type for event in self.seen]

    def sound(self, response_id: str | None = None) -> bytes:
        deltas = [
            event.delta
            for event in self.seen
            if event.type == "response.output_audio.delta" and response_id in (None, event.response_id)
        ]
        return b"".join(base64.b64decode(delta) for delta in deltas)


@asynccontextmanager
async def talking(live: Live, **session: Any) -> AsyncIterator[Talk]:
    async with live.openai() as client, client.realtime.connect(model="fake") as connection:
        talk = Talk(connection)
        await talk.until("session.created")
        if session:
            await connection.session.update(session={"type": "realtime", **session})  # type: ignore[typeddict-item]
            await talk.until("session.updated")
        yield talk


def heard_s(request: Request) -> list[float]:
    return [
        part.samples.size / 16_000
        for message in request.messages
        for part in message.content
        if isinstance(part, AudioPart)
    ]


MANUAL: dict[str, Any] = {"audio": {"input": {"turn_detection": None}}}


async def test_text_in_speech_out(live: Live) -> None:
    async with talking(live) as talk:
        await talk.say("Good morning.")
        await talk.it.response.create()
        done = await talk.until("response.done")
    assert talk.kinds() == [
        "session.created",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        *(k for k in talk.kinds() if k.endswith(".delta")),
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    assert len({event.event_id for event in talk.seen}) == len(talk.seen)
    said = "You said: Good morning."
    transcript = next(e for e in talk.seen if e.type == "response.output_audio_transcript.done")
    assert transcript.transcript == said
    assert "".join(e.delta for e in talk.seen if e.type == "response.output_audio_transcript.delta") == said
    response = done.response
    assert (response.status, response.status_details) == ("completed", None)
    assert response.output[0].content[0].transcript == said
    usage = response.usage
    assert usage.output_token_details.audio_tokens * 960 * 2 == len(talk.sound())
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    system, user = live.engine.requests[0].messages
    assert (system.role, user.content) == ("system", (TextPart("Good morning."),))


async def test_the_conversation_goes_on(live: Live) -> None:
    async with talking(live, instructions="Be brief.", output_modalities=["text"]) as talk:
        await talk.say("one")
        await talk.it.response.create()
        first = await talk.until("response.done")
        await talk.say("two")
        await talk.it.response.create()
        await talk.until("response.done")
    assert first.response.output[0].content[0].text == "You said: one"
    told = [(m.role, m.content[0].text) for m in live.engine.requests[1].messages]  # type: ignore[union-attr]
    assert told == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "You said: one"),
        ("user", "two"),
    ]
    assert live.engine.requests[0].output == "text" and not talk.sound()


async def test_what_was_said_is_repeated_id_by_id(live: Live) -> None:
    async with talking(live) as talk:
        for text in ("one", "two"):
            await talk.say(text)
            await talk.it.response.create()
            done = await talk.until("response.done")
    spoken = live.engine.requests[1].messages[2]
    assert spoken.role == "assistant"
    (part,) = spoken.content
    assert isinstance(part, RepeatPart)
    assert len(part.ids) == 3 + sum(max(4, len(word)) for word in ("You", " said:", " one"))
    assert done.response.usage.input_tokens > len(part.ids)


async def test_an_interrupted_answer_is_repeated_as_far_as_it_was_sent(live: Live) -> None:
    live.engine.delay_s = 0.02
    async with talking(live) as talk:
        await talk.say("a long story " * 20)
        await talk.it.response.create()
        for _ in range(4):
            await talk.until("response.output_audio.delta")
        await talk.it.response.cancel()
        await talk.until("response.done")
        num_sent = len(talk.sound()) // 1920
        live.engine.delay_s = 0.0
        await talk.it.response.create()
        await talk.until("response.done")
    (part,) = live.engine.requests[1].messages[-1].content
    assert isinstance(part, SpeechPart) and part.text.startswith("You said:")
    assert num_sent - 5 <= len(part.codes) <= num_sent
    assert part.codes == tuple(range(len(part.codes)))


async def test_speech_in_with_server_vad(live: Live) -> None:
    async with talking(live) as talk:
        quiet = SILENCE * 10
        await talk.send_sound(quiet + spoken(2.0) + quiet)
        started = await talk.until("input_audio_buffer.speech_started")
        stopped = await talk.until("input_audio_buffer.speech_stopped")
        committed = await talk.until("input_audio_buffer.committed")
        await talk.until("response.done")
    assert started.item_id == stopped.item_id == committed.item_id
    assert 600 <= started.audio_start_ms <= 1000  # speech at 1000 ms, less 300 ms of padding
    assert 3300 <= stopped.audio_end_ms <= 3700  # to 3000 ms, and 500 ms of silence
    (request,) = live.engine.requests
    length_ms = stopped.audio_end_ms - started.audio_start_ms
    assert heard_s(request) == [pytest.approx(length_ms / 1000, abs=0.002)]
    assert talk.kinds().count("input_audio_buffer.speech_started") == 1


async def test_speaking_interrupts(live: Live) -> None:
    live.engine.delay_s = 0.05
    async with talking(live) as talk:
        await talk.say("a long story " * 20)
        await talk.it.response.create()
        await talk.until("response.output_audio.delta")
        await talk.send_sound(spoken(1.0))
        await talk.until("input_audio_buffer.speech_started")
        before = len(talk.sound())
        done = await talk.until("response.done")
        assert (done.response.status, done.response.status_details.reason) == ("cancelled", "turn_detected")
        assert done.response.output[0].status == "incomplete"
        live.engine.delay_s = 0.0
        await talk.send_sound(SILENCE * 10)
        second = await talk.until("response.done")
        assert second.response.status == "completed"
        assert len(talk.sound(done.response.id)) == before
    await until(lambda: live.engine.num_active == 0)
    assert live.engine.num_aborted == 1


async def test_turn_detection_may_leave_answering_to_the_client(live: Live) -> None:
    live.engine.delay_s = 0.03
    vad = {"type": "server_vad", "create_response": False, "interrupt_response": False}
    async with talking(live, audio={"input": {"turn_detection": vad}}) as talk:
        await talk.say("a long story " * 20)
        await talk.it.response.create()
        await talk.until("response.output_audio.delta")
        await talk.send_sound(spoken(1.0) + SILENCE * 10)
        await talk.until("input_audio_buffer.committed")
        done = await talk.until("response.done")
    assert done.response.status == "completed"
    assert len(live.engine.requests) == 1


async def test_push_to_talk(live: Live) -> None:
    async with talking(live, **MANUAL) as talk:
        await talk.send_sound(spoken(1.0))
        await talk.it.input_audio_buffer.clear()
        await talk.until("input_audio_buffer.cleared")
        await talk.send_sound(spoken(0.5))
        await talk.it.input_audio_buffer.commit()
        committed = await talk.until("input_audio_buffer.committed")
        await talk.it.response.create()
        await talk.until("response.done")
        await talk.it.conversation.item.retrieve(item_id=committed.item_id)
        found = await talk.until("conversation.item.retrieved")
    assert heard_s(live.engine.requests[0]) == [0.5]
    assert not any(kind.startswith("input_audio_buffer.speech") for kind in talk.kinds())
    data = base64.b64decode(found.item.content[0].audio)
    np.testing.assert_allclose(
        np.frombuffer(data, "<i2") / 32768, np.frombuffer(spoken(0.5), "<i2") / 32768, atol=0.05
    )


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
async def test_telephone_sound(live: Live, kind: str) -> None:
    both = {"input": {"format": {"type": kind}, "turn_detection": None}, "output": {"format": {"type": kind}}}
    async with talking(live, audio=both) as talk:
        await talk.send_sound(bytes(8000))
        await talk.it.input_audio_buffer.commit()
        await talk.it.response.create()
        done = await talk.until("response.done")
    assert heard_s(live.engine.requests[0]) == [1.0]
    codes = done.response.usage.output_token_details.audio_tokens
    assert len(talk.sound()) == codes * 8000 / 25


async def test_speed(live: Live) -> None:
    async with talking(live, audio={"output": {"speed": 2.0}}) as talk:
        await talk.say("A longer thing to say at twice the speed.")
        await talk.it.response.create()
        done = await talk.until("response.done")
        answer, codes = done.response.output[0], done.response.usage.output_token_details.audio_tokens
        assert len(talk.sound()) == codes * 960  # half the samples
        await talk.it.conversation.item.truncate(item_id=answer.id, content_index=0, audio_end_ms=400)
        await talk.until("conversation.item.truncated")
        await talk.it.response.create()
        await talk.until("response.done")
    (part,) = live.engine.requests[1].messages[-1].content
    assert isinstance(part, SpeechPart) and part.codes == tuple(range(20))  # 800 ms of the model's speech


async def test_cancel(live: Live) -> None:
    live.engine.delay_s = 0.02
    async with talking(live) as talk:
        await talk.say("a long story " * 20)
        await talk.it.response.create()
        await talk.until("response.output_audio.delta")
        await talk.it.response.cancel()
        done = await talk.until("response.done")
        assert (done.response.status, done.response.status_details.reason) == (
            "cancelled",
            "client_cancelled",
        )
        sound = talk.sound()
        live.engine.delay_s = 0.0
        await talk.it.response.create(response={"output_modalities": ["text"]})
        await talk.until("response.done")
        assert talk.sound() == sound
        await talk.it.response.cancel()
        error = await talk.until("error")
    assert error.error.code == "response_cancel_not_active"


async def test_one_answer_at_a_time_in_the_conversation(live: Live) -> None:
    live.engine.delay_s = 0.02
    async with talking(live) as talk:
        await talk.say("a long story " * 10)
        await talk.it.response.create()
        await talk.until("response.created")
        await talk.it.response.create(event_id="mine")
        error = await talk.until("error")
        assert error.error.code == "conversation_already_has_active_response"
        assert error.error.event_id == "mine"
        aside = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "aside"}]}]
        await talk.it.response.create(
            response={
                "conversation": "none",
                "input": aside,  # type: ignore[typeddict-item]
                "output_modalities": ["text"],
                "metadata": {"topic": "side"},
                "instructions": "Classify.",
            }
        )
        done = await talk.until("response.done")
        assert done.response.metadata == {"topic": "side"}
        assert done.response.output[0].content[0].text == "You said: aside"
        main = await talk.until("response.done")
        assert main.response.status == "completed"
        added = [e.item.id for e in talk.seen if e.type == "conversation.item.added"]
        assert main.response.output[0].id in added and done.response.output[0].id not in added


async def test_a_limit_makes_it_incomplete(live: Live) -> None:
    async with talking(live) as talk:
        await talk.say("a long story " * 10)
        await talk.it.response.create(response={"max_output_tokens": 20})
        done = await talk.until("response.done")
    assert (done.response.status, done.response.status_details.reason) == ("incomplete", "max_output_tokens")
    assert live.engine.requests[0].sampling.max_tokens == 20


async def test_a_failure_ends_the_response_not_the_session(live: Live) -> None:
    live.engine.fault = FakeFault(3, StageFailed("The stage broke."))
    async with talking(live) as talk:
        await talk.say("one two three")
        await talk.it.response.create()
        done = await talk.until("response.done")
        assert done.response.status == "failed"
        assert done.response.status_details.error.code == "stage_failed"
        live.engine.fault = None
        await talk.it.response.create()
        assert (await talk.until("response.done")).response.status == "completed"


async def test_items(live: Live) -> None:
    async with talking(live) as talk:
        item = talk.it.conversation.item
        for number, (name, after) in enumerate([("b", None), ("a", "root"), ("c", "b")]):
            part: Any = {"type": "input_text", "text": name}
            await item.create(
                item={"id": name, "type": "message", "role": "user", "content": [part]},
                **({"previous_item_id": after} if after else {}),
            )
            added = await talk.until("conversation.item.added")
            assert added.previous_item_id == (None, None, "b")[number]
        await item.delete(item_id="b")
        await talk.until("conversation.item.deleted")
        await talk.it.response.create()
        done = await talk.until("response.done")
        told = [m.content[0].text for m in live.engine.requests[0].messages[1:]]  # type: ignore[union-attr]
        assert told == ["a", "c"]

        answer = done.response.output[0]
        length_ms = done.response.usage.output_token_details.audio_tokens * 40
        await item.truncate(item_id=answer.id, content_index=0, audio_end_ms=length_ms + 1)
        assert (await talk.until("error")).error.param == "audio_end_ms"
        await item.truncate(item_id=answer.id, content_index=0, audio_end_ms=length_ms - 1)
        await talk.until("conversation.item.truncated")
        await item.retrieve(item_id=answer.id)
        kept = (await talk.until("conversation.item.retrieved")).item.content[0].transcript
        assert kept == "You said:"  # the last of three words was cut off
        await talk.it.response.create()
        await talk.until("response.done")
        (repeated,) = live.engine.requests[-1].messages[-1].content
        assert repeated == SpeechPart("You said:", tuple(range(length_ms // 40)))
        await item.delete(item_id="nope")
        assert (await talk.until("error")).error.code == "item_not_found"


async def test_what_was_heard_is_transcribed_on_demand(live: Live) -> None:
    audio = {"input": {"turn_detection": None, "transcription": {"model": "whisper-1", "language": "en"}}}
    async with talking(live, audio=audio) as talk:
        await talk.send_sound(spoken(1.0))
        await talk.it.input_audio_buffer.commit()
        done = await talk.until("conversation.item.input_audio_transcription.completed")
        live.engine.fault = FakeFault(0, StageFailed("The stage broke."))
        await talk.send_sound(spoken(1.0))
        await talk.it.input_audio_buffer.commit()
        failed = await talk.until("conversation.item.input_audio_transcription.failed")
    assert done.transcript == "I heard 1.00 seconds of audio."
    deltas = [e for e in talk.seen if e.type == "conversation.item.input_audio_transcription.delta"]
    assert "".join(e.delta or "" for e in deltas) == done.transcript
    assert done.usage.type == "tokens" and done.usage.input_token_details.audio_tokens == 12
    assert failed.error.code == "stage_failed"
    request = live.engine.requests[0]
    assert request.sampling.temperature == 0
    assert request.messages[0].content == (TextPart(listen_prompt(spoken=[find_language("en", "")])),)


async def test_a_session_that_only_transcribes(live: Live) -> None:
    query = {"intent": "transcription"}
    async with (
        live.openai() as client,
        client.realtime.connect(model="gpt-4o-transcribe", extra_query=query) as connection,
    ):
        talk = Talk(connection)
        created = await talk.until("session.created")
        assert created.session.type == "transcription"
        listen = {"transcription": {"model": "gpt-4o-transcribe", "language": "en"}}
        await connection.session.update(session={"type": "transcription", "audio": {"input": listen}})  # type: ignore[typeddict-item]
        await talk.until("session.updated")
        await talk.send_sound(spoken(1.0) + SILENCE * 10)
        done = await talk.until("conversation.item.input_audio_transcription.completed")
        assert done.transcript.startswith("I heard")
        await connection.response.create()
        assert (await talk.until("error")).error.code == "no_responses"
    assert len(live.engine.requests) == 1


async def test_a_conversation_that_is_too_long_loses_its_beginning(live: Live) -> None:
    def too_long(request: Request) -> FakeFault | None:
        error = PromptTooLong("Too long.", param="messages")
        return FakeFault(0, error) if len(request.messages) > 4 else None

    live.engine.fault = too_long
    async with talking(live, output_modalities=["text"]) as talk:
        for number in range(6):
            await talk.say(f"{number}")
        await talk.it.response.create()
        done = await talk.until("response.done")
        assert done.response.status == "completed"
        told = [m.content[0].text for m in live.engine.requests[-1].messages]  # type: ignore[union-attr]
        assert told[1:] == ["4", "5"] or told[1:] == ["3", "4", "5"]
        await talk.it.session.update(session={"type": "realtime", "truncation": "disabled"})
        await talk.until("session.updated")
        await talk.it.response.create()
        done = await talk.until("response.done")
    assert done.response.status == "failed"
    assert done.response.status_details.error.code == "context_length_exceeded"


async def test_settings(live: Live) -> None:
    async with talking(live) as talk:
        created = talk.seen[0].session
        assert created.audio.output.format.rate == RATE_HZ and created.model == "fake"
        assert created.audio.input.turn_detection.threshold == 0.5
        vad = {"type": "server_vad", "threshold": 0.7}
        await talk.it.session.update(
            session={
                "type": "realtime",
                "audio": {"input": {"turn_detection": vad}, "output": {"voice": "echo"}},  # type: ignore[typeddict-item]
                "max_output_tokens": 99,
            }
        )
        session = (await talk.until("session.updated")).session
        detection = session.audio.input.turn_detection
        assert (detection.threshold, detection.silence_duration_ms) == (0.7, 500)
        assert session.instructions == created.instructions
        await talk.say("Hello.")
        await talk.it.response.create()
        await talk.until("response.done")
    assert live.engine.requests[0].voice == "default_male"
    assert live.engine.requests[0].sampling.max_tokens == 99


@pytest.mark.parametrize(
    ("session", "param", "code"),
    [
        ({"voice": "x"}, "session.voice", "unknown_field"),
        ({"audio": {"output": {"voice": "nope"}}}, "session.audio.output.voice", "voice_not_found"),
        ({"audio": {"output": {"speed": 5}}}, "session.audio.output.speed", "invalid_value"),
        (
            {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}},
            "session.audio.input.turn_detection.type",
            "invalid_value",
        ),
        ({"model": "other"}, "session.model", "model_not_found"),
        (
            {"audio": {"input": {"transcription": {"language": "Klingon"}}}},
            "session.audio.input.transcription.language",
            "invalid_value",
        ),
        ({"output_modalities": ["text", "audio"]}, "session.output_modalities", "invalid_value"),
    ],
)
async def test_a_wrong_setting_is_named_and_changes_nothing(
    live: Live, session: dict[str, Any], param: str, code: str
) -> None:
    async with talking(live) as talk:
        await talk.it.send({"type": "session.update", "event_id": "e", "session": session})  # type: ignore[typeddict-item]
        error = (await talk.until("error")).error
        assert (error.param, error.code, error.event_id) == (param, code, "e")
        await talk.say("still here")
        await talk.it.response.create()
        assert (await talk.until("response.done")).response.status == "completed"
    assert live.engine.requests[0].voice == "default"


async def test_the_engine_is_free_when_the_client_leaves(live: Live) -> None:
    live.engine.delay_s = 0.05
    async with talking(live) as talk:
        await talk.say("a long story " * 20)
        await talk.it.response.create()
        await talk.until("response.output_audio.delta")
    await until(lambda: live.engine.num_active == 0)
    assert live.engine.num_aborted == 1


def test_the_synchronous_client(live: Live) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="EMPTY")
    with client.realtime.connect(model="fake") as connection:
        connection.conversation.item.create(
            item={
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "Say hello!"}],
            }
        )
        connection.response.create(response={"output_modalities": ["text"]})
        text = ""
        for event in connection:
            if event.type == "response.output_text.delta":
                text += event.delta
            elif event.type == "response.done":
                break
    assert text == "You said: Say hello!"
