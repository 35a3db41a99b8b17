"""Which past frames a streaming DiT layer attends to: the bookkeeping, without tensors.

The reference prepends every chunk to its cache and then keeps the first P and the last 100 frames,
P being the frames of the voice prompt. So its window holds the newest P frames and 100 frames of the
prompt's end, and the chunk on the border is cut from its *end*. Attention has no positions: which
frames are members matters, not where they lie. That lets frames of the prompt stay where the voice
keeps them and new frames be written over evicted ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["PROMPT_TAIL_FRAMES", "FrameWindow", "WindowPlan"]

PROMPT_TAIL_FRAMES = 100  # 2 s; the reference's constant


@dataclass(frozen=True)
class WindowPlan:
    """One chunk's place in the window.

    `slots` [n] take the new frames; before that, frames move from `move_from` to `move_to`, so that the
    members are exactly the slots 0..used-1. `prompt_runs` are the prompt frames still attended to.
    `noise_offset` is where the chunk's start noise begins.
    """

    slots: NDArray[np.int64]
    move_from: NDArray[np.int64]
    move_to: NDArray[np.int64]
    used: int
    prompt_runs: tuple[tuple[int, int], ...]
    noise_offset: int

    @cached_property
    def slot_runs(self) -> tuple[tuple[int, int], ...]:
        """`slots` as [start, stop) runs."""
        return _runs(self.slots)

    @cached_property
    def past_runs(self) -> tuple[tuple[int, int], ...]:
        """The slots that hold earlier frames, as [start, stop) runs."""
        return _runs(np.setdiff1d(np.arange(self.used, dtype=np.int64), self.slots, assume_unique=True))


class FrameWindow:
    """Members of one stream's window, newest chunk first.

    A member is a slot of the stream's own storage (>= 0) or, as -1 - p, frame p of the prompt.
    """

    def __init__(self, num_prompt: int, max_newest: int | None = None) -> None:
        """The newest P frames are kept as in the reference, or `max_newest` if that is fewer."""
        self._newest = num_prompt if max_newest is None else min(num_prompt, max_newest)
        self._members: NDArray[np.int64] = -1 - np.arange(num_prompt, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._members)

    @property
    def max_own(self) -> int:
        """Most own frames that outlive a chunk: the tail is the prompt's, as far as the prompt fills it."""
        return max(self._newest, PROMPT_TAIL_FRAMES)

    def plan(self, num_new: int) -> WindowPlan:
        """Place `num_new` frames; `move` what the plan moves, `commit` it once the frames are written."""
        own = self._members[self._members >= 0]
        used = len(own) + num_new
        beyond = own[own >= used]
        free = np.setdiff1d(np.arange(used, dtype=np.int64), own, assume_unique=True)
        return WindowPlan(
            slots=free[len(beyond) :],
            move_from=beyond,
            move_to=free[: len(beyond)],
            used=used,
            prompt_runs=_runs(np.sort(-1 - self._members[self._members < 0])),
            noise_offset=len(self._members),
        )

    def move(self, plan: WindowPlan) -> None:
        """The plan's moves have been made."""
        for source, target in zip(plan.move_from, plan.move_to, strict=True):
            self._members[self._members == source] = target

    def commit(self, plan: WindowPlan) -> None:
        """Take the plan's frames in, then evict what falls out of the window."""
        members = np.concatenate([plan.slots, self._members])
        if len(members) > self._newest + PROMPT_TAIL_FRAMES:
            members = np.concatenate([members[: self._newest], members[-PROMPT_TAIL_FRAMES:]])
        self._members = members


def _runs(frames: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Sorted frame numbers as [start, stop) runs."""
    if not len(frames):
        return ()
    cuts = np.flatnonzero(np.diff(frames) != 1) + 1
    return tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(frames, cuts))
