"""One upsampling stage of the vocoder in lanes: each computes a part of the signal.

Convolutions see as far as their kernels reach, so a lane also computes what its samples see of the part
beside it, and the result is that of one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from cadence.models.lanes import Lanes

__all__ = ["StageLanes"]

_MAX_SHARE = 0.7  # of the signal in one lane, the edges that it computes twice included


class StageLanes:
    """A stage whose signal is shared out: call it as what computes it."""

    def __init__(
        self,
        compute: Callable[[Tensor, Tensor], Tensor],
        source: nn.Module,
        branches: Sequence[nn.Module],
        lanes: Lanes,
    ) -> None:
        """`compute` takes signal and source [B, C, T] to [B, C, T]; it does what the `SnakeBlock`s `source`
        and `branches` do."""
        self._compute, self._lanes = compute, lanes
        self._reach = _reach(source) + max(_reach(branch) for branch in branches)

    def __call__(self, x: Tensor, source: Tensor) -> Tensor:
        """Signal and source [B, C, T] to [B, C, T]."""
        length, count = x.shape[-1], self._lanes.count
        if count == 1 or length / count + self._reach > _MAX_SHARE * length:
            return self._compute(x, source)
        cuts = [length * lane // count for lane in range(count + 1)]
        parts = [partial(self._run, x, source, *cut) for cut in pairwise(cuts)]
        return torch.cat(self._lanes.run(parts), dim=-1)

    def _run(self, x: Tensor, source: Tensor, start: int, stop: int) -> Tensor:
        """Samples `start` to `stop` of the result, from all that they see."""
        low, high = max(0, start - self._reach), min(x.shape[-1], stop + self._reach)
        return self._compute(x[..., low:high], source[..., low:high])[..., start - low : stop - low]


def _reach(block: Any) -> int:
    """How far to either side a block's samples see."""
    convolutions = (*block.convs1, *block.convs2)
    return sum(int(conv.padding[0]) for conv in convolutions)
