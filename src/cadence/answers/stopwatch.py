"""One answer's clock: when things happened, when too much time has passed, whether a player ran dry."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from cadence.types import OUTPUT_RATE_HZ, Timings

__all__ = ["Stopwatch"]


class Stopwatch:
    """Starts when it is made; belongs to the running event loop.

    Args:
        deadline_s: whole time allowed.
        reader_is_slow: whether events wait to be read; while they do, nothing is late but the deadline.
        on_late: called once, with a sentence, when time is up.
    """

    def __init__(
        self, deadline_s: float, *, reader_is_slow: Callable[[], bool], on_late: Callable[[str], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._deadline_s = deadline_s
        self._reader_is_slow = reader_is_slow
        self._on_late = on_late
        self._limit_s = math.inf
        self._progress = self._start
        self._queue_s: float | None = None
        self._first_token_s: float | None = None
        self._first_audio_s: float | None = None
        self._last_audio_s: float | None = None
        self._audio_s = 0.0
        self._underrun_s = 0.0
        self._due = self._start + deadline_s
        self._timer = self._loop.call_at(self._due, self._check)

    def allow(self, deadline_s: float) -> None:
        """The whole answer may take longer than was said at first."""
        self._deadline_s = max(self._deadline_s, deadline_s)

    def admitted(self) -> None:
        """The queue is behind us."""
        self._queue_s = self._elapsed()

    def token(self) -> None:
        """The thinker wrote something."""
        if self._first_token_s is None:
            self._first_token_s = self._elapsed()

    def sound(self, num_samples: int) -> float | None:
        """A chunk of sound was rendered; returns the seconds since the one before it."""
        now = self._elapsed()
        gap_s = None if self._last_audio_s is None else now - self._last_audio_s
        self._last_audio_s = now
        if self._first_audio_s is None:
            self._first_audio_s = now
        # A player that started with the first chunk has been through all earlier sound by then.
        self._underrun_s = max(self._underrun_s, now - self._first_audio_s - self._audio_s)
        self._audio_s += num_samples / OUTPUT_RATE_HZ
        return gap_s

    def expect_within(self, limit_s: float | None) -> None:
        """Something happened; the next thing must within `limit_s` (None = by the deadline)."""
        self._progress = self._loop.time()
        self._limit_s = math.inf if limit_s is None else limit_s
        # The timer is moved only when it would ring too late; when it rings early it looks again.
        if self._progress + self._limit_s < self._due:
            self._arm()

    def stop(self) -> None:
        """Ring no more."""
        self._timer.cancel()

    def timings(self) -> Timings:
        """What was measured until now."""
        return Timings(
            queue_s=self._queue_s,
            first_token_s=self._first_token_s,
            first_audio_s=self._first_audio_s,
            total_s=self._elapsed(),
            audio_s=self._audio_s,
        )

    @property
    def underrun_s(self) -> float | None:
        """How long a player that began at once would have waited for sound, at worst; None = no sound."""
        return self._underrun_s if self._first_audio_s is not None else None

    def _elapsed(self) -> float:
        return self._loop.time() - self._start

    def _arm(self) -> None:
        self._timer.cancel()
        self._due = min(self._start + self._deadline_s, self._progress + self._limit_s)
        self._timer = self._loop.call_at(self._due, self._check)

    def _check(self) -> None:
        now = self._loop.time()
        if now >= self._start + self._deadline_s:
            self._on_late(f"The answer was not complete within {self._deadline_s:g} seconds.")
            return
        if self._reader_is_slow():
            self._progress = now
        if now >= self._progress + self._limit_s:
            self._on_late(f"A stage delivered nothing for {self._limit_s:g} seconds.")
            return
        self._arm()
