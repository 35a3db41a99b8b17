"""A complete engine without a model: deterministic, numpy only, with delays and faults on request.

For tests of everything above the engine, for trying a client without weights, and for measuring the
server alone. It keeps the promises of `EngineClient`, so a client cannot tell it from a real one
except by what it says: it echoes the text, names the seconds of sound it heard, and speaks in tones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cadence.answers.stopping import StopMatcher
from cadence.errors import (
    CadenceError,
    InvalidRequest,
    NotReady,
    Overloaded,
    PromptTooLong,
    RequestAborted,
)
from cadence.runtime.fake_stages import FakeThinker, FakeToken2Wav, tone, voice_not_found
from cadence.types import (
    CODE_SAMPLES,
    CODES_PER_SECOND,
    INPUT_RATE_HZ,
    NUM_CODES,
    OUTPUT_RATE_HZ,
    AudioChunk,
    AudioPart,
    Done,
    EngineHealth,
    Event,
    FinishReason,
    ModelInfo,
    Part,
    RepeatPart,
    Request,
    SamplingParams,
    SpeechPart,
    TextDelta,
    TextPart,
    Timings,
    TokenLogprob,
    Usage,
    VoiceSample,
    WordTiming,
)

__all__ = ["FakeEngine", "FakeFault", "FakeThinker", "FakeToken2Wav"]

CODES_PER_CHAR = 1
CHUNK_CODES = 5
AUDIO_TOKENS_PER_SECOND = 12.5
FIRST_CODE_ID = 151_696


@dataclass(frozen=True, slots=True)
class FakeFault:
    """Go wrong before event number `after_events` (0 = before any): raise `error`, or hang if None."""

    after_events: int = 0
    error: BaseException | None = None


@dataclass(slots=True)
class _Active:
    """One request's state: what another task may do to it, and what it counted."""

    started: float
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    reason: CadenceError | None = None
    num_events: int = 0
    num_text: int = 0
    num_codes: int = 0
    num_sent_codes: int = 0
    ids: list[int] = field(default_factory=list)
    first_token_s: float | None = None
    first_audio_s: float | None = None


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
        self._active: dict[str, _Active] = {}
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
        state = _Active(started=time.monotonic())
        self._active[request.request_id] = state
        self.requests.append(request)
        finished = False
        try:
            num_prompt, num_audio = self._count_prompt(request)
            text = answer_text(request, thinks=self._info.thinks)
            for event in _answer(request, text, state, num_prompt, num_audio):
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
        num_text = 4 + sum(_num_tokens(part) for part in _parts(request))
        if num_text + num_audio >= self._info.max_model_len:
            raise PromptTooLong(
                f"The prompt has {num_text + num_audio} tokens, the limit is {self._info.max_model_len}.",
                param="messages",
            )
        return num_text + num_audio, num_audio

    async def _pace(self, request: Request, state: _Active) -> None:
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


# ------------------------------------------------------------------ what it says
def pieces(text: str) -> list[str]:
    """The fake's tokens: words with the space before them. Joined they are `text` again."""
    return re.findall(r"\s*\S+|\s+$", text)


def heard_s(request: Request) -> float:
    """Seconds of sound in a request."""
    heard = sum(part.samples.size for part in _parts(request) if isinstance(part, AudioPart))
    return float(heard) / INPUT_RATE_HZ


def _num_tokens(part: Part) -> int:
    """Words, and the ids of speech in the history; sound that was heard counts apart."""
    if isinstance(part, TextPart):
        return len(pieces(part.text))
    if isinstance(part, SpeechPart):
        return len(pieces(part.text)) + len(part.codes)
    return len(part.ids) if isinstance(part, RepeatPart) else 0


def answer_text(request: Request, *, thinks: bool = False) -> str:
    """What the fake says: the verbatim text, or an echo of the last message and the sound heard.

    A model that `thinks` says so before a text answer; a call that was asked for gets the echo as its
    argument, and is of the tool "echo" where the request leaves that open.
    """
    if request.verbatim is not None:
        return request.verbatim
    if request.call is not None:
        name = "" if request.call else "echo\n"
        return f"{name}{json.dumps({'text': _echo(request)})}</tool_call>"
    if thinks and request.output == "text" and request.turn == "new":
        return f"Let me see.\n</think>\n\n{_echo(request)}"
    return _echo(request)


def _echo(request: Request) -> str:
    last = request.messages[-1] if request.messages else None
    text = " ".join(p.text for p in last.content if isinstance(p, TextPart)) if last else ""
    said = [f"You said: {text}"] if text else []
    if heard_s(request) > 0:
        said.append(f"I heard {heard_s(request):.2f} seconds of audio.")
    return " ".join(said) or "You said nothing."


def _parts(request: Request) -> Iterator[Part]:
    for message in request.messages:
        yield from message.content


def _answer(request: Request, text: str, state: _Active, num_prompt: int, num_audio: int) -> Iterator[Event]:
    """Every event of one answer, Done last; only timings depend on the clock."""
    matcher = StopMatcher(request.sampling.stop)
    limit = request.sampling.max_tokens
    finish: FinishReason = "stop"
    match: str | None = None
    text_left = 0
    logprobs: list[TokenLogprob] = []
    said = pieces(text)
    for number, piece in enumerate(said):
        if limit is not None and state.num_text + state.num_codes >= limit:
            finish = "length"
            text_left = len(said) - number
            break
        state.num_text += 1
        state.ids.append(zlib.crc32(piece.encode()) % 150_000)
        state.first_token_s = state.first_token_s or _since(state)
        if request.sampling.logprobs is not None:
            logprobs.append(_logprob(piece, request.sampling.logprobs))
        result = matcher.push(piece)
        if result.text:
            yield TextDelta(result.text, tuple(logprobs), _unsent_codes(request, state))
            logprobs.clear()
        if result.match is not None:
            match = result.match
            break
        if request.output == "speech":
            room = None if limit is None else limit - state.num_text - state.num_codes
            start = state.num_codes
            yield from _speak(request, state, piece, room)
            if request.word_timestamps and piece.strip():
                yield TextDelta("", words=(_timing(piece, start, state.num_codes),))
    held = matcher.flush() if match is None else ""
    codes = _unsent_codes(request, state)
    if held or codes:
        yield TextDelta(held, tuple(logprobs), codes)
    usage = Usage(
        prompt_tokens=num_prompt,
        prompt_audio_tokens=num_audio,
        completion_tokens=state.num_text + state.num_codes,
        completion_audio_tokens=state.num_codes,
    )
    yield Done(
        finish_reason=finish,
        usage=usage,
        timings=_timings(state),
        stop_match=match,
        output_ids=tuple(state.ids),
        text_left=text_left if request.verbatim is not None else 0,
    )


def _unsent_codes(request: Request, state: _Active) -> tuple[int, ...]:
    """Codes written since the last delta, when the request wants them: they count up from 0."""
    if not request.with_codes:
        return ()
    first, state.num_sent_codes = state.num_sent_codes, state.num_codes
    return tuple(code % NUM_CODES for code in range(first, state.num_codes))


def _speak(request: Request, state: _Active, piece: str, room: int | None) -> Iterator[AudioChunk]:
    """A tone as long as the word, in chunks of at most 0.2 s, phase-continuous over the answer."""
    num_codes = max(4, CODES_PER_CHAR * len(piece))
    if room is not None:
        num_codes = min(num_codes, room)
    while num_codes > 0:
        count = min(CHUNK_CODES, num_codes)
        voice = request.voice_sample.key if request.voice_sample else request.voice
        samples = tone(voice, request.sampling.seed, state.num_codes * CODE_SAMPLES, count * CODE_SAMPLES)
        num_codes -= count
        state.ids += [
            FIRST_CODE_ID + code % NUM_CODES for code in range(state.num_codes, state.num_codes + count)
        ]
        state.num_codes += count
        state.first_audio_s = state.first_audio_s or _since(state)
        yield AudioChunk(samples)


def _timing(piece: str, start: int, end: int) -> WordTiming:
    return WordTiming(piece.strip(), start / CODES_PER_SECOND, end / CODES_PER_SECOND)


def _since(state: _Active) -> float:
    return max(time.monotonic() - state.started, 1e-9)


def _timings(state: _Active) -> Timings:
    return Timings(
        queue_s=0.0,
        first_token_s=state.first_token_s,
        first_audio_s=state.first_audio_s,
        total_s=_since(state),
        audio_s=state.num_codes * CODE_SAMPLES / OUTPUT_RATE_HZ,
    )


def _logprob(piece: str, num_top: int) -> TokenLogprob:
    token_id = zlib.crc32(piece.encode()) % 150_000
    top = [(token_id, piece, -0.25), *((i, f"<{i}>", -2.0 - i) for i in range(1, num_top))]
    return TokenLogprob(token_id, piece, float(np.float32(-0.25)), tuple(top[:num_top]))
