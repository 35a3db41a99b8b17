"""A stage in another process, seen through the same protocol as one in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from cadence.runtime.supervisor import Supervisor
from cadence.types import AudioChunk, SpeechRequest, StepOutput, ThinkerRequest, VoiceSample

__all__ = ["ThinkerClient", "Token2WavClient"]


class _StageClient:
    """What both clients share; the supervisor must have been started."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    async def abort(self, request_id: str) -> None:
        """End a request in the stage; unknown ids are ignored."""
        link = self._supervisor.link
        if link is not None:
            link.send({"t": "abort", "request_id": request_id})

    async def stats(self) -> dict[str, float]:
        """Gauges as the process last told them, twice a second, and how often it was restarted."""
        link = self._supervisor.link
        gauges = dict(link.stats) if link is not None else {}
        return gauges | {"num_restarts": float(self._supervisor.num_restarts)}

    async def aclose(self) -> None:
        """Stop the process; held requests end with StageFailed."""
        await self._supervisor.aclose()


class ThinkerClient(_StageClient):
    """Implements `Thinker` over a supervised process."""

    async def generate(self, request: ThinkerRequest) -> AsyncIterator[StepOutput]:
        """See `Thinker.generate`. NotReady while the process is down."""
        link = self._supervisor.ready_link()
        stream = link.open(request)
        try:
            await link.drained()
            async for output in stream.outputs():
                assert isinstance(output, StepOutput)
                yield output
        finally:
            stream.close()


class Token2WavClient(_StageClient):
    """Implements `Token2Wav` over a supervised process."""

    async def generate(
        self, request: SpeechRequest, codes: AsyncIterator[Sequence[int]]
    ) -> AsyncIterator[AudioChunk]:
        """See `Token2Wav.generate`. NotReady while the process is down."""
        stream = self._supervisor.ready_link().open(request)
        feeder = asyncio.create_task(stream.send_codes(codes), name=f"codes {request.request_id}")
        try:
            async for output in stream.outputs():
                assert isinstance(output, AudioChunk)
                yield output
        finally:
            stream.close()
            feeder.cancel()
            await asyncio.wait({feeder})

    async def prepare_voice(self, sample: VoiceSample) -> None:
        """See `Token2Wav.prepare_voice`. NotReady while the process is down."""
        await self._supervisor.ready_link().call("prepare_voice", key=sample.key, wav=sample.wav)

    async def forget_voice(self, key: str) -> None:
        """See `Token2Wav.forget_voice`. NotReady while the process is down: it keeps nothing then."""
        await self._supervisor.ready_link().call("forget_voice", key=key)

    async def voices(self) -> tuple[str, ...]:
        """Names this stage can speak with, default first."""
        return self._supervisor.voices
