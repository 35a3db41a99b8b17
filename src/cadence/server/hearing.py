"""Pieces of a recording to the model, several at once, and what it wrote back in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from cadence.audio.pieces import Piece
from cadence.errors import NotReady, Overloaded, StageFailed
from cadence.server.context import Context
from cadence.server.stream import closing
from cadence.types import Done, Event, Request, TextDelta

__all__ = ["Heard", "hear"]

MAX_WAIT_S = 120.0  # in all, for a place in a full queue in the middle of a recording
_MAX_RETRY_AFTER_S = 10


@dataclass(frozen=True, slots=True)
class Heard:
    """A piece is done."""

    piece: Piece
    done: Done


async def hear(
    pieces: AsyncIterator[Piece], ask: Callable[[int, Piece], Request], context: Context
) -> AsyncIterator[TextDelta | Heard]:
    """What the model writes about each piece, in the order of the pieces: its text as it comes, then `Heard`.

    At most `max_pieces_inflight` of the recording are with the model at once: the next ones are decoded
    and started only as places come free, and everything stops when the reader leaves.

    Args:
        ask: makes the request for piece number n.

    Raises:
        What reading the recording or the model raised; the rest is given up.
    """
    width = max(1, context.config.max_pieces_inflight)
    works: asyncio.Queue[_Work | Exception | None] = asyncio.Queue(2 * width)
    started: set[asyncio.Task[None]] = set()
    feeder = asyncio.create_task(_feed(pieces, ask, context, asyncio.Semaphore(width), works, started))
    started.add(feeder)
    try:
        while (work := await works.get()) is not None:
            if isinstance(work, Exception):
                raise work
            async for event in work.events():
                yield event
        await feeder
    finally:
        for task in started:
            task.cancel()
        await asyncio.wait(started)


async def _feed(
    pieces: AsyncIterator[Piece],
    ask: Callable[[int, Piece], Request],
    context: Context,
    places: asyncio.Semaphore,
    works: asyncio.Queue[_Work | Exception | None],
    started: set[asyncio.Task[None]],
) -> None:
    """Start a piece whenever there is a place; None ends the queue, an error of the recording too."""
    number = 0
    try:
        async with closing(pieces):
            async for piece in pieces:
                await places.acquire()
                work = _Work(piece, ask(number, piece), context, patient=number > 0)
                task = asyncio.create_task(work.run())
                task.add_done_callback(lambda _: places.release())
                task.add_done_callback(started.discard)
                started.add(task)
                await works.put(work)
                number += 1
    except Exception as error:  # noqa: BLE001 - handed to the reader, who raises it
        await works.put(error)
    else:
        await works.put(None)


class _Work:
    """One piece with the model."""

    def __init__(self, piece: Piece, request: Request, context: Context, *, patient: bool) -> None:
        self._piece = piece
        self._request = request
        self._context = context
        self._patient = patient
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()

    async def run(self) -> None:
        """Ask, and keep what comes for the reader, the error too."""
        try:
            async for event in self._answer():
                self._events.put_nowait(event)
        except Exception as error:  # noqa: BLE001 - handed to the reader, who raises it
            self._events.put_nowait(error)

    async def events(self) -> AsyncIterator[TextDelta | Heard]:
        """What was written, as it comes; ends with `Heard`."""
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            if isinstance(event, TextDelta):
                yield event
            elif isinstance(event, Done):
                yield Heard(self._piece, event)
                return

    async def _answer(self) -> AsyncIterator[Event]:
        """The answer. In the middle of a recording, a full queue or a restarting stage is waited for."""
        waited_s, num_failures = 0.0, 0
        while True:
            got_any = False
            try:
                async with closing(self._context.engine.generate(self._request)) as events:
                    async for event in events:
                        got_any = True
                        yield event
                return
            except (Overloaded, NotReady, StageFailed) as error:
                num_failures += isinstance(error, StageFailed)
                pause_s = min(error.retry_after_s or 1, _MAX_RETRY_AFTER_S)
                waited_s += pause_s
                hopeless = got_any or num_failures > 1 or waited_s > MAX_WAIT_S or self._context.draining
                if hopeless or not self._patient:
                    raise
            await asyncio.sleep(pause_s)
