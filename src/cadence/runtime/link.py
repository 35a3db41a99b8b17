"""The engine's end of the socket to one life of a stage's process."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from cadence.errors import CadenceError, InternalError, StageFailed, error_from_dict
from cadence.runtime.wire import Frame, FrameReader, decode_output, encode_request, pack
from cadence.types import AudioChunk, SpeechRequest, StepOutput, ThinkerRequest

__all__ = ["StageLink", "StageStream"]

_CREDIT = {"thinker": 64, "token2wav": 4}  # outputs on their way or unread, per stream
_CREDIT_SHARE = 4  # credit goes back a quarter of it at a time: a frame for each step's id would cost as much


class StageLink:
    """Many streams over one socket. `pump` runs until the process is gone.

    Args:
        name: "thinker" or "token2wav".
        on_progress: called with what the process says while it loads.
    """

    def __init__(
        self,
        name: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_progress: Callable[[str, float], None],
    ) -> None:
        self.name = name
        self.ready: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
        """The stage's voices once it is loaded (none for a thinker), or the error it failed with."""
        self.stats: dict[str, float] = {}
        self.num_silent_ticks = 0
        """Set to 0 by every frame; the supervisor counts it up."""
        self._frames = FrameReader(reader)
        self._writer = writer
        self._on_progress = on_progress
        self._streams: dict[int, StageStream] = {}
        self._calls: dict[int, asyncio.Future[None]] = {}
        self._numbers = itertools.count(1)

    def open(self, request: ThinkerRequest | SpeechRequest) -> StageStream:
        """Begin a request in the stage."""
        stream = StageStream(self, next(self._numbers))
        self._streams[stream.number] = stream
        self.send(
            {
                "t": "open",
                "stream": stream.number,
                "credit": _CREDIT[self.name],
                "request": encode_request(request),
            }
        )
        return stream

    async def call(self, method: str, **arguments: Any) -> None:
        """Have the stage do something that yields nothing; raises what the stage raises.

        Args:
            method: one of those in `runtime.worker.CALLS`.
            arguments: plain data.
        """
        number = next(self._numbers)
        call = self._calls[number] = asyncio.get_running_loop().create_future()
        self.send({"t": "call", "stream": number, "method": method, "arguments": arguments})
        try:
            await call
        finally:
            self._calls.pop(number, None)

    def send(self, frame: Frame) -> None:
        """Queue a frame; dropped when the process is gone."""
        if not self._writer.is_closing():
            self._writer.write(pack(frame))

    async def drained(self) -> None:
        """Wait until what was sent is on its way."""
        try:
            await self._writer.drain()
        except ConnectionError:
            return  # `pump` sees the same and ends the streams

    async def pump(self) -> None:
        """Hand frames to their streams until the socket closes.

        Raises:
            StageFailed: the process sent something broken.
        """
        while (frame := await self._frames.next()) is not None:
            self.num_silent_ticks = 0
            self._handle(frame)

    def end_streams(self, error: CadenceError) -> None:
        """End every request held, and every call, with this error."""
        for stream in list(self._streams.values()):
            stream.finish(error)
        for number in list(self._calls):
            self._end_call(number, error)

    def close(self, error: CadenceError) -> None:
        """Give the socket up; who still waits for anything from it gets this error."""
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # marks it as seen: nobody need be waiting
        self.end_streams(error)
        self.stats = {}
        self._writer.close()

    def forget(self, number: int) -> None:
        """A stream is over."""
        self._streams.pop(number, None)

    def _handle(self, frame: Frame) -> None:
        kind = frame["t"]
        if kind in ("out", "end"):
            stream = self._streams.get(frame["stream"])
            if stream is None:
                return  # closed here while the frame was on its way
            if kind == "out":
                stream.add(frame["value"])
            else:
                stream.finish(error_from_dict(frame["error"]) if frame["error"] else None)
        elif kind == "called":
            self._end_call(frame["stream"], error_from_dict(frame["error"]) if frame["error"] else None)
        elif kind == "beat":
            self.stats = frame["stats"]
        elif kind == "progress":
            self._on_progress(frame["text"], frame["fraction"])
        elif kind == "ready" and not self.ready.done():
            self.ready.set_result(tuple(frame["voices"]))
        elif kind == "failed" and not self.ready.done():
            self.ready.set_exception(error_from_dict(frame["error"]))

    def _end_call(self, number: int, error: CadenceError | None) -> None:
        call = self._calls.get(number)
        if call is None or call.done():
            return
        if error is None:
            call.set_result(None)
        else:
            call.set_exception(error)


class StageStream:
    """One request's outputs as they come; the window of `_CREDIT` keeps a slow reader's memory bounded."""

    def __init__(self, link: StageLink, number: int) -> None:
        self.number = number
        self._link = link
        self._num_owed = 0
        self._outputs: deque[Frame] = deque()
        self._news = asyncio.Event()
        self._ended = False
        self._error: CadenceError | None = None

    async def outputs(self) -> AsyncIterator[StepOutput | AudioChunk]:
        """Yield until the stage says that it was the last; raise what the stage raised."""
        while True:
            while self._outputs:
                value = decode_output(self._outputs.popleft())
                self._give_credit()
                yield value
            if self._ended:
                break
            self._news.clear()
            await self._news.wait()
        if self._error is not None:
            raise self._error

    async def send_codes(self, codes: AsyncIterator[Sequence[int]]) -> None:
        """Forward codes until they end; an error of theirs ends the stream."""
        try:
            async for batch in codes:
                self._link.send({"t": "codes", "stream": self.number, "codes": list(map(int, batch))})
            self._link.send({"t": "codes", "stream": self.number, "codes": None})
        except CadenceError as error:
            self.finish(error)
        except Exception as error:  # noqa: BLE001 - the codes' source is foreign code to a stage
            self.finish(InternalError(f"The source of speech codes failed ({type(error).__name__})."))

    def _give_credit(self) -> None:
        """An output was read."""
        self._num_owed += 1
        if self._num_owed * _CREDIT_SHARE >= _CREDIT[self._link.name]:
            self._link.send({"t": "credit", "stream": self.number, "count": self._num_owed})
            self._num_owed = 0

    def add(self, value: Frame) -> None:
        """An output came."""
        self._outputs.append(value)
        self._news.set()

    def finish(self, error: CadenceError | None) -> None:
        """The stage is done with it."""
        if not self._ended:
            self._ended, self._error = True, error
            self._link.forget(self.number)
            self._news.set()

    def close(self) -> None:
        """The reader goes: cancel in the stage what still runs. Never waits."""
        if not self._ended:
            self._link.send({"t": "cancel", "stream": self.number})
            self.finish(StageFailed("The stream was closed."))
