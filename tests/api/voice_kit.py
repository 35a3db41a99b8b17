"""Recordings, and servers that keep voices. Shared by the tests of voices."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cadence.audio.encode import encode_wav
from cadence.config import ServerConfig
from cadence.fake import FakeEngine

from .conftest import Live, run_live

RATE_HZ = 24_000


def recording(seconds: float = 2.0, pitch_hz: float = 200.0, rate_hz: int = RATE_HZ) -> bytes:
    """A WAV file with a buzz of this pitch."""
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    sound = sum(np.sin(2 * np.pi * k * pitch_hz * time) / k for k in range(1, 6))
    return encode_wav((0.3 * sound).astype(np.float32), rate_hz)


@contextlib.contextmanager
def keeping(folder: Path, engine: FakeEngine | None = None, **config: object) -> Iterator[Live]:
    """A server that keeps voices in `folder`."""
    settings = ServerConfig(voices_dir=str(folder), **config)  # type: ignore[arg-type]
    with run_live(engine or FakeEngine(), settings) as live:
        yield live
