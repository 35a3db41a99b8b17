"""Tools and reasoning as the official client uses them. The fake engine echoes, calls included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from cadence.config import ServerConfig
from cadence.fake import FakeEngine
from cadence.types import ModelInfo, ReasoningPart, TextPart, ToolCallPart

from .conftest import Live, run_live, wait_until
from .test_chat_openai import ASK, chat, chunks

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "查询天气",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("get_weather", "get_time")
]
CALL = '<tool_call>function\nget_weather\n{"city": "Paris"}</tool_call>'


def calling(text: str = CALL) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def joined(got: list[Any]) -> tuple[str, list[tuple[str, str]]]:
    """Content and calls of a stream, put together as clients do."""
    text = ""
    calls: dict[int, list[str]] = {}
    for chunk in got:
        delta = chunk.choices[0].delta
        text += delta.content or ""
        for part in delta.tool_calls or ():
            if part.id:
                assert part.index not in calls and part.type == "function"
                calls[part.index] = [part.function.name, ""]
            calls[part.index][1] += part.function.arguments or ""
    return text, [(name, arguments) for name, arguments in calls.values()]


async def test_a_call(live: Live) -> None:
    answer = await chat(live, messages=calling(), tools=TOOLS)
    [choice] = answer.choices
    [call] = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "You said:")


async def test_calls_streamed(live: Live) -> None:
    got = await chunks(live, messages=calling(f"{CALL}\n{CALL}"), tools=TOOLS)
    assert joined(got) == ("You said:", [("get_weather", '{"city": "Paris"}')] * 2)
    assert [c.choices[0].finish_reason for c in got if c.choices[0].finish_reason] == ["tool_calls"]


async def test_the_clients_own_accumulator_understands_the_stream(live: Live) -> None:
    async with (
        live.openai() as client,
        client.chat.completions.stream(
            model="fake",
            messages=calling(),  # type: ignore[arg-type]
            tools=[{"type": "function", "function": {"name": "get_weather"}}],
        ) as stream,
    ):
        final = await stream.get_final_completion()
    [call] = final.choices[0].message.tool_calls or []
    assert call.function.arguments == '{"city": "Paris"}'


async def test_tools_are_told_behind_the_system_prompt(live: Live) -> None:
    await chat(live, messages=[{"role": "system", "content": "Be kind."}, *ASK], tools=TOOLS)
    system, schemas, _ = live.engine.requests[-1].messages
    assert (system.role, schemas.role) == ("system", "tool_json_schemas")
    [part] = schemas.content
    assert isinstance(part, TextPart) and json.loads(part.text) == TOOLS and "查询天气" in part.text
    await chat(live, tools=TOOLS)
    assert [m.role for m in live.engine.requests[-1].messages] == ["tool_json_schemas", "user"]


async def test_a_whole_round(live: Live) -> None:
    first = (await chat(live, messages=calling(), tools=TOOLS)).choices[0].message
    output = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "18 °C"}
    await chat(live, messages=[*calling(), first.model_dump(), output], tools=TOOLS)
    _, _, answer, result = live.engine.requests[-1].messages
    assert answer.content == (TextPart("You said:"), ToolCallPart("get_weather", '{"city": "Paris"}'))
    assert (result.role, result.content) == ("function_output", (TextPart("get_weather\n18 °C"),))


async def test_a_tools_name_may_come_with_its_output(live: Live) -> None:
    output = {"role": "tool", "tool_call_id": "lost", "name": "get_time", "content": "12"}
    await chat(live, messages=[*ASK, output])
    assert live.engine.requests[-1].messages[-1].content == (TextPart("get_time\n12"),)


async def test_choice_none_hides_the_tools(live: Live) -> None:
    choice = (await chat(live, messages=calling(), tools=TOOLS, tool_choice="none")).choices[0]
    assert choice.message.tool_calls is None and choice.message.content == f"You said: {CALL}"
    assert [m.role for m in live.engine.requests[-1].messages] == ["user"]


@pytest.mark.parametrize(
    ("tools", "choice", "call", "name"),
    [
        (TOOLS, "required", "", "echo"),
        (TOOLS[:1], "required", "get_weather", "get_weather"),
        (TOOLS, {"type": "function", "function": {"name": "get_time"}}, "get_time", "get_time"),
    ],
)
async def test_a_call_that_must_be_made(live: Live, tools: Any, choice: Any, call: str, name: str) -> None:
    answer = (await chat(live, tools=tools, tool_choice=choice, modalities=["text", "audio"])).choices[0]
    request = live.engine.requests[-1]
    assert (request.call, request.output) == (call, "text"), "a call is written, not spoken"
    [made] = answer.message.tool_calls
    assert made.function.name == name and json.loads(made.function.arguments)
    assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
    got = await chunks(live, tools=tools, tool_choice=choice)
    assert joined(got) == ("", [(name, made.function.arguments)])


async def test_one_call_at_most(live: Live) -> None:
    fields = {"messages": calling(CALL + CALL), "tools": TOOLS}
    assert len((await chat(live, **fields)).choices[0].message.tool_calls) == 2
    one = (await chat(live, **fields, parallel_tool_calls=False)).choices[0]
    assert [call.function.arguments for call in one.message.tool_calls] == ['{"city": "Paris"}']
    assert one.finish_reason == "tool_calls"
    assert len(joined(await chunks(live, **fields, parallel_tool_calls=False))[1]) == 1


async def test_a_call_cut_by_length_says_so(live: Live) -> None:
    choice = (await chat(live, messages=calling(), tools=TOOLS, max_tokens=5)).choices[0]
    assert choice.finish_reason == "length"


async def test_a_spoken_answer_may_end_in_a_call(live: Live) -> None:
    fields = {
        "messages": calling(),
        "tools": TOOLS,
        "modalities": ["text", "audio"],
        "audio": {"voice": "default", "format": "wav"},
    }
    message = (await chat(live, **fields)).choices[0].message
    assert message.audio.transcript == "You said:" == message.tts_content["tts_text"]
    assert message.tool_calls[0].function.name == "get_weather"
    output = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "18 °C"}
    await chat(live, messages=[*calling(), message.model_dump(), output])
    assert live.engine.requests[-1].messages[2].content == (TextPart("get_weather\n18 °C"),)


async def test_logprobs_of_a_call_are_not_lost(live: Live) -> None:
    whole = (await chat(live, messages=calling(), tools=TOOLS, logprobs=True)).choices[0].logprobs.content
    got = await chunks(live, messages=calling(), tools=TOOLS, logprobs=True)
    tokens = [t.token for c in got if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert tokens == [token.token for token in whole] and "".join(tokens) == f"You said: {CALL}"


# ------------------------------------------------------------------ reasoning
@pytest.fixture(scope="module")
def thinking() -> Iterator[Live]:
    info = ModelInfo(model_id="fake", max_model_len=4096, voices=("default",), thinks=True)
    with run_live(FakeEngine(info=info), ServerConfig()) as live:
        yield live
        wait_until(lambda: live.engine.num_active == 0)


async def test_reasoning_stands_apart(thinking: Live) -> None:
    message = (await chat(thinking)).choices[0].message
    assert message.reasoning_content == "Let me see."
    assert message.content == "You said: How are you?"
    got = await chunks(thinking)
    deltas = [c.choices[0].delta for c in got]
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == "Let me see."
    assert "".join(d.content or "" for d in deltas) == "You said: How are you?"


async def test_reasoning_can_stay_in_the_content(thinking: Live) -> None:
    message = (await chat(thinking, extra_body={"separate_reasoning": False})).choices[0].message
    assert message.content == "Let me see.\n</think>\n\nYou said: How are you?"
    assert not hasattr(message, "reasoning_content")


async def test_reasoning_goes_back_into_the_history(thinking: Live) -> None:
    first = (await chat(thinking)).choices[0].message
    await chat(thinking, messages=[*ASK, first.model_dump(), *ASK])
    [reasoning, text] = thinking.engine.requests[-1].messages[1].content
    assert (reasoning, text) == (ReasoningPart("Let me see."), TextPart("You said: How are you?"))


async def test_an_answer_cut_while_it_thinks_has_no_content(thinking: Live) -> None:
    choice = (await chat(thinking, max_tokens=2)).choices[0]
    assert (choice.message.reasoning_content, choice.message.content) == ("Let me", "")
    assert choice.finish_reason == "length"


async def test_reasoning_is_refused_by_a_model_that_does_not_think(live: Live) -> None:
    with pytest.raises(openai.BadRequestError):
        message = {"role": "assistant", "content": "x", "reasoning_content": "y"}
        await chat(live, messages=[*ASK, message, *ASK])
