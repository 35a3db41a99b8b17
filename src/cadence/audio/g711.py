"""Telephone sound: G.711 in both laws, a byte per sample at 8 kHz."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cadence.audio.int16 import from_int16, to_int16

__all__ = ["G711_RATE_HZ", "Law", "decode_g711", "encode_g711"]

Law = Literal["pcmu", "pcma"]
G711_RATE_HZ = 8_000


def _ulaw_levels() -> NDArray[np.int16]:
    """The 16-bit sample of each byte: sign, 3 bits of segment, 4 of step, all written inverted."""
    code = ~np.arange(256) & 0xFF
    size = (((code & 0x0F) << 3) + 132 << (code >> 4 & 7)) - 132
    return np.where(code & 0x80, -size, size).astype(np.int16)


def _alaw_levels() -> NDArray[np.int16]:
    """The same for A-law, whose even bits are inverted and whose first two segments are one line."""
    code = np.arange(256) ^ 0x55
    segment = code >> 4 & 7
    step = ((code & 0x0F) << 4) + 8
    size = np.where(segment == 0, step, step + 256 << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, size, -size).astype(np.int16)


def _nearest(levels: NDArray[np.int16]) -> NDArray[np.uint8]:
    """The byte whose level is nearest, for each 16-bit sample from -32768 on."""
    order = np.argsort(levels, kind="stable")
    ladder = levels[order].astype(np.int32)
    edges = (ladder[1:] + ladder[:-1]) / 2
    return order[np.searchsorted(edges, np.arange(-32768, 32768))].astype(np.uint8)


_LEVELS = {"pcmu": _ulaw_levels(), "pcma": _alaw_levels()}
_BYTES = {law: _nearest(levels) for law, levels in _LEVELS.items()}


def decode_g711(data: bytes, law: Law) -> NDArray[np.float32]:
    """Bytes to float32 [S], ±1.0."""
    return from_int16(_LEVELS[law][np.frombuffer(data, np.uint8)])


def encode_g711(samples: NDArray[np.float32], law: Law) -> bytes:
    """float32 [S], ±1.0 (beyond is clipped) to bytes."""
    return _BYTES[law][to_int16(samples).astype(np.int32) + 32768].tobytes()
