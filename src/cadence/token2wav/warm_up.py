"""What a stage's first chunks would pay for those after them, paid while it loads: kernels are chosen, memory
is taken and pools of threads start at first use."""

from __future__ import annotations

from queue import SimpleQueue

import torch

from cadence.token2wav.scheduler import ChunkCutter
from cadence.token2wav.session import Outcome, Session
from cadence.token2wav.worker import Worker
from cadence.types import ChunkSchedule, SpeechRequest

__all__ = ["warm_up"]


def warm_up(worker: Worker, voice: str, schedule: ChunkSchedule) -> None:
    """Speak two chunks to nobody; blocks. Raises what the session ends with."""
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    session = Session(
        request=SpeechRequest(request_id="warm-up", voice=voice, seed=0),
        cutter=ChunkCutter(schedule),
        generator=torch.Generator().manual_seed(0),
        deliver=outcomes.put,
    )
    worker.submit(session)
    worker.push(session, [0] * (2 * schedule.first + schedule.lookahead))
    worker.finish(session)
    while (outcome := outcomes.get()) is not None:
        if isinstance(outcome, Exception):
            raise outcome
