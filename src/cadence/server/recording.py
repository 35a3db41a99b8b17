"""A sound file on its way to the model: decoded, listened to for speech and cut, turn by turn.

Only the file itself and the piece at hand are held, so that hours of sound take little memory. Each turn
runs in a worker thread and covers a few seconds of sound; between turns others may decode.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from cadence.audio.decode import stream_audio
from cadence.audio.pieces import Cutter, Detector, Piece, SplitPolicy
from cadence.errors import InvalidAudio
from cadence.prompt import MIN_AUDIO_S
from cadence.types import INPUT_RATE_HZ

__all__ = ["Recording"]

_TURN_SAMPLES = 10 * INPUT_RATE_HZ


class Recording:
    """One file, read once.

    Args:
        data: the file.
        policy: where to cut.
        make_detector: makes what tells speech; called in the first turn, as it may load a model.
        max_seconds: refuse longer sound.
        decoders: places for turns, shared by all requests.
        param: the request field to name in errors.
    """

    def __init__(
        self,
        data: bytes,
        policy: SplitPolicy,
        *,
        make_detector: Callable[[], Detector],
        max_seconds: float,
        decoders: asyncio.Semaphore,
        param: str,
    ) -> None:
        self._blocks = stream_audio(data, max_seconds=max_seconds, param=param)
        self._policy = policy
        self._make_detector = make_detector
        self._decoders = decoders
        self._param = param
        self._cutter: Cutter | None = None
        self._num_samples = 0
        self._ended = False

    @property
    def duration_s(self) -> float:
        """Seconds of sound decoded so far; of the whole once `pieces` has ended."""
        return self._num_samples / INPUT_RATE_HZ

    async def pieces(self) -> AsyncIterator[Piece]:
        """The pieces with speech in them, in order.

        Raises:
            InvalidAudio: not decodable, or no sound to speak of.
            PayloadTooLarge: longer than allowed.
        """
        while not self._ended:
            # When this is cancelled, the turn ends by itself in its thread, with the file let go of.
            async with self._decoders:
                found = await asyncio.to_thread(self._turn)
            for piece in found:
                yield piece

    def _turn(self) -> list[Piece]:
        if self._cutter is None:
            self._cutter = Cutter(self._make_detector(), self._policy)
        found: list[Piece] = []
        end = self._num_samples + _TURN_SAMPLES
        while not found and self._num_samples < end:
            block = next(self._blocks, None)
            if block is None:
                self._ended = True
                self._check_length()
                return self._cutter.flush()
            self._num_samples += block.size
            found = self._cutter.push(block)
        return found

    def _check_length(self) -> None:
        if self.duration_s < MIN_AUDIO_S:
            raise InvalidAudio(
                f"The audio has {self.duration_s:.3f} s of sound; at least {MIN_AUDIO_S} s are needed.",
                param=self._param,
                code="audio_too_short",
            )
