"""Where a turn begins and ends, from the probability of speech in each frame. Pure; counts in frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["ONSET_FRAMES", "TurnDetector", "TurnEdge"]

ONSET_FRAMES = 3
"""So many frames of speech in a row (about 0.1 s) begin a turn: a click is not somebody speaking."""

_HYSTERESIS = 0.15  # speech goes on at a lower probability than it needs to begin
_LOWEST = 0.01


@dataclass(frozen=True, slots=True)
class TurnEdge:
    """`start`: `frame` is the first one of speech. `end`: `frame` is the first one after the turn."""

    kind: Literal["start", "end"]
    frame: int


class TurnDetector:
    """One stream's turns, in order: start, end, start, ...

    Args:
        threshold: probability that counts as speech.
        silence_frames: so many frames without speech end a turn; they belong to it.
        max_frames: a turn is ended at this length whatever is heard.
    """

    def __init__(self, threshold: float, silence_frames: int, max_frames: int) -> None:
        self._threshold = threshold
        self._keep_on = max(threshold - _HYSTERESIS, min(threshold, _LOWEST))
        self._silence_frames = max(silence_frames, 1)
        self._max_frames = max_frames
        self._frame = 0
        self._run = 0  # frames of speech in a row, while nobody speaks; of silence, while somebody does
        self._began: int | None = None

    @property
    def speaking(self) -> bool:
        """Whether a turn has begun and not ended."""
        return self._began is not None

    def reset(self) -> None:
        """Forget a turn that has begun, and what might have become one. The count of frames goes on."""
        self._began, self._run = None, 0

    def push(self, probabilities: Iterable[float]) -> list[TurnEdge]:
        """The edges that these frames show."""
        return [edge for value in probabilities if (edge := self._hear(value)) is not None]

    def _hear(self, probability: float) -> TurnEdge | None:
        self._frame += 1
        if self._began is None:
            self._run = self._run + 1 if probability >= self._threshold else 0
            if self._run < ONSET_FRAMES:
                return None
            self._began, self._run = self._frame - ONSET_FRAMES, 0
            return TurnEdge("start", self._began)
        self._run = self._run + 1 if probability < self._keep_on else 0
        if self._run < self._silence_frames and self._frame - self._began < self._max_frames:
            return None
        self._began, self._run = None, 0
        return TurnEdge("end", self._frame)
