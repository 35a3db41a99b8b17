"""The thread that renders: it owns the models and every session's tensors.

Other threads hand it codes and take sessions away; each call returns at once. A session is in exactly
one place: waiting for a slot, active, or gone, and going frees all of its memory.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from cadence.config import Token2WavConfig
from cadence.errors import CadenceError, InvalidRequest, StageFailed
from cadence.models.flow_stream import VoiceState
from cadence.token2wav.runner import Runner, WholeJob, waveform
from cadence.token2wav.scheduler import Candidate, Chunk, choose, whole_piece
from cadence.token2wav.session import SOON_S, Outcome, Session, StreamState
from cadence.token2wav.voice_cache import VoiceCache
from cadence.token2wav.whole import WholeSound

if TYPE_CHECKING:
    from cadence.types import VoiceSample, Waveform

__all__ = ["Worker"]

_Item: TypeAlias = tuple[Session, Chunk, list[int]]  # a stream, its next chunk, the codes for it

_log = logging.getLogger("cadence.token2wav")


@dataclass(slots=True)
class _Whole:
    """A whole utterance under way: through the flow, then through the vocoder."""

    session: Session
    job: WholeJob
    speech: WholeSound | None = None


class Worker:
    """Sessions, and the loop that renders their chunks in batches."""

    def __init__(
        self,
        runner: Runner,
        voices: VoiceCache,
        config: Token2WavConfig,
        *,
        start_thread: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner, self._voices, self._config, self._clock = runner, voices, config, clock
        self._changed = threading.Condition()
        self._active: dict[str, Session] = {}
        self._waiting: deque[Session] = deque()
        self._whole: _Whole | None = None
        self._closed: CadenceError | None = None
        self._step_since: float | None = None  # when the computation under way began
        self._start_thread = start_thread
        self._thread = threading.Thread(target=self._main, name="token2wav", daemon=True)
        self._thread.start()

    # -------------------------------------------------------------- called by other threads
    def submit(self, session: Session) -> None:
        """Take a session in; it waits while all slots are taken.

        Raises:
            InvalidRequest: its id is in use.
            StageFailed: the stage is closed or broken.
        """
        request = session.request
        with self._changed:
            if self._closed is not None:
                raise self._closed
            if self._find(request.request_id) is not None:
                raise InvalidRequest(f"The request id {request.request_id!r} is in use.", param="request_id")
            self._waiting.append(session)
            self._admit()
        voice: Future[Any]
        try:
            voice = (self._voices.state if request.streaming else self._voices.prompt)(request)
        except RuntimeError as error:  # closed in between
            raise StageFailed("The vocoder stage was stopped.") from error
        session.waits_for = voice
        voice.add_done_callback(lambda done: self._voice_is_ready(session, done))

    def push(self, session: Session, codes: list[int]) -> None:
        """Add codes to a session; foreign ones end it."""
        with self._changed:
            try:
                session.push(codes, self._clock())
            except ValueError as error:
                self._end(session, StageFailed(f"The vocoder stage refused its input: {error}."))
            if session.next_chunk() is not None:  # most codes complete none: let the thread sleep
                self._changed.notify()

    def finish(self, session: Session) -> None:
        """No more codes come."""
        with self._changed:
            session.ended = True
            if session.complete:
                self._end(session, None)
            self._changed.notify()

    def read(self, session: Session) -> None:
        """The reader took a chunk."""
        with self._changed:
            session.num_unread -= 1
            self._changed.notify()

    def drop(self, request_id: str, outcome: Outcome) -> None:
        """End a session, whatever it does; unknown ids are ignored."""
        with self._changed:
            session = self._find(request_id)
            if session is not None:
                self._end(session, outcome)

    def fail(self, session: Session, error: CadenceError) -> None:
        """End a session with an error."""
        with self._changed:
            self._end(session, error)

    def discard(self, session: Session) -> None:
        """Its reader left: free the session if it is still held."""
        with self._changed:
            self._end(session, None)

    def prepare_voice(self, sample: VoiceSample) -> Future[VoiceState]:
        """Prepare a recording's voice beside the streams.

        Raises:
            StageFailed: the stage is closed or broken.
        """
        with self._changed:
            if self._closed is not None:
                raise self._closed
        try:
            return self._voices.prepare("", sample)
        except RuntimeError as error:  # closed in between
            raise StageFailed("The vocoder stage was stopped.") from error

    def forget_voice(self, key: str) -> None:
        """Free a recording's voice."""
        with contextlib.suppress(RuntimeError):  # closed: nothing is kept
            self._voices.forget(key)

    def stats(self) -> dict[str, float]:
        """Gauges now."""
        with self._changed:
            return {
                "num_sessions": float(len(self._active)),
                "num_waiting": float(len(self._waiting)),
                "session_bytes": float(sum(session.num_bytes for session in self._active.values())),
                "voice_bytes": float(self._voices.num_bytes),
                "step_s": 0.0 if self._step_since is None else self._clock() - self._step_since,
            }

    def close(self) -> None:
        """End all sessions with StageFailed and stop the thread; what it renders now ends first."""
        self._shut(StageFailed("The vocoder stage was stopped."))
        self._thread.join()
        self._voices.close()

    # -------------------------------------------------------------- under the lock
    def _find(self, request_id: str) -> Session | None:
        if (session := self._active.get(request_id)) is not None:
            return session
        return next((s for s in self._waiting if s.request.request_id == request_id), None)

    def _is_held(self, session: Session) -> bool:
        return self._find(session.request.request_id) is session

    def _admit(self) -> None:
        while self._waiting and len(self._active) < self._config.max_num_seqs:
            session = self._waiting.popleft()
            self._active[session.request.request_id] = session
        self._changed.notify()

    def _end(self, session: Session, outcome: Outcome) -> None:
        """Remove a session and tell its reader why."""
        if not self._is_held(session):
            return
        if session in self._waiting:
            self._waiting.remove(session)
        else:
            del self._active[session.request.request_id]
        if session.waits_for is not None:
            session.waits_for.cancel()  # a voice that nobody waits for any more need not be prepared
        session.state = session.voice = session.prompt = session.waits_for = None
        session.deliver(outcome)
        self._admit()

    def _voice_is_ready(self, session: Session, done: Future[Any]) -> None:
        if done.cancelled():
            return  # its session has ended
        error = done.exception()
        with self._changed:
            if not self._is_held(session):
                return
            if error is not None:
                self._end(session, _as_stage_error(error))
            elif isinstance(result := done.result(), VoiceState):
                session.voice = result
            else:
                session.prompt = result
            self._changed.notify()

    def _shut(self, reason: CadenceError) -> None:
        with self._changed:
            self._closed = self._closed or reason
            for session in [*self._waiting, *self._active.values()]:
                self._end(session, reason)
            self._whole = None
            self._changed.notify()

    # -------------------------------------------------------------- the worker thread
    def _main(self) -> None:
        try:
            self._start_thread()
            while self._turn():
                pass
        except Exception as error:  # noqa: BLE001 - the thread's border: every held request is told
            _log.critical("the rendering thread broke", exc_info=error)
            self._shut(StageFailed("The vocoder stage broke."))

    def _turn(self) -> bool:
        """One batch of chunks, then one step or piece of a whole utterance; False when closed."""
        with self._changed:
            batch: list[_Item] = []
            while self._closed is None:
                batch, again_s = self._next_batch()
                if batch or self._whole or self._next_whole():
                    break
                self._changed.wait(again_s)
            if self._closed is not None:
                return False
            self._step_since = self._clock()
        if batch:
            self._render(batch)
        self._advance_whole()
        self._step_since = None
        return True

    def _next_batch(self) -> tuple[list[_Item], float | None]:
        """What to render now, and after how long to look again where that is nothing (None: once told)."""
        now = self._clock()
        ready: dict[str, Chunk] = {}
        for request_id, session in self._active.items():
            if (chunk := session.next_chunk()) is not None:
                session.mark_ready(now)
                ready[request_id] = chunk
        others = (session for request_id, session in self._active.items() if request_id not in ready)
        candidates = [Candidate(i, self._active[i].is_new, self._active[i].slack_s(now)) for i in ready]
        chosen = choose(
            candidates,
            max_batch=self._config.max_batch_size,
            one_by_one=not self._runner.gains_by_batches,
            spare=any(session.is_due_soon(now) for session in others),
        )
        batch = [
            (session, chunk, session.pending[: chunk.num_codes + chunk.num_ahead])
            for session, chunk in ((self._active[i], ready[i]) for i in chosen)
        ]
        return batch, SOON_S if ready else None

    def _render(self, batch: list[_Item]) -> None:
        with self._changed:
            # An abort since the choice has taken the session's state away.
            batch = [item for item in batch if self._is_held(item[0])]
            states = [self._state(session) for session, _, _ in batch]
        results = self._runner.render(
            states, [chunk for _, chunk, _ in batch], [part for _, _, part in batch]
        )
        with self._changed:
            for (session, chunk, _), result in zip(batch, results, strict=True):
                if self._is_held(session):
                    session.take(chunk)
                    self._deliver(session, result)

    def _state(self, session: Session) -> StreamState:
        if session.state is None:
            assert session.voice is not None, "a chunk is ready only once the voice is"
            session.state = self._runner.open(session.voice, session.generator)
        return session.state

    def _deliver(self, session: Session, result: Waveform | Exception) -> None:
        if isinstance(result, Exception):
            _log.error("request %s failed", session.request.request_id, exc_info=result)
            self._end(session, result)
            return
        session.hand_over(result, self._clock())
        if session.complete:
            fine = session.length_is_right
            self._end(
                session, None if fine else StageFailed("The vocoder stage lost samples of this stream.")
            )

    def _next_whole(self) -> Session | None:
        return next((session for session in self._active.values() if session.whole_is_ready), None)

    def _advance_whole(self) -> None:
        """Begin, advance or finish one whole utterance."""
        with self._changed:
            if self._whole is not None and not self._is_held(self._whole.session):
                self._whole = None
            session = self._whole.session if self._whole else self._next_whole()
            if session is None:
                return
            codes, prompt = list(session.pending), session.prompt
            piece = whole_piece(sum(other.request.streaming for other in self._active.values()))
        try:
            if self._whole is None:
                assert prompt is not None, "it is ready only with its prompt"
                self._whole = _Whole(session, self._runner.begin_whole(codes, prompt))
                return
            whole = self._whole
            if whole.speech is None:
                if whole.job.advance():
                    whole.speech = self._runner.speak_whole(whole.job, session.generator)
                return
            if not whole.speech.advance(piece):
                return
            result: Waveform | Exception = waveform(whole.speech)
        except Exception as error:  # noqa: BLE001 - the request's border: the error ends it alone
            result = _as_stage_error(error)
        with self._changed:
            self._whole = None
            if self._is_held(session):
                session.take(Chunk(len(codes), 0, last=True))
                self._deliver(session, result)


def _as_stage_error(error: BaseException) -> CadenceError:
    if isinstance(error, CadenceError):
        return error
    failure = StageFailed("The vocoder stage failed while it worked on this request.")
    failure.__cause__ = error
    return failure
