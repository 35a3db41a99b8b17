"""What the engine knows of a Token2Wav back end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from cadence.types import AudioChunk, SpeechRequest, VoiceSample

__all__ = ["Token2Wav"]


class Token2Wav(Protocol):
    """Speech codes in, 24 kHz sound out, chunk by chunk, many streams at once."""

    def generate(
        self, request: SpeechRequest, codes: AsyncIterator[Sequence[int]]
    ) -> AsyncIterator[AudioChunk]:
        """Render `codes` (0..6560) as they arrive; ends after the last sample of the last code.

        The joined chunks hold exactly 960 samples per code. No codes at all is legal: no chunks.
        Closing the iterator, or cancelling the task that reads it, ends the stream's session.

        Raises:
            InvalidRequest: unknown voice (param "voice").
            InvalidAudio: the request's recording is not usable as a voice.
            StageFailed: the stage broke while it held the stream, or `codes` raised.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """End a stream's session and free its state; unknown ids are ignored."""
        ...

    async def voices(self) -> tuple[str, ...]:
        """Names this stage can speak with, default first."""
        ...

    async def prepare_voice(self, sample: VoiceSample) -> None:
        """Do the work that a recording's first stream would wait for; returns when it is done.

        Raises:
            InvalidAudio: the models can take no voice from it.
            StageFailed, NotReady: not done; the first stream will do it.
        """
        ...

    async def forget_voice(self, key: str) -> None:
        """Free what is kept for a recording; streams that speak with it go on."""
        ...

    async def stats(self) -> dict[str, float]:
        """Gauges now: num_sessions, num_waiting, session_bytes, voice_bytes, and step_s, how long the
        computation under way has taken (0 = none): what shows a stage that hangs."""
        ...

    async def aclose(self) -> None:
        """Stop the stage; held streams end with StageFailed."""
        ...
