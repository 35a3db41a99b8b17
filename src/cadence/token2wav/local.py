"""The Token2Wav stage in this process: an asyncio face on the rendering thread."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cadence.config import Token2WavConfig
from cadence.errors import CheckpointError, ConfigError, RequestAborted, StageFailed
from cadence.models.device_graph import graph_backend
from cadence.models.device_stream import StageStream
from cadence.models.flow import load_flow
from cadence.models.flow_sampler import MAX_HISTORY_CODES, FlowSampler
from cadence.models.flow_stream import FlowMemory
from cadence.models.hift_weights import load_hift
from cadence.models.noise import NoiseStrip
from cadence.models.weights import read_json, resolve_device, resolve_dtype
from cadence.token2wav.runner import Runner
from cadence.token2wav.scheduler import ChunkCutter, check_schedule
from cadence.token2wav.session import Outcome, Session
from cadence.token2wav.voice_cache import VoiceCache
from cadence.token2wav.voices import MAX_PROMPT_S, VoiceStore
from cadence.token2wav.warm_up import warm_up
from cadence.token2wav.worker import Worker
from cadence.types import CODE_SAMPLES, OUTPUT_RATE_HZ, AudioChunk, SpeechRequest, VoiceSample

__all__ = ["LocalToken2Wav", "load_runner"]

_FOLDER = "token2wav"  # where a checkpoint keeps this stage's files
_PUBLIC_STEPS = 10  # a constant in the reference
_FRAMES_PER_SECOND = 50
_MIN_HISTORY_S = 5.0
_MAX_HISTORY_S = MAX_HISTORY_CODES * CODE_SAMPLES / OUTPUT_RATE_HZ
_CACHES = {"plain": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
_OPTIONS = {
    "flow_weights": ("plain", "int8"),
    "flow_cache": tuple(_CACHES),
    "vocoder_weights": ("plain", "bfloat16"),
}

Progress = Callable[[str, float], None]


class LocalToken2Wav:
    """Implements `token2wav.base.Token2Wav`. Make it with `load`."""

    def __init__(self, worker: Worker, store: VoiceStore, config: Token2WavConfig) -> None:
        self._worker, self._store, self._config = worker, store, config

    @classmethod
    def load(cls, root: Path, config: Token2WavConfig, *, progress: Progress | None = None) -> LocalToken2Wav:
        """Load a checkpoint's vocoder stage and warm its default voice; blocks until it can serve.

        Raises:
            ConfigError: device, dtype or schedule cannot be used.
            CheckpointError: a file is missing, foreign or inconsistent.
        """
        report = progress or (lambda message, share: None)
        runner = load_runner(root, config, progress=report)
        report("Loading the voices", 0.6)
        store = VoiceStore(root, config)

        stream = StageStream(resolve_device(config.device))

        def start_thread() -> None:
            stream.enter()
            if config.threads is not None:
                torch.set_num_threads(config.threads)

        voices = VoiceCache(
            store, runner.sampler, max_bytes=config.voice_cache_bytes, start_thread=start_thread
        )
        worker = Worker(runner, voices, config, start_thread=start_thread)
        try:
            report("Preparing the default voice", 0.7)
            if names := store.names():
                voices.prepare(names[0]).result()
                report("Warming up", 0.9)
                warm_up(worker, names[0], config.schedule)
        except BaseException:
            worker.close()
            raise
        report("Ready to speak", 1.0)
        return cls(worker, store, config)

    async def generate(
        self, request: SpeechRequest, codes: AsyncIterator[Sequence[int]]
    ) -> AsyncIterator[AudioChunk]:
        """Render `codes` as they arrive; see the protocol."""
        if request.voice_sample is None and request.voice not in self._store.names():
            self._store.prompt(request.voice)  # raises, and says which voices there are
        loop = asyncio.get_running_loop()
        outcomes: asyncio.Queue[Outcome] = asyncio.Queue()

        def deliver(outcome: Outcome) -> None:
            # The loop may be gone when the process ends; then nobody is left to be told.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(outcomes.put_nowait, outcome)

        seed = request.seed if request.seed is not None else secrets.randbits(63)
        session = Session(
            request=request,
            cutter=ChunkCutter(self._config.schedule),
            generator=torch.Generator().manual_seed(seed),
            deliver=deliver,
        )
        self._worker.submit(session)
        pump = asyncio.create_task(self._pump(session, codes), name=f"codes {request.request_id}")
        try:
            while (outcome := await outcomes.get()) is not None:
                if isinstance(outcome, Exception):
                    raise outcome
                self._worker.read(session)
                yield AudioChunk(outcome)
        finally:
            self._worker.discard(session)
            pump.cancel()
            await asyncio.wait({pump})

    async def _pump(self, session: Session, codes: AsyncIterator[Sequence[int]]) -> None:
        """Hand codes on; whatever `codes` raises ends the session."""
        try:
            async for batch in codes:
                self._worker.push(session, list(batch))
            self._worker.finish(session)
        except Exception as error:  # noqa: BLE001 - the request's border: the reader is told
            failure = StageFailed("The source of this stream's speech codes failed.")
            failure.__cause__ = error
            self._worker.fail(session, failure)

    async def abort(self, request_id: str) -> None:
        """End a stream's session and free its state; its reader gets RequestAborted."""
        self._worker.drop(request_id, RequestAborted("The request was aborted."))

    async def voices(self) -> tuple[str, ...]:
        """Names this stage can speak with, default first."""
        return self._store.names()

    async def prepare_voice(self, sample: VoiceSample) -> None:
        """Do the work that a recording's first stream would wait for."""
        await asyncio.wrap_future(self._worker.prepare_voice(sample))

    async def forget_voice(self, key: str) -> None:
        """Free what is kept for a recording."""
        self._worker.forget_voice(key)

    async def stats(self) -> dict[str, float]:
        """Gauges now: num_sessions, num_waiting, session_bytes, voice_bytes."""
        return self._worker.stats()

    async def aclose(self) -> None:
        """Stop the stage; held streams end with StageFailed."""
        await asyncio.to_thread(self._worker.close)


def load_runner(root: Path, config: Token2WavConfig, *, progress: Progress | None = None) -> Runner:
    """A checkpoint's flow and vocoder, ready to render; raises what `LocalToken2Wav.load` raises."""
    report = progress or (lambda message, share: None)
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    report("Loading the flow", 0.0)
    for name, values in _OPTIONS.items():
        if (found := getattr(config, name)) not in values:
            expected = " or ".join(values)
            raise ConfigError(f"{name} must be {expected}, found {found!r}.", param=f"token2wav.{name}")
    flow = load_flow(
        root / _FOLDER,
        device=device,
        dtype=dtype,
        int8=config.flow_weights == "int8",
        num_threads=config.threads,
        cache=_CACHES[config.flow_cache],
    )
    check_schedule(config.schedule, lookahead=flow.config.encoder.lookahead)
    noise = NoiseStrip(flow.config.mel_dim, seed=config.noise_seed, device=device)
    steps = config.num_steps or _default_steps(root)
    graphs = graph_backend(device, enforce_eager=config.enforce_eager)
    sampler = FlowSampler(
        flow,
        num_steps=steps,
        noise=noise,
        max_history_codes=_history_codes(root, config),
        memory=_memory(config),
        graphs=graphs,
    )
    report("Loading the vocoder", 0.4)
    vocoder = load_hift(
        root / _FOLDER,
        device,
        dtype,
        num_threads=config.threads,
        bfloat16=config.vocoder_weights == "bfloat16",
    )
    return Runner(sampler, vocoder)


def _memory(config: Token2WavConfig) -> FlowMemory:
    """What the configuration says of a stream's memory."""
    seconds = config.flow_window_s
    if seconds is not None and not 0.5 <= seconds <= MAX_PROMPT_S:
        raise ConfigError(
            f"flow_window_s must be between 0.5 and {MAX_PROMPT_S:g} seconds, found {seconds!r}.",
            param="token2wav.flow_window_s",
        )
    return FlowMemory(
        _CACHES[config.flow_cache], None if seconds is None else round(_FRAMES_PER_SECOND * seconds)
    )


def _default_steps(root: Path) -> int:
    """Steps of the solver that a checkpoint asks for: `flow_steps` in its generation config."""
    file, steps = _asked(root, "flow_steps", _PUBLIC_STEPS)
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= 100:
        raise CheckpointError(f"{file}: flow_steps must be an integer from 1 to 100, found {steps!r}.")
    return steps


def _history_codes(root: Path, config: Token2WavConfig) -> int:
    """Codes that a stream's encoder attends to: the configuration's seconds, or `flow_history_s` in the
    checkpoint's generation config (a model that was trained on short texts knows nothing of a minute ago)."""
    rule = f"flow_history_s must be between {_MIN_HISTORY_S:g} and {_MAX_HISTORY_S:g} seconds, found"
    seconds = config.flow_history_s
    if seconds is not None and not _MIN_HISTORY_S <= seconds <= _MAX_HISTORY_S:
        raise ConfigError(f"{rule} {seconds!r}.", param="token2wav.flow_history_s")
    if seconds is None:
        file, asked = _asked(root, "flow_history_s", _MAX_HISTORY_S)
        is_number = isinstance(asked, int | float) and not isinstance(asked, bool)
        if not is_number or not _MIN_HISTORY_S <= asked <= _MAX_HISTORY_S:
            raise CheckpointError(f"{file}: {rule} {asked!r}.")
        seconds = float(asked)
    return round(seconds * OUTPUT_RATE_HZ / CODE_SAMPLES)


def _asked(root: Path, name: str, default: Any) -> tuple[Path, Any]:
    """What a checkpoint's generation config says, and the file."""
    file = root / "generation_config.json"
    return file, read_json(file).get(name, default) if file.exists() else default
