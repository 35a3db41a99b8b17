"""Text that comes in pieces to units that can be read aloud: sentences or clauses. Pure.

A unit ends where the text says so and not where a piece happened to end: what comes out depends on the text
alone. That takes one character of foresight ("3." may become "3.14"), and `flush` at the end.
"""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["MAX_UNIT_CHARS", "Granularity", "TextSplitter"]

Granularity = Literal["none", "sentence", "clause"]

MAX_UNIT_CHARS = 500
"""A sentence without an end is cut here, at a space if there is one."""

_CLOSERS = "\"'”’»)\\]】」』）"
_SENTENCE = rf"[.!?]+[{_CLOSERS}]*(?=\s)|[。！？…]+[{_CLOSERS}]*(?=[^。！？…{_CLOSERS}])|\n(?=.)"
_CLAUSE = r"[,;:—](?=\s)|[，；：、](?=.)"
_PATTERNS = {
    "sentence": re.compile(_SENTENCE, re.DOTALL),
    "clause": re.compile(f"{_SENTENCE}|{_CLAUSE}", re.DOTALL),
}
_MIN_CLAUSE = 12  # letters before a comma may end a unit; of scripts without spaces a third of them
_NO_END = re.compile(  # "Dr.", "J.", "e.g.", and "1." at the start of a line end no sentence
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|vs|etc|No|Fig|Vol|approx|e\.g|i\.e|cf)|\b[A-Z]|(?:^|\n)\s*\d{1,3})\.$"
)


class TextSplitter:
    """One utterance's text. Units join to the text, but for the spaces between them.

    Args:
        granularity: where to split; "none" waits for the end.
    """

    def __init__(self, granularity: Granularity) -> None:
        self._pattern = _PATTERNS.get(granularity)
        self._held = ""
        self._silent = ""  # marks without a letter: they go with what follows

    @property
    def num_held(self) -> int:
        """Characters that wait for the end of their unit."""
        return len(self._held) + len(self._silent)

    def feed(self, text: str) -> list[str]:
        """The units that this text completes."""
        self._held += text
        units = []
        while self._pattern is not None and (end := self._next_end(self._pattern)):
            units += self._speakable(self._held[:end])
            self._held = self._held[end:].lstrip()
        return units

    def flush(self) -> list[str]:
        """The last unit, if there is anything to say; the splitter is as new afterwards."""
        last, self._held = self._held, ""
        units = self._speakable(last)
        self._silent = ""
        return units

    def _next_end(self, pattern: re.Pattern[str]) -> int | None:
        """Where the first unit ends, if that is known yet."""
        self._held = self._held.lstrip()
        for match in pattern.finditer(self._held):
            if match.end() > MAX_UNIT_CHARS:
                break
            if self._is_end(match):
                return match.end()
        if len(self._held) <= MAX_UNIT_CHARS + 1:
            return None
        space = max(self._held.rfind(mark, 1, MAX_UNIT_CHARS) for mark in " \t\u3000，、；：,;:")
        return space + 1 if space > 0 else MAX_UNIT_CHARS

    def _is_end(self, match: re.Match[str]) -> bool:
        before = self._held[: match.end()]
        if match[0] in ",;:—，；：、":
            return sum(1 if ord(c) < 0x2E80 else 3 for c in before if c.isalnum()) >= _MIN_CLAUSE
        return match[0] != "." or _NO_END.search(before) is None

    def _speakable(self, unit: str) -> list[str]:
        """The unit; none while nothing in it can be said."""
        unit = (self._silent + unit).strip()
        if any(char.isalnum() for char in unit):
            self._silent = ""
            return [unit]
        self._silent = f"{unit} " if unit else ""
        return []
