"""A bounded queue of one answer's events with exactly one end."""

from __future__ import annotations

import asyncio
from collections import deque

from cadence.errors import CadenceError
from cadence.types import Done, Event

__all__ = ["Mailbox"]


class Mailbox:
    """Many producers, one reader. Producers wait while it is full; closing never waits.

    The end (Done or an error) comes after the events that were put before it; only the first end counts
    and whatever is put later is dropped.
    """

    def __init__(self, max_events: int = 16) -> None:
        self._max_events = max_events
        self._events: deque[Event] = deque()
        self._end: Done | CadenceError | None = None
        self._ready = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether the end is known."""
        return self._end is not None

    @property
    def num_events(self) -> int:
        """Events that the reader has not taken; above 0 means that it is the slow one."""
        return len(self._events)

    async def put(self, event: Event) -> None:
        """Add an event, waiting for room."""
        while len(self._events) >= self._max_events and self._end is None:
            self._room.clear()
            await self._room.wait()
        if self._end is None:
            self._events.append(event)
            self._ready.set()

    def close(self, end: Done | CadenceError) -> bool:
        """Set the end; False when there was one already."""
        if self._end is not None:
            return False
        self._end = end
        self._ready.set()
        self._room.set()
        return True

    async def get(self) -> Event | CadenceError:
        """The next event, at last the end (again and again)."""
        while not self._events and self._end is None:
            self._ready.clear()
            await self._ready.wait()
        self._room.set()
        if self._events:
            return self._events.popleft()
        assert self._end is not None
        return self._end
