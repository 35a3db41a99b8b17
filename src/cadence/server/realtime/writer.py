"""The events of one response, in the order that clients expect them, from what the engine says. Pure."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from cadence.audio.encode import pcm16
from cadence.audio.g711 import encode_g711
from cadence.audio.resample import StreamResampler
from cadence.errors import CadenceError
from cadence.server.context import new_id
from cadence.server.errors import error_object
from cadence.server.realtime.conversation import Item, Part
from cadence.server.realtime.events import ServerEvent, response_usage, server_event
from cadence.server.realtime.settings import AudioFormat
from cadence.types import OUTPUT_RATE_HZ, AudioChunk, Done, Event, TextDelta, Usage

if TYPE_CHECKING:
    from cadence.types import Waveform

__all__ = ["ResponseWriter", "SoundWriter"]

Reason = Literal["turn_detected", "client_cancelled"]


class SoundWriter:
    """24 kHz samples to a format's bytes, piece by piece."""

    def __init__(self, how: AudioFormat) -> None:
        self._how = how
        self._resampler = StreamResampler(OUTPUT_RATE_HZ, how.rate_hz)

    def push(self, samples: Waveform) -> bytes:
        """What is complete so far; may be empty."""
        return self._encode(self._resampler.push(samples))

    def flush(self) -> bytes:
        """The rest."""
        return self._encode(self._resampler.flush())

    def _encode(self, samples: Waveform) -> bytes:
        if self._how.type == "audio/pcm":
            return pcm16(samples)
        return encode_g711(samples, "pcmu" if self._how.type == "audio/pcmu" else "pcma")


class ResponseWriter:
    """Turns one answer's engine events into the protocol's, from `response.created` to `response.done`.

    Args:
        settings: what the response shows of its own settings.
        spoken: whether it is answered in speech.
        how: the format of the sound.
        in_conversation: whether its item becomes part of the conversation.
    """

    def __init__(
        self, settings: Mapping[str, Any], *, spoken: bool, how: AudioFormat, in_conversation: bool
    ) -> None:
        self.response_id = f"resp_{new_id()}"
        self.item = Item(f"item_{new_id()}", "assistant", status="in_progress")
        self._settings = settings
        self._spoken = spoken
        self._sound = SoundWriter(how)
        self._in_conversation = in_conversation
        self._part = Part("output_audio" if spoken else "output_text", transcript="" if spoken else None)
        self._num_samples = 0
        self._usage: Usage | None = None

    @property
    def started(self) -> bool:
        """Whether the answer has an item yet."""
        return bool(self.item.parts)

    def created(self) -> ServerEvent:
        """The first event."""
        return server_event("response.created", response=self._response("in_progress"))

    def opened(self, previous_item_id: str | None) -> list[ServerEvent]:
        """The events before the first piece: an item, and its one part."""
        added = self._of_output("response.output_item.added", item=self.item.wire())
        events = [added]
        if self._in_conversation:
            events.append(
                server_event(
                    "conversation.item.added", previous_item_id=previous_item_id, item=self.item.wire()
                )
            )
        self.item.parts.append(self._part)
        return [*events, self._of_part("response.content_part.added", part=self._wire_part())]

    def piece(self, event: Event) -> list[ServerEvent]:
        """The events of what the engine said."""
        if isinstance(event, TextDelta):
            self._part.codes.extend(event.codes)
            self._part.words.extend(event.words)
            return self._text(event.text)
        if isinstance(event, AudioChunk):
            self._num_samples += event.samples.size
            self._part.spoken_ms = 1000 * self._num_samples // OUTPUT_RATE_HZ
            return self._audio(self._sound.push(event.samples))
        return []

    def finished(self, done: Done) -> list[ServerEvent]:
        """The last events of an answer that ended by itself or at its limit."""
        self._usage = done.usage
        if self._spoken:
            self._part.output_ids = array("i", done.output_ids)
        if done.finish_reason == "length":
            details = {"type": "incomplete", "reason": "max_output_tokens"}
            return self._close("incomplete", details, rest=self._sound.flush())
        return self._close("completed", None, rest=self._sound.flush())

    def cancelled(self, reason: Reason) -> list[ServerEvent]:
        """The last events of an answer that was interrupted. No sound is among them."""
        return self._close("cancelled", {"type": "cancelled", "reason": reason})

    def failed(self, error: CadenceError) -> list[ServerEvent]:
        """The last events of an answer that the engine could not give."""
        shown = error_object(error)
        details = {"type": "failed", "error": {k: shown[k] for k in ("type", "code", "message")}}
        return self._close("failed", details)

    # ------------------------------------------------------------------ inside
    def _text(self, text: str) -> list[ServerEvent]:
        if not text:
            return []
        if self._spoken:
            self._part.transcript = (self._part.transcript or "") + text
            return [self._of_part("response.output_audio_transcript.delta", delta=text)]
        self._part.text += text
        return [self._of_part("response.output_text.delta", delta=text)]

    def _audio(self, data: bytes) -> list[ServerEvent]:
        if not data:
            return []
        return [self._of_part("response.output_audio.delta", delta=base64.b64encode(data).decode())]

    def _close(
        self, status: str, details: Mapping[str, Any] | None, *, rest: bytes = b""
    ) -> list[ServerEvent]:
        events: list[ServerEvent] = []
        if self.started:
            self.item.status = "completed" if status == "completed" else "incomplete"
            events += self._audio(rest)
            if self._spoken:
                transcript = self._part.transcript
                events.append(self._of_part("response.output_audio.done"))
                events.append(self._of_part("response.output_audio_transcript.done", transcript=transcript))
            else:
                events.append(self._of_part("response.output_text.done", text=self._part.text))
            events.append(self._of_part("response.content_part.done", part=self._wire_part()))
            if self._in_conversation:
                events.append(server_event("conversation.item.done", item=self.item.wire()))
            events.append(self._of_output("response.output_item.done", item=self.item.wire()))
        events.append(server_event("response.done", response=self._response(status, details)))
        return events

    def _of_output(self, kind: str, **fields: Any) -> ServerEvent:
        return server_event(kind, response_id=self.response_id, output_index=0, **fields)

    def _of_part(self, kind: str, **fields: Any) -> ServerEvent:
        return self._of_output(kind, item_id=self.item.id, content_index=0, **fields)

    def _wire_part(self) -> dict[str, Any]:
        """The part as response events name it: `audio`, not `output_audio`."""
        if self._spoken:
            return {"type": "audio", "transcript": self._part.transcript}
        return {"type": "text", "text": self._part.text}

    def _response(self, status: str, details: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return {
            "object": "realtime.response",
            "id": self.response_id,
            "status": status,
            "status_details": details,
            "output": [self.item.wire()] if self.started else [],
            "usage": response_usage(self._usage),
            **self._settings,
        }
