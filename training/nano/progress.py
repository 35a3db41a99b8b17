"""Progress on a terminal or in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.progress import track as rich_track

T = TypeVar("T")
_REPORT_EVERY_S = 20.0


def track(items: Sequence[T], label: str) -> Iterator[T]:
    """Yield the items with a bar on a terminal, with a line now and then otherwise."""
    if sys.stderr.isatty():
        yield from rich_track(items, description=label)
        return
    begun = said = time.monotonic()
    for i, item in enumerate(items):
        yield item
        if time.monotonic() - said > _REPORT_EVERY_S:
            said = time.monotonic()
            print(f"{label}: {i + 1}/{len(items)} after {said - begun:.0f} s", flush=True)
