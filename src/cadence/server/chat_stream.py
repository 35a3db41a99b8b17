"""Streamed chat answers: server-sent events with OpenAI's chunks.

The status line waits for the engine's first event, so that what goes wrong before it is a proper HTTP
error. Then, per answer: a chunk with the role, chunks with text or sound, one with the finish reason.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from cadence.audio.writer import SoundShape, SoundWriter
from cadence.errors import CadenceError
from cadence.server.chat_answer import ChatShape, finish_reason, logprobs_of
from cadence.server.context import new_id
from cadence.server.errors import as_cadence_error, error_object
from cadence.server.stream import STREAM_HEADERS, Sender, sse
from cadence.server.usage import chat_usage
from cadence.types import AudioChunk, Event, TextDelta, Usage

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
            if isinstance(event, TextDelta):
                await sender.write(writers[index].text(event))
            elif isinstance(event, AudioChunk):
                await sender.write(writers[index].audio(event))
            else:
                usages[index] = event.usage
                await sender.write(writers[index].end(finish_reason(event)))
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
    """The chunks of one answer."""

    def __init__(self, shape: ChatShape, index: int) -> None:
        self._shape = shape
        self._index = index
        self._audio_id = f"audio_{new_id()}"
        self._has_audio = False
        self._sound = SoundWriter(SoundShape(format=shape.audio_format or "pcm"))

    def role(self) -> bytes:
        """The first chunk."""
        content = "" if self._shape.text_in_content else None
        return self._write({"role": "assistant", "content": content})

    def text(self, event: TextDelta) -> bytes:
        """New text: content, or the transcript of what is said, or both."""
        delta: dict[str, Any] = {}
        if self._shape.text_in_content:
            delta["content"] = event.text
        if self._shape.audio_format is not None:
            delta["audio"] = {"id": self._audio_id, "transcript": event.text}
        return self._write(delta, modality="text", event=event)

    def audio(self, event: AudioChunk) -> bytes:
        """New sound in base64; empty while a frame fills."""
        self._has_audio = True
        return self._data(self._sound.write(event.samples))

    def end(self, reason: str) -> bytes:
        """The end of the sound, if there was any, and the finish reason."""
        closing = b""
        if self._has_audio:
            expires = {"audio": {"id": self._audio_id, "expires_at": self._shape.created}}
            closing = self._data(self._sound.close()) + self._write(expires, modality="audio")
        return closing + self._write({}, reason=reason)

    def _data(self, data: bytes) -> bytes:
        if not data:
            return b""
        text = base64.b64encode(data).decode()
        return self._write({"audio": {"id": self._audio_id, "data": text}}, modality="audio")

    def _write(
        self,
        delta: dict[str, Any],
        *,
        reason: str | None = None,
        modality: str | None = None,
        event: TextDelta | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {"index": self._index, "delta": delta, "finish_reason": reason}
        if self._shape.with_logprobs:
            tokens = event.logprobs if event else ()
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
