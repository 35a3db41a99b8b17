"""Windowed-sinc resampling of whole arrays, exactly as the model's voice prompts are prepared.

Streams and requests use `resample` (soxr: sharper and faster). A voice prompt is encoded to discrete
codes, though, and those flip where the waveform differs by a filter: with the reference's own filter
the codes are the reference's.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, gcd

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cadence.audio.resample import resample

__all__ = ["sinc_resample"]

_ZERO_CROSSINGS = 6  # on each side of the kernel's centre
_ROLLOFF = 0.99  # cut-off, as a fraction of the lower Nyquist frequency
_MAX_KERNEL_SIZE = 1 << 22  # 16 MB: passed only by rates that share no useful factor


def sinc_resample(samples: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """Convert float32 [T] to another rate with a Hann-windowed sinc of 6 zero crossings.

    Odd pairs of rates (44,101 Hz) would need a kernel of gigabytes; they take the streaming resampler.

    Returns:
        float32 [⌈T * to / from⌉]; the input itself when the rates agree.
    """
    if from_hz == to_hz:
        return samples
    factor = gcd(from_hz, to_hz)
    step, phases = from_hz // factor, to_hz // factor
    if step * phases > _MAX_KERNEL_SIZE:
        return resample(samples, from_hz, to_hz)
    kernel, margin = _kernel(step, phases)
    padded = np.pad(samples, (margin, margin + step))
    windows = sliding_window_view(padded, kernel.shape[0])[::step]
    whole: NDArray[np.float32] = (windows @ kernel).reshape(-1)
    return whole[: ceil(len(samples) * phases / step)]


@lru_cache(maxsize=4)
def _kernel(step: int, phases: int) -> tuple[NDArray[np.float32], int]:
    """One filter per output phase, [taps, phases], and the taps before the first sample."""
    cutoff = min(step, phases) * _ROLLOFF
    margin = ceil(_ZERO_CROSSINGS * step / cutoff)
    taps = np.arange(-margin, margin + step)[:, None] / step
    crossings = np.clip((taps - np.arange(phases) / phases) * cutoff, -_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = np.cos(crossings * np.pi / (2 * _ZERO_CROSSINGS)) ** 2
    return (np.sinc(crossings) * window * (cutoff / step)).astype(np.float32), margin
