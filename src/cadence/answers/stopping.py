"""Stop strings in text that arrives piece by piece. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["StopMatcher", "StopResult"]


@dataclass(frozen=True, slots=True)
class StopResult:
    """Text that may be shown now, and the stop string that ended the answer, if one did."""

    text: str
    match: str | None = None


class StopMatcher:
    """Cuts an answer at the first stop string, wherever the pieces are cut.

    The string whose *end* comes first wins (of two that end together, the longer), which is the one
    rule that gives the same answer for every way of cutting the text into pieces. Text that may still
    become a stop string is held back until it is known.

    Args:
        stops: the strings; empty ones are ignored.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def push(self, text: str) -> StopResult:
        """Take the next piece; after a match nothing more may be pushed."""
        if not self._stops:
            return StopResult(text)
        buffer = self._held + text
        found = [
            (start + len(stop), start, stop) for stop in self._stops if (start := buffer.find(stop)) >= 0
        ]
        if found:
            _, start, stop = min(found)
            self._held = ""
            return StopResult(buffer[:start], stop)
        keep = self._open_suffix(buffer)
        self._held = buffer[len(buffer) - keep :]
        return StopResult(buffer[: len(buffer) - keep])

    def flush(self) -> str:
        """The text held back, once the answer has ended without a match."""
        held, self._held = self._held, ""
        return held

    def _open_suffix(self, buffer: str) -> int:
        """Length of the longest end of `buffer` that some stop string begins with."""
        longest = min(len(buffer), max(len(stop) for stop in self._stops) - 1)
        for size in range(longest, 0, -1):
            tail = buffer[len(buffer) - size :]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0
