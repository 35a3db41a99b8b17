"""The main program of a stage's process: `python -m cadence.runtime.worker FD`.

FD is one end of a socket pair; the engine holds the other, so nothing but the engine can speak to the
stage and the stage notices at once when the engine is gone. One event loop serves the socket; the stage
computes in threads of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from typing import cast

from cadence.errors import CadenceError, InternalError, NotReady, RequestAborted, StageFailed
from cadence.runtime.guard import internal_failure, log_failure, stage_stream
from cadence.runtime.stages import Stage, StageSpec, load_stage
from cadence.runtime.wire import Frame, FrameReader, decode_request, encode_output, pack
from cadence.thinker.base import Thinker
from cadence.token2wav.base import Token2Wav
from cadence.types import AudioChunk, SpeechRequest, StepOutput, VoiceSample

__all__ = ["main"]

_log = logging.getLogger("cadence.runtime")

BEAT_S = 0.5
MAX_FAILURES = 3
_STOP_WAIT_S = 3.0
_LEAVE_WAIT_S = 30.0
_PR_SET_PDEATHSIG = 1


async def _prepare_voice(stage: Stage, arguments: Frame) -> None:
    await cast(Token2Wav, stage).prepare_voice(VoiceSample(**arguments))


async def _forget_voice(stage: Stage, arguments: Frame) -> None:
    await cast(Token2Wav, stage).forget_voice(arguments["key"])


CALLS = {"prepare_voice": _prepare_voice, "forget_voice": _forget_voice}
"""What the engine may ask of a stage beside requests."""


class _Stream:
    """One request in the stage: what the engine may still send to it."""

    def __init__(self, credit: int) -> None:
        self.credit = asyncio.Semaphore(credit)
        self.codes: asyncio.Queue[Sequence[int] | None] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None

    async def read_codes(self) -> AsyncIterator[Sequence[int]]:
        """Codes as the engine sends them."""
        while (codes := await self.codes.get()) is not None:
            yield codes


class Worker:
    """Serves one stage to one engine until the socket closes or a stop is asked for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._frames = FrameReader(reader)
        self._writer = writer
        self._stage: Stage | None = None
        self._name = "stage"
        self._streams: dict[int, _Stream] = {}
        self._stats: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken = asyncio.Event()
        self._num_failures = 0  # in a row, without any output in between

    async def run(self) -> None:
        """Serve frames until the end; returns when the stage is closed."""
        self._start(self._beat())
        self._start(self._leave_when_broken())
        try:
            while (frame := await self._frames.next()) is not None and frame["t"] != "stop":
                self._handle(frame)
        finally:
            await self._close()

    def send(self, frame: Frame) -> None:
        """Queue a frame; dropped when the engine is gone."""
        if not self._writer.is_closing():
            self._writer.write(pack(frame))

    # ------------------------------------------------------------------ frames from the engine
    def _handle(self, frame: Frame) -> None:
        kind = frame["t"]
        if kind == "load":
            self._start(self._load(StageSpec(frame["kind"], frame["root"], frame["config"])))
        elif kind == "open":
            self._open(frame)
        elif kind == "call":
            self._start(self._call(frame))
        elif kind == "abort":
            if self._stage is not None:
                self._start(self._stage.abort(frame["request_id"]))
        elif (stream := self._streams.get(frame["stream"])) is None:
            return  # it ended while the frame was on its way
        elif kind == "codes":
            stream.codes.put_nowait(frame["codes"])
        elif kind == "credit":
            for _ in range(frame["count"]):
                stream.credit.release()
        elif kind == "cancel" and stream.task is not None:
            stream.task.cancel()

    async def _load(self, spec: StageSpec) -> None:
        loop = asyncio.get_running_loop()
        self._name = spec.name

        def progress(text: str, fraction: float) -> None:
            loop.call_soon_threadsafe(self.send, {"t": "progress", "text": text, "fraction": fraction})

        try:
            stage = await asyncio.to_thread(load_stage, spec, progress)
            voices = await stage.voices() if spec.name == "token2wav" else ()  # type: ignore[union-attr]
        except Exception as error:  # noqa: BLE001 - the process border: every error is reported
            self.send({"t": "failed", "error": internal_failure(error).to_dict()})
            return
        self._stage = stage
        self.send({"t": "ready", "voices": list(voices)})

    async def _call(self, frame: Frame) -> None:
        error: CadenceError | None = None
        try:
            if self._stage is None:
                raise NotReady("A part of the server is not ready.")
            await CALLS[frame["method"]](self._stage, frame["arguments"])
        except Exception as raised:  # noqa: BLE001 - the call's border: every error is told
            error = internal_failure(raised)
        self.send({"t": "called", "stream": frame["stream"], "error": error.to_dict() if error else None})

    def _open(self, frame: Frame) -> None:
        number = frame["stream"]
        stream = self._streams[number] = _Stream(frame["credit"])
        stream.task = asyncio.create_task(self._answer(number, stream, frame["request"]))

    async def _answer(self, number: int, stream: _Stream, data: Frame) -> None:
        error: CadenceError | None = None
        try:
            if self._stage is None or self._broken.is_set():
                raise NotReady("A part of the server is not ready.")
            async with stage_stream(self._generate(stream, data), self._name) as outputs:
                async for output in outputs:
                    self._num_failures = 0
                    await stream.credit.acquire()
                    self.send({"t": "out", "stream": number, "value": encode_output(output)})
                    await self._writer.drain()
        except asyncio.CancelledError:
            error = RequestAborted("The request was aborted.")
        except Exception as raised:  # noqa: BLE001 - the request's border: every error becomes its end
            error = internal_failure(raised)
        finally:
            self._streams.pop(number, None)
            self.send({"t": "end", "stream": number, "error": error.to_dict() if error else None})
        if isinstance(error, StageFailed | InternalError):
            self._count_failure()

    def _count_failure(self) -> None:
        """A stage that only fails (its device is lost, its thread is dead) is better started anew."""
        self._num_failures += 1
        if self._num_failures >= MAX_FAILURES:
            _log.critical("the %s stage failed %d times in a row", self._name, self._num_failures)
            self._broken.set()

    def _generate(self, stream: _Stream, data: Frame) -> AsyncIterator[StepOutput | AudioChunk]:
        request = decode_request(data)
        if isinstance(request, SpeechRequest):
            return cast(Token2Wav, self._stage).generate(request, stream.read_codes())
        return cast(Thinker, self._stage).generate(request)

    # ------------------------------------------------------------------ life
    async def _beat(self) -> None:
        """Say twice a second that the loop turns, with the newest gauges."""
        while True:
            self.send({"t": "beat", "stats": self._stats})
            if self._stage is not None:
                with contextlib.suppress(TimeoutError):
                    self._stats = await asyncio.wait_for(self._stage.stats(), BEAT_S)
            await asyncio.sleep(BEAT_S)

    async def _leave_when_broken(self) -> None:
        """When the stage is no good: finish what is held, within bounds, then go and be started anew."""
        await self._broken.wait()
        held = {stream.task for stream in self._streams.values() if stream.task is not None}
        if held:
            await asyncio.wait(held, timeout=_LEAVE_WAIT_S)
        self._writer.write_eof()
        await self._close()
        os._exit(0)

    async def _close(self) -> None:
        for stream in list(self._streams.values()):
            if stream.task is not None:
                stream.task.cancel()
        if self._stage is not None:
            with contextlib.suppress(CadenceError, TimeoutError):
                await asyncio.wait_for(self._stage.aclose(), _STOP_WAIT_S)

    def _start(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log_failure(error, f"the process of the {self._name} stage")


def die_with_parent() -> None:
    """Ask the kernel to end this process with its parent, should the socket's end go unnoticed (a stopped
    or wedged process). Only Linux can; elsewhere the socket is enough."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def _serve(fd: int) -> None:
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
    await Worker(reader, writer).run()
    # Here and now: a thread that still loads weights must not keep the process.
    os._exit(0)


def main() -> None:
    """Serve the stage behind the socket whose number is the first argument."""
    die_with_parent()
    # Ctrl-C reaches the whole process group, and a service manager's SIGTERM every process of the
    # service. The engine decides when its stages stop: it may still have answers to finish.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=os.environ.get("CADENCE_LOG_LEVEL", "INFO"))
    asyncio.run(_serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
