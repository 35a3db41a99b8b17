"""When each word is said, as answers write it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cadence.server.stream import sse
from cadence.types import WordTiming

__all__ = ["word_event", "word_headers"]

_MAX_HEADER_BYTES = 4096  # longer headers are dropped or refused by proxies


def word_headers(words: Sequence[WordTiming], speed: float) -> dict[str, str]:
    """`X-Word-Timestamps`, or the header that says why it is missing."""
    value = json.dumps(_rows(words, speed), separators=(",", ":"))
    if len(value) > _MAX_HEADER_BYTES:
        return {"X-Word-Timestamps-Omitted": "too_long"}
    return {"X-Word-Timestamps": value}


def word_event(words: Sequence[WordTiming], speed: float) -> bytes:
    """A server-sent event with the next words."""
    event = "speech.audio.words"
    return sse({"type": event, "words": _rows(words, speed)}, event=event)


def _rows(words: Sequence[WordTiming], speed: float) -> list[dict[str, Any]]:
    """Seconds in the sound as it is played."""
    return [
        {"word": word.word, "start": round(word.start_s / speed, 3), "end": round(word.end_s / speed, 3)}
        for word in words
    ]
