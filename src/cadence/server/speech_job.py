"""One text to read aloud: the request for the engine, and the three ways to send its sound."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

import numpy as np

from cadence.audio.writer import SoundShape, SoundWriter
from cadence.errors import CadenceError, InvalidRequest, RequestError, StageFailed
from cadence.prompt import READ_ALOUD_PROMPT
from cadence.server.context import Context, new_id
from cadence.server.errors import as_cadence_error, error_object
from cadence.server.reference import read_reference, speech_reference
from cadence.server.sampling import speech_limit, speech_sampling
from cadence.server.schema_speech import SpeechBody
from cadence.server.speakable import without_emoji, without_markdown
from cadence.server.stream import STREAM_HEADERS, Sender, closing, sse
from cadence.server.usage import speech_usage, usage_headers
from cadence.server.voice import choose_voice
from cadence.server.word_times import word_event, word_headers
from cadence.types import (
    OUTPUT_RATE_HZ,
    AudioChunk,
    Done,
    Message,
    Request,
    TextDelta,
    TextPart,
    VoiceSample,
    WordTiming,
)

__all__ = ["SpeechJob"]

DEFAULT_FORMAT = "wav"
_FIELDS = {"messages": "input", "max_tokens": "max_new_tokens"}


class SpeechJob:
    """One text to read, checked as far as possible before anything is generated.

    Raises:
        InvalidRequest, NotFound: what the schema cannot check: model, voice, length, format.
    """

    def __init__(
        self,
        context: Context,
        body: SpeechBody,
        request_id: str,
        *,
        sample: VoiceSample | None = None,
        word_timestamps: bool = False,
    ) -> None:
        """`sample`: the recording that the body brings, when it has been read before."""
        self._engine = context.engine
        self._outcomes = context.outcomes
        self._request_id = request_id
        context.check_model(body.model)
        if not context.engine.info.can_speak:
            raise InvalidRequest("This server answers in text only.", code="no_speech")
        body = _cleaned(body)
        limit = context.config.max_input_chars
        if len(body.input) > limit:
            raise InvalidRequest(
                f"The text has {len(body.input)} characters, the limit is {limit}.",
                param="input",
                code="input_too_long",
            )
        self.shape = _shape(body)
        """How the sound is written."""
        self._writer = SoundWriter(self.shape)
        self._headers = sound_headers(self.shape)
        self._context = context
        request = _engine_request(context, body)
        self._tells_words = bool(body.word_timestamps)
        with_words = word_timestamps or self._tells_words
        self._request = dataclasses.replace(request, word_timestamps=with_words)
        self.words: list[WordTiming] = []
        """When each word is said at normal speed, as far as that has become known; if it was asked for."""
        self._num_words_told = 0
        self._reference = speech_reference(body, self._request.voice)
        self._sample = sample
        self._limit_is_own = speech_limit(body) is not None
        self.work = self._mode(body)

    async def read_sample(self) -> VoiceSample | None:
        """The recording that the body brings, fetched and checked; None when it brings none."""
        if self._sample is None and self._reference is not None:
            self._sample = await read_reference(self._reference, self._context)
        return self._sample

    def _mode(self, body: SpeechBody) -> Callable[[Sender], Awaitable[None]]:
        """Which of the three ways to send the sound."""
        if body.stream is False:
            if body.stream_format == "sse":
                raise InvalidRequest(
                    "'stream': false cannot be answered with events.",
                    param="stream_format",
                    code="conflicting_fields",
                )
            return self._send_whole
        if body.stream_format == "sse" or (body.stream is True and body.stream_format is None):
            return self._send_events
        if not self._tells_words:
            return self._send_raw
        if body.stream is True or body.stream_format is not None:
            raise InvalidRequest(
                "A stream of bare samples cannot tell when words are said.",
                param="word_timestamps",
                code="conflicting_fields",
                hint="Use 'stream': false, or 'stream_format': \"sse\".",
            )
        return self._send_whole

    async def _send_raw(self, sender: Sender) -> None:
        """One chunked body. Where words were lost it breaks off: samples have no other way to say so."""
        async with closing(self.stream()) as pieces:
            async for piece in pieces:
                if isinstance(piece, Done):
                    break
                if not sender.started:
                    await sender.start({**self._headers, **STREAM_HEADERS})
                await sender.write(piece)
        await sender.finish()

    async def stream(self) -> AsyncIterator[bytes | Done]:
        """The bytes as they are made, then how it ended; raises StageFailed where words were lost."""
        async with closing(self._sound()) as sound:
            async for event in sound:
                if isinstance(event, Done) and self._lost_words(event):
                    raise StageFailed("The speech was cut at the server's limit.", code="length")
                if data := await self._encode(event):
                    yield data
                if isinstance(event, Done):
                    yield event

    async def _send_whole(self, sender: Sender) -> None:
        """One complete body: true sizes, token counts and the finish reason in the headers."""
        body, done = await self.file()
        headers = {**self._headers, **usage_headers(done.usage), "X-Finish-Reason": done.finish_reason}
        if self._tells_words:
            headers |= word_headers(self.words, self.shape.speed)
        await sender.whole(body, headers)

    async def file(self) -> tuple[bytes, Done]:
        """All the sound as one file, and how it ended."""
        pieces = []
        async with closing(self._sound()) as sound:
            async for event in sound:
                if isinstance(event, AudioChunk):
                    pieces.append(event.samples)
                else:
                    done = event
        return await asyncio.to_thread(lambda: self._writer.whole(np.concatenate(pieces))), done

    async def _send_events(self, sender: Sender) -> None:
        """Server-sent events: deltas in base64, then one `done` or one `error`."""
        headers = {**self._headers, "Content-Type": "text/event-stream; charset=utf-8", **STREAM_HEADERS}
        try:
            async with closing(self._sound()) as sound:
                async for event in sound:
                    if not sender.started:
                        await sender.start(headers)
                    await sender.write(self._word_events())
                    if data := await self._encode(event):
                        await sender.write(_delta(data, self.shape.format))
                    if isinstance(event, Done):
                        await sender.write(_done(event))
        except Exception as error:  # the request border: the stream itself must tell
            if not sender.started:
                raise
            await sender.write(_error(error))
            if not isinstance(error, CadenceError):
                raise
        await sender.finish()

    def _word_events(self) -> bytes:
        """An event with the words that have become known since the last one, if there are any."""
        new = self.words[self._num_words_told :] if self._tells_words else []
        self._num_words_told += len(new)
        return word_event(new, self.shape.speed) if new else b""

    async def _encode(self, event: AudioChunk | Done) -> bytes:
        """The bytes of a chunk; of the end, what the writer still holds."""

        def write() -> bytes:
            return (
                self._writer.write(event.samples) if isinstance(event, AudioChunk) else self._writer.close()
            )

        return write() if self.shape.plain else await asyncio.to_thread(write)

    async def _sound(self) -> AsyncIterator[AudioChunk | Done]:
        """The sound, then Done. No sound at all is an error: silence would pass for success."""
        heard = False
        with self._outcomes.follow(self._request_id) as outcome, _own_field_names():
            request = dataclasses.replace(self._request, voice_sample=await self.read_sample())
            async with closing(self._engine.generate(request)) as events:
                async for event in events:
                    if isinstance(event, AudioChunk):
                        heard = heard or event.samples.size > 0
                        yield event
                    elif isinstance(event, TextDelta):
                        self.words += event.words
                    elif isinstance(event, Done):
                        if not heard:
                            raise _silence(event)
                        self._outcomes.complete(outcome, event)
                        yield event

    def _lost_words(self, done: Done) -> bool:
        """Whether a limit that the client did not set may have cut words off.

        Verbatim speech tells; at its own bound the model did not end by itself, after all had been said.
        """
        if done.finish_reason == "stop" or self._limit_is_own:
            return False
        return self._request.verbatim is None or done.text_left > 0


def _cleaned(body: SpeechBody) -> SpeechBody:
    """The body with its text as it is to be read."""
    options = body.normalization_options
    if options is None:
        return body
    text, everything = body.input, bool(options.normalize)
    if everything if options.markdown is None else options.markdown:
        text = without_markdown(text)
    if everything if options.emoji is None else options.emoji:
        text = without_emoji(text)
    if not text.strip():
        raise InvalidRequest("Of the text, nothing is left to say.", param="input", code="nothing_to_say")
    return body.model_copy(update={"input": text})


def _shape(body: SpeechBody) -> SoundShape:
    """How the client wants the sound."""
    return SoundShape(
        format=body.response_format or DEFAULT_FORMAT,
        rate_hz=body.sample_rate or OUTPUT_RATE_HZ,
        speed=body.speed or 1.0,
    )


def sound_headers(shape: SoundShape) -> dict[str, str]:
    """What a client must know to play the sound; bare samples cannot say it themselves."""
    rate = {"X-Sample-Rate": str(shape.written_rate_hz), "X-Channels": "1"}
    depth = {"X-Bit-Depth": "16"} if shape.format in ("wav", "pcm", "flac") else {}
    return {"Content-Type": shape.media_type, **rate, **depth}


def _engine_request(context: Context, body: SpeechBody) -> Request:
    """What to ask of the engine. Verbatim speech brings its own prompt; instructions go before it."""
    instructions = (Message("system", (TextPart(body.instructions),)),) if body.instructions else ()
    messages: tuple[Message, ...] = instructions
    verbatim = body.verbatim is not False
    if not verbatim:
        system = instructions or (Message("system", (TextPart(READ_ALOUD_PROMPT),)),)
        messages = (*system, Message("user", (TextPart(body.input),)))
    return Request(
        request_id=f"speech-{new_id()}",
        messages=messages,
        output="speech",
        verbatim=body.input if verbatim else None,
        voice=choose_voice(context.engine.info, voice=body.voice, speaker=body.speaker),
        sampling=speech_sampling(body, context.engine.default_sampling["speech"]),
        async_chunk=body.async_chunk,
    )


@contextmanager
def _own_field_names() -> Iterator[None]:
    """Name the fields at fault as this endpoint does, not as the engine."""
    try:
        yield
    except RequestError as error:
        error.param = _FIELDS.get(error.param or "", error.param)
        raise


def _silence(done: Done) -> CadenceError:
    """Why there was no sound at all: the client's limit, or the model."""
    if done.finish_reason == "length":
        message = "The limit on tokens leaves no room for a sound."
        return InvalidRequest(message, param="max_new_tokens", code="no_audio")
    return StageFailed("The model ended without a sound.", code="no_audio")


def _delta(data: bytes, name: str) -> bytes:
    event = "speech.audio.delta"
    audio = base64.b64encode(data).decode()
    return sse({"type": event, "audio": audio, "response_format": name}, event=event)


def _done(done: Done) -> bytes:
    event = "speech.audio.done"
    usage = speech_usage(done.usage)
    return sse({"type": event, "usage": usage, "finish_reason": done.finish_reason}, event=event)


def _error(error: Exception) -> bytes:
    """The last event of a failed stream: what was sent is not the whole and should be thrown away."""
    event = "speech.audio.error"
    told = {**error_object(as_cadence_error(error)), "partial_audio": True, "action": "discard"}
    return sse({"type": event, "error": told}, event=event)
