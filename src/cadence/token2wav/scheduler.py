"""Which streams render now, and how much: decisions only, no tensors, no clock of its own.

A stream is cut into chunks by `ChunkCutter`: a small first chunk for an early first sound, then growing
ones for throughput. `choose` picks the streams of the next batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cadence.errors import ConfigError
from cadence.types import ChunkSchedule

__all__ = [
    "DRY_S",
    "PATIENCE_S",
    "Candidate",
    "Chunk",
    "ChunkCutter",
    "check_schedule",
    "choose",
    "whole_piece",
]

DRY_S = 1.0
"""A listener with less sound than this left to play is served before those who have more."""

PATIENCE_S = 0.1
"""A shorter gap is hardly heard; a first sound may be later by as much so that nobody has a longer one."""

_PIECE_BESIDE_STREAMS, _PIECE_ALONE = 100, 1000


@dataclass(frozen=True, slots=True)
class Chunk:
    """Render the next `num_codes`; `num_ahead` more are looked at and rendered by the next chunk."""

    num_codes: int
    num_ahead: int
    last: bool


class ChunkCutter:
    """Cuts one stream's codes into chunks as they arrive."""

    def __init__(self, schedule: ChunkSchedule) -> None:
        self._schedule = schedule
        self._size = schedule.first
        self._is_first = True  # the chunk to come

    def next(self, num_pending: int, *, ended: bool) -> Chunk | None:
        """The chunk that can be rendered from `num_pending` codes, or None.

        `ended` says that no more codes come; what is then left of a chunk and its look-ahead is the last one.
        A whole chunk with its look-ahead is cut whether or not the end is known yet, so that the same codes
        sound the same however fast they come.
        """
        ahead = self._schedule.lookahead
        if num_pending >= self._size + ahead:
            return Chunk(self._size, ahead, last=False)
        return Chunk(num_pending, 0, last=True) if ended and num_pending else None

    def advance(self) -> None:
        """A chunk was rendered: the next may be larger, but for the second.

        The vocoder holds part of the first chunk back, so its listener has less to play than it renders: a
        larger second chunk would come too late.
        """
        schedule = self._schedule
        if not self._is_first:
            self._size = min(schedule.steady, max(self._size, round(self._size * schedule.growth)))
        self._is_first = False


def check_schedule(schedule: ChunkSchedule, *, lookahead: int) -> None:
    """Refuse a schedule that the model cannot render.

    Args:
        lookahead: codes that the flow's encoder looks ahead.

    Raises:
        ConfigError: names the field.
    """
    problems = {
        "lookahead": (schedule.lookahead == lookahead, f"must be {lookahead}, as the model was trained"),
        "first": (schedule.first >= 1, "must be at least 1"),
        "steady": (schedule.steady >= schedule.first, "must not be below first"),
        "growth": (schedule.growth >= 1.0, "must be at least 1"),
    }
    for field, (fine, rule) in problems.items():
        if not fine:
            raise ConfigError(
                f"The chunk schedule's {field} {rule}; found {getattr(schedule, field)}.",
                param=f"token2wav.schedule.{field}",
            )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stream with a chunk ready.

    `slack_s` is how long its listener can still play what was sent; below 0 it has been silent for that long.
    A new stream's listener has heard nothing: its slack runs from when the first chunk could be rendered.
    """

    request_id: str
    is_new: bool
    slack_s: float


def choose(
    candidates: Sequence[Candidate], *, max_batch: int, one_by_one: bool = False, spare: bool = False
) -> list[str]:
    """The streams of the next batch.

    Whose listener runs dry first comes first; a newcomer counts as one who has `PATIENCE_S` left when its
    first chunk is ready. Who has been silent for `PATIENCE_S` has a gap already, so those are all equal:
    newcomers first among them, but in at most half of the batch (at least one place) while others wait.

    While anybody is new or has less than `DRY_S` to play, those with more wait.

    Args:
        max_batch: streams at most.
        one_by_one: each further stream makes the batch as late as a batch of its own would, so whoever can
            still be served in time goes alone.
        spare: a listener who will soon run dry has no chunk ready yet; those with `DRY_S` or more wait
            for it.
    """
    pressing = sorted((c for c in candidates if c.is_new or c.slack_s < DRY_S), key=_urgency)
    if not pressing:
        return [] if spare else [c.request_id for c in sorted(candidates, key=_urgency)[:max_batch]]
    late = [c for c in pressing if _urgency(c)[0] <= -PATIENCE_S]
    if one_by_one and not late:
        return [pressing[0].request_id]
    new = [c for c in late if c.is_new]
    running = [c for c in late if not c.is_new]
    quota = max(1, max_batch // 2, max_batch - len(running))
    ordered = new[:quota] + running + new[quota:]
    if not one_by_one:
        ordered += [c for c in pressing if c not in late]
    return [c.request_id for c in ordered[:max_batch]]


def _urgency(candidate: Candidate) -> tuple[float, bool, float]:
    """Least first."""
    due_s = candidate.slack_s + (PATIENCE_S if candidate.is_new else 0.0)
    return max(due_s, -PATIENCE_S), not candidate.is_new, candidate.slack_s


def whole_piece(num_streams: int) -> int:
    """Frames (50 a second) of a whole utterance to vocode before streams get their next turn. Small ones cost
    a third more, so they are for when somebody listens."""
    return _PIECE_BESIDE_STREAMS if num_streams else _PIECE_ALONE
