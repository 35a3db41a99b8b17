"""What the edges (HTTP, WebSocket, CLI, tests) know of an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from cadence.types import EngineHealth, Event, ModelInfo, Request, SamplingParams, VoiceSample

__all__ = ["EngineClient"]


class EngineClient(Protocol):
    """Requests in, events out. The real one is `cadence.engine.Engine`, the test double
    `cadence.fake.FakeEngine`."""

    @property
    def info(self) -> ModelInfo:
        """The model being served."""
        ...

    @property
    def default_sampling(self) -> Mapping[str, SamplingParams]:
        """Defaults by output kind ("text", "speech"): a request's own fields are laid over them."""
        ...

    def tokenize(self, text: str) -> list[tuple[int, str]]:
        """Ids of literal text, each with the text it stands for; any thread may ask."""
        ...

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens by name; ids that stand for nothing give nothing."""
        ...

    def generate(self, request: Request) -> AsyncIterator[Event]:
        """Yield TextDelta and AudioChunk events, then exactly one Done; or raise one CadenceError.

        Closing the iterator, or cancelling the task that reads it, aborts the request everywhere.
        Admission happens on the first `__anext__`: Overloaded, NotReady, PromptTooLong and unknown
        voices are raised there, before any event.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """End a request; its reader gets RequestAborted. Unknown ids are ignored."""
        ...

    async def prepare_voice(self, sample: VoiceSample) -> None:
        """Do the work that a recording's first answer would wait for.

        Raises:
            InvalidAudio: the models can take no voice from it.
            ServiceError: not done; the first answer will do it.
        """
        ...

    async def forget_voice(self, key: str) -> None:
        """Free what is kept for a recording; answers that speak with it go on."""
        ...

    def health(self) -> EngineHealth:
        """State now; never blocks."""
        ...

    async def stats(self) -> Mapping[str, float]:
        """Gauges now, by flat name with unit (`thinker_kv_tokens_used`, `token2wav_num_sessions`)."""
        ...

    async def render_metrics(self) -> bytes:
        """All metrics in the Prometheus text format; quick, whatever the stages are doing."""
        ...

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for the running ones; True when all ended in time."""
        ...

    async def aclose(self) -> None:
        """Stop both stages; what still runs ends with NotReady."""
        ...
