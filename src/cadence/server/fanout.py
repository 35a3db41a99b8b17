"""Several answers to one request, generated side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeAlias

from cadence.engine_base import EngineClient
from cadence.server.stream import closing
from cadence.types import Event, Request

__all__ = ["generate_all"]

_Entry: TypeAlias = tuple[int, Event] | Exception | None
_AHEAD = 2  # events held per answer: a slow reader slows the engine's stream, not memory


async def generate_all(engine: EngineClient, requests: Sequence[Request]) -> AsyncIterator[tuple[int, Event]]:
    """Yield (index of the request, event) of all requests as they come, until each is Done.

    The first error ends them all. Leaving the generator aborts those still running.
    """
    if len(requests) == 1:
        async with closing(engine.generate(requests[0])) as events:
            async for event in events:
                yield 0, event
        return
    queue: asyncio.Queue[_Entry] = asyncio.Queue(_AHEAD * len(requests))
    tasks = [asyncio.create_task(_read(engine, request, i, queue)) for i, request in enumerate(requests)]
    try:
        num_open = len(tasks)
        while num_open:
            entry = await queue.get()
            if isinstance(entry, Exception):
                raise entry
            if entry is None:
                num_open -= 1
            else:
                yield entry
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(engine: EngineClient, request: Request, index: int, queue: asyncio.Queue[_Entry]) -> None:
    """Pass one request's events on, then None, or the error that ended it."""
    try:
        async with closing(engine.generate(request)) as events:
            async for event in events:
                await queue.put((index, event))
    except Exception as error:  # noqa: BLE001 - raised again where the queue is read
        await queue.put(error)
    else:
        await queue.put(None)
