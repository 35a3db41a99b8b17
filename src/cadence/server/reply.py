"""What a client sees of a written answer: reasoning, text and tool calls, told apart as they come. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from cadence.server.held import split_held
from cadence.server.tool_calls import CallPiece, ToolCallParser
from cadence.tokens import TEXT_MARKERS

__all__ = ["Reasoning", "ReasoningSplitter", "Reply", "ReplyPiece", "ReplyPlan"]

_END = TEXT_MARKERS["think_end"]


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thinks before it answers."""

    text: str


ReplyPiece: TypeAlias = Reasoning | CallPiece


@dataclass(frozen=True, slots=True)
class ReplyPlan:
    """What to look for. `thinks`: the answer begins inside reasoning. `tools`: it may hold calls; `call`: it
    begins inside one (see `ToolCallParser`)."""

    thinks: bool = False
    tools: bool = False
    call: str | None = None


class ReasoningSplitter:
    """Cuts an answer that begins inside reasoning at `</think>`, which belongs to neither side."""

    def __init__(self) -> None:
        self._held = ""
        self._thinking = True
        self._is_bare = True  # nothing but white space so far, on this side of the marker

    def push(self, text: str) -> tuple[str, str]:
        """Take the next piece; returns new reasoning and new text."""
        if not self._thinking:
            return "", self._trimmed(text)
        before, found, after = (self._held + text).partition(_END)
        sure, self._held = (before.rstrip(), "") if found else split_held(before, _END)
        reasoning = self._trimmed(sure)
        if not found:
            return reasoning, ""
        self._thinking, self._is_bare = False, True
        return reasoning, self._trimmed(after)

    def flush(self) -> str:
        """Reasoning that was held back when the answer ended inside it."""
        held, self._held = self._held, ""
        return held.rstrip() if self._thinking else ""

    def _trimmed(self, text: str) -> str:
        if self._is_bare:
            text = text.lstrip()
            self._is_bare = not text
        return text


class Reply:
    """One answer's text on its way to the client."""

    def __init__(self, plan: ReplyPlan) -> None:
        self._splitter = ReasoningSplitter() if plan.thinks else None
        self._parser = ToolCallParser(plan.call) if plan.tools else None

    @property
    def num_calls(self) -> int:
        """Tool calls begun so far."""
        return self._parser.num_calls if self._parser else 0

    def push(self, text: str) -> list[ReplyPiece]:
        """Take the next piece of the answer."""
        reasoning = ""
        if self._splitter:
            reasoning, text = self._splitter.push(text)
        pieces: list[ReplyPiece] = [Reasoning(reasoning)] if reasoning else []
        pieces += self._parser.push(text) if self._parser else [text]
        return [piece for piece in pieces if piece]

    def flush(self) -> list[ReplyPiece]:
        """What was held back, once the answer has ended."""
        reasoning = self._splitter.flush() if self._splitter else ""
        pieces: list[ReplyPiece] = [Reasoning(reasoning)] if reasoning else []
        return pieces + (self._parser.flush() if self._parser else [])
