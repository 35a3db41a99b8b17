"""Sample-rate conversion: whole arrays at once, or a stream piece by piece with the same result length."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

__all__ = ["StreamResampler", "resample", "resampled_length"]

_QUALITY = "HQ"


def resampled_length(num_samples: int, from_hz: int, to_hz: int) -> int:
    """Samples that `num_samples` become at another rate: duration kept, rounded to nearest (half up)."""
    return (2 * num_samples * to_hz + from_hz) // (2 * from_hz)


def resample(samples: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """Convert float32 [T] or [C, T] to another rate.

    Returns:
        float32 [T'] or [C, T'] with T' = `resampled_length(T, ...)`; the input itself when rates agree.
    """
    if from_hz == to_hz:
        return samples
    if samples.shape[-1] == 0:
        return samples
    out = soxr.resample(np.ascontiguousarray(samples.T), from_hz, to_hz, quality=_QUALITY).T
    fitted = _fit(out, resampled_length(samples.shape[-1], from_hz, to_hz))
    return np.ascontiguousarray(fitted, dtype=np.float32)


class StreamResampler:
    """Converts one channel piece by piece: the pieces out join to the conversion of the whole.

    State of one stream; not shared. A piece may come out empty while the filter fills.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        """Args: rates in Hz; equal rates pass samples through."""
        self._from_hz, self._to_hz = from_hz, to_hz
        self._num_in = self._num_out = 0
        same = from_hz == to_hz
        self._stream = None if same else soxr.ResampleStream(from_hz, to_hz, 1, "float32", quality=_QUALITY)

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [S] in, float32 [S'] out: what is complete so far."""
        if self._stream is None or samples.size == 0:
            return samples
        out: NDArray[np.float32] = self._stream.resample_chunk(np.ascontiguousarray(samples, np.float32))
        self._num_in += samples.size
        self._num_out += out.size
        return out

    def flush(self) -> NDArray[np.float32]:
        """The rest, float32 [S']: brings the whole to `resampled_length` of what went in."""
        if self._stream is None or self._num_in == 0:
            return np.zeros(0, np.float32)
        out = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        return _fit(out, resampled_length(self._num_in, self._from_hz, self._to_hz) - self._num_out)


def _fit(samples: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Cut or zero-fill the last axis: filters may be a sample off the exact length."""
    missing = length - samples.shape[-1]
    if missing <= 0:
        return samples[..., : max(length, 0)]
    return np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, missing)])
