"""One request's life: queue, prompt, thinker, speech, end.

An answer runs in a task of its own and hands events over through a mailbox. The reader (an HTTP handler,
say) may be cancelled at any await, even again and again while it cleans up; the task that holds the
stages is cancelled exactly once, so its clean-up always runs to the end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cadence.answers.admission import Admission
from cadence.answers.mailbox import Mailbox
from cadence.answers.pieces import Plan, plan_answer
from cadence.answers.plan import num_audio_s
from cadence.answers.reading import Reading
from cadence.answers.speech_track import SpeechTrack
from cadence.answers.stopwatch import Stopwatch
from cadence.answers.transcript import Transcript
from cadence.config import EngineConfig
from cadence.errors import CadenceError, DeadlineExceeded, RequestAborted
from cadence.metrics import EngineMetrics
from cadence.prompt import PromptBuilder
from cadence.runtime.guard import internal_failure
from cadence.text import Tokenizer
from cadence.thinker.base import Thinker
from cadence.token2wav.base import Token2Wav
from cadence.types import (
    AudioChunk,
    Done,
    FinishReason,
    Request,
    SamplingParams,
    SpeechRequest,
    StepOutput,
    TextDelta,
    Usage,
)

__all__ = ["Answer", "Workshop"]

_CLOSE_WAIT_S = 1.0  # how long a reader that leaves waits for the stages to let go


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What all answers of an engine share."""

    thinker: Thinker
    token2wav: Token2Wav | None
    tokenizer: Tokenizer
    prompt_builder: PromptBuilder
    config: EngineConfig
    metrics: EngineMetrics
    admission: Admission
    max_model_len: int
    default_max_tokens: Mapping[str, int | None]
    single_sentences: bool


class Answer:
    """Produces the events of one request; `mailbox` is where they are read.

    Args:
        request: checked by the engine.
        shop: the stages and tools.
        stage_id: the request's name in the stages, never used twice.
    """

    def __init__(self, request: Request, shop: Workshop, *, stage_id: str) -> None:
        self.mailbox = Mailbox()
        self._request = request
        self._shop = shop
        self._stage_id = stage_id
        chunked = request.async_chunk
        self._streaming = shop.config.async_chunk if chunked is None else chunked
        self._reason: CadenceError | None = None
        self._watch = Stopwatch(
            request.deadline_s or shop.config.deadline_s,
            reader_is_slow=lambda: self.mailbox.num_events > 0,
            on_late=lambda text: self.end(DeadlineExceeded(text)),
        )
        self._task = asyncio.create_task(self._run(), name=f"answer {request.request_id}")

    @property
    def task(self) -> asyncio.Task[None]:
        """Done when nothing of the request is held any more."""
        return self._task

    def end(self, reason: CadenceError) -> None:
        """Stop now, for this reason: the reader learns it at once, the stages let go right after."""
        if self._reason is None and not self._task.done():
            self._reason = reason
            self._close(reason)
            self._task.cancel()

    async def leave(self) -> None:
        """The reader goes: end what still runs and give the stages a moment to let go."""
        if not self.mailbox.closed:
            self.end(RequestAborted("The caller left before the answer was complete."))
        if not self._task.done():
            await asyncio.wait({self._task}, timeout=_CLOSE_WAIT_S)

    # ------------------------------------------------------------------ inside
    async def _run(self) -> None:
        end: Done | CadenceError
        try:
            audio_s = num_audio_s(self._request)
            async with self._shop.admission.place(self._stage_id, audio_s):
                self._watch.admitted()
                self._watch.expect_within(self._shop.config.first_output_s)
                plan = await asyncio.to_thread(self._plan)  # long audio takes a while to transform
                if self._request.deadline_s is None:  # the default one is meant for one piece
                    self._watch.allow(self._shop.config.deadline_s * len(plan.requests))
                end = await self._produce(plan)
        except asyncio.CancelledError:
            # `end` has told the reader already; any other cancellation is the loop going down.
            self._close(RequestAborted("The server stopped before the answer was complete."))
            raise
        except Exception as error:  # noqa: BLE001 - the request's border: every error becomes its end
            end = internal_failure(error)
        finally:
            self._watch.stop()
        self._close(end)

    def _plan(self) -> Plan:
        shop = self._shop
        return plan_answer(
            self._request,
            self._stage_id,
            tokenizer=shop.tokenizer,
            prompt_builder=shop.prompt_builder,
            max_model_len=shop.max_model_len,
            default_max_tokens=shop.default_max_tokens.get(self._request.output),
            single_sentences=shop.single_sentences,
        )

    async def _produce(self, plan: Plan) -> Done:
        """Run both stages to the answer's own end."""
        sampling = plan.requests[0].sampling
        transcript = Transcript(
            self._shop.tokenizer,
            sampling.stop,
            skip_special=sampling.skip_special_tokens,
            with_codes=self._request.with_codes,
            with_words=self._request.word_timestamps,
        )
        track = self._open_track(sampling)
        try:
            ending = await self._read(plan, transcript, track)
            if track is not None:
                self._watch.expect_within(self._last_wait_s())
                await track.finish()
        finally:
            if track is not None:
                await track.aclose()
        return self._done(plan, transcript, ending)

    async def _read(self, plan: Plan, transcript: Transcript, track: SpeechTrack | None) -> _Ending:
        """Hand on what the thinker writes, all pieces of it."""
        reading = Reading(self._shop.thinker, plan.requests, plan.limit)
        ending = _Ending(len(plan.requests))
        await self._show(transcript.add_text(plan.gaps[0]))
        async with contextlib.aclosing(reading.steps()) as steps:
            async for number, step in steps:
                self._watch.token()
                self._watch.expect_within(self._shop.config.stall_s)
                piece = transcript.push(step)
                if piece.codes and track is not None:
                    track.feed(piece.codes)
                await self._show(piece.delta)
                if piece.stop_match is not None or step.finish_reason is not None:
                    ending.add(step, piece.stop_match)
                if piece.stop_match is not None:
                    return ending
                if step.finish_reason == "abort":
                    raise RequestAborted("The request was aborted.")
                if step.finish_reason is not None:
                    await self._show(transcript.end_piece(plan.gaps[number + 1]))
        await self._show(transcript.flush())
        ending.text_left = reading.text_left
        return ending

    async def _show(self, delta: TextDelta | None) -> None:
        if delta is not None:
            await self.mailbox.put(delta)

    def _open_track(self, sampling: SamplingParams) -> SpeechTrack | None:
        """The speech side, for answers that are spoken: text answers never touch Token2Wav."""
        if self._request.output != "speech" or self._shop.token2wav is None:
            return None
        speech = SpeechRequest(
            request_id=self._stage_id,
            voice=self._request.voice,
            voice_sample=self._request.voice_sample,
            seed=sampling.seed if self._request.audio_seed is None else self._request.audio_seed,
            streaming=self._streaming,
        )
        return SpeechTrack(self._shop.token2wav, speech, emit=self._sound, fail=self.end)

    def _last_wait_s(self) -> float | None:
        """The longest silence once all codes are there; None = only the request's deadline counts.

        A whole utterance is rendered in one go: how long that takes depends on its length. A stream must
        keep moving, once it has had its turn.
        """
        if not self._streaming:
            return None
        config = self._shop.config
        return config.first_output_s if self._watch.underrun_s is None else config.stall_s

    async def _sound(self, chunk: AudioChunk) -> None:
        gap_s = self._watch.sound(chunk.samples.size)
        if gap_s is not None:
            self._shop.metrics.chunk_gap(gap_s)
        self._watch.expect_within(self._shop.config.stall_s)
        await self.mailbox.put(chunk)

    def _done(self, plan: Plan, transcript: Transcript, ending: _Ending) -> Done:
        prompts = [request.prompt for request in plan.requests[: len(ending.steps)]]
        usage = Usage(
            prompt_tokens=sum(len(prompt.ids) for prompt in prompts),
            prompt_audio_tokens=sum(prompt.num_audio_tokens for prompt in prompts),
            prompt_cached_tokens=sum(step.num_cached for step in ending.steps),
            completion_tokens=transcript.num_ids,
            completion_audio_tokens=transcript.num_codes,
        )
        return Done(
            finish_reason=ending.finish_reason,
            usage=usage,
            timings=self._watch.timings(),
            stop_match=ending.stop_match,
            output_ids=tuple(transcript.output_ids) if len(plan.requests) == 1 else (),
            text_left=ending.text_left,
        )

    def _close(self, end: Done | CadenceError) -> None:
        """Tell the reader, once, and count it."""
        if not self.mailbox.close(end):
            return
        if isinstance(end, Done):
            self._shop.metrics.finished(end.finish_reason, end.usage, end.timings, self._watch.underrun_s)
        else:
            self._shop.metrics.failed(end, after_sound=self._watch.underrun_s is not None)


@dataclass(slots=True)
class _Ending:
    """How an answer ended: the last step of each piece, and what was left unsaid."""

    num_pieces: int
    steps: list[StepOutput] = field(default_factory=list)
    stop_match: str | int | None = None
    text_left: int = 0

    def add(self, step: StepOutput, stop_match: str | None) -> None:
        """A piece has ended."""
        self.steps.append(step)
        self.stop_match = step.stop_match if stop_match is None else stop_match

    @property
    def finish_reason(self) -> FinishReason:
        """ "length" where any piece was cut, or had no room."""
        if isinstance(self.stop_match, str):
            return "stop"
        cut = len(self.steps) < self.num_pieces or any(s.finish_reason == "length" for s in self.steps)
        return "length" if cut else self.steps[-1].finish_reason or "stop"
