"""Where to cut a long recording: pieces of a bounded length, each with speech in it, in order.

Cuts fall in pauses, or at the quietest moment where nobody pauses. What lies between two pieces holds
no speech; no sample is in two of them. Decisions look only at the piece at hand, so that a recording of
any length is cut as it is read, the same however it arrives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cadence.audio.vad import FRAME_S, FRAME_SAMPLES

__all__ = ["Cutter", "Detector", "Piece", "SplitPolicy", "Splitter", "split"]

Floats = NDArray[np.float32]
_BATCH_SAMPLES = 32 * FRAME_SAMPLES  # about a second is looked at in one go
_FORGET = 0.97  # of the loudest moment, with each batch: half of it is forgotten in 23 s
_MAX_GAIN = 30.0
_QUIET_FRAMES = 7  # 0.2 s around a moment say how quiet it is


class Detector(Protocol):
    """What tells speech: see `vad.SpeechDetector`."""

    def push(self, samples: Floats) -> Floats:
        """Probabilities of the frames that are complete."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPolicy:
    """How to cut; times in seconds.

    Args:
        max_s: no piece is longer.
        pause_s: a pause this long ends a piece that is at least `min_s` long.
        padding_s: at most so much without speech is kept before the first and after the last speech.
        threshold: probability from which on a frame counts as speech.
        min_speech_s: less speech than this is a click, no word.
    """

    max_s: float = 25.0
    pause_s: float = 2.0
    min_s: float = 0.0
    padding_s: float = 0.4
    threshold: float = 0.3
    min_speech_s: float = 0.09

    def __post_init__(self) -> None:
        """Raise ValueError for a policy that cannot be kept."""
        if not self.max_s >= 1.0 or not 0.0 <= self.threshold <= 1.0:
            raise ValueError("a piece needs at least a second, the threshold lies in 0..1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of the recording: float32 [S], 16 kHz, S >= 1, from sample `start` on.

    `speech_start`, `speech_end`: where speech begins and ends, in samples of the whole recording.
    `probability`: of speech, in the frame where it is highest.
    """

    start: int
    samples: Floats
    speech_start: int
    speech_end: int
    probability: float


def split(blocks: Iterable[Floats], detector: Detector, policy: SplitPolicy) -> Iterator[Piece]:
    """Cut a recording that comes in blocks of any size (float32 [S], 16 kHz) while it is read."""
    cutter = Cutter(detector, policy)
    for block in blocks:
        yield from cutter.push(block)
    yield from cutter.flush()


class Cutter:
    """Listens for speech in one recording and cuts it, block by block.

    The detector hears faint recordings louder: their loudest moment so far, slowly forgotten, is brought
    to half of full scale. The pieces stay as they are.
    """

    def __init__(self, detector: Detector, policy: SplitPolicy) -> None:
        """Args: a detector that has heard nothing yet, and how to cut."""
        self._detector = detector
        self._splitter = Splitter(policy)
        self._waiting = np.zeros(0, np.float32)
        self._peak = 0.0

    def push(self, block: Floats) -> list[Piece]:
        """Take float32 [S], any S; the pieces that are complete now."""
        sound = np.concatenate((self._waiting, block))
        whole = sound.size - sound.size % _BATCH_SAMPLES
        self._waiting = sound[whole:]
        batches = sound[:whole].reshape(-1, _BATCH_SAMPLES)
        return [piece for batch in batches for piece in self._hear(batch)]

    def flush(self) -> list[Piece]:
        """The end of the recording."""
        rest = self._waiting
        padded = np.pad(rest, (0, -rest.size % FRAME_SAMPLES))
        return [*self._hear(padded), *self._splitter.flush(padded.size - rest.size)]

    def _hear(self, sound: Floats) -> list[Piece]:
        self._peak = max(_FORGET * self._peak, float(np.abs(sound).max(initial=0.0)))
        gain = min(max(1.0, 0.5 / max(self._peak, 1e-9)), _MAX_GAIN)
        return self._splitter.push(sound, self._detector.push(np.float32(gain) * sound))


class Splitter:
    """The policy at work on one recording. Holds less than two pieces of sound."""

    def __init__(self, policy: SplitPolicy) -> None:
        self._policy = policy
        self._max = math.floor(policy.max_s / FRAME_S)
        self._pause = max(1, math.ceil(min(policy.pause_s, policy.max_s) / FRAME_S))
        self._min = math.ceil(policy.min_s / FRAME_S)
        self._padding = math.ceil(policy.padding_s / FRAME_S)
        self._min_speech = max(1, math.ceil(policy.min_speech_s / FRAME_S))
        self._start = 0  # in frames, of what is held
        self._sound = np.zeros((0, FRAME_SAMPLES), np.float32)
        self._speech = np.zeros(0, np.float32)

    def push(self, sound: Floats, speech: Floats) -> list[Piece]:
        """Take whole frames, float32 [N * FRAME_SAMPLES], and their probabilities [N]; pieces ready now."""
        self._sound = np.concatenate((self._sound, sound.reshape(-1, FRAME_SAMPLES)))
        self._speech = np.concatenate((self._speech, speech))
        pieces: list[Piece] = []
        while True:
            self._skip_to_speech()
            end = self._cut()
            if end is None:
                return pieces
            pieces += self._take(end)

    def flush(self, num_padded: int = 0) -> list[Piece]:
        """The end of the recording, whose last `num_padded` samples were added to fill a frame."""
        return self._take(len(self._speech), num_padded)

    # ------------------------------------------------------------------ inside
    def _skip_to_speech(self) -> None:
        """Let go of what comes before the padding of the first speech."""
        voiced = np.flatnonzero(self._speech >= self._policy.threshold)
        first = int(voiced[0]) if voiced.size else len(self._speech)
        self._drop(max(0, first - self._padding))

    def _cut(self) -> int | None:
        """Frames of the next piece: up to a pause, or as many as fit; None = wait for more."""
        voiced = self._speech[: self._max] >= self._policy.threshold
        for begin, end in _pauses(voiced):
            if end - begin >= self._pause and begin >= max(1, self._min):
                return begin + (self._pause + 1) // 2
        return self._best_cut(voiced) if len(self._speech) >= self._max else None

    def _best_cut(self, voiced: NDArray[np.bool_]) -> int:
        """In the second half: the middle of the longest pause, else the quietest moment; later ones first."""
        low = self._max // 2
        pauses = [(max(begin, low), end) for begin, end in _pauses(voiced) if end > low]
        if pauses:
            begin, end = max(pauses, key=lambda pause: (pause[1] - pause[0], pause[1]))
            return max(1, (begin + end + 1) // 2)
        power = np.square(self._sound[low : self._max], dtype=np.float64).mean(axis=1)
        around = np.convolve(power, np.ones(_QUIET_FRAMES), "valid")
        return low + _QUIET_FRAMES // 2 + len(around) - 1 - int(np.argmin(around[::-1]))

    def _take(self, num_frames: int, num_padded: int = 0) -> list[Piece]:
        """Cut off the first frames: a piece, or none where there is no speech to speak of."""
        speech = self._speech[:num_frames]
        voiced = np.flatnonzero(speech >= self._policy.threshold)
        pieces = []
        if voiced.size >= self._min_speech:
            first, last = int(voiced[0]), int(voiced[-1])
            begin, end = max(0, first - self._padding), min(num_frames, last + 1 + self._padding)
            samples = self._sound[begin:end].reshape(-1)
            total = (self._start + num_frames) * FRAME_SAMPLES - num_padded  # where the sound ends
            start = (self._start + begin) * FRAME_SAMPLES
            pieces.append(
                Piece(
                    start=start,
                    samples=samples[: total - start].copy(),
                    speech_start=(self._start + first) * FRAME_SAMPLES,
                    speech_end=min((self._start + last + 1) * FRAME_SAMPLES, total),
                    probability=float(speech.max()),
                )
            )
        self._drop(num_frames)
        return pieces

    def _drop(self, num_frames: int) -> None:
        if num_frames:
            self._sound, self._speech = self._sound[num_frames:], self._speech[num_frames:]
            self._start += num_frames


def _pauses(voiced: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Stretches [begin, end) of frames without speech, in order."""
    edges = np.flatnonzero(np.diff(voiced.astype(np.int8), prepend=1, append=1))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
