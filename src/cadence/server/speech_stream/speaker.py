"""Reads sentences aloud on a socket, one after the other, until told to stop."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from cadence.errors import CadenceError, InvalidRequest
from cadence.server.context import Context, new_id
from cadence.server.errors import as_cadence_error, error_object
from cadence.server.middleware import where_of
from cadence.server.socket import Socket, SocketGone
from cadence.server.speech_job import SpeechJob
from cadence.server.speech_stream.schema import StreamConfig
from cadence.server.stream import closing
from cadence.server.usage import speech_usage
from cadence.types import Done

__all__ = ["Sentence", "Speaker", "UtteranceEnd", "error_message"]

logger = logging.getLogger("cadence.server")


@dataclass(frozen=True, slots=True)
class Sentence:
    """One unit to read."""

    utterance: int
    index: int
    text: str
    config: StreamConfig


@dataclass(frozen=True, slots=True)
class UtteranceEnd:
    """Behind an utterance's sentences."""

    utterance: int


@dataclass(slots=True)
class _Reading:
    """A sentence being read: what of it the client knows."""

    sentence: Sentence
    started: bool = False
    num_bytes: int = 0
    num_chunks: int = 0

    def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """An event about it."""
        place = {"utterance_index": self.sentence.utterance, "sentence_index": self.sentence.index}
        return {"type": kind, **place, **fields}

    def chunk(self, data: bytes, job: SpeechJob) -> dict[str, Any]:
        """A piece of sound as an event; the last one has no sound, and the words of the whole sentence."""
        rate_hz, speed = job.shape.written_rate_hz, job.shape.speed
        start, self.num_bytes = self.num_bytes, self.num_bytes + len(data)
        number, self.num_chunks = self.num_chunks, self.num_chunks + 1
        words = [
            {
                "word": word.word,
                "start_ms": round(1000 * word.start_s / speed),
                "end_ms": round(1000 * word.end_s / speed),
            }
            for word in job.words
        ]
        return self.event(
            "audio.chunk",
            chunk_id=number,
            chunk_start_ms=500 * start // rate_hz,
            chunk_end_ms=500 * self.num_bytes // rate_hz,
            sample_rate=rate_hz,
            audio_b64=base64.b64encode(data).decode(),
            timestamps=None if data else words,
        )

    def done(self, *, error: bool = False, **fields: Any) -> dict[str, Any]:
        """Its last event."""
        return self.event("audio.done", total_bytes=self.num_bytes, error=error, **fields)


class Speaker:
    """One socket's voice. What it was told to read waits in a queue, bounded in characters.

    An utterance in which something went wrong ends there: a gap would pass for what was asked for.
    """

    def __init__(self, context: Context, socket: Socket) -> None:
        self._context = context
        self._socket = socket
        self._queue: deque[Sentence | UtteranceEnd] = deque()
        self._num_chars = 0
        self._reading: _Reading | None = None
        self._num_read = 0  # sentences of the utterance being read
        self._broken: int | None = None  # the utterance that went wrong
        self._task: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()  # cancelled: the engine is letting go of them

    @property
    def busy(self) -> bool:
        """Whether something is being read or waits."""
        return self._task is not None and not self._task.done()

    def check_room(self, num_chars: int) -> None:
        """Raise InvalidRequest where so much more text is too much."""
        limit = self._context.config.max_input_chars
        if self._num_chars + num_chars > limit:
            raise InvalidRequest(
                f"{limit} characters at most wait to be read.", param="text", code="input_too_long"
            )

    def put(self, job: Sentence | UtteranceEnd) -> None:
        """Read this after what waits already."""
        self._queue.append(job)
        self._num_chars += len(job.text) if isinstance(job, Sentence) else 0
        if not self.busy:
            self._task = asyncio.create_task(self._run())

    def stop(self) -> list[dict[str, Any]]:
        """Drop all that waits, and fall silent: from here on nothing more is sent.

        Returns:
            The last event of the sentence that was being read, if the client knows of it.
        """
        self._queue.clear()
        self._num_chars = self._num_read = 0
        reading, self._reading = self._reading, None
        if self._task is not None and not self._task.done():
            self._task.cancel()
            self._leaving.add(self._task)
            self._task.add_done_callback(self._leaving.discard)
        self._task = None
        return [reading.done(cancelled=True)] if reading is not None and reading.started else []

    async def settle(self) -> None:
        """Wait until all is read."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def aclose(self) -> None:
        """Fall silent; returns when the engine has let go of everything."""
        self.stop()
        if self._leaving:
            await asyncio.wait(set(self._leaving))

    # ------------------------------------------------------------------ inside
    async def _run(self) -> None:
        try:
            while self._queue:
                job = self._queue.popleft()
                if isinstance(job, UtteranceEnd):
                    await self._end(job)
                elif job.utterance != self._broken:
                    await self._read(_Reading(job))
                self._num_chars -= len(job.text) if isinstance(job, Sentence) else 0
        except SocketGone:
            self._queue.clear()

    async def _end(self, job: UtteranceEnd) -> None:
        count, self._num_read = self._num_read, 0
        broken = {"error": True} if job.utterance == self._broken else {}
        await self._socket.send(
            {
                "type": "session.done",
                "utterance_index": job.utterance,
                "total_sentences": count,
                **broken,
            }
        )

    async def _read(self, reading: _Reading) -> None:
        """One sentence: `audio.start`, its sound, `audio.done`."""
        self._reading = reading
        self._num_read += 1
        job: SpeechJob | None = None
        try:
            config, text = reading.sentence.config, reading.sentence.text
            job = SpeechJob(
                self._context,
                config.speech(text),
                _id(),
                sample=config.sample,
                word_timestamps=config.word_timestamps,
            )
            async with closing(self._pieces(job, reading.sentence.config)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Done):
                        if config.word_timestamps:
                            await self._socket.send(reading.chunk(b"", job))
                        usage = speech_usage(piece.usage)
                        done = reading.done(finish_reason=piece.finish_reason, usage=usage)
                        await self._socket.send(done)
                        self._reading = None  # at once: it needs no other end
                        break
                    if not reading.started:
                        await self._start(reading, job)
                    if config.word_timestamps:
                        await self._socket.send(reading.chunk(piece, job))
                    else:
                        reading.num_bytes += len(piece)
                        await self._socket.send_bytes(piece)
        except SocketGone:
            raise
        except Exception as error:  # noqa: BLE001 - the border of one sentence
            if not isinstance(error, CadenceError):
                logger.error("bug while reading a sentence: %s", where_of(error))
            self._broken = reading.sentence.utterance
            if not reading.started:
                await self._start(reading, job)
            await self._socket.send(_failure(error, reading), reading.done(error=True))
        self._reading = None

    async def _start(self, reading: _Reading, job: SpeechJob | None) -> None:
        fields: dict[str, Any] = {"sentence_text": reading.sentence.text}
        if job is not None:
            shape = job.shape
            fields |= {"format": shape.format, "sample_rate": shape.written_rate_hz, "channels": 1}
        await self._socket.send(reading.event("audio.start", **fields))
        reading.started = True

    async def _pieces(self, job: SpeechJob, config: StreamConfig) -> AsyncIterator[bytes | Done]:
        """The sound as it is made, or as one whole file."""
        if config.stream_audio:
            async with closing(job.stream()) as pieces:
                async for piece in pieces:
                    yield piece
            return
        data, done = await job.file()
        yield data
        yield done


def error_message(error: CadenceError) -> dict[str, Any]:
    """An `error` of this protocol: its message is a string at the top."""
    shown = error_object(error)
    return {"type": "error", **{name: shown[name] for name in ("message", "code", "param")}}


def _failure(error: Exception, reading: _Reading) -> dict[str, Any]:
    """What the client should do with what it has of the sentence."""
    partial = {"partial_audio": True, "action": "discard"} if reading.num_bytes else {}
    return {**reading.event("error"), **error_message(as_cadence_error(error)), **partial}


def _id() -> str:
    return f"stream-{new_id()}"
