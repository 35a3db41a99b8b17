"""Small helpers at the border between an engine and its stages."""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from cadence.errors import CadenceError, InternalError, StageFailed

__all__ = ["internal_failure", "log_failure", "stage_failure", "stage_stream"]

T = TypeVar("T")
_log = logging.getLogger("cadence.engine")


@asynccontextmanager
async def stage_stream(stream: AsyncIterator[T], stage: str) -> AsyncIterator[AsyncIterator[T]]:
    """Read a stage's stream: foreign exceptions become StageFailed, and it is closed on the way out.

    Left to the garbage collector, an unfinished stream would hold the stage's memory until later.
    """

    async def guarded() -> AsyncIterator[T]:
        try:
            async for item in stream:
                yield item
        except Exception as error:  # noqa: BLE001 - the stage's border: foreign errors get our name
            raise stage_failure(error, stage) from None

    reader = guarded()
    try:
        yield reader
    finally:
        for generator in (reader, stream):
            aclose = getattr(generator, "aclose", None)
            if aclose is not None:
                await aclose()


def log_failure(error: BaseException, where: str) -> None:
    """Log an unexpected exception by type and place; its text may hold a user's words, so never that."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    _log.error("%s: unexpected %s\n%s", where, type(error).__name__, frames.rstrip())


def stage_failure(error: Exception, stage: str) -> CadenceError:
    """What a client is told when a stage raised: our own errors as they are, others without internals."""
    if isinstance(error, CadenceError):
        return error
    log_failure(error, f"the {stage} stage")
    return StageFailed(f"The {stage} stage failed while it worked on this request.")


def internal_failure(error: Exception) -> CadenceError:
    """What a client is told of an exception that nobody meant to raise."""
    if isinstance(error, CadenceError):
        return error
    log_failure(error, "a request")
    return InternalError("Something went wrong inside the server.")
