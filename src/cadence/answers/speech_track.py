"""The sound of one answer: codes go in as the thinker writes them, chunks come out beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from cadence.errors import CadenceError
from cadence.runtime.guard import internal_failure, stage_stream
from cadence.token2wav.base import Token2Wav
from cadence.types import AudioChunk, SpeechRequest

__all__ = ["SpeechTrack"]


class SpeechTrack:
    """Feeds one Token2Wav stream and hands its chunks on, in a task of its own.

    The stream is opened by the first code, so an answer without any never touches the stage. `emit` may
    wait (that is the backpressure); `fail` is called at most once, with the error that ended the stream.
    """

    def __init__(
        self,
        token2wav: Token2Wav,
        request: SpeechRequest,
        *,
        emit: Callable[[AudioChunk], Awaitable[None]],
        fail: Callable[[CadenceError], None],
    ) -> None:
        self._token2wav = token2wav
        self._request = request
        self._emit = emit
        self._fail = fail
        # Codes are a few bytes each and bounded by max_tokens, so this queue need not be.
        self._codes: asyncio.Queue[Sequence[int] | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    def feed(self, codes: Sequence[int]) -> None:
        """Add codes; never waits."""
        if self._task is None:
            self._task = asyncio.create_task(self._speak(), name=f"speak {self._request.request_id}")
        self._codes.put_nowait(codes)

    async def finish(self) -> None:
        """No more codes: wait until the last chunk was emitted (or `fail` was called)."""
        if self._task is not None:
            self._codes.put_nowait(None)
            await asyncio.wait({self._task})

    async def aclose(self) -> None:
        """Stop, whatever is under way; returns when the stream's session is closed."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _speak(self) -> None:
        try:
            stream = self._token2wav.generate(self._request, self._feed())
            async with stage_stream(stream, "vocoder") as chunks:
                async for chunk in chunks:
                    await self._emit(chunk)
        except Exception as error:  # noqa: BLE001 - the request's border: every error becomes its end
            self._fail(internal_failure(error))

    async def _feed(self) -> AsyncIterator[Sequence[int]]:
        while (codes := await self._codes.get()) is not None:
            yield codes
