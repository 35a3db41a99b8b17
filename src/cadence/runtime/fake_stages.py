"""Stages without a model: scripted ids and tones, with delays and faults, over the real protocols.

The engine's tests and the worker's tests join these where the neural stages go. They count what
they hold, so that a test can assert that nothing is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cadence.errors import InvalidRequest, RequestAborted, StageFailed
from cadence.types import (
    CODE_SAMPLES,
    OUTPUT_RATE_HZ,
    AudioChunk,
    SpeechRequest,
    StepOutput,
    ThinkerRequest,
    VoiceSample,
)

if TYPE_CHECKING:
    from cadence.types import Waveform

__all__ = ["FakeThinker", "FakeToken2Wav", "StageFault", "tone", "voice_not_found"]

Script = Callable[[ThinkerRequest], Sequence[int]]


def tone(voice: str, seed: int | None, start: int, num_samples: int) -> Waveform:
    """float32 [num_samples] of a voice's own pitch (110-440 Hz), from sample `start` of its stream.

    The seed shifts the phase, so that two seeds never give the same samples.
    """
    pitch_hz = 110 + zlib.crc32(voice.encode()) % 330
    phase = ((seed or 0) * 0.61803398875) % 1.0
    at = np.arange(start, start + num_samples, dtype=np.float64) / OUTPUT_RATE_HZ
    return (0.3 * np.sin(2 * np.pi * (pitch_hz * at + phase))).astype(np.float32)


def voice_not_found(voice: str, names: Sequence[str]) -> InvalidRequest:
    """The error for a voice that is not there; its text lists those that are."""
    known = ", ".join(names) or "none"
    return InvalidRequest(
        f"There is no voice {voice[:64]!r}; this server has: {known}.", param="voice", code="voice_not_found"
    )


@dataclass(frozen=True, slots=True)
class StageFault:
    """Go wrong before output number `after_outputs`: raise `error`, or hang when it is None."""

    after_outputs: int = 0
    error: BaseException | None = None


@dataclass(slots=True)
class _Held:
    """One request in a fake stage: set `ended` to wake it, with the reason why."""

    ended: asyncio.Event = field(default_factory=asyncio.Event)
    reason: Exception | None = None


class _FakeStage:
    """What both fakes share: pacing, faults, abort and the count of held requests."""

    def __init__(self, delay_s: float, fault: StageFault | None) -> None:
        self.delay_s = delay_s
        self.fault = fault
        self.num_started = 0
        self._held: dict[str, _Held] = {}
        self._hanging_since: float | None = None

    @property
    def num_held(self) -> int:
        """Requests held now; 0 when nothing leaked."""
        return len(self._held)

    async def abort(self, request_id: str) -> None:
        """End one request; its reader gets RequestAborted."""
        self._end(request_id, RequestAborted("The request was aborted."))

    async def aclose(self) -> None:
        """End all requests with StageFailed."""
        for request_id in list(self._held):
            self._end(request_id, StageFailed("The stage was stopped."))

    @property
    def _step_s(self) -> float:
        return 0.0 if self._hanging_since is None else time.monotonic() - self._hanging_since

    def _end(self, request_id: str, reason: Exception) -> None:
        held = self._held.get(request_id)
        if held is not None:
            held.reason = reason
            held.ended.set()

    def _hold(self, request_id: str) -> _Held:
        held = _Held()
        self._held[request_id] = held
        self.num_started += 1
        return held

    async def _pace(self, held: _Held, num_outputs: int) -> None:
        if self.fault is not None and num_outputs >= self.fault.after_outputs:
            if self.fault.error is not None:
                raise self.fault.error
            self._hanging_since = time.monotonic()
            try:
                await held.ended.wait()
            finally:
                self._hanging_since = None
        elif self.delay_s > 0:
            with contextlib.suppress(TimeoutError):  # nobody ended it: go on
                await asyncio.wait_for(held.ended.wait(), self.delay_s)
        else:
            await asyncio.sleep(0)
        if held.reason is not None:
            raise held.reason


class FakeThinker(_FakeStage):
    """A `Thinker` that writes a script: `script(request)` gives the ids, the last of them the stop.

    Args:
        script: ids for a request; a request with `forced_text_ids` and no script of its own gets them back.
        ids_per_step: how many ids one StepOutput carries.
    """

    def __init__(
        self,
        script: Script,
        *,
        ids_per_step: int = 1,
        delay_s: float = 0.0,
        fault: StageFault | None = None,
    ) -> None:
        super().__init__(delay_s, fault)
        self._script = script
        self._ids_per_step = ids_per_step

    async def generate(self, request: ThinkerRequest) -> AsyncIterator[StepOutput]:
        """Yield the script; it ends by `length` when `max_tokens` cuts it."""
        held = self._hold(request.request_id)
        try:
            ids = list(self._script(request))
            limit = request.sampling.max_tokens
            cut = limit is not None and limit < len(ids)
            ids = ids[:limit]
            steps = [ids[i : i + self._ids_per_step] for i in range(0, len(ids), self._ids_per_step)] or [[]]
            for number, step in enumerate(steps):
                await self._pace(held, number)
                last = number == len(steps) - 1
                logprobs = tuple((-0.5, ((i, -0.5),)) for i in step)
                yield StepOutput(
                    tuple(step),
                    ("length" if cut else "stop") if last else None,
                    logprobs=logprobs if request.sampling.logprobs is not None else (),
                )
        finally:
            self._held.pop(request.request_id, None)

    async def stats(self) -> dict[str, float]:
        """Gauges of the protocol; a held sequence counts one KV token."""
        held = float(len(self._held))
        return {
            "num_running": held,
            "num_waiting": 0.0,
            "kv_tokens_used": held,
            "kv_tokens_total": 1024.0,
            "num_preemptions": 0.0,
            "step_s": self._step_s,
        }


class FakeToken2Wav(_FakeStage):
    """A `Token2Wav` that plays a tone: 960 samples per code, in chunks of `chunk_codes`."""

    def __init__(
        self,
        *,
        voices: Sequence[str] = ("default", "default_female", "default_male"),
        chunk_codes: int = 5,
        delay_s: float = 0.0,
        fault: StageFault | None = None,
    ) -> None:
        super().__init__(delay_s, fault)
        self._voices = tuple(voices)
        self._chunk_codes = chunk_codes
        self.prepared: set[str] = set()
        """Keys of recordings that were prepared and not forgotten."""

    async def generate(
        self, request: SpeechRequest, codes: AsyncIterator[Sequence[int]]
    ) -> AsyncIterator[AudioChunk]:
        """Play the tone as codes arrive; not streaming, one chunk at the end."""
        if request.voice_sample is None and request.voice not in self._voices:
            raise voice_not_found(request.voice, self._voices)
        held = self._hold(request.request_id)
        num_ready, num_played, num_chunks = 0, 0, 0
        try:
            async for batch in codes:
                num_ready += len(batch)
                while request.streaming and num_ready - num_played >= self._chunk_codes:
                    await self._pace(held, num_chunks)
                    yield self._play(request, num_played, self._chunk_codes)
                    num_played += self._chunk_codes
                    num_chunks += 1
            if num_ready > num_played:
                await self._pace(held, num_chunks)
                yield self._play(request, num_played, num_ready - num_played)
        finally:
            self._held.pop(request.request_id, None)

    async def prepare_voice(self, sample: VoiceSample) -> None:
        """Count the recording among the prepared ones."""
        self.prepared.add(sample.key)

    async def forget_voice(self, key: str) -> None:
        """Count the recording no more."""
        self.prepared.discard(key)

    async def voices(self) -> tuple[str, ...]:
        """Names this stage can speak with, default first."""
        return self._voices

    async def stats(self) -> dict[str, float]:
        """Gauges of the protocol."""
        held = float(len(self._held))
        return {
            "num_sessions": held,
            "num_waiting": 0.0,
            "session_bytes": held,
            "voice_bytes": float(len(self.prepared)),
            "step_s": self._step_s,
        }

    @staticmethod
    def _play(request: SpeechRequest, start: int, count: int) -> AudioChunk:
        voice = request.voice_sample.key if request.voice_sample else request.voice
        return AudioChunk(tone(voice, request.seed, start * CODE_SAMPLES, count * CODE_SAMPLES))
