"""Measures one answer as its bytes arrive: first sound, duration, and whether a player would run dry."""

from __future__ import annotations

import struct

__all__ = ["SoundMeter", "wav_data_start"]

SAMPLE_BYTES = 2  # 16 bit, mono


def wav_data_start(head: bytes) -> tuple[int, int] | None:
    """(offset of the first sample, frame rate in Hz x channels) of a 16-bit WAV, None until known.

    Walks the RIFF chunks, so a header longer than the usual 44 bytes is fine; sizes of streamed files
    (0 or 0xFFFFFFFF) are not looked at.
    """
    at, samples_per_s = 12, 0
    while len(head) >= at + 8:
        name, size = struct.unpack_from("<4sI", head, at)
        if name == b"data":
            return at + 8, samples_per_s
        if name == b"fmt " and len(head) >= at + 16:
            channels, rate_hz = struct.unpack_from("<HI", head, at + 10)
            samples_per_s = channels * rate_hz
        at += 8 + size + size % 2
    return None


class SoundMeter:
    """Feed it (bytes, time of arrival); raw PCM and WAV are told apart by the first four bytes.

    Args:
        start_s: clock when the request was sent.
        rate_hz: rate of raw PCM; a WAV header overrides it.
    """

    def __init__(self, start_s: float, rate_hz: int = 24_000) -> None:
        self._start_s = start_s
        self._samples_per_s = rate_hz
        self._head = b""
        self._in_sound = False
        self._num_bytes = 0
        self._first_s: float | None = None
        self.underrun_s = 0.0  # how long a player that starts at the first sound stalls in all

    def feed(self, data: bytes, now_s: float) -> None:
        """Count bytes that arrived at `now_s`."""
        if not self._in_sound:
            data = self._skip_header(data)
        if not data:
            return
        if self._first_s is None:
            self._first_s = now_s
        # the player wants this block when all that came before it has been played
        self.underrun_s = max(self.underrun_s, now_s - (self._first_s + self.duration_s))
        self._num_bytes += len(data)

    def _skip_header(self, data: bytes) -> bytes:
        self._head += data
        if len(self._head) < 4:
            return b""
        if self._head[:4] != b"RIFF":
            self._in_sound = True
            return self._head
        found = wav_data_start(self._head)
        if found is None:
            return b""
        offset, self._samples_per_s = found
        self._in_sound = True
        return self._head[offset:]

    @property
    def ttfp_s(self) -> float | None:
        """Time to first packet: send to first byte of sound (after the header); None without sound."""
        return None if self._first_s is None else self._first_s - self._start_s

    @property
    def duration_s(self) -> float:
        """Seconds of sound so far."""
        return self._num_bytes / SAMPLE_BYTES / self._samples_per_s
