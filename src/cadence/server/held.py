"""Markers in text that comes in pieces: what may be passed on, what may still become a marker. Pure."""

from __future__ import annotations

__all__ = ["split_held"]


def split_held(text: str, marker: str) -> tuple[str, str]:
    """Cut `text`, which has no whole `marker`, into what is sure and what must wait for more.

    Held back are the beginning of a marker at the end, and the white space before it: which belongs to the
    marker if there turns out to be one.
    """
    size = next((n for n in range(min(len(marker) - 1, len(text)), 0, -1) if text.endswith(marker[:n])), 0)
    sure = text[: len(text) - size].rstrip()
    return sure, text[len(sure) :]
