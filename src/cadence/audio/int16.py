"""16-bit samples and float32 ones: half the memory, or what everything computes with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["from_int16", "to_int16"]


def from_int16(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """int16 [T] to float32 [T], ±1.0."""
    return np.multiply(samples, np.float32(1 / 32768), dtype=np.float32)


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """float32 [T], ±1.0 (beyond is clipped) to int16 [T]; the inverse of `from_int16`."""
    whole: NDArray[np.int16] = np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype(np.int16)
    return whole
