"""The words of what was heard, for sessions that ask for them: turn by turn, beside the answers."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cadence.audio.int16 import from_int16
from cadence.errors import CadenceError, Overloaded
from cadence.server.context import Context, new_id
from cadence.server.errors import as_cadence_error, error_object
from cadence.server.middleware import where_of
from cadence.server.realtime.conversation import Item, Part
from cadence.server.realtime.events import ServerEvent, server_event, transcription_usage
from cadence.server.realtime.settings import Transcription
from cadence.server.socket import Socket, SocketGone
from cadence.server.stream import closing
from cadence.types import INPUT_RATE_HZ, AudioPart, Done, Message, Request, TextDelta, TextPart

__all__ = ["Transcriber", "transcription_request"]

MAX_WAITING = 16
_TOKENS_PER_S, _MORE_TOKENS = 20, 64  # nobody says more: a longer text goes in circles

logger = logging.getLogger("cadence.server")


def transcription_request(context: Context, samples: NDArray[np.int16], wanted: Transcription) -> Request:
    """Ask the engine for the words of sound, int16 [T], 16 kHz."""
    sound = AudioPart(from_int16(samples))
    limit = _MORE_TOKENS + _TOKENS_PER_S * samples.size // INPUT_RATE_HZ
    return Request(
        request_id=f"transcribe-{new_id()}",
        messages=(Message("system", (TextPart(wanted.system_prompt()),)), Message("user", (sound,))),
        sampling=replace(context.engine.default_sampling["text"], temperature=0.0, max_tokens=limit),
    )


class Transcriber:
    """One session's transcriptions, in order. Each ends in one `completed` or one `failed` event."""

    def __init__(self, context: Context, socket: Socket) -> None:
        self._context = context
        self._socket = socket
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()  # fair: first come, first served

    def start(self, item: Item, wanted: Transcription) -> None:
        """Transcribe an item that was just heard; its events follow."""
        task = asyncio.create_task(self._transcribe(item, item.parts[0], wanted, len(self._tasks)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """End all, without a word."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _transcribe(self, item: Item, part: Part, wanted: Transcription, num_before: int) -> None:
        try:
            try:
                if num_before >= MAX_WAITING:
                    raise Overloaded("Too many turns wait to be transcribed.")
                async with self._turn:
                    await self._read(item, part, wanted)
            except SocketGone:
                raise
            except Exception as error:  # noqa: BLE001 - the border of one transcription
                if not isinstance(error, CadenceError):
                    logger.error("bug in a transcription: %s", where_of(error))
                await self._socket.send(_event("failed", item, error=error_object(as_cadence_error(error))))
        except SocketGone:
            pass  # the session is about to end

    async def _read(self, item: Item, part: Part, wanted: Transcription) -> None:
        assert part.samples is not None
        request = transcription_request(self._context, part.samples, wanted)
        text = ""
        async with closing(self._context.engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, TextDelta) and event.text:
                    text += event.text
                    await self._socket.send(_event("delta", item, delta=event.text))
                elif isinstance(event, Done):
                    part.transcript = text
                    usage = transcription_usage(event.usage)
                    await self._socket.send(_event("completed", item, transcript=text, usage=usage))


def _event(kind: str, item: Item, **fields: object) -> ServerEvent:
    return server_event(
        f"conversation.item.input_audio_transcription.{kind}", item_id=item.id, content_index=0, **fields
    )
