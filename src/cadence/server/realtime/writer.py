"""The events of one response, in the order that clients expect them, from what the engine says. Pure.

A response has an item for what is said, made when there is something to say, and one for each function call.
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from cadence.audio.encode import pcm16
from cadence.audio.g711 import encode_g711
from cadence.audio.resample import StreamResampler
from cadence.audio.tempo import StreamTempo
from cadence.errors import CadenceError
from cadence.server.context import new_id
from cadence.server.errors import error_object
from cadence.server.realtime.conversation import AnyItem, CallItem, Conversation, Item, Part
from cadence.server.realtime.events import ServerEvent, response_usage, server_event
from cadence.server.realtime.settings import AudioFormat
from cadence.server.reply import Reply, ReplyPiece, ReplyPlan
from cadence.server.tool_calls import CallArguments, CallStart
from cadence.types import OUTPUT_RATE_HZ, AudioChunk, Done, Event, TextDelta, Usage

if TYPE_CHECKING:
    from cadence.types import Waveform

__all__ = ["Reason", "ResponseWriter", "SoundWriter"]

Reason = Literal["turn_detected", "client_cancelled"]


class SoundWriter:
    """24 kHz samples to a format's bytes, piece by piece."""

    def __init__(self, how: AudioFormat, speed: float = 1.0) -> None:
        self._how = how
        self._tempo = StreamTempo(OUTPUT_RATE_HZ, speed)
        self._resampler = StreamResampler(OUTPUT_RATE_HZ, how.rate_hz)
        self.num_samples = 0
        """Of 24 kHz, given out so far."""

    def push(self, samples: Waveform) -> bytes:
        """What is complete so far; may be empty."""
        return self._encode(self._resampler.push(self._stretched(self._tempo.push(samples))))

    def flush(self) -> bytes:
        """The rest."""
        last = self._resampler.push(self._stretched(self._tempo.flush()))
        return self._encode(last) + self._encode(self._resampler.flush())

    def _stretched(self, samples: Waveform) -> Waveform:
        self.num_samples += samples.size
        return samples

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
        speed: of the sound; 2 is twice as fast.
        plan: what else than text the answer may hold.
        conversation: where its items go; None = nowhere.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        spoken: bool,
        how: AudioFormat,
        speed: float,
        plan: ReplyPlan,
        conversation: Conversation | None,
    ) -> None:
        self.response_id = f"resp_{new_id()}"
        self._settings = settings
        self._spoken = spoken
        self._sound = SoundWriter(how, speed)
        self._reply = Reply(plan)
        self._conversation = conversation
        self._message: Item | None = None
        self._part = Part("output_audio" if spoken else "output_text", transcript="" if spoken else None)
        self._part.speed = speed
        self._items: list[AnyItem] = []  # by their index in the output
        self._calls: list[CallItem] = []
        self._usage: Usage | None = None

    def created(self) -> ServerEvent:
        """The first event."""
        return server_event("response.created", response=self._response("in_progress"))

    def piece(self, event: Event) -> list[ServerEvent]:
        """The events of what the engine said."""
        if isinstance(event, TextDelta):
            self._part.codes.extend(event.codes)
            self._part.words.extend(event.words)
            return self._pieces(self._reply.push(event.text))
        if isinstance(event, AudioChunk):
            return self._audio(self._sound.push(event.samples))
        return []

    def finished(self, done: Done) -> list[ServerEvent]:
        """The last events of an answer that ended by itself or at its limit."""
        self._usage = done.usage
        last = self._pieces(self._reply.flush())
        if self._message is not None:
            last += self._audio(self._sound.flush())
            if self._spoken:
                self._part.output_ids = array("i", done.output_ids)
        if done.finish_reason == "length":
            details = {"type": "incomplete", "reason": "max_output_tokens"}
            return [*last, *self._close("incomplete", details)]
        return [*last, *self._close("completed", None)]

    def cancelled(self, reason: Reason) -> list[ServerEvent]:
        """The last events of an answer that was interrupted. No sound is among them."""
        return self._close("cancelled", {"type": "cancelled", "reason": reason})

    def failed(self, error: CadenceError) -> list[ServerEvent]:
        """The last events of an answer that the engine could not give."""
        shown = error_object(error)
        details = {"type": "failed", "error": {k: shown[k] for k in ("type", "code", "message")}}
        return self._close("failed", details)

    # ------------------------------------------------------------------ pieces
    def _pieces(self, pieces: list[ReplyPiece]) -> list[ServerEvent]:
        """Text and calls. Reasoning has no events in this protocol."""
        events: list[ServerEvent] = []
        for piece in pieces:
            if isinstance(piece, str):
                events += self._text(piece)
            elif isinstance(piece, CallStart):
                call = CallItem(f"item_{new_id()}", piece.name, f"call_{new_id()}", status="in_progress")
                call.within = self._part if self._message is not None else None
                self._calls.append(call)
                events += self._add(call)
            elif isinstance(piece, CallArguments):
                call = self._calls[piece.index]
                call.arguments += piece.text
                events.append(self._of_call("response.function_call_arguments.delta", call, delta=piece.text))
        return events

    def _text(self, text: str) -> list[ServerEvent]:
        events = self._open()
        if self._spoken:
            self._part.transcript = (self._part.transcript or "") + text
            return [*events, self._of_part("response.output_audio_transcript.delta", delta=text)]
        self._part.text += text
        return [*events, self._of_part("response.output_text.delta", delta=text)]

    def _audio(self, data: bytes) -> list[ServerEvent]:
        self._part.spoken_ms = 1000 * self._sound.num_samples // OUTPUT_RATE_HZ
        if not data:
            return []
        delta = base64.b64encode(data).decode()
        return [*self._open(), self._of_part("response.output_audio.delta", delta=delta)]

    def _open(self) -> list[ServerEvent]:
        """The item for what is said, and its one part, once there is something."""
        if self._message is not None:
            return []
        self._message = Item(f"item_{new_id()}", "assistant", status="in_progress")
        events = self._add(self._message)
        self._message.parts.append(self._part)
        return [*events, self._of_part("response.content_part.added", part=self._wire_part())]

    def _add(self, item: AnyItem) -> list[ServerEvent]:
        self._items.append(item)
        events = [self._of_item("response.output_item.added", item, item=item.wire())]
        if self._conversation is not None:
            previous = self._conversation.add(item)
            events.append(
                server_event("conversation.item.added", previous_item_id=previous, item=item.wire())
            )
        return events

    # ------------------------------------------------------------------ the end
    def _close(self, status: str, details: Mapping[str, Any] | None) -> list[ServerEvent]:
        events: list[ServerEvent] = []
        for item in self._items:
            item.status = "completed" if status == "completed" else "incomplete"
            events += self._close_call(item) if isinstance(item, CallItem) else self._close_message()
            if self._conversation is not None:
                events.append(server_event("conversation.item.done", item=item.wire()))
            events.append(self._of_item("response.output_item.done", item, item=item.wire()))
        return [*events, server_event("response.done", response=self._response(status, details))]

    def _close_message(self) -> list[ServerEvent]:
        if self._spoken:
            done = [
                self._of_part("response.output_audio.done"),
                self._of_part(
                    "response.output_audio_transcript.done", transcript=self._part.transcript or ""
                ),
            ]
        else:
            done = [self._of_part("response.output_text.done", text=self._part.text)]
        return [*done, self._of_part("response.content_part.done", part=self._wire_part())]

    def _close_call(self, call: CallItem) -> list[ServerEvent]:
        given = {"name": call.name, "arguments": call.arguments}
        return [self._of_call("response.function_call_arguments.done", call, **given)]

    # ------------------------------------------------------------------ shapes
    def _of_item(self, kind: str, of: AnyItem, **fields: Any) -> ServerEvent:
        index = self._items.index(of)
        return server_event(kind, response_id=self.response_id, output_index=index, **fields)

    def _of_call(self, kind: str, call: CallItem, **fields: Any) -> ServerEvent:
        return self._of_item(kind, call, item_id=call.id, call_id=call.call_id, **fields)

    def _of_part(self, kind: str, **fields: Any) -> ServerEvent:
        assert self._message is not None
        return self._of_item(kind, self._message, item_id=self._message.id, content_index=0, **fields)

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
            "output": [item.wire() for item in self._items],
            "usage": response_usage(self._usage),
            **self._settings,
        }
