"""The estimator in lanes: guided and unguided rows, and streams, never meet inside of it.

They are divided before its first layer and joined behind its last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from cadence.models.dit import DiT, Modulation
from cadence.models.dit_memory import DiTMemory, DiTSpan
from cadence.models.lanes import Lanes

__all__ = ["DiTLanes"]


@runtime_checkable
class DivisibleMemory(DiTMemory, Protocol):
    """A span's memory whose groups can be worked on apart."""

    def group(self, index: int) -> DiTMemory:
        """The memory of one group alone; what it keeps is kept here."""
        ...


class DiTLanes:
    """An estimator whose rows are shared out: call it as `DiT.forward`."""

    def __init__(self, estimator: DiT, lanes: Lanes) -> None:
        self._estimator, self._lanes = estimator, lanes

    def __call__(
        self, x: Tensor, projected: Tensor, modulation: Modulation, spans: Sequence[DiTSpan]
    ) -> Tensor:
        """See `DiT.forward`."""
        units = [unit for span in spans for unit in _groups(span)]
        sizes = [unit.groups * unit.frames for unit in units]
        cut = _middle(sizes)
        parts, at = [], 0
        for lane in (units[:cut], units[cut:]):
            rows = sum(unit.groups * unit.frames for unit in lane)
            if lane:
                inputs = (x[at : at + rows], projected[at : at + rows], modulation, lane)
                parts.append(partial(self._estimator, *inputs))
            at += rows
        return torch.cat(self._lanes.run(parts))


def _groups(span: DiTSpan) -> list[DiTSpan]:
    """A span as one span for each of its groups, where its memory allows that."""
    if span.groups == 1 or not isinstance(span.memory, DivisibleMemory):
        return [span]
    return [DiTSpan(1, span.frames, span.memory.group(index)) for index in range(span.groups)]


def _middle(sizes: Sequence[int]) -> int:
    """After how many of `sizes` their sum is nearest to half of all."""
    sums = list(accumulate(sizes))
    return 1 + min(range(len(sums)), key=lambda index: abs(2 * sums[index] - sums[-1]))
