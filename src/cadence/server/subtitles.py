"""Transcripts as text: pieces joined into one, and SRT and WebVTT files. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Segment", "TextJoiner", "srt", "vtt"]

# Between these, and before closing punctuation, scripts like Chinese and Japanese have no space.
_NO_SPACE = re.compile("[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\u3000-\u30ff]")


@dataclass(frozen=True, slots=True)
class Segment:
    """What was said from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    text: str


class TextJoiner:
    """Joins the texts of pieces while they are written: what comes out, put together, is the whole.

    Space around a piece's text is dropped; one space stands between two pieces, none where the script
    has none.
    """

    def __init__(self) -> None:
        self._last = ""  # the last character that came out
        self._held = ""  # space that may turn out to be the end
        self._fresh = True  # nothing of this piece came out yet

    def next_piece(self) -> None:
        """What follows belongs to another piece."""
        self._held, self._fresh = "", True

    def push(self, text: str) -> str:
        """More of this piece; what can be said of it now."""
        text = self._held + text
        if self._fresh:
            text = text.lstrip()
        kept = text.rstrip()
        self._held = text[len(kept) :]
        if not kept:
            return ""
        between = self._between(kept[0]) if self._fresh else ""
        self._fresh, self._last = False, kept[-1]
        return between + kept

    def _between(self, first: str) -> str:
        if not self._last:
            return ""
        return "" if _NO_SPACE.match(self._last) and _NO_SPACE.match(first) else " "


def srt(segments: Iterable[Segment]) -> str:
    """SubRip: numbered cues, always with hours, a comma before the milliseconds."""
    return "".join(
        f"{number}\n{_clock(s.start_s, ',')} --> {_clock(s.end_s, ',')}\n{_line(s.text)}\n\n"
        for number, s in enumerate(segments, 1)
    )


def vtt(segments: Iterable[Segment]) -> str:
    """WebVTT: hours only when there are some; characters with a meaning there are escaped."""
    cues = (
        f"{_clock(s.start_s, '.', short=True)} --> {_clock(s.end_s, '.', short=True)}\n"
        f"{_line(s.text).replace('&', '&amp;').replace('<', '&lt;')}\n\n"
        for s in segments
    )
    return "WEBVTT\n\n" + "".join(cues)


def _line(text: str) -> str:
    """One line of a cue: a blank line or an arrow in it would end the cue or start another."""
    return " ".join(text.split()).replace("-->", "->")


def _clock(seconds: float, point: str, *, short: bool = False) -> str:
    total_ms = round(1000 * seconds)
    minutes, ms = divmod(total_ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    head = "" if short and not hours else f"{hours:02d}:"
    return f"{head}{minutes:02d}:{ms // 1000:02d}{point}{ms % 1000:03d}"
