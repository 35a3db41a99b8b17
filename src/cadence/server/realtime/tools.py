"""Functions that the model may call: how clients describe them, and where the model is told of them. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from cadence.errors import InvalidRequest
from cadence.server.chat_plan import with_schemas
from cadence.server.schema import Body, Text
from cadence.types import Message

__all__ = ["FunctionTool", "NamedFunction", "ToolChoice", "ToolName", "Tools", "choose_call", "with_tools"]

ToolName = Annotated[str, Field(pattern=r"^[^\s<]{1,128}$")]


class FunctionTool(Body):
    """A function that the model may call."""

    type: Literal["function"]
    name: ToolName
    description: Text | None = None
    parameters: dict[str, Any] | None = None


class NamedFunction(Body):
    """The function that must be called."""

    type: Literal["function"]
    name: ToolName


Tools = Annotated[list[FunctionTool], Field(max_length=128)]
ToolChoice = Literal["auto", "none", "required"] | NamedFunction


def choose_call(tools: Sequence[FunctionTool], choice: ToolChoice | None, where: str) -> str | None:
    """`Request.call`: the function that must be called, "" for any, None for the model's own choice.

    Raises:
        InvalidRequest: two functions of one name, or a choice that is none of them.
    """
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise InvalidRequest("Two tools have the same name.", param=f"{where}.tools", code="invalid_value")
    wanted = choice.name if isinstance(choice, NamedFunction) else None
    if (wanted is not None and wanted not in names) or (choice == "required" and not names):
        raise InvalidRequest(
            "'tool_choice' asks for a tool that is not there.",
            param=f"{where}.tool_choice",
            code="invalid_value",
        )
    if choice == "required":
        return names[0] if len(names) == 1 else ""
    return wanted


def with_tools(messages: tuple[Message, ...], tools: Sequence[FunctionTool]) -> tuple[Message, ...]:
    """The messages with the functions behind the system prompt, as the model was shown them in training."""
    if not tools:
        return messages
    shown = [
        {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}
        for tool in tools
    ]
    return with_schemas(messages, json.dumps(shown, ensure_ascii=False))
