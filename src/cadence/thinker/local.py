"""The Thinker in this process: an engine thread that steps, and an asyncio front that never blocks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from cadence.config import ThinkerConfig
from cadence.errors import CadenceError, CheckpointError, ConfigError, StageFailed
from cadence.models.device_graph import graph_backend
from cadence.models.device_stream import StageStream
from cadence.models.step_audio import StepAudio, load_step_audio
from cadence.models.weights import read_json, resolve_device, total_memory_bytes
from cadence.text import Tokenizer
from cadence.thinker.core import CoreLimits, ThinkerCore
from cadence.thinker.kv_cache import kv_token_bytes
from cadence.thinker.prefix import audio_digests
from cadence.thinker.warm_up import warm_up
from cadence.types import StepOutput, ThinkerRequest

__all__ = ["LocalThinker"]

_log = logging.getLogger(__name__)

BLOCK_SIZE = 16
KV_MEMORY_SHARE = 0.25  # of the machine's memory (CPU) or of what the weights left free (GPU)
STATS_WAIT_S = 0.5

Item = StepOutput | CadenceError
_T = TypeVar("_T")


@dataclass(slots=True)
class _Reader:
    """The asyncio end of one request."""

    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[Item] = field(default_factory=asyncio.Queue)


class LocalThinker:
    """Implements `thinker.base.Thinker` with a `ThinkerCore` on a thread of its own.

    Calls from asyncio leave a command in an inbox, which the thread empties between two steps; outputs go
    back through the reader's own event loop.
    """

    def __init__(
        self, core: ThinkerCore, *, threads: int | None = None, stream: StageStream | None = None
    ) -> None:
        """`threads` of the engine thread's matrix products; the `stream` it works on, if not the default."""
        self.core = core
        self._stream = stream
        self._num_threads = threads
        self._readers: dict[str, _Reader] = {}
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._step_since: float | None = None  # when the step under way began
        self._thread = threading.Thread(target=self._run, name="thinker", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls,
        root: Path,
        config: ThinkerConfig,
        *,
        progress: Callable[[str, float], None] | None = None,
    ) -> LocalThinker:
        """Load a checkpoint folder and start the thread. Blocking.

        Args:
            progress: told what is being done and how far it is, 0 to 1.

        Raises:
            CheckpointError: files are missing or disagree.
            ConfigError: a setting does not fit the checkpoint or the machine.
        """
        report = progress or (lambda what, share: None)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        report("tokenizer", 0.0)
        tokenizer = Tokenizer.open(root)
        report("weights", 0.1)
        model = load_step_audio(root, device=resolve_device(config.device), dtype=config.dtype)
        report("layout", 0.8)
        model.prepare(config.weights)
        report("kv memory", 0.9)
        limits = _limits(root, config, model, tokenizer)
        graphs = graph_backend(model.device, enforce_eager=config.enforce_eager)
        core = ThinkerCore(model, tokenizer.special, limits, graphs=graphs)
        thinker = cls(core, threads=config.threads, stream=StageStream(model.device))
        if model.is_prepared:  # weights that are only mapped would all be read for it
            report("warm-up", 0.95)
            try:
                thinker._submit(lambda: warm_up(core)).result()
            except BaseException:
                thinker._stop()
                raise
        report("ready", 1.0)
        return thinker

    # -------------------------------------------------------------- asyncio side
    async def generate(self, request: ThinkerRequest) -> AsyncIterator[StepOutput]:
        """See `Thinker.generate`; the sequence joins the batch at the first `__anext__`."""
        max_tokens = self.core.check(request)
        reader = _Reader(asyncio.get_running_loop())
        # An hour of sound takes a fifth of a second to digest: neither the loop nor the engine thread waits.
        digests = await asyncio.to_thread(audio_digests, request.prompt) if request.prompt.mels else ()
        self._post(lambda: self._add(request, max_tokens, digests, reader))
        try:
            while True:
                item = await reader.queue.get()
                if isinstance(item, CadenceError):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            with contextlib.suppress(StageFailed):  # closed meanwhile: nothing is held any more
                self._post(lambda: self._drop(request.request_id, reader))

    async def abort(self, request_id: str) -> None:
        """See `Thinker.abort`; returns when the memory is free. The reader gets finish reason "abort"."""
        with contextlib.suppress(StageFailed):  # shut down: nothing is held any more
            await self._call(lambda: self._abort(request_id))

    async def stats(self) -> dict[str, float]:
        """See `Thinker.stats`. Taken between two steps; during a long step, what is known right now."""
        try:
            gauges = await asyncio.wait_for(self._call(self.core.stats), STATS_WAIT_S)
        except (TimeoutError, StageFailed):
            gauges = self.core.stats()
        since = self._step_since
        return gauges | {"step_s": 0.0 if since is None else time.monotonic() - since}

    async def aclose(self) -> None:
        """See `Thinker.aclose`; returns when the thread has ended."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _post(self, command: Callable[[], None]) -> None:
        with self._wake:
            if self._closing:
                raise StageFailed("The language model has been shut down.")
            self._inbox.append(command)
            self._wake.notify()

    async def _call(self, function: Callable[[], _T]) -> _T:
        """Run a function on the thread, between two steps, and wait for what it returns."""
        return await asyncio.wrap_future(self._submit(function))

    def _submit(self, function: Callable[[], _T]) -> concurrent.futures.Future[_T]:
        """Have the thread run a function between two steps."""
        done: concurrent.futures.Future[_T] = concurrent.futures.Future()

        def command() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(function())
            except Exception as error:  # noqa: BLE001 - thread border: raised again where it is awaited
                done.set_exception(error)

        self._post(command)
        return done

    # -------------------------------------------------------------- engine thread
    def _run(self) -> None:
        if self._num_threads is not None:
            torch.set_num_threads(self._num_threads)  # matrix libraries keep the number per thread
        if self._stream is not None:
            self._stream.enter()
        while True:
            with self._wake:
                while not (self._inbox or self._closing or self.core.has_work):
                    self._wake.wait()
                commands = list(self._inbox)
                self._inbox.clear()
                closing = self._closing
            try:
                for command in commands:
                    command()
                if self.core.has_work and not closing:
                    self._step_since = time.monotonic()
                    self._deliver(self.core.step())
            except Exception:  # noqa: BLE001 - thread border: a dead thread would leave readers waiting for ever
                _log.exception("the engine thread failed between two steps")
                self._end_all(StageFailed("The language model failed while it held the request."))
            self._step_since = None
            if closing:
                break
        self._end_all(StageFailed("The language model has been shut down."))

    def _end_all(self, error: StageFailed) -> None:
        held = list(self._readers)
        for request_id in held:
            self.core.abort(request_id)
        self._deliver([(request_id, error) for request_id in held])

    def _add(
        self, request: ThinkerRequest, max_tokens: int, digests: tuple[bytes, ...], reader: _Reader
    ) -> None:
        try:
            self.core.add(request, max_tokens, digests)
        except CadenceError as error:
            _call_soon(reader.loop, lambda error=error: reader.queue.put_nowait(error))  # type: ignore[misc]
            return
        self._readers[request.request_id] = reader

    def _drop(self, request_id: str, reader: _Reader) -> None:
        """The reader has left; if its sequence still runs, end it."""
        if self._readers.get(request_id) is reader:
            del self._readers[request_id]
            self.core.abort(request_id)

    def _abort(self, request_id: str) -> None:
        if self.core.abort(request_id):
            self._deliver([(request_id, StepOutput((), "abort"))])

    def _deliver(self, outputs: list[tuple[str, StepOutput | CadenceError]]) -> None:
        """Hand a step's outputs over, one call per event loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Reader, Item]]] = {}
        for request_id, item in outputs:
            reader = self._readers.get(request_id)
            if reader is None:
                continue
            if isinstance(item, CadenceError) or item.finish_reason is not None:
                del self._readers[request_id]
            by_loop.setdefault(reader.loop, []).append((reader, item))
        for loop, items in by_loop.items():
            _call_soon(loop, lambda items=items: _put_all(items))  # type: ignore[misc]


def _put_all(items: list[tuple[_Reader, Item]]) -> None:
    for reader, item in items:
        reader.queue.put_nowait(item)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """Run a callback on an event loop; one that has been closed has no reader left to tell."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        _log.warning("an output was dropped: its event loop is closed")


def _limits(root: Path, config: ThinkerConfig, model: StepAudio, tokenizer: Tokenizer) -> CoreLimits:
    generation_file = root / "generation_config.json"
    generation = read_json(generation_file) if generation_file.exists() else {}
    max_model_len = config.max_model_len or model.config.max_position_embeddings
    if max_model_len > model.config.max_position_embeddings:
        raise ConfigError(
            f"max_model_len is {max_model_len}, but the model has only "
            f"{model.config.max_position_embeddings} positions.",
            param="max_model_len",
        )
    eos = generation.get("eos_token_id", [])
    max_wait = generation.get("tts_max_wait", 0)
    if not isinstance(max_wait, int) or max_wait < 0:
        raise CheckpointError(
            f"{generation_file}: tts_max_wait must be an integer from 0, found {max_wait!r}."
        )
    own_eos = [eos] if isinstance(eos, int) else list(eos or [])
    return CoreLimits(
        num_ids=min(tokenizer.num_ids, model.config.vocab_size),
        eos_ids=tuple(dict.fromkeys((*tokenizer.special.stop_ids, *own_eos))),
        max_model_len=max_model_len,
        kv_cache_tokens=_kv_cache_tokens(config, model, max_model_len),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        block_size=BLOCK_SIZE,
        tts_max_wait=max_wait,
        reuse_prefixes=config.enable_prefix_caching,
        speech_ahead_s=config.speech_ahead_s,
        prefill_stall_s=config.prefill_stall_s,
    )


def _kv_cache_tokens(config: ThinkerConfig, model: StepAudio, max_model_len: int) -> int:
    """The configured budget, or what a share of memory holds, from one full context up to one a sequence."""
    if config.kv_cache_tokens is not None:
        if config.kv_cache_tokens < BLOCK_SIZE:
            raise ConfigError(f"kv_cache_tokens must be at least {BLOCK_SIZE}.", param="kv_cache_tokens")
        return config.kv_cache_tokens
    if model.device.type == "cuda":
        memory = torch.cuda.mem_get_info(model.device)[0] * 0.8
    else:
        memory = total_memory_bytes() * KV_MEMORY_SHARE
    fitting = int(memory // kv_token_bytes(model.config, model.dtype))
    return min(max(fitting, max_model_len), max_model_len * config.max_num_seqs)
