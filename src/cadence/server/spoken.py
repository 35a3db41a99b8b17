"""Spoken answers that a later turn may refer to by `audio.id`: kept for a while, within bounds."""

from __future__ import annotations

import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["SpokenAnswer", "SpokenAnswers"]

_ENTRY_BYTES = 512  # keys, objects and dictionary slots of an entry, roughly


@dataclass(frozen=True, slots=True)
class SpokenAnswer:
    """What the model wrote (`Done.output_ids`), its text as the client was told, and until when it is kept
    (Unix time)."""

    ids: array[int]
    text: str
    expires_at: int

    @property
    def num_bytes(self) -> int:
        """Memory it takes, about."""
        return _ENTRY_BYTES + self.ids.itemsize * len(self.ids) + 4 * len(self.text)


class SpokenAnswers:
    """Answers by id. When a bound is reached, the one that was used longest ago goes first.

    Belongs to one event loop.

    Args:
        max_count: answers held at most.
        max_bytes: memory they take at most, about.
        keep_s: seconds until an answer expires, whether it is used or not.
        clock: Unix time now.
    """

    def __init__(
        self, *, max_count: int, max_bytes: int, keep_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._clock = clock
        self._answers: OrderedDict[str, SpokenAnswer] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def expires_at(self) -> int:
        """Until when an answer put in now would be kept, as Unix time."""
        return int(self._clock() + self._keep_s)

    def put(self, audio_id: str, ids: Sequence[int], text: str) -> int:
        """Keep an answer; returns when it expires: now, if it alone exceeds the bounds and is not kept."""
        self._drop_expired()
        answer = SpokenAnswer(array("i", ids), text, self.expires_at())
        if answer.num_bytes > self._max_bytes or self._max_count < 1:
            return int(self._clock())
        self._answers[audio_id] = answer
        self.num_bytes += answer.num_bytes
        while len(self._answers) > self._max_count or self.num_bytes > self._max_bytes:
            self._drop(next(iter(self._answers)))
        return answer.expires_at

    def get(self, audio_id: str) -> SpokenAnswer | None:
        """The answer of that id, unless it is unknown, expired or had to make room."""
        answer = self._answers.get(audio_id)
        if answer is None:
            return None
        if answer.expires_at <= self._clock():
            self._drop(audio_id)
            return None
        self._answers.move_to_end(audio_id)
        return answer

    def _drop_expired(self) -> None:
        now = self._clock()
        for audio_id in [key for key, answer in self._answers.items() if answer.expires_at <= now]:
            self._drop(audio_id)

    def _drop(self, audio_id: str) -> None:
        self.num_bytes -= self._answers.pop(audio_id).num_bytes
