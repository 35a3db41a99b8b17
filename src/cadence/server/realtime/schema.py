"""The events that a client may send on `/v1/realtime`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from cadence.errors import InvalidRequest
from cadence.server.body import parse_json
from cadence.server.realtime.settings import ResponseBody, SessionBody
from cadence.server.realtime.tools import ToolName
from cadence.server.schema import Body, Text, parse

__all__ = ["EVENTS", "ClientEvent", "ItemBody", "parse_event", "parse_item", "read_text"]

ItemId = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]


class ContentBody(Body):
    """A piece of a message."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {"image_url": (), "detail": ("auto",)}

    type: Literal["input_text", "input_audio", "output_text", "output_audio"]
    text: Text | None = None
    audio: str | None = None
    transcript: Text | None = None


class ItemBody(Body):
    """A message, a function's call or its output."""

    type: Literal["message", "function_call", "function_call_output"]
    id: ItemId | None = None
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    role: Literal["user", "assistant", "system"] | None = None
    content: Annotated[list[ContentBody], Field(min_length=1, max_length=64)] | None = None
    call_id: ItemId | None = None
    name: ToolName | None = None
    arguments: Text | None = None
    output: Text | None = None


class _Event(Body):
    event_id: Annotated[str, Field(max_length=512)] | None = None


class SessionUpdate(_Event):
    """Changes settings."""

    type: Literal["session.update"]
    session: SessionBody


class BufferAppend(_Event):
    """More sound, in base64."""

    type: Literal["input_audio_buffer.append"]
    audio: str = Field(min_length=1)


class BufferCommit(_Event):
    """The buffer becomes a message."""

    type: Literal["input_audio_buffer.commit"]


class BufferClear(_Event):
    """The buffer is emptied."""

    type: Literal["input_audio_buffer.clear"]


class ItemCreate(_Event):
    """A new item. `previous_item_id`: null = at the end, "root" = first."""

    type: Literal["conversation.item.create"]
    previous_item_id: ItemId | None = None
    item: ItemBody


class ItemRetrieve(_Event):
    """Asks for an item."""

    type: Literal["conversation.item.retrieve"]
    item_id: ItemId


class ItemDelete(_Event):
    """Takes an item out of the conversation."""

    type: Literal["conversation.item.delete"]
    item_id: ItemId


class ItemTruncate(_Event):
    """Tells how much of an answer was heard."""

    type: Literal["conversation.item.truncate"]
    item_id: ItemId
    content_index: int = Field(ge=0, le=64)
    audio_end_ms: int = Field(ge=0, lt=2**31)


class ResponseCreate(_Event):
    """Asks for an answer."""

    type: Literal["response.create"]
    response: ResponseBody | None = None


class ResponseCancel(_Event):
    """Ends an answer: the one named, else the one being given."""

    type: Literal["response.cancel"]
    response_id: ItemId | None = None


ClientEvent: TypeAlias = (
    SessionUpdate
    | BufferAppend
    | BufferCommit
    | BufferClear
    | ItemCreate
    | ItemRetrieve
    | ItemDelete
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
)

EVENTS: Mapping[str, type[ClientEvent]] = {
    kind.model_fields["type"].annotation.__args__[0]: kind for kind in ClientEvent.__args__
}


def parse_event(data: Any) -> ClientEvent:
    """Check a client's event.

    Raises:
        InvalidRequest: names the first field at fault, or the type that is not known.
    """
    kind = data.get("type") if isinstance(data, dict) else None
    if not isinstance(kind, str):
        raise InvalidRequest("An event is a JSON object with a 'type'.", param="type", code="invalid_event")
    if kind not in EVENTS:
        raise InvalidRequest(
            f"There is no event {kind[:64]!r}; known are: {', '.join(EVENTS)}.",
            param="type",
            code="unknown_event",
        )
    return parse(EVENTS[kind], data)


def parse_item(data: Any) -> ItemBody:
    """Check an item that stands in `response.input`."""
    return parse(ItemBody, data)


def read_text(text: str) -> Any:
    """A message's JSON; raises InvalidRequest."""
    return parse_json(text.encode("utf-8", "surrogatepass"))
