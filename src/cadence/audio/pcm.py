"""Uncompressed sound: bare 16-bit samples, and the same with a WAV header."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

__all__ = ["PcmEncoder", "WavEncoder", "encode_wav", "pcm16", "wav_header"]

_UNKNOWN_SIZE = 0xFFFFFFFF  # what players take as "until the end of the stream"
_WAV_HEADER_BYTES = 44


def pcm16(samples: NDArray[np.float32]) -> bytes:
    """float32 [S] as 16-bit little-endian PCM: clipped to ±1, times 32767, cut towards zero."""
    data: bytes = (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()
    return data


def wav_header(rate_hz: int, num_samples: int | None = None) -> bytes:
    """The 44 bytes before 16-bit mono PCM; None = length not known yet (a stream)."""
    if num_samples is None or 2 * num_samples + _WAV_HEADER_BYTES - 8 > _UNKNOWN_SIZE:
        riff_bytes = data_bytes = _UNKNOWN_SIZE
    else:
        data_bytes = 2 * num_samples
        riff_bytes = data_bytes + _WAV_HEADER_BYTES - 8
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", riff_bytes, b"WAVE"),
        *(b"fmt ", 16, 1, 1, rate_hz, 2 * rate_hz, 2, 16),
        *(b"data", data_bytes),
    )


class PcmEncoder:
    """Bare 16-bit little-endian mono samples."""

    def __init__(self, rate_hz: int) -> None:
        """Args: `rate_hz` is for the reader to know; bare samples do not carry it."""
        self.rate_hz = rate_hz

    def encode(self, samples: NDArray[np.float32]) -> bytes:
        """Two bytes per sample."""
        return pcm16(samples)

    def flush(self) -> bytes:
        """Nothing is ever held back."""
        return b""


class WavEncoder:
    """16-bit mono WAV as a stream: a header of unknown length first, then samples."""

    def __init__(self, rate_hz: int, num_samples: int | None = None) -> None:
        """Args: `num_samples`, when known beforehand, puts true sizes into the header."""
        self._header = wav_header(rate_hz, num_samples)

    def encode(self, samples: NDArray[np.float32]) -> bytes:
        """The header (first call), then two bytes per sample."""
        return self._take_header() + pcm16(samples)

    def flush(self) -> bytes:
        """The header when nothing was encoded: an empty file is still a WAV file."""
        return self._take_header()

    def _take_header(self) -> bytes:
        header, self._header = self._header, b""
        return header


def encode_wav(samples: NDArray[np.float32], rate_hz: int) -> bytes:
    """A whole WAV file with true sizes from float32 [S], ±1.0."""
    return wav_header(rate_hz, samples.size) + pcm16(samples)
