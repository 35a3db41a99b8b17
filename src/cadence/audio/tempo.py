"""Faster or slower speech at the same pitch: libav's `atempo` (WSOLA), fed as sound comes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import av.filter
import numpy as np
from numpy.typing import NDArray

from cadence.audio.blocks import Blocks

__all__ = ["StreamTempo", "stretched_length"]

_BLOCK = 480
_EASY = (0.5, 2.0)  # what one filter does by blending alone; beyond, several are chained
_TAIL_S = 0.25  # the filters keep up to this much back; silence behind the sound brings it out


def stretched_length(num_samples: int, speed: float) -> int:
    """Samples that `num_samples` become at a speed: rounded to nearest."""
    return round(num_samples / speed)


class StreamTempo:
    """Stretches one channel piece by piece; what comes out does not depend on how it was cut.

    State of one stream, not shared. The first sound comes out once 60 to 200 ms are in.

    Args:
        rate_hz: of the samples.
        speed: 1 passes samples through; 2 is twice as fast.
    """

    def __init__(self, rate_hz: int, speed: float) -> None:
        self._rate_hz, self._speed = rate_hz, speed
        self._blocks = Blocks(_BLOCK)
        self._num_in = self._num_out = 0
        self._ready: NDArray[np.float32] = np.zeros(0, np.float32)
        self._graph = None if speed == 1 else _graph(rate_hz, speed)

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [S] in, float32 [S'] out: what is complete so far."""
        if self._graph is None:
            return samples
        self._num_in += samples.size
        self._run(samples)
        return self._take()

    def flush(self) -> NDArray[np.float32]:
        """The rest, float32 [S']: brings the whole to `stretched_length` of what went in."""
        if self._graph is None or self._num_in == 0:
            return np.zeros(0, np.float32)
        self._run(np.zeros(int(_TAIL_S * self._rate_hz * max(1.0, self._speed)), np.float32))
        return self._take()

    def _take(self) -> NDArray[np.float32]:
        """What is ready and not more than is due: the filters may run ahead by part of a window."""
        due = stretched_length(self._num_in, self._speed) - self._num_out
        out, self._ready = self._ready[:due], self._ready[due:]
        self._num_out += out.size
        return out

    def _run(self, samples: NDArray[np.float32]) -> None:
        pieces = [piece for block in self._blocks.push(samples) for piece in self._filter(block)]
        self._ready = np.concatenate((self._ready, *pieces))

    def _filter(self, block: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        assert self._graph is not None
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block[None]), format="flt", layout="mono")
        frame.sample_rate, frame.time_base = self._rate_hz, Fraction(1, self._rate_hz)
        self._graph.push(frame)
        out: list[NDArray[np.float32]] = []
        while True:
            try:
                out.append(self._graph.pull().to_ndarray().reshape(-1))
            except BlockingIOError:
                return out


def _graph(rate_hz: int, speed: float) -> Any:
    """Source, as many `atempo` as it takes, sink."""
    graph = av.filter.Graph()
    last = graph.add_abuffer(sample_rate=rate_hz, format="flt", layout="mono", time_base=Fraction(1, rate_hz))
    for factor in _factors(speed):
        step = graph.add("atempo", repr(factor))
        last.link_to(step)
        last = step
    last.link_to(graph.add("abuffersink"))
    graph.configure()
    return graph


def _factors(speed: float) -> list[float]:
    """Factors within the easy range whose product is `speed`."""
    slowest, fastest = _EASY
    factors = []
    while speed > fastest:
        factors.append(fastest)
        speed /= fastest
    while speed < slowest:
        factors.append(slowest)
        speed /= slowest
    return [*factors, speed]
