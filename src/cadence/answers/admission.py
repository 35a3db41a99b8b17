"""Who may run now: a bounded first-in, first-out queue in front of the stages."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cadence.errors import Overloaded

__all__ = ["Admission", "retry_after_s"]

_MAX_RETRY_AFTER_S = 60


def retry_after_s(num_ahead: int, max_running: int, service_s: float) -> int:
    """Whole seconds until a place is likely free: the queue's length by the pace it moves at, 1 to 60."""
    return max(1, min(_MAX_RETRY_AFTER_S, math.ceil((num_ahead + 1) / max_running * service_s)))


class Admission:
    """Lets `max_running` requests in at once; `max_waiting` more wait in order, the rest are refused.

    Belongs to one event loop. A waiter that gives up leaves no trace, and a place that was handed to it
    in the same moment passes on to the next.

    Args:
        max_running: places, at least 1.
        max_waiting: length of the queue; 0 = refuse at once when all places are taken.
        max_waiting_audio_s: seconds of sound in the queue: what its memory is bounded by.
        max_queue_s: longest wait before a queued request is refused after all.
    """

    def __init__(
        self, max_running: int, max_waiting: int, max_queue_s: float, max_waiting_audio_s: float = math.inf
    ) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._max_waiting_audio_s = max_waiting_audio_s
        self._waiting_audio_s = 0.0
        self._max_queue_s = max_queue_s
        self._num_running = 0
        self._queue: OrderedDict[str, asyncio.Future[None]] = OrderedDict()
        self._service_s = 1.0

    @property
    def num_running(self) -> int:
        """Places taken."""
        return self._num_running

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def check(self, audio_s: float = 0.0) -> None:
        """Raise Overloaded if a request with this much sound that came now would be refused."""
        if self._num_running < self._max_running:
            return
        if len(self._queue) >= self._max_waiting:
            raise self._overloaded(
                f"The server is full: {self._num_running} requests are running and {len(self._queue)} wait."
            )
        if audio_s > 0 and self._waiting_audio_s + audio_s > self._max_waiting_audio_s:
            raise self._overloaded("The server is full: too much audio waits to be heard.")

    @asynccontextmanager
    async def place(self, request_id: str, audio_s: float = 0.0) -> AsyncIterator[None]:
        """Hold a place, waiting for one if need be.

        Raises:
            Overloaded: the queue is full, or no place came free within `max_queue_s`.
        """
        self.check(audio_s)
        if self._num_running < self._max_running:
            self._num_running += 1
        else:
            self._waiting_audio_s += audio_s
            try:
                await self._wait(request_id)
            finally:
                self._waiting_audio_s -= audio_s
        started = time.monotonic()
        try:
            yield
        finally:
            # A slow average is enough: it only words the hint when to come back.
            self._service_s += 0.1 * (time.monotonic() - started - self._service_s)
            self._hand_on()

    async def _wait(self, request_id: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue[request_id] = turn
        done: set[asyncio.Future[None]] = set()
        try:
            done, _ = await asyncio.wait({turn}, timeout=self._max_queue_s)
        finally:
            self._queue.pop(request_id, None)
            if not done and turn.done():  # cancelled in the moment the place came
                self._hand_on()
        if not done:
            turn.cancel()
            raise self._overloaded(f"No place came free within {self._max_queue_s:g} seconds.")

    def _hand_on(self) -> None:
        """Give a place that became free to the first in the queue."""
        while self._queue:
            _, turn = self._queue.popitem(last=False)
            if not turn.done():
                turn.set_result(None)
                return
        self._num_running -= 1

    def _overloaded(self, message: str) -> Overloaded:
        after = retry_after_s(len(self._queue), self._max_running, self._service_s)
        return Overloaded(message, retry_after_s=after)
