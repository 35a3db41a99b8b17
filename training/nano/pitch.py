"""F0 by normalised autocorrelation: enough for a clean synthetic voice without an F0 of its own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_RATE_HZ = 8_000
_WINDOW = 400  # 50 ms
_HOP = 160  # 20 ms
_VOICED_ABOVE = 0.55
_SILENT_BELOW = 1e-3


def track(
    samples_8k: npt.NDArray[np.float32], low_hz: float = 60.0, high_hz: float = 320.0
) -> npt.NDArray[np.float32]:
    """F0 in Hz, one value for each 20 ms frame (centred), 0 where unvoiced."""
    num_frames = len(samples_8k) // _HOP
    margin = (_WINDOW - _HOP) // 2
    padded = np.pad(samples_8k, (margin, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][:num_frames].astype(np.float64)
    frames = frames - frames.mean(1, keepdims=True)
    spectrum = np.fft.rfft(frames, 1024, axis=1)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, : _WINDOW // 2]
    energy = np.cumsum(frames**2, axis=1)
    total = energy[:, -1:]
    lags = np.arange(_WINDOW // 2)
    head = energy[:, _WINDOW - 1 - lags]
    tail = total - np.where(lags > 0, energy[:, np.maximum(lags - 1, 0)], 0.0)
    normalised = correlation / np.sqrt(head * tail + 1e-9)
    low, high = int(_RATE_HZ / high_hz), int(_RATE_HZ / low_hz)
    window = normalised[:, low:high]
    peak = (window[:, 1:-1] >= window[:, :-2]) & (window[:, 1:-1] >= window[:, 2:])
    best = window.max(1)
    good = peak & (window[:, 1:-1] > 0.9 * best[:, None])
    lag = low + 1 + np.argmax(good, axis=1)  # the shortest lag that is nearly the best: no octave below
    rows = np.arange(num_frames)
    left, mid, right = (normalised[rows, lag + d] for d in (-1, 0, 1))
    shift = np.where(
        np.abs(left - 2 * mid + right) > 1e-6, 0.5 * (left - right) / (left - 2 * mid + right + 1e-12), 0.0
    )
    loud = np.sqrt(total[:, 0] / _WINDOW) > _SILENT_BELOW
    voiced = loud & (best > _VOICED_ABOVE) & good.any(1)
    f0 = np.where(voiced, _RATE_HZ / (lag + np.clip(shift, -0.5, 0.5)), 0.0)
    padded_f0 = np.pad(f0, 1, mode="edge")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded_f0, 3), axis=1)
    return smooth.astype(np.float32)
