"""What the engine knows of a Thinker back end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from cadence.types import StepOutput, ThinkerRequest

__all__ = ["Thinker"]


class Thinker(Protocol):
    """Prompt in, ids out, step by step, many sequences at once."""

    def generate(self, request: ThinkerRequest) -> AsyncIterator[StepOutput]:
        """Yield outputs until one has a finish reason.

        Closing the iterator, or cancelling the task that reads it, aborts the sequence. A slow
        reader never blocks other sequences.

        Raises:
            PromptTooLong: prompt + max_tokens can never fit the stage's memory.
            StageFailed: the stage broke while it held the sequence.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """End a sequence within one step and free its memory; unknown ids are ignored."""
        ...

    async def stats(self) -> dict[str, float]:
        """Gauges now: num_running, num_waiting, kv_tokens_used, kv_tokens_total, kv_tokens_kept (free, but
        findable by a prompt that begins alike), num_preemptions, num_evictions (of such blocks), and
        step_s, how long the computation under way has taken (0 = none): what shows a stage that hangs."""
        ...

    async def aclose(self) -> None:
        """Stop the stage; held sequences end with StageFailed."""
        ...
