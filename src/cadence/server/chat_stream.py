"""Streamed chat answers: server-sent events with OpenAI's chunks.

The status line waits for the engine's first event, so that what goes wrong before it is a proper HTTP
error. Then, per answer: a chunk with the role, chunks with text or sound, one with the finish reason.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from cadence.audio.writer import SoundShape, SoundWriter
from cadence.errors import CadenceError
from cadence.server.chat_answer import ChatShape, code_names, finish_reason, logprobs_of
from cadence.server.context import new_id
from cadence.server.errors import as_cadence_error, error_object
from cadence.server.reply import Reasoning, Reply, ReplyPiece
from cadence.server.stream import STREAM_HEADERS, Sender, sse
from cadence.server.tool_calls import CallArguments, CallStart
from cadence.server.usage import chat_usage
from cadence.types import AudioChunk, Done, Event, TextDelta, TokenLogprob, Usage

__all__ = ["stream_chat"]

_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", **STREAM_HEADERS}


async def stream_chat(
    sender: Sender, events: AsyncIterator[tuple[int, Event]], shape: ChatShape, num_answers: int
) -> None:
    """Send all events of all answers, then the usage when asked for, then `[DONE]`."""
    writers = [_ChunkWriter(shape, i) for i in range(num_answers)]
    usages: dict[int, Usage] = {}
    try:
        async for index, event in events:
            if not sender.started:
                await sender.start(_HEADERS)
                for writer in writers:
                    await sender.write(writer.role())
            if isinstance(event, Done):
                usages[index] = event.usage
            await sender.write(writers[index].event(event))
        if shape.with_usage:
            usage = chat_usage([usages[i] for i in range(num_answers)])
            await sender.write(_chunk(shape, [], usage=usage))
    except Exception as error:  # the request border: the stream itself must tell
        if not sender.started:
            raise
        await sender.write(sse({"error": error_object(as_cadence_error(error))}))
        if not isinstance(error, CadenceError):
            raise
    await sender.write(sse("[DONE]"))
    await sender.finish()


class _ChunkWriter:
    """The chunks of one answer. Log-probabilities and codes travel with the next chunk that has text."""

    def __init__(self, shape: ChatShape, index: int) -> None:
        self._shape = shape
        self._index = index
        self._reply = Reply(shape.reply)
        self._audio_id = f"audio_{new_id()}"
        self._sound = SoundWriter(SoundShape(format=shape.audio_format or "pcm"))
        self._has_audio = False
        self._text: list[str] = []
        self._codes: list[int] = []
        self._logprobs: list[TokenLogprob] = []

    def role(self) -> bytes:
        """The first chunk."""
        content = "" if self._shape.text_in_content else None
        return self._write({"role": "assistant", "content": content})

    def event(self, event: Event) -> bytes:
        """The chunks that an event gives; none where it must wait for more."""
        if isinstance(event, AudioChunk):
            self._has_audio = True
            return self._data(self._sound.write(event.samples))
        if isinstance(event, TextDelta):
            self._logprobs += event.logprobs
            self._codes += event.codes
            return self._pieces(self._reply.push(event.text)) + self._left_over()
        return self._end(event)

    def _pieces(self, pieces: Sequence[ReplyPiece]) -> bytes:
        return b"".join(self._piece(piece) for piece in pieces)

    def _piece(self, piece: ReplyPiece) -> bytes:
        if isinstance(piece, Reasoning):
            return self._write({"reasoning_content": piece.text}, modality="text")
        if isinstance(piece, CallStart):
            function = {"name": piece.name, "arguments": ""}
            call = {"index": piece.index, "id": f"call_{new_id()}", "type": "function", "function": function}
            return self._write({"tool_calls": [call]}, modality="text")
        if isinstance(piece, CallArguments):
            more = {"index": piece.index, "function": {"arguments": piece.text}}
            return self._write({"tool_calls": [more]}, modality="text")
        self._text.append(piece)
        delta: dict[str, Any] = {"content": piece} if self._shape.text_in_content else {}
        if self._shape.audio_format is not None:
            delta["audio"] = {"id": self._audio_id, "transcript": piece}
            delta["tts_content"] = {"tts_text": piece, "tts_audio": self._take_codes()}
        return self._write(delta, modality="text")

    def _left_over(self) -> bytes:
        """Codes that came without text."""
        if not self._codes:
            return b""
        return self._write({"tts_content": {"tts_text": "", "tts_audio": self._take_codes()}})

    def _take_codes(self) -> str:
        codes, self._codes = self._codes, []
        return code_names(codes)

    def _data(self, data: bytes) -> bytes:
        """New bytes of the sound, in base64; an encoder may hold them back until a frame is full."""
        if not data:
            return b""
        audio = {"id": self._audio_id, "data": base64.b64encode(data).decode()}
        return self._write({"audio": audio}, modality="audio")

    def _end(self, done: Done) -> bytes:
        """What was held back, the end of the sound, if there was any, and the finish reason."""
        reason = finish_reason(done, num_calls=self._reply.num_calls)
        closing = self._pieces(self._reply.flush()) + self._left_over()
        if self._logprobs:
            closing += self._write({})
        if self._has_audio:
            closing += self._data(self._sound.close())
            expires_at = self._shape.spoken.put(self._audio_id, done.output_ids, "".join(self._text))
            expires = {"audio": {"id": self._audio_id, "expires_at": expires_at}}
            closing += self._write(expires, modality="audio")
        return closing + self._write({}, reason=reason)

    def _write(
        self, delta: dict[str, Any], *, reason: str | None = None, modality: str | None = None
    ) -> bytes:
        choice: dict[str, Any] = {"index": self._index, "delta": delta, "finish_reason": reason}
        if self._shape.with_logprobs:
            tokens, self._logprobs = self._logprobs, []
            choice["logprobs"] = json.loads(logprobs_of(tokens).model_dump_json()) if tokens else None
        more = {"modality": modality} if modality else {}
        return _chunk(self._shape, [choice], **more)


def _chunk(shape: ChatShape, choices: list[dict[str, Any]], **more: Any) -> bytes:
    """One chunk. With usage asked for, every chunk but the last one carries a null."""
    usage = {"usage": None} if shape.with_usage else {}
    return sse(
        {
            "id": shape.chat_id,
            "object": "chat.completion.chunk",
            "created": shape.created,
            "model": shape.model,
            "choices": choices,
            **usage,
            **more,
        }
    )
