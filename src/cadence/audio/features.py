"""Waveforms to the features that the models read: pure functions of numpy arrays.

log_mel     16 kHz -> the audio encoder and the speech tokenizer (Whisper's features)
prompt_mel  24 kHz -> what the flow continues (HiFi-GAN's features)
fbank       16 kHz -> the speaker encoder (Kaldi's features, mean removed)
"""

from __future__ import annotations

from functools import lru_cache

import kaldi_native_fbank as knf
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cadence.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ

__all__ = [
    "PIECE_PADDING",
    "PROMPT_HOP",
    "PROMPT_MELS",
    "fbank",
    "log_mel",
    "num_patches",
    "prompt_mel",
]

Floats = NDArray[np.float32]

N_FFT = 400  # 25 ms at 16 kHz
HOP = 160  # 10 ms: 100 frames a second
PIECE_PADDING = 479  # zeros after each piece of audio in a prompt

PROMPT_N_FFT = 1920  # 80 ms at 24 kHz
PROMPT_HOP = 480  # 20 ms: 50 frames a second, two per speech code
PROMPT_MELS = 80
PROMPT_MAX_HZ = 8000.0


# ------------------------------------------------------------------ shared pieces
@lru_cache(maxsize=8)
def _mel_filters(rate_hz: int, n_fft: int, n_mels: int, max_hz: float) -> Floats:
    """Triangles of equal area on Slaney's mel scale, float32 [n_fft // 2 + 1, n_mels].

    The scale is linear (200/3 Hz a mel) up to 1 kHz and logarithmic above (27 mels a factor of 6.4).
    """
    top = _hz_to_mel(max_hz)
    edges = _mel_to_hz(np.linspace(0.0, top, n_mels + 2))
    bins = np.arange(n_fft // 2 + 1) * (rate_hz / n_fft)
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    filters: Floats = (triangles * (2.0 / (edges[2:] - edges[:-2]))).astype(np.float32)
    filters.flags.writeable = False
    return filters


_MELS_PER_HZ = 3.0 / 200.0
_BREAK_HZ = 1000.0
_MELS_PER_LOG = 27.0 / np.log(6.4)


def _hz_to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz * _MELS_PER_HZ
    return float(_BREAK_HZ * _MELS_PER_HZ + np.log(hz / _BREAK_HZ) * _MELS_PER_LOG)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    knee = _BREAK_HZ * _MELS_PER_HZ
    above = _BREAK_HZ * np.exp(np.maximum(mel - knee, 0.0) / _MELS_PER_LOG)
    return np.where(mel < knee, mel / _MELS_PER_HZ, above)


@lru_cache(maxsize=4)
def _hann(size: int) -> Floats:
    """Periodic Hann window [size]."""
    window: Floats = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)
    window.flags.writeable = False
    return window


def _power(samples: Floats, n_fft: int, hop: int) -> Floats:
    """Squared magnitudes [frames, n_fft // 2 + 1] of every whole window."""
    frames = sliding_window_view(samples, n_fft)[::hop]
    spectrum = np.fft.rfft(frames * _hann(n_fft))
    return np.asarray(spectrum.real**2 + spectrum.imag**2, dtype=np.float32)


# ------------------------------------------------------------------ features
def log_mel(samples: Floats, n_mels: int = 128, padding: int = PIECE_PADDING) -> Floats:
    """Whisper's log-mel: 100 frames a second, the loudest 80 dB, scaled to about -1..1.5.

    Args:
        samples: float32 [T], 16 kHz, ±1.0.
        n_mels: 128 for the public model and the speech tokenizer.
        padding: zeros appended; 479 for audio in a prompt, 0 for the speech tokenizer.

    Returns:
        float32 [n_mels, (T + padding) // 160].

    Raises:
        ValueError: fewer than 201 samples with the padding: nothing to reflect at the ends.
    """
    if len(samples) + padding <= N_FFT // 2:
        raise ValueError(f"{len(samples)} samples are too few for one frame of log-mel")
    padded = np.concatenate([samples, np.zeros(padding, np.float32)]).astype(np.float32, copy=False)
    padded = np.pad(padded, N_FFT // 2, mode="reflect")
    power = _power(padded, N_FFT, HOP)[:-1]  # the reference drops the last frame
    levels = np.log10(
        np.maximum(power @ _mel_filters(INPUT_RATE_HZ, N_FFT, n_mels, INPUT_RATE_HZ / 2), 1e-10)
    )
    levels = np.maximum(levels, levels.max() - 8.0)
    return np.ascontiguousarray(((levels + 4.0) / 4.0).T, dtype=np.float32)


def num_patches(num_frames: int) -> int:
    """Embeddings that stand for a log-mel of `num_frames` frames (padding included): 12.5 a second.

    The padding's two frames don't count; then a halving convolution, a halving pool, and the
    adapter's halving convolution of width 3. 25 s give 313.
    """
    encoded = (num_frames - 2 + 1) // 2 // 2
    return (encoded + 2 - 3) // 2 + 1


def prompt_mel(samples: Floats) -> Floats:
    """Natural-log mel magnitudes of a voice prompt.

    Args:
        samples: float32 [T], 24 kHz, ±1.0.

    Returns:
        float32 [F, 80], F = T // 480: 50 frames a second, 0 to 8 kHz.

    Raises:
        ValueError: 720 samples or fewer: nothing to reflect at the ends.
    """
    margin = (PROMPT_N_FFT - PROMPT_HOP) // 2
    if len(samples) <= margin:
        raise ValueError(f"{len(samples)} samples are too few for a prompt mel")
    padded = np.pad(samples.astype(np.float32, copy=False), margin, mode="reflect")
    magnitude = np.sqrt(_power(padded, PROMPT_N_FFT, PROMPT_HOP) + np.float32(1e-9))
    filters = _mel_filters(OUTPUT_RATE_HZ, PROMPT_N_FFT, PROMPT_MELS, PROMPT_MAX_HZ)
    mel: Floats = np.log(np.maximum(magnitude @ filters, np.float32(1e-5)))
    return mel


def fbank(samples: Floats) -> Floats:
    """Kaldi's 80 log filter banks, 25 ms every 10 ms, no dither, mean over time removed.

    Args:
        samples: float32 [T], 16 kHz, ±1.0 (not scaled to 16 bit).

    Returns:
        float32 [(T - 400) // 160 + 1, 80].

    Raises:
        ValueError: fewer than 400 samples: not one frame.
    """
    if len(samples) < N_FFT:
        raise ValueError(f"{len(samples)} samples are too few for one filter-bank frame")
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = INPUT_RATE_HZ
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = 80
    extractor = knf.OnlineFbank(options)
    extractor.accept_waveform(INPUT_RATE_HZ, samples.astype(np.float32, copy=False))
    extractor.input_finished()
    rows = np.stack([extractor.get_frame(i) for i in range(extractor.num_frames_ready)])
    return np.asarray(rows - rows.mean(axis=0), dtype=np.float32)
