"""A complete engine without a model: deterministic, numpy only, with delays and faults on request.

For tests of everything above the engine, for trying a client without weights, and for measuring the
server alone. It keeps the promises of `EngineClient`, so a client cannot tell it from a real one
except by what it says: it echoes the text, names the seconds of sound it heard, and speaks in tones.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from cadence.errors import (
    CadenceError,
    InvalidRequest,
    NotReady,
    Overloaded,
    PromptTooLong,
    RequestAborted,
)
from cadence.fake_answer import Active, answer_text, events_of, heard_s, num_tokens, parts_of
from cadence.runtime.fake_stages import FakeThinker, FakeToken2Wav, voice_not_found
from cadence.types import (
    Done,
    EngineHealth,
    Event,
    ModelInfo,
    Request,
    SamplingParams,
    VoiceSample,
)

__all__ = ["FakeEngine", "FakeFault", "FakeThinker", "FakeToken2Wav"]

AUDIO_TOKENS_PER_SECOND = 12.5


@dataclass(frozen=True, slots=True)
class FakeFault:
    """Go wrong before event number `after_events` (0 = before any): raise `error`, or hang if None."""

    after_events: int = 0
    error: BaseException | None = None


class FakeEngine:
    """An `EngineClient` that needs no model. Attributes may be changed between requests.

    Args:
        info: what /v1/models shows; by default "fake" with three voices.
        delay_s: pause before every event, in seconds.
        max_active: requests at once; more are refused with Overloaded.
        fault: what goes wrong, for every request or as a function of the request.
        default_sampling: defaults by output kind.
    """

    def __init__(
        self,
        *,
        info: ModelInfo | None = None,
        delay_s: float = 0.0,
        max_active: int = 64,
        fault: FakeFault | Callable[[Request], FakeFault | None] | None = None,
        default_sampling: Mapping[str, SamplingParams] | None = None,
    ) -> None:
        self._info = info or ModelInfo(
            model_id="fake",
            max_model_len=16384,
            voices=("default", "default_female", "default_male"),
            random_weights=True,
        )
        self._default_sampling = default_sampling or {"text": SamplingParams(), "speech": SamplingParams()}
        self.delay_s = delay_s
        self.max_active = max_active
        self.fault = fault
        self.ready = True
        self.alive = True
        self.requests: list[Request] = []
        """Every request accepted so far, for assertions."""
        self.num_aborted = 0
        self.prepared: set[str] = set()
        """Keys of recordings that were prepared and not forgotten."""
        self._active: dict[str, Active] = {}
        self._closing = False
        self._idle = asyncio.Event()

    @property
    def info(self) -> ModelInfo:
        """The model being served."""
        return self._info

    @property
    def default_sampling(self) -> Mapping[str, SamplingParams]:
        """Defaults by output kind."""
        return self._default_sampling

    @property
    def num_active(self) -> int:
        """Requests being answered now; 0 when nothing leaked."""
        return len(self._active)

    def tokenize(self, text: str) -> list[tuple[int, str]]:
        """The fake's ids are characters."""
        return [(ord(character), character) for character in text]

    def detokenize(self, ids: Sequence[int]) -> str:
        """Characters; surrogates and what lies beyond Unicode stand for nothing."""
        return "".join(chr(i) for i in ids if i < 0x110000 and not 0xD800 <= i < 0xE000)

    async def generate(self, request: Request) -> AsyncIterator[Event]:
        """Answer one request; see `EngineClient.generate`."""
        self._admit(request)
        state = Active(started=time.monotonic())
        self._active[request.request_id] = state
        self.requests.append(request)
        finished = False
        try:
            num_prompt, num_audio = self._count_prompt(request)
            text = answer_text(request, thinks=self._info.thinks)
            for event in events_of(request, text, state, num_prompt, num_audio):
                await self._pace(request, state)
                finished = isinstance(event, Done)
                yield event
        finally:
            self._active.pop(request.request_id, None)
            self.num_aborted += not finished
            if not self._active:
                self._idle.set()

    async def abort(self, request_id: str) -> None:
        """End a request; its reader gets RequestAborted."""
        self._end(request_id, RequestAborted("The request was aborted."))

    async def prepare_voice(self, sample: VoiceSample) -> None:
        """Count the recording among the prepared ones."""
        self.prepared.add(sample.key)

    async def forget_voice(self, key: str) -> None:
        """Count the recording no more."""
        self.prepared.discard(key)

    def health(self) -> EngineHealth:
        """Healthy unless `ready` or `alive` were set to False."""
        return EngineHealth(
            ready=self.ready and not self._closing,
            alive=self.alive,
            num_running=len(self._active),
            stages={"thinker": "ready", "token2wav": "ready"},
        )

    async def stats(self) -> Mapping[str, float]:
        """The same gauge names as a real engine, as far as they make sense here."""
        return {
            "num_running": float(len(self._active)),
            "num_waiting": 0.0,
            "thinker_kv_tokens_used": 0.0,
            "token2wav_num_sessions": float(len(self._active)),
        }

    async def render_metrics(self) -> bytes:
        """Prometheus text with the two gauges a fake can know."""
        return (
            "# TYPE vllm_omni:num_requests_running gauge\n"
            f"vllm_omni:num_requests_running {len(self._active)}\n"
            "# TYPE vllm_omni:num_requests_waiting gauge\n"
            "vllm_omni:num_requests_waiting 0\n"
        ).encode()

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for the running ones."""
        self._closing = True
        if self._active:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)
        return not self._active

    async def aclose(self) -> None:
        """End what runs with NotReady."""
        self._closing = True
        for request_id in list(self._active):
            self._end(request_id, NotReady("The server is shutting down."))

    # ------------------------------------------------------------------ inside
    def _admit(self, request: Request) -> None:
        if self._closing or not self.ready:
            raise NotReady("The server is not ready.")
        if request.request_id in self._active:
            raise InvalidRequest("This request id is already running.", param="request_id")
        if len(self._active) >= self.max_active:
            raise Overloaded(f"The queue is full: {self.max_active} requests are running.", retry_after_s=1)
        if request.output == "speech" and not self._info.can_speak:
            raise InvalidRequest("This server answers in text only.", param="modalities", code="no_speech")
        own_voice = request.output == "text" or request.voice_sample is not None
        if not own_voice and request.voice not in ("default", *self._info.voices):
            raise voice_not_found(request.voice, self._info.voices)

    def _count_prompt(self, request: Request) -> tuple[int, int]:
        """Words plus audio tokens, and the audio tokens alone; raises PromptTooLong."""
        num_audio = int(heard_s(request) * AUDIO_TOKENS_PER_SECOND)
        num_text = 4 + sum(num_tokens(part) for part in parts_of(request))
        if num_text + num_audio >= self._info.max_model_len:
            raise PromptTooLong(
                f"The prompt has {num_text + num_audio} tokens, the limit is {self._info.max_model_len}.",
                param="messages",
            )
        return num_text + num_audio, num_audio

    async def _pace(self, request: Request, state: Active) -> None:
        """Wait for the next event's time, or for the request's end, or go wrong as asked."""
        fault = self.fault(request) if callable(self.fault) else self.fault
        if fault is not None and state.num_events >= fault.after_events:
            if fault.error is not None:
                raise fault.error
            await state.ended.wait()
        elif self.delay_s > 0:
            with contextlib.suppress(TimeoutError):  # nobody ended it: go on
                await asyncio.wait_for(state.ended.wait(), self.delay_s)
        else:
            await asyncio.sleep(0)
        if state.reason is not None:
            raise state.reason
        state.num_events += 1

    def _end(self, request_id: str, reason: CadenceError) -> None:
        state = self._active.get(request_id)
        if state is not None and state.reason is None:
            state.reason = reason
            state.ended.set()
