"""The answers of a session: one in the conversation, a few outside it, each in a task of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cadence.errors import CadenceError, InvalidRequest, PromptTooLong
from cadence.server.context import Context, new_id
from cadence.server.errors import as_cadence_error
from cadence.server.middleware import where_of
from cadence.server.realtime.conversation import (
    AnyItem,
    Conversation,
    OutputItem,
    check_call,
    engine_messages,
)
from cadence.server.realtime.events import ServerEvent
from cadence.server.realtime.items import read_item
from cadence.server.realtime.schema import parse_item
from cadence.server.realtime.settings import ResponseBody, Settings
from cadence.server.realtime.tools import with_tools
from cadence.server.realtime.writer import Reason, ResponseWriter
from cadence.server.reply import ReplyPlan
from cadence.server.socket import Socket, SocketGone
from cadence.server.stream import closing
from cadence.types import Done, Event, Request

__all__ = ["Responses"]

MAX_RESPONSES = 4  # at once, in and outside the conversation

logger = logging.getLogger("cadence.server")


@dataclass(slots=True)
class _Running:
    """An answer being given. `ending`: its last events are on their way, nothing can stop it any more."""

    writer: ResponseWriter
    settings: Settings
    speaks: bool
    in_conversation: bool
    items: Sequence[AnyItem]
    task: asyncio.Task[None] | None = None
    ending: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Responses:
    """Starts, interrupts and awaits answers.

    An answer that is interrupted sends nothing more from that moment on: first its task is cancelled, then
    its last events are written by whoever interrupted it.
    """

    def __init__(self, context: Context, socket: Socket, conversation: Conversation) -> None:
        self._context = context
        self._socket = socket
        self._conversation = conversation
        self._running: dict[str, _Running] = {}
        self._leaving: set[asyncio.Task[None]] = set()  # cancelled: the engine is letting go of them

    async def start(self, settings: Settings, body: ResponseBody) -> None:
        """Begin an answer; its events follow.

        Raises:
            CadenceError: the response cannot be asked for like this, or another one is being given.
        """
        own = body.model_copy(update={"conversation": None, "metadata": None, "input": None})
        settings = settings.updated(own, self._context, "response")
        in_conversation = body.conversation != "none"
        items = await self._items(body, settings)
        self._check_room(in_conversation)
        shown = {
            **settings.response_wire(),
            "metadata": body.metadata,
            "conversation_id": self._conversation.id if in_conversation else None,
        }
        speaks = settings.speaks and settings.call is None  # a call that must be made is written, not spoken
        thinks = self._context.engine.info.thinks and not speaks and settings.call is None
        writer = ResponseWriter(
            shown,
            spoken=speaks,
            how=settings.output_format,
            speed=settings.speed,
            plan=ReplyPlan(thinks=thinks, tools=bool(settings.tools), call=settings.call),
            conversation=self._conversation if in_conversation else None,
        )
        running = _Running(writer, settings, speaks, in_conversation, items)
        self._running[writer.response_id] = running
        await self._socket.send(writer.created())
        running.task = asyncio.create_task(self._answer(running))

    async def cancel(self, response_id: str | None) -> None:
        """End the named answer, or the one in the conversation; raises InvalidRequest if there is none."""
        found = self._in_conversation() if response_id is None else self._running.get(response_id)
        if found is None:
            raise InvalidRequest(
                "There is no response in progress to cancel.", code="response_cancel_not_active"
            )
        await self._stop(found, "client_cancelled")

    async def interrupt(self, reason: Reason, *, first: ServerEvent) -> None:
        """End the answer in the conversation, if there is one; `first` is sent before its last events."""
        found = self._in_conversation()
        if found is None:
            await self._socket.send(first)
        else:
            await self._stop(found, reason, first)

    async def settle(self) -> None:
        """Wait until no answer is being given."""
        while self._running:
            await next(iter(self._running.values())).ended.wait()

    async def aclose(self) -> None:
        """End all answers without a word; returns when the engine has let go of them."""
        for running in self._running.values():
            if running.task is not None:
                running.task.cancel()
                self._leaving.add(running.task)
        self._running.clear()
        if self._leaving:
            await asyncio.wait(self._leaving)

    # ------------------------------------------------------------------ inside
    def _in_conversation(self) -> _Running | None:
        return next((r for r in self._running.values() if r.in_conversation), None)

    def _check_room(self, in_conversation: bool) -> None:
        if in_conversation and self._in_conversation() is not None:
            raise InvalidRequest(
                "The conversation has a response in progress; wait for it or cancel it.",
                code="conversation_already_has_active_response",
            )
        if len(self._running) >= MAX_RESPONSES:
            raise InvalidRequest(
                f"A session gives at most {MAX_RESPONSES} responses at once.", code="too_many_responses"
            )

    async def _items(self, body: ResponseBody, settings: Settings) -> Sequence[AnyItem]:
        """What is to be answered: the conversation, or the response's own input."""
        if body.input is None:
            return [item for item in self._conversation if not item.forgotten]
        found: list[AnyItem] = []
        for i, data in enumerate(body.input):
            where = f"response.input.{i}"
            if data.get("type") == "item_reference":
                item = self._conversation.find(str(data.get("id")), f"{where}.id")
            else:
                item = await read_item(parse_item(data), settings.input_format, self._context, where)
            if isinstance(item, OutputItem):
                check_call(item, found, where)
            found.append(item)
        return found

    async def _stop(self, running: _Running, reason: Reason, first: ServerEvent | None = None) -> None:
        ahead = [] if first is None else [first]
        if running.ending or running.task is None:
            await self._socket.send(*ahead)
            return
        running.task.cancel()
        self._leaving.add(running.task)
        running.task.add_done_callback(self._leaving.discard)
        self._forget(running)
        await self._socket.send(*ahead, *running.writer.cancelled(reason))

    async def _answer(self, running: _Running) -> None:
        """One answer, from the engine to the socket."""
        writer = running.writer
        try:
            async with closing(self._events(running)) as events:
                async for event in events:
                    if isinstance(event, Done):
                        await self._end(running, writer.finished(event))
                        self._remember_length(event)
                    else:
                        await self._socket.send(*writer.piece(event))
        except SocketGone:
            pass  # the session is about to end
        except Exception as error:  # noqa: BLE001 - the border of one answer
            if not isinstance(error, CadenceError):
                logger.error("bug in response %s: %s", writer.response_id, where_of(error))
            with contextlib.suppress(SocketGone):
                await self._end(running, writer.failed(as_cadence_error(error)))
        finally:
            self._forget(running)

    async def _end(self, running: _Running, events: Sequence[ServerEvent]) -> None:
        running.ending = True
        await self._socket.send(*events)

    def _forget(self, running: _Running) -> None:
        self._running.pop(running.writer.response_id, None)
        running.ended.set()

    async def _events(self, running: _Running) -> AsyncIterator[Event]:
        """The engine's events. A conversation that got too long loses its oldest part, unless forbidden."""
        engine, settings = self._context.engine, running.settings
        items = running.items
        output: Literal["text", "speech"] = "speech" if running.speaks else "text"
        while True:
            request = Request(
                request_id=f"realtime-{new_id()}",
                messages=with_tools(engine_messages(settings.instructions, items), settings.tools),
                output=output,
                voice=settings.voice,
                sampling=settings.sampling(engine.default_sampling[output]),
                call=settings.call,
                with_codes=running.speaks,
                word_timestamps=running.speaks,
            )
            try:
                async with closing(engine.generate(request)) as events:
                    async for event in events:
                        yield event
                return
            except PromptTooLong:
                if not settings.truncates or len(items) <= 1:
                    raise
                items = items[(len(items) + 3) // 4 :]

    def _remember_length(self, done: Done) -> None:
        """Leave room for the next answer: past 80 % of the context, the older half is not read again."""
        used = done.usage.prompt_tokens + done.usage.completion_tokens
        if used > 0.8 * self._context.engine.info.max_model_len:
            self._conversation.forget_half()
