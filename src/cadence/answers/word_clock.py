"""When each word of a spoken answer is said, from where its text stands among the speech codes. Pure.

Text and codes are written in turn, a text slot before every four codes (160 ms). A model that waits with
its text for the sound to come up to it puts each word where it is spoken. A model that lets the text run
ahead fills every slot until the text is used up and goes on speaking: the words are then spread over the
sound in proportion, which is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

from cadence.interleave import GROUP_CODES
from cadence.types import CODES_PER_SECOND, WordTiming

__all__ = ["WordClock"]


@dataclass(slots=True)
class _Word:
    text: str
    start: float  # in codes from the beginning of the answer


class WordClock:
    """Follows one answer; every position is the number of codes written before."""

    def __init__(self) -> None:
        self._words: list[_Word] = []  # not given out yet, the last one may still grow
        self._open = False
        self._begin = 0  # of the piece
        self._last = -1
        self._waits = False

    def push(self, text: str, position: int) -> tuple[WordTiming, ...]:
        """Take text written at a position; returns the words that are certain now."""
        if self._last >= 0 and position > self._last + GROUP_CODES:
            self._waits = True
        self._last = position
        for char in text:
            self._add(char, position)
        return self._take(position) if self._waits else ()

    def end_piece(self, position: int) -> tuple[WordTiming, ...]:
        """The piece's sound ends at a position: the rest of its words."""
        if not self._waits and self._last >= 0:
            written = max(self._last + GROUP_CODES - self._begin, 1)
            stretch = max((position - self._begin) / written, 1.0)
            for word in self._words:
                word.start = self._begin + (word.start - self._begin) * stretch
        words = self._take(position, last=True)
        self._begin, self._last, self._waits, self._open = position, -1, False, False
        return words

    def _add(self, char: str, position: int) -> None:
        if char.isspace():
            self._open = False
        elif not _stands_alone(char) and self._words and (self._open or not char.isalnum()):
            self._words[-1].text += char
            # A mark ends a word that is written without spaces; letters go on.
            self._open = self._open and not _stands_alone(self._words[-1].text[0])
        else:
            self._words.append(_Word(char, position))
            self._open = not _stands_alone(char)

    def _take(self, position: int, *, last: bool = False) -> tuple[WordTiming, ...]:
        """Give out every word whose end is known: the next one's start, or the end of the sound."""
        ready = self._words if last else self._words[:-1]
        ends = [word.start for word in self._words[1:]] + [position] * last
        timings = tuple(
            WordTiming(word.text, word.start / CODES_PER_SECOND, min(end, position) / CODES_PER_SECOND)
            for word, end in zip(ready, ends, strict=True)
        )
        self._words = [] if last else self._words[-1:]
        return timings


def _stands_alone(char: str) -> bool:
    """Whether a character is a word by itself: Chinese and Japanese are written without spaces."""
    code = ord(char)
    return 0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or code >= 0x20000
