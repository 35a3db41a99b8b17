"""Function calls on /v1/realtime, with the official client."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cadence.fake import FakeEngine
from cadence.types import Event, ModelInfo, RepeatPart, Request, TextPart, ToolCallPart

from .conftest import Live
from .test_realtime_openai import Talk, talking
from .test_sockets import serving

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>function\nweather\n{"city": "Kiel"}</tool_call>'


class Scripted(FakeEngine):
    """Says what it is told to say, a line per request."""

    def __init__(self, *lines: str) -> None:
        super().__init__()
        self.lines = list(lines)
        self.asked: list[Request] = []

    def generate(self, request: Request) -> AsyncIterator[Event]:
        self.asked.append(request)
        return super().generate(dataclasses.replace(request, verbatim=self.lines.pop(0)))


async def answer(talk: Talk, **response: Any) -> Any:
    await talk.it.response.create(**({"response": response} if response else {}))  # type: ignore[arg-type]
    return (await talk.until("response.done")).response


async def give(talk: Talk, call_id: str, output: str) -> None:
    await talk.it.conversation.item.create(
        item={"type": "function_call_output", "call_id": call_id, "output": output}
    )
    await talk.until("conversation.item.done")


@pytest.mark.parametrize("modality", ["text", "audio"])
async def test_a_call_and_its_output(modality: str) -> None:
    engine = Scripted(f"Let me look. {CALL}", "It rains.")
    with serving(engine) as live:
        async with talking(live, tools=[WEATHER], output_modalities=[modality]) as talk:
            assert talk.seen[-1].session.tools[0].name == "weather"
            await talk.say("How is the weather in Kiel?")
            response = await answer(talk)
            said, call = response.output
            text = said.content[0].text if modality == "text" else said.content[0].transcript
            assert (text, call.type, call.name) == ("Let me look.", "function_call", "weather")
            assert json.loads(call.arguments) == {"city": "Kiel"} and call.status == "completed"
            assert response.status == "completed"
            added = [e for e in talk.seen if e.type == "response.output_item.added"]
            assert [(e.output_index, e.item.type) for e in added] == [(0, "message"), (1, "function_call")]
            deltas = [e for e in talk.seen if e.type == "response.function_call_arguments.delta"]
            assert "".join(e.delta for e in deltas) == call.arguments
            assert {(e.item_id, e.call_id) for e in deltas} == {(call.id, call.call_id)}
            done = next(e for e in talk.seen if e.type == "response.function_call_arguments.done")
            assert (done.name, done.arguments) == ("weather", call.arguments)

            await give(talk, call.call_id, "rain")
            assert (await answer(talk)).status == "completed"
    first, second = engine.asked
    schemas = first.messages[1]
    assert schemas.role == "tool_json_schemas"
    (part,) = schemas.content
    assert isinstance(part, TextPart)
    function = {name: value for name, value in WEATHER.items() if name != "type"}
    assert json.loads(part.text) == [{"type": "function", "function": function}]
    *_, turn, output = second.messages
    assert (output.role, output.content) == ("function_output", (TextPart("weather\nrain"),))
    assert turn.role == "assistant"
    if modality == "text":
        assert turn.content == (TextPart("Let me look."), ToolCallPart("weather", call.arguments))
    else:  # the call is among the ids of the speech
        assert len(turn.content) == 1 and isinstance(turn.content[0], RepeatPart)


async def test_a_call_behind_speech_that_was_truncated_stays() -> None:
    engine = Scripted(f"Let me look. {CALL}", "It rains.")
    with serving(engine) as live:
        async with talking(live, tools=[WEATHER]) as talk:
            await talk.say("How is the weather in Kiel?")
            said, call = (await answer(talk)).output
            await talk.it.conversation.item.truncate(item_id=said.id, content_index=0, audio_end_ms=0)
            await talk.until("conversation.item.truncated")
            await give(talk, call.call_id, "rain")
            await answer(talk)
    *_, turn, output = engine.asked[1].messages
    assert turn.content == (ToolCallPart("weather", call.arguments),)
    assert output.role == "function_output"


@pytest.mark.parametrize(
    ("choice", "call"), [("required", "weather"), ({"type": "function", "name": "weather"}, "weather")]
)
async def test_a_call_that_must_be_made(live: Live, choice: Any, call: str) -> None:
    async with talking(live, tools=[WEATHER], tool_choice=choice) as talk:
        await talk.say("Hello.")
        response = await answer(talk)
    (item,) = response.output
    assert (item.type, item.name) == ("function_call", "weather")
    assert json.loads(item.arguments) == {"text": "You said: Hello."}
    (request,) = live.engine.requests
    assert (request.call, request.output) == (call, "text")


async def test_tools_of_one_response(live: Live) -> None:
    async with talking(live, tools=[WEATHER], output_modalities=["text"]) as talk:
        await talk.say("Hello.")
        await answer(talk, tool_choice="none")
        await answer(talk, tools=[{**WEATHER, "name": "other"}])
    plain, other = live.engine.requests
    assert [m.role for m in plain.messages] == ["system", "user"]
    (part,) = other.messages[1].content
    assert isinstance(part, TextPart) and "other" in part.text and '"weather"' not in part.text


async def test_calls_that_the_client_knows_of(live: Live) -> None:
    async with talking(live, output_modalities=["text"]) as talk:
        call = {"type": "function_call", "name": "f", "call_id": "c1", "arguments": "{}"}
        await talk.it.conversation.item.create(item=call)  # type: ignore[arg-type]
        await talk.until("conversation.item.done")
        await give(talk, "c1", "42")
        await answer(talk)
        output = {"type": "function_call_output", "call_id": "c2", "output": "x"}
        await talk.it.conversation.item.create(item=output)  # type: ignore[arg-type]
        error = (await talk.until("error")).error
        assert (error.param, error.code) == ("item.call_id", "call_not_found")
        await talk.it.response.create(response={"input": [output]})  # type: ignore[typeddict-item, list-item]
        assert (await talk.until("error")).error.param == "response.input.0.call_id"
    _, turn, result = live.engine.requests[0].messages
    assert turn.content == (ToolCallPart("f", "{}"),)
    assert result.content == (TextPart("f\n42"),)


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"tools": [WEATHER, WEATHER]}, "session.tools"),
        ({"tool_choice": "required"}, "session.tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "f"}}, "session.tool_choice"),
        ({"tools": [{"type": "mcp", "name": "x"}]}, "session.tools.0.type"),
        ({"tools": [{"type": "function"}]}, "session.tools.0.name"),
    ],
)
async def test_wrong_tools_are_named(live: Live, session: dict[str, Any], param: str) -> None:
    async with talking(live) as talk:
        await talk.it.send({"type": "session.update", "session": session})  # type: ignore[typeddict-item]
        assert (await talk.until("error")).error.param == param


async def test_what_a_model_thinks_is_not_said() -> None:
    info = ModelInfo(model_id="fake", max_model_len=1024, voices=("default",), thinks=True)
    with serving(FakeEngine(info=info)) as live:
        async with talking(live, output_modalities=["text"]) as talk:
            await talk.say("Hello.")
            response = await answer(talk)
    assert response.output[0].content[0].text == "You said: Hello."
