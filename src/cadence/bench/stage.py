"""One Token2Wav stage without threads and queues: what its benchmarks time."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cadence.config import Token2WavConfig
from cadence.models.dit import DiT
from cadence.models.flow_stream import VoiceState
from cadence.token2wav.local import load_runner
from cadence.token2wav.runner import Runner
from cadence.token2wav.scheduler import Chunk
from cadence.token2wav.session import StreamState
from cadence.token2wav.voice_cache import prompt_tensors
from cadence.token2wav.voices import VoiceEncoder, VoicePrompt

if TYPE_CHECKING:
    from cadence.types import Waveform

__all__ = ["LOOKAHEAD", "STEADY", "Stage", "codes_of", "dit_flop", "machine", "matmul_peak", "median_s"]

STEADY, LOOKAHEAD = 25, 3
_PEAK_SIZE, _PEAK_RUNS = 2048, 8


class Stage:
    """A loaded checkpoint's vocoder stage, rendering where it is called."""

    def __init__(self, checkpoint: Path, config: Token2WavConfig) -> None:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.runner: Runner = load_runner(checkpoint, config)
        self.sampler, self.vocoder = self.runner.sampler, self.runner.vocoder
        self.encoder = VoiceEncoder(checkpoint / "token2wav")

    def prepare(self, wav: bytes) -> tuple[VoicePrompt, VoiceState]:
        """Everything between a recording and the first stream that speaks with it."""
        prompt = self.encoder.encode(wav)
        return prompt, self.sampler.prepare(*prompt_tensors(prompt))

    def open(self, voice: VoiceState) -> StreamState:
        """A new stream."""
        return self.runner.open(voice, torch.Generator().manual_seed(0))

    def chunk(
        self, streams: Sequence[StreamState], start: int, count: int, *, last: bool = False
    ) -> list[Waveform]:
        """Render codes `start` to `start + count` of each stream; raises what a stream failed with."""
        ahead = 0 if last else LOOKAHEAD
        part = codes_of(start, count + ahead)
        chunks = [Chunk(count, ahead, last)] * len(streams)
        sounds = []
        for sound in self.runner.render(streams, chunks, [part] * len(streams)):
            if isinstance(sound, Exception):
                raise sound
            sounds.append(sound)
        return sounds

    def whole(self, prompt: VoicePrompt, num_codes: int) -> Waveform:
        """Render a whole utterance at once."""
        job = self.runner.begin_whole(codes_of(0, num_codes), prompt)
        while not job.advance():
            pass
        return self.runner.finish_whole(job, torch.Generator().manual_seed(0))

    @contextmanager
    def parts(self) -> Iterator[dict[str, float]]:
        """Seconds spent in encoder, DiT and vocoder while the context is open."""
        spent = {"encoder_s": 0.0, "dit_s": 0.0, "hift_s": 0.0}
        patched = [
            (self.sampler.flow, "encode", "encoder_s"),
            (self.sampler, "estimator", "dit_s"),
            (self.vocoder, "stream_batch", "hift_s"),
        ]
        before = [dict(owner.__dict__) for owner, *_ in patched]
        for owner, name, key in patched:
            owner.__dict__[name] = _timed(getattr(owner, name), spent, key)
        try:
            yield spent
        finally:
            for (owner, name, _), known in zip(patched, before, strict=True):
                owner.__dict__.pop(name)
                owner.__dict__.update({name: known[name]} if name in known else {})


def _timed(function: Callable[..., Any], spent: dict[str, float], key: str) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        result = function(*args, **options)
        spent[key] += time.perf_counter() - begun
        return result

    return call


def codes_of(start: int, count: int) -> list[int]:
    """Part of an endless fixed sequence of codes."""
    return [(7919 * i * i + 104_729 * i + 1) % 6561 for i in range(start, start + count)]


def median_s(function: Callable[[], Any], rounds: int) -> float:
    """Median wall time of a call."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def matmul_peak() -> float:
    """GFLOP/s of the best of several large float32 products, with the threads that are set."""
    a = torch.randn(_PEAK_SIZE, _PEAK_SIZE)
    best = min(median_s(lambda: a @ a, 1) for _ in range(_PEAK_RUNS))
    return 2 * _PEAK_SIZE**3 / best / 1e9


def dit_flop(dit: DiT, rows: int, seen: int) -> float:
    """Operations of one pass over `rows` rows that attend to `seen` frames each; convolutions are counted as
    plain sums of products (`models.graph_conv` needs fewer)."""
    config = dit.config
    inner, units = config.num_heads * config.head_dim, int(config.hidden * config.mlp_ratio)
    layers = 4 * config.hidden * inner + 2 * config.hidden * units + 6 * config.hidden**2
    ends = 2 * config.out_channels * config.hidden  # noise in, velocity out
    return 2.0 * rows * (config.depth * (layers + 2 * inner * seen) + ends)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
