"""One client's session: what each of its events does.

Client events are handled one after the other. Answers run beside them, one in the conversation and a few
outside it; transcriptions of what was heard run one by one. Everything ends with the session.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadence.errors import CadenceError, InvalidRequest
from cadence.server.context import Context, new_id
from cadence.server.errors import as_cadence_error
from cadence.server.fetch import decode_base64
from cadence.server.middleware import where_of
from cadence.server.realtime import schema
from cadence.server.realtime.conversation import AnyItem, Conversation, Item, OutputItem, Part, check_call
from cadence.server.realtime.events import ServerEvent, error_event, server_event
from cadence.server.realtime.input_buffer import InputBuffer, SpeechStarted, SpeechStopped
from cadence.server.realtime.items import read_item
from cadence.server.realtime.mini import MiniSession, speaks_mini
from cadence.server.realtime.responses import Responses
from cadence.server.realtime.settings import NO_CHANGES, Settings
from cadence.server.realtime.transcriber import Transcriber
from cadence.server.socket import GOING_AWAY, Socket, SocketGone
from cadence.types import INPUT_RATE_HZ

__all__ = ["Session"]

logger = logging.getLogger("cadence.server")

_INLINE_BYTES = 24_000  # half a second of 24 kHz PCM: heard within a few milliseconds


class Session:
    """Works on a socket until its client leaves, is silent for too long, or its time is up."""

    def __init__(self, socket: Socket, context: Context, settings: Settings) -> None:
        config = context.config
        self._socket = socket
        self._context = context
        self._id = f"sess_{new_id()}"
        self._expires_at = int(time.time() + config.session_s)
        self._settings = settings
        self._conversation = Conversation(int(config.session_audio_s * INPUT_RATE_HZ))
        self._buffer = InputBuffer(config.max_turn_s)
        self._configure_buffer()
        self._speech_item_id = ""  # of the turn that is being heard
        self._responses = Responses(context, socket, self._conversation)
        self._transcriber = Transcriber(context, socket)
        self._mini: MiniSession | None = None
        self._handlers: dict[type, Callable[[Any], Awaitable[None]]] = {
            schema.SessionUpdate: self._update,
            schema.BufferAppend: self._append,
            schema.BufferCommit: self._commit,
            schema.BufferClear: self._clear,
            schema.ItemCreate: self._create_item,
            schema.ItemRetrieve: self._retrieve_item,
            schema.ItemDelete: self._delete_item,
            schema.ItemTruncate: self._truncate_item,
            schema.ResponseCreate: self._create_response,
            schema.ResponseCancel: self._cancel_response,
        }

    async def run(self) -> None:
        """Serve the session; see `Worker.run`."""
        config = self._context.config
        try:
            hello = {"id": self._id, "created": int(time.time())}  # what clients of vLLM's protocol read
            await self._socket.send({**self._session_event("session.created"), **hello})
            async with asyncio.timeout(config.session_s):
                while True:
                    message = await self._socket.receive(config.socket_idle_s)
                    await self._take(message)
        except TimeoutError:
            error = InvalidRequest("The session is over: its time is up.", code="session_expired")
            await self._socket.send(error_event(error, None))
            await self._socket.close(GOING_AWAY, "session expired")
        finally:
            await asyncio.gather(self._responses.aclose(), self._transcriber.aclose())

    async def settle(self) -> None:
        """Wait until nothing is being answered; see `Worker.settle`."""
        await self._responses.settle()

    async def _take(self, message: str | bytes) -> None:
        """Handle one message; what is wrong with it is told, and the session goes on."""
        event_id: str | None = None
        try:
            if isinstance(message, bytes):
                raise InvalidRequest("Events are JSON texts, not binary messages.", code="invalid_event")
            data = schema.read_text(message)
            given = data.get("event_id") if isinstance(data, dict) else None
            event_id = given if isinstance(given, str) else None
            if self._mini is None and speaks_mini(data):
                self._mini = MiniSession(self._context, self._socket)
            if self._mini is not None:
                await self._mini.take(data)
                return
            event = schema.parse_event(data)
            await self._handlers[type(event)](event)
        except SocketGone:
            raise
        except Exception as error:  # noqa: BLE001 - the border of one event
            if not isinstance(error, CadenceError):
                logger.error("bug in session %s: %s", self._id, where_of(error))
            await self._socket.send(error_event(as_cadence_error(error), event_id))

    # ------------------------------------------------------------------ settings
    async def _update(self, event: schema.SessionUpdate) -> None:
        self._settings = self._settings.updated(event.session, self._context)
        self._configure_buffer()
        await self._socket.send(self._session_event("session.updated"))

    def _configure_buffer(self) -> None:
        self._buffer.configure(self._settings.input_format, self._settings.turn_detection)

    def _session_event(self, kind: str) -> ServerEvent:
        kind_of = "transcription_session" if self._settings.only_transcribes else "session"
        session = {
            "object": f"realtime.{kind_of}",
            "id": self._id,
            "expires_at": self._expires_at,
            **self._settings.wire(),
        }
        return server_event(kind, session=session)

    # ------------------------------------------------------------------ sound
    async def _append(self, event: schema.BufferAppend) -> None:
        """More sound, and what turns begin and end in it; off the event loop unless it is short."""
        data = decode_base64(event.audio, "audio")
        if len(data) <= _INLINE_BYTES and self._buffer.ready:
            edges = self._buffer.append(data)
        else:
            edges = await asyncio.to_thread(self._buffer.append, data)
        for edge in edges:
            if isinstance(edge, SpeechStarted):
                await self._on_speech_started(edge)
            else:
                await self._on_speech_stopped(edge)

    async def _on_speech_started(self, edge: SpeechStarted) -> None:
        vad = self._settings.turn_detection
        self._speech_item_id = f"item_{new_id()}"
        started = server_event(
            "input_audio_buffer.speech_started",
            audio_start_ms=edge.start_ms,
            item_id=self._speech_item_id,
        )
        if vad is not None and vad.interrupt_response:
            await self._responses.interrupt("turn_detected", first=started)
        else:
            await self._socket.send(started)

    async def _on_speech_stopped(self, edge: SpeechStopped) -> None:
        vad = self._settings.turn_detection
        await self._socket.send(
            server_event(
                "input_audio_buffer.speech_stopped", audio_end_ms=edge.end_ms, item_id=self._speech_item_id
            )
        )
        await self._add_heard(edge.samples, self._speech_item_id)
        if vad is not None and vad.create_response and not self._settings.only_transcribes:
            await self._responses.start(self._settings, NO_CHANGES)

    async def _commit(self, event: schema.BufferCommit) -> None:
        item_id = self._speech_item_id if self._buffer.speaking else f"item_{new_id()}"
        await self._add_heard(self._buffer.commit(), item_id)

    async def _clear(self, event: schema.BufferClear) -> None:
        self._buffer.clear()
        await self._socket.send(server_event("input_audio_buffer.cleared"))

    async def _add_heard(self, samples: NDArray[np.int16], item_id: str) -> None:
        """What was heard becomes a message of the user."""
        item = Item(item_id, "user", [Part("input_audio", samples=samples)])
        previous = self._conversation.last_id
        await self._socket.send(
            server_event("input_audio_buffer.committed", item_id=item_id, previous_item_id=previous)
        )
        await self._add(item, None)
        wanted = self._settings.transcription
        if wanted is not None:
            self._transcriber.start(item, wanted)

    # ------------------------------------------------------------------ items
    async def _add(self, item: AnyItem, after: str | None) -> None:
        previous = self._conversation.add(item, after)
        events = [
            server_event(f"conversation.item.{kind}", previous_item_id=previous, item=item.wire())
            for kind in ("added", "done")
        ]
        await self._socket.send(*events, *self._make_room())

    def _make_room(self) -> Sequence[ServerEvent]:
        return [
            server_event("conversation.item.deleted", item_id=item_id)
            for item_id in self._conversation.make_room()
        ]

    async def _create_item(self, event: schema.ItemCreate) -> None:
        item = await read_item(event.item, self._settings.input_format, self._context, "item")
        if isinstance(item, OutputItem):
            check_call(item, self._conversation, "item")
        await self._add(item, event.previous_item_id)

    async def _retrieve_item(self, event: schema.ItemRetrieve) -> None:
        item = self._conversation.find(event.item_id)
        shown = await asyncio.to_thread(item.wire, with_audio=True)
        await self._socket.send(server_event("conversation.item.retrieved", item=shown))

    async def _delete_item(self, event: schema.ItemDelete) -> None:
        self._conversation.delete(event.item_id)
        await self._socket.send(server_event("conversation.item.deleted", item_id=event.item_id))

    async def _truncate_item(self, event: schema.ItemTruncate) -> None:
        self._conversation.truncate(event.item_id, event.content_index, event.audio_end_ms)
        await self._socket.send(
            server_event(
                "conversation.item.truncated",
                item_id=event.item_id,
                content_index=event.content_index,
                audio_end_ms=event.audio_end_ms,
            )
        )

    # ------------------------------------------------------------------ answers
    async def _create_response(self, event: schema.ResponseCreate) -> None:
        if self._settings.only_transcribes:
            raise InvalidRequest("A transcription session gives no responses.", code="no_responses")
        await self._responses.start(self._settings, event.response or NO_CHANGES)

    async def _cancel_response(self, event: schema.ResponseCancel) -> None:
        await self._responses.cancel(event.response_id)
