"""`growth`: what chunk number k costs, and what a stream and a voice hold, as speech and history grow."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from cadence.bench.stage import STEADY, Stage
from cadence.config import Token2WavConfig
from cadence.models.conformer import UP_RATE

__all__ = ["measure_growth"]

_SPREAD = 2  # chunks before and after number k that are timed with it
_EARLY = 4


def measure_growth(
    checkpoint: Path, wav: Path, config: Token2WavConfig, *, chunks: int = 200, streams: int = 3
) -> dict[str, Any]:
    """Cost of chunks and memory of one long stream, then of several.

    `chunk_4_s` and `chunk_K_s` are medians of the chunks around them. `session_bytes` is what a stream of
    K chunks holds, its encoder's history included, `window_bytes` the keys and values of its newest P frames
    (P being those of the prompt, but at least 100) and of one chunk, at every layer and step;
    `session_bytes_chunk_4` is what an additional stream holds once its window is full, before its history is
    long. `voice_bytes` is held once whatever the number of streams: `voice_bytes_with_streams` counts it
    again with `streams` open.
    """
    stage = Stage(checkpoint, config)
    _, voice = stage.prepare(wav.read_bytes())
    stream = [stage.open(voice)]
    times: list[float] = []
    sizes: list[int] = []
    for index in range(chunks + _SPREAD + 1):
        begun = time.perf_counter()
        stage.chunk(stream, STEADY * index, STEADY)
        times.append(time.perf_counter() - begun)
        sizes.append(stream[0].flow.num_bytes)
    early, late = (statistics.median(times[k - _SPREAD : k + _SPREAD + 1]) for k in (_EARLY, chunks))
    frame = stream[0].flow.frame_bytes
    window = frame * (stream[0].flow.window.max_own + UP_RATE * STEADY)
    before = voice.num_bytes
    others = [stage.open(voice) for _ in range(streams)]
    for index in range(2):
        stage.chunk(others, STEADY * index, STEADY)
    shared = all(other.flow.voice is voice for other in others)
    return {
        "chunks": chunks,
        f"chunk_{_EARLY}_s": early,
        f"chunk_{chunks}_s": late,
        "chunk_ratio": late / early,
        "session_bytes": sizes[-1],
        "session_bytes_half_way": sizes[len(sizes) // 2],
        "window_bytes": window,
        "session_to_window": sizes[-1] / window,
        f"session_bytes_chunk_{_EARLY}": sizes[_EARLY],
        f"chunk_{_EARLY}_to_window": sizes[_EARLY] / window,
        "frame_bytes": frame,
        "voice_bytes": before,
        "voice_bytes_with_streams": voice.num_bytes if shared else voice.num_bytes * (1 + streams),
        "num_streams": streams,
        "chunk_times_s": [round(t, 4) for t in times],
    }
