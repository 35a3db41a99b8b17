"""What a chat body asks for beyond its messages: speech, tools, where the answer begins. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from cadence.audio.encode import ENCODERS
from cadence.errors import InvalidRequest
from cadence.server.schema import conflict
from cadence.server.schema_chat import AUDIO_FORMATS, ChatBody, NamedTool, Tool
from cadence.server.schema_messages import AssistantMessage
from cadence.types import Message, TextPart

__all__ = [
    "asks_for_speech",
    "audio_format",
    "chosen_call",
    "schemas_text",
    "tools_in_use",
    "turn_of",
    "with_tools",
]

_SCHEMAS_ROLE = "tool_json_schemas"


def asks_for_speech(body: ChatBody) -> bool:
    """Whether a field asks for speech; a literal `<tts_start>` is looked for later, in the messages."""
    if body.modalities is None:
        if body.tts_output is False and body.audio is not None:
            raise conflict(("tts_output", "audio"))
        return body.audio is not None or bool(body.tts_output)
    speaks = "audio" in body.modalities
    if not speaks and body.audio is not None:
        raise InvalidRequest(
            "'audio' needs \"audio\" among the modalities.", param="audio", code="conflicting_fields"
        )
    if body.tts_output is not None and body.tts_output != speaks:
        raise conflict(("tts_output", "modalities"))
    return speaks


def audio_format(body: ChatBody) -> str:
    """The encoder's name for how a spoken answer is written; by default WAV, and bare samples in a stream."""
    asked = (body.audio.format if body.audio else None) or ("pcm16" if body.stream else "wav")
    name = "pcm" if asked == "pcm16" else asked
    if name not in ENCODERS:
        raise InvalidRequest(
            f"Audio format {asked[:40]!r} is not supported; use one of: {', '.join(AUDIO_FORMATS)}.",
            param="audio.format",
            code="unsupported_format",
        )
    return name


# ------------------------------------------------------------------ tools
def tools_in_use(body: ChatBody) -> Sequence[Tool]:
    """The tools that the model is told of; none with `tool_choice` "none".

    Raises:
        InvalidRequest: a choice without tools, of an unknown tool, or two tools of one name; tools given
            twice.
    """
    tools = body.tools or []
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        raise InvalidRequest("Two tools have the same name.", param="tools", code="invalid_value")
    choice = body.tool_choice
    if not tools and choice not in (None, "none", "auto"):
        raise InvalidRequest("'tool_choice' needs 'tools'.", param="tool_choice", code="conflicting_fields")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise InvalidRequest(
            f"'tool_choice' names {choice.function.name!r}, which is not among the tools.",
            param="tool_choice",
            code="invalid_value",
        )
    if tools and any(message.role == _SCHEMAS_ROLE for message in body.messages):
        raise conflict(("tools", f"messages of role {_SCHEMAS_ROLE}"))
    return [] if choice == "none" else tools


def chosen_call(body: ChatBody) -> str | None:
    """`Request.call`: the tool that must be called, "" for any of them, None for the model's own choice.

    Such an answer is begun with the head of a call; what follows is the model's.
    """
    if isinstance(body.tool_choice, NamedTool):
        return body.tool_choice.function.name
    if body.tool_choice != "required":
        return None
    tools = body.tools or []
    return tools[0].function.name if len(tools) == 1 else ""


def with_tools(messages: tuple[Message, ...], tools: Sequence[Tool]) -> tuple[Message, ...]:
    """The messages with the tools' schemas behind the system prompt, where the model looks for them."""
    return with_schemas(messages, schemas_text(tools)) if tools else messages


def with_schemas(messages: tuple[Message, ...], schemas: str) -> tuple[Message, ...]:
    """The messages with `schemas`, a JSON list of tools, behind the system prompt."""
    at = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    return (*messages[:at], Message(_SCHEMAS_ROLE, (TextPart(schemas),)), *messages[at:])


def schemas_text(tools: Sequence[Tool]) -> str:
    """Tools as the model was shown them in training."""
    return json.dumps([_plain(tool) for tool in tools], ensure_ascii=False)


def _plain(tool: Tool) -> dict[str, Any]:
    return tool.model_dump(exclude_unset=True, exclude_none=True)


# ------------------------------------------------------------------ turns
def turn_of(body: ChatBody) -> Literal["new", "continue", "none"]:
    """`Request.turn`.

    Raises:
        InvalidRequest: fields that contradict each other, or nothing that could be continued.
    """
    last = len(body.messages) - 1
    for i, message in enumerate(body.messages):
        if isinstance(message, AssistantMessage) and message.eot is False and i != last:
            raise InvalidRequest(
                "Only the last message can be left open.", param=f"messages.{i}.eot", code="invalid_value"
            )
    final = body.messages[last]
    is_open = isinstance(final, AssistantMessage) and final.eot is False
    if is_open and body.continue_final_message is False:
        raise conflict(("continue_final_message", f"messages.{last}.eot"))
    if not (body.continue_final_message or is_open):
        return "none" if body.add_generation_prompt is False else "new"
    if body.add_generation_prompt and body.continue_final_message:
        raise conflict(("continue_final_message", "add_generation_prompt"))
    if not isinstance(final, AssistantMessage) or final.content is None:
        raise InvalidRequest(
            "Only an assistant's message with content can be continued.",
            param="continue_final_message",
            code="invalid_value",
        )
    for name in ("audio", "tts_content", "tool_calls", "reasoning_content"):
        if getattr(final, name):
            raise InvalidRequest(
                f"A message with '{name}' cannot be continued: only text can.",
                param=f"messages.{last}.{name}",
                code="unsupported_field",
            )
    return "continue"
