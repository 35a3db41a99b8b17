"""Tool calls in what the model writes: `<tool_call>function\\n{name}\\n{json}</tool_call>`. Pure.

The parser works on text in pieces of any size; its result does not depend on where the text was cut. What
looks like a call but has no such head is text. Arguments are passed on as they are written: that they are
the JSON they should be is for the caller of the API to check, as with every model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from cadence.server.held import split_held
from cadence.tokens import TEXT_MARKERS

__all__ = ["CallArguments", "CallPiece", "CallStart", "ToolCallParser"]

START, END = TEXT_MARKERS["tool_call"], TEXT_MARKERS["tool_call_end"]
_KIND = "function\n"
_HEAD = re.compile(r"\s*function\n([^\s<]{1,128})[ \t]*\n")
_NAME_SO_FAR = re.compile(r"([^\s<]{1,128}[ \t]*)?")


@dataclass(frozen=True, slots=True)
class CallStart:
    """Call number `index` of an answer begins."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the arguments of call `index`."""

    index: int
    text: str


CallPiece: TypeAlias = str | CallStart | CallArguments


class ToolCallParser:
    """Splits an answer into text and calls.

    Args:
        call: the answer begins inside a call: of this tool, or, if empty, of one it names first.
    """

    def __init__(self, call: str | None = None) -> None:
        self.num_calls = 0
        self._buffer = ""
        self._forced = call
        self._state = self._text if call is None else self._head
        if call is not None:  # what the prompt says already
            self._buffer = f"{_KIND}{call}\n" if call else _KIND

    def push(self, text: str) -> list[CallPiece]:
        """Take the next piece of the answer."""
        self._buffer += text
        pieces: list[CallPiece] = []
        while self._state(pieces):
            pass
        return pieces

    def flush(self) -> list[CallPiece]:
        """What was held back, once the answer has ended; a call without an end is given as far as it came."""
        held, self._buffer = self._buffer, ""
        pieces: list[CallPiece] = []
        if self._state == self._arguments:
            self._add_arguments(pieces, held.rstrip())
        elif self._state == self._head:
            pieces.append(START + held if self._forced is None else held.removeprefix(_KIND))
        elif held.strip() or not self.num_calls:
            pieces.append(held)
        return [piece for piece in pieces if piece]

    # ------------------------------------------------------------------ states: True = there may be more
    def _text(self, pieces: list[CallPiece]) -> bool:
        before, found, after = self._buffer.partition(START)
        if found:
            sure = before.rstrip()
            self._buffer, self._state, self._forced = after, self._head, None
        else:
            sure, self._buffer = split_held(before, START)
        if sure:
            pieces.append(sure)
        return bool(found)

    def _head(self, pieces: list[CallPiece]) -> bool:
        head = _HEAD.match(self._buffer)
        if head:
            pieces.append(CallStart(self.num_calls, head[1]))
            self.num_calls += 1
            self._buffer, self._state = self._buffer[head.end() :], self._arguments
            return True
        if _may_be_head(self._buffer):
            return False
        if self._forced is None:
            pieces.append(START)
        else:
            self._buffer = self._buffer.removeprefix(_KIND)
        self._state = self._text
        return True

    def _arguments(self, pieces: list[CallPiece]) -> bool:
        before, found, after = self._buffer.partition(END)
        if found:
            self._add_arguments(pieces, before.rstrip())
            self._buffer, self._state = after, self._text
            return True
        sure, self._buffer = split_held(before, END)
        self._add_arguments(pieces, sure)
        return False

    def _add_arguments(self, pieces: list[CallPiece], text: str) -> None:
        if text:
            pieces.append(CallArguments(self.num_calls - 1, text))


def _may_be_head(text: str) -> bool:
    """Whether more text may make this the head of a call."""
    text = text.lstrip()
    if len(text) <= len(_KIND):
        return _KIND.startswith(text)
    return text.startswith(_KIND) and _NAME_SO_FAR.fullmatch(text[len(_KIND) :]) is not None
