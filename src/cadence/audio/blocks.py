"""Samples in pieces of any size, out in blocks of one size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blocks"]


class Blocks:
    """What comes after is then independent of how a stream was cut, to the last bit.

    Args:
        size: samples per block.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._held: NDArray[np.float32] = np.zeros(0, np.float32)

    def push(self, samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Yield the blocks, float32 [size], that are complete with these samples, float32 [S]."""
        held = np.concatenate((self._held, samples)) if self._held.size else samples
        num_whole = held.size - held.size % self.size
        self._held = held[num_whole:].copy()
        for start in range(0, num_whole, self.size):
            yield held[start : start + self.size]

    def flush(self) -> NDArray[np.float32]:
        """What is left, float32 [S] with S < size."""
        held, self._held = self._held, np.zeros(0, np.float32)
        return held
