"""What the thinker writes for one answer, piece after piece of a text that is too long for one.

The next piece is begun as soon as the text of the current one is used up: while its last word is still
being spoken, the thinker reads the next prompt, and its first codes are there when they are wanted.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cadence.errors import StageFailed
from cadence.runtime.guard import stage_stream
from cadence.thinker.base import Thinker
from cadence.types import StepOutput, ThinkerRequest

__all__ = ["Reading"]

_STAGE = "language-model"
_MAX_STEPS_AHEAD = 1024  # of the piece begun early; then the thinker waits
_MIN_IDS = 5  # a group: less makes no sound


class Reading:
    """One answer's steps.

    Args:
        thinker: the stage.
        plans: a request per piece, in order; at least one.
        limit: ids that all pieces may take together; None = each its own `max_tokens`. With a limit no piece
            is begun early, since what is left for it is not known before its turn.
    """

    def __init__(self, thinker: Thinker, plans: Sequence[ThinkerRequest], limit: int | None) -> None:
        self._thinker, self._plans, self._limit = thinker, plans, limit
        self._ahead: _Ahead | None = None
        self._num_ids = 0
        self.text_left = sum(len(plan.forced_text_ids or ()) for plan in plans)
        """Ids of the verbatim text that were not written."""

    async def steps(self) -> AsyncGenerator[tuple[int, StepOutput]]:
        """Yield (piece number, step); the last step of every piece has a finish reason.

        Ends early, behind a piece that ended by "length", when the limit leaves no room for another.
        """
        try:
            for number, plan in enumerate(self._plans):
                if number and not self._has_room():
                    return
                forced, said = plan.forced_text_ids or (), 0
                async with self._open(plan) as steps:
                    async for step in steps:
                        for token_id in step.ids:
                            if said < len(forced) and token_id == forced[said]:
                                said += 1
                                self.text_left -= 1
                        self._num_ids += len(step.ids)
                        if said == len(forced):
                            self._begin_next(number)
                        yield number, step
                        if step.finish_reason is not None:
                            break
                    else:
                        raise StageFailed("The language-model stage ended without a reason.")
        finally:
            if self._ahead is not None:
                await self._ahead.aclose()

    def _has_room(self) -> bool:
        return self._limit is None or self._num_ids + _MIN_IDS <= self._limit

    def _begin_next(self, number: int) -> None:
        if self._ahead is None and self._limit is None and number + 1 < len(self._plans):
            self._ahead = _Ahead(self._thinker, self._plans[number + 1])

    @asynccontextmanager
    async def _open(self, plan: ThinkerRequest) -> AsyncIterator[AsyncIterator[StepOutput]]:
        """A piece's steps, from the run that was begun early if there is one."""
        if self._ahead is None:
            async with stage_stream(self._thinker.generate(self._within_limit(plan)), _STAGE) as steps:
                yield steps
            return
        ahead, self._ahead = self._ahead, None
        try:
            yield ahead.steps()
        finally:
            await ahead.aclose()

    def _within_limit(self, plan: ThinkerRequest) -> ThinkerRequest:
        if self._limit is None or plan.sampling.max_tokens is None:
            return plan
        left = min(plan.sampling.max_tokens, self._limit - self._num_ids)
        return dataclasses.replace(plan, sampling=dataclasses.replace(plan.sampling, max_tokens=left))


class _Ahead:
    """A piece that is written before its turn."""

    def __init__(self, thinker: Thinker, plan: ThinkerRequest) -> None:
        self._thinker, self._plan = thinker, plan
        self._queue: asyncio.Queue[StepOutput | Exception | None] = asyncio.Queue(_MAX_STEPS_AHEAD)
        self._task = asyncio.create_task(self._write(), name=f"ahead {plan.request_id}")

    async def steps(self) -> AsyncIterator[StepOutput]:
        """Its steps so far, then as they come; raises what the stage raised."""
        while (item := await self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    async def aclose(self) -> None:
        """Stop; returns when the stage has let go of it."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _write(self) -> None:
        end: Exception | None = None
        try:
            async with stage_stream(self._thinker.generate(self._plan), _STAGE) as steps:
                async for step in steps:
                    await self._queue.put(step)
        except Exception as error:  # noqa: BLE001 - handed to the reader when its turn comes
            end = error
        await self._queue.put(end)
