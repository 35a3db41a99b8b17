"""An engine that can also speak with uploaded voices, for every endpoint alike."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence

from cadence.engine_base import EngineClient
from cadence.errors import ServiceError
from cadence.server.stream import closing
from cadence.server.voice import DEFAULT, no_such_voice
from cadence.types import EngineHealth, Event, ModelInfo, Request, SamplingParams, VoiceSample
from cadence.voices.library import VoiceLibrary

__all__ = ["VoicedEngine"]

PREPARE_S = 60.0

_log = logging.getLogger("cadence.voices")


class VoicedEngine:
    """Implements `EngineClient`: lists the library's voices and gives their recordings to the engine.

    A request that has begun owns its recording, so a voice may be removed while it speaks.
    """

    def __init__(self, engine: EngineClient, library: VoiceLibrary) -> None:
        self._engine, self._library = engine, library
        self._info: tuple[ModelInfo, object, ModelInfo] | None = None
        self._given: set[str] = set()  # keys of the library's recordings that the engine has seen
        self._arriving: Counter[str] = Counter()  # keys on their way into the library

    @property
    def info(self) -> ModelInfo:
        """The model being served, with the uploaded voices there are now."""
        own, voices = self._engine.info, self._library.voices()
        if self._info is None or self._info[0] is not own or self._info[1] is not voices:
            names = tuple(voice.name for voice in voices.values() if voice.name not in own.voices)
            self._info = (own, voices, dataclasses.replace(own, uploaded_voices=names))
        return self._info[2]

    @property
    def default_sampling(self) -> Mapping[str, SamplingParams]:
        """Defaults by output kind."""
        return self._engine.default_sampling

    def tokenize(self, text: str) -> list[tuple[int, str]]:
        """See `EngineClient.tokenize`."""
        return self._engine.tokenize(text)

    def detokenize(self, ids: Sequence[int]) -> str:
        """See `EngineClient.detokenize`."""
        return self._engine.detokenize(ids)

    async def generate(self, request: Request) -> AsyncIterator[Event]:
        """See `EngineClient.generate`; raises StorageFailed for a voice whose file is damaged."""
        uploaded = request.voice not in (DEFAULT, *self._engine.info.voices)
        if request.output == "speech" and request.voice_sample is None and uploaded:
            request = dataclasses.replace(request, voice_sample=await self._sample(request.voice))
        async with closing(self._engine.generate(request)) as events:
            async for event in events:
                yield event

    async def prepare_voice(self, sample: VoiceSample) -> None:
        """See `EngineClient.prepare_voice`."""
        await self._engine.prepare_voice(sample)

    async def forget_voice(self, key: str) -> None:
        """See `EngineClient.forget_voice`."""
        await self._engine.forget_voice(key)

    @contextlib.asynccontextmanager
    async def warm(self, sample: VoiceSample) -> AsyncIterator[None]:
        """Prepare a recording that joins the library within the block; when it does not, or takes the
        place of another, what is not needed any more is freed. What keeps preparing from working now is
        left to the voice's first request, but for a recording that is no good.

        Raises:
            InvalidAudio: the models can take no voice from it.
        """
        self._arriving[sample.key] += 1
        self._given.add(sample.key)
        try:
            try:
                async with asyncio.timeout(PREPARE_S):
                    await self._engine.prepare_voice(sample)
            except (ServiceError, TimeoutError) as error:
                _log.warning("a voice is not prepared yet (%s)", type(error).__name__)
            yield
        finally:
            self._arriving[sample.key] -= 1
            self._arriving += Counter()  # drops those at zero
            await self.forget_removed()

    async def forget_removed(self) -> None:
        """Have the engine free what it keeps of voices that are gone, whichever process removed them."""
        if not self._given:
            return
        there = {voice.key for voice in self._library.voices().values()} | self._arriving.keys()
        for key in self._given - there:
            self._given.discard(key)
            await self._engine.forget_voice(key)

    def health(self) -> EngineHealth:
        """State now."""
        return self._engine.health()

    async def abort(self, request_id: str) -> None:
        """End a request."""
        await self._engine.abort(request_id)

    async def stats(self) -> Mapping[str, float]:
        """Gauges now."""
        return await self._engine.stats()

    async def render_metrics(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return await self._engine.render_metrics()

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for the running ones."""
        return await self._engine.drain(timeout_s)

    async def aclose(self) -> None:
        """Stop the engine."""
        await self._engine.aclose()

    async def _sample(self, name: str) -> VoiceSample:
        """A voice's recording as it is on the disk now."""
        await self.forget_removed()
        sample = await asyncio.to_thread(self._library.sample, name)
        if sample is None:
            raise no_such_voice(self.info, name, "voice")
        self._given.add(sample.key)
        return sample
