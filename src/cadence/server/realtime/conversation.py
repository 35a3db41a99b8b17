"""What was said in a session, by whom: in order, as clients see it and as the model reads it. Pure."""

from __future__ import annotations

import base64
import math
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cadence.audio.encode import pcm16
from cadence.audio.int16 import from_int16
from cadence.audio.resample import resample
from cadence.errors import InvalidRequest
from cadence.server.context import new_id
from cadence.types import (
    CODES_PER_SECOND,
    INPUT_RATE_HZ,
    OUTPUT_RATE_HZ,
    AudioPart,
    Message,
    RepeatPart,
    SpeechPart,
    TextPart,
    ToolCallPart,
    WordTiming,
)
from cadence.types import Part as EnginePart

__all__ = [
    "MAX_ITEMS",
    "AnyItem",
    "CallItem",
    "Conversation",
    "Item",
    "OutputItem",
    "Part",
    "check_call",
    "engine_messages",
]

MAX_ITEMS = 1000
ROOT = "root"
_CODE_MS = 1000 // CODES_PER_SECOND
Status = Literal["completed", "incomplete", "in_progress"]


@dataclass(slots=True, eq=False)
class Part:
    """One content part.

    `samples`: int16 [T], 16 kHz, what was heard. Of what was said: `spoken_ms`, how much of it was sent, as
    it sounds at its `speed`;
    `codes`, the speech codes the model wrote; `words`, when each is said, as far as that is known;
    `output_ids`, all that the model wrote, once that is complete.
    """

    type: Literal["input_text", "input_audio", "output_text", "output_audio"]
    text: str = ""
    transcript: str | None = None
    samples: NDArray[np.int16] | None = None
    spoken_ms: int = 0
    speed: float = 1.0
    codes: array[int] = field(default_factory=lambda: array("h"))
    words: list[WordTiming] = field(default_factory=list)
    output_ids: array[int] | None = None

    def wire(self, *, with_audio: bool = False) -> dict[str, Any]:
        """As a client sees it; sound only where it is asked for, as 24 kHz PCM in base64."""
        if self.type in ("input_text", "output_text"):
            return {"type": self.type, "text": self.text}
        shown: dict[str, Any] = {"type": self.type, "transcript": self.transcript}
        if with_audio and self.samples is not None:
            sound = resample(from_int16(self.samples), INPUT_RATE_HZ, OUTPUT_RATE_HZ)
            shown["audio"] = base64.b64encode(pcm16(sound)).decode()
        return shown

    def cut(self, heard_ms: int) -> None:
        """Forget what was not heard, of a word that was cut off all."""
        self.transcript = self._heard_words(heard_ms * self.speed)
        self.output_ids = None
        self.spoken_ms = heard_ms

    def _heard_words(self, heard_ms: float) -> str:
        """The words said by then, in the model's own time. Where that is not known of each, they are spread
        evenly over the speech."""
        text = self.transcript or ""
        if self.words:
            end = 0
            for word in self.words:
                at = text.find(word.word, end)
                if 1000 * word.end_s > heard_ms or at < 0:
                    break
                end = at + len(word.word)
            return text[:end]
        words = re.findall(r"\s*\S+", text)
        written_ms = max(self.spoken_ms * self.speed, _CODE_MS * len(self.codes))
        return "".join(words[: int(len(words) * heard_ms / written_ms) if written_ms else 0])

    def content(self) -> EnginePart | None:
        """What the model reads of it; None = nothing.

        A complete answer is repeated id by id, so that what was computed for it is used again. Of one that
        was cut, words and codes are put together anew.
        """
        if self.samples is not None:
            return AudioPart(from_int16(self.samples))
        if self.output_ids:
            return RepeatPart(tuple(self.output_ids))
        text = self.text or self.transcript
        codes = self.codes[: math.ceil(self.spoken_ms * self.speed / _CODE_MS)]
        if codes:
            return SpeechPart(text or "", tuple(codes))
        return TextPart(text) if text else None


@dataclass(slots=True, eq=False)
class Item:
    """A message of a role. `forgotten`, here and below: the model does not read it any more."""

    id: str
    role: Literal["user", "assistant", "system"]
    parts: list[Part] = field(default_factory=list)
    status: Status = "completed"
    forgotten: bool = False

    def wire(self, *, with_audio: bool = False) -> dict[str, Any]:
        """As a client sees it."""
        content = [part.wire(with_audio=with_audio) for part in self.parts]
        return {**_head(self, "message"), "role": self.role, "content": content}

    @property
    def num_samples(self) -> int:
        """Sound held, in samples."""
        return sum(part.samples.size for part in self.parts if part.samples is not None)


@dataclass(slots=True, eq=False)
class CallItem:
    """A function that the model wants called. `within`: the speech that this call was written behind."""

    id: str
    name: str
    call_id: str
    arguments: str = ""
    status: Status = "completed"
    forgotten: bool = False
    within: Part | None = None
    num_samples: int = 0

    def wire(self, *, with_audio: bool = False) -> dict[str, Any]:
        """As a client sees it."""
        call = {"name": self.name, "call_id": self.call_id, "arguments": self.arguments}
        return {**_head(self, "function_call"), **call}

    @property
    def repeated(self) -> bool:
        """Whether the speech before it is repeated id by id, this call included."""
        return self.within is not None and bool(self.within.output_ids)


@dataclass(slots=True, eq=False)
class OutputItem:
    """What a function gave."""

    id: str
    call_id: str
    output: str
    status: Status = "completed"
    forgotten: bool = False
    num_samples: int = 0

    def wire(self, *, with_audio: bool = False) -> dict[str, Any]:
        """As a client sees it."""
        return {**_head(self, "function_call_output"), "call_id": self.call_id, "output": self.output}


AnyItem: TypeAlias = Item | CallItem | OutputItem


def _head(item: AnyItem, kind: str) -> dict[str, Any]:
    return {"id": item.id, "object": "realtime.item", "type": kind, "status": item.status}


class Conversation:
    """Items in order. Holds at most `MAX_ITEMS` and `max_samples` of sound: the oldest make room."""

    def __init__(self, max_samples: int) -> None:
        self.id = f"conv_{new_id()}"
        self._items: list[AnyItem] = []
        self._max_samples = max_samples

    def __iter__(self) -> Iterator[AnyItem]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item_id: str) -> bool:
        return any(item.id == item_id for item in self._items)

    @property
    def last_id(self) -> str | None:
        """The newest item."""
        return self._items[-1].id if self._items else None

    def find(self, item_id: str, param: str = "item_id") -> AnyItem:
        """The item of that id; raises InvalidRequest."""
        return self._items[self._index(item_id, param)]

    def add(self, item: AnyItem, after: str | None = None) -> str | None:
        """Put an item at the end, or after another one (`root`: first).

        Returns:
            The id of the item before it.

        Raises:
            InvalidRequest: the id is taken, or there is no item to follow.
        """
        if item.id in self or item.id == ROOT:
            raise InvalidRequest("There is an item with this id.", param="item.id", code="item_exists")
        at = len(self._items)
        if after is not None:
            at = 0 if after == ROOT else self._index(after, "previous_item_id") + 1
        self._items.insert(at, item)
        return self._items[at - 1].id if at else None

    def delete(self, item_id: str) -> None:
        """Take an item out; raises InvalidRequest."""
        del self._items[self._index(item_id, "item_id")]

    def make_room(self) -> list[str]:
        """Drop the oldest items beyond the limits; returns their ids. The newest always stays."""
        dropped = []
        held = sum(item.num_samples for item in self._items)
        while len(self._items) > 1 and (len(self._items) > MAX_ITEMS or held > self._max_samples):
            oldest = self._items.pop(0)
            held -= oldest.num_samples
            dropped.append(oldest.id)
        return dropped

    def forget_half(self) -> None:
        """Let the model read only the newer half of what it reads now."""
        read = [item for item in self._items if not item.forgotten]
        for item in read[: len(read) // 2]:
            item.forgotten = True

    def truncate(self, item_id: str, content_index: int, heard_ms: int) -> None:
        """Keep what was heard of a spoken answer.

        Raises:
            InvalidRequest: not an item that was spoken, or shorter than that.
        """
        item = self.find(item_id)
        if not isinstance(item, Item) or item.role != "assistant":
            raise InvalidRequest("Only answers can be truncated.", param="item_id")
        if content_index >= len(item.parts) or item.parts[content_index].type != "output_audio":
            raise InvalidRequest("This part of the item is no speech.", param="content_index")
        part = item.parts[content_index]
        if heard_ms > part.spoken_ms:
            raise InvalidRequest(
                f"The speech is {part.spoken_ms} ms long, shorter than {heard_ms} ms.", param="audio_end_ms"
            )
        part.cut(heard_ms)

    def _index(self, item_id: str, param: str) -> int:
        for i, item in enumerate(self._items):
            if item.id == item_id:
                return i
        raise InvalidRequest("There is no item with this id.", param=param, code="item_not_found")


def check_call(output: OutputItem, items: Iterable[AnyItem], param: str) -> None:
    """Raise InvalidRequest unless the call of this output is among the items."""
    if not any(isinstance(item, CallItem) and item.call_id == output.call_id for item in items):
        raise InvalidRequest(
            "There is no call with this id.", param=f"{param}.call_id", code="call_not_found"
        )


def engine_messages(instructions: str, items: Iterable[AnyItem]) -> tuple[Message, ...]:
    """What the model reads: the instructions, then every item that holds something.

    A function's output goes with its call: alone it would answer a question that was never asked.
    """
    found = [Message("system", (TextPart(instructions),))] if instructions else []
    functions: dict[str, str] = {}  # by the id of the call
    for item in items:
        if isinstance(item, CallItem):
            functions[item.call_id] = item.name
            if not item.repeated:
                _add_call(found, ToolCallPart(item.name, item.arguments))
        elif isinstance(item, OutputItem):
            if item.call_id in functions:
                text = f"{functions[item.call_id]}\n{item.output}"
                found.append(Message("function_output", (TextPart(text),)))
        elif content := tuple(part for part in map(Part.content, item.parts) if part is not None):
            found.append(Message(item.role, content))
    return tuple(found)


def _add_call(found: list[Message], call: ToolCallPart) -> None:
    """A call stands in the same turn as what the model said before it."""
    if found and found[-1].role == "assistant":
        found[-1] = Message("assistant", (*found[-1].content, call))
    else:
        found.append(Message("assistant", (call,)))
