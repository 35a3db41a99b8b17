"""`token2wav`: what a voice, a first chunk, a steady chunk and a whole utterance cost."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from cadence.bench.stage import STEADY, Stage, dit_flop, matmul_peak, median_s
from cadence.config import Token2WavConfig
from cadence.models.flow_stream import VoiceState
from cadence.token2wav.scheduler import ChunkCutter
from cadence.types import CODES_PER_SECOND, ChunkSchedule

__all__ = ["measure_token2wav"]

_OFFLINE_S = 10
_WARM_CHUNKS = 3  # until the window is full and the kernels have seen the shapes
_BATCH = 4


def measure_token2wav(
    checkpoint: Path, wav: Path, config: Token2WavConfig, *, rounds: int = 3, offline: bool = True
) -> dict[str, Any]:
    """Time one checkpoint with one voice; medians of `rounds` in seconds unless the name says otherwise.

    `first_chunk_s` opens a stream of a prepared voice and renders the schedule's first chunk,
    `first_chunk_25_s` one of 25 + 3 codes; `first_sound_s` goes on until the first sample leaves the
    vocoder, which holds 160 ms back. `steady_chunk_s` is a later chunk of 25 + 3, one second of sound.
    """
    stage = Stage(checkpoint, config)
    data = wav.read_bytes()
    prompt, voice = stage.prepare(data)
    stage.chunk([stage.open(voice)], 0, STEADY)  # kernels and tables are warm now
    first = config.schedule.first
    steady = _steady(stage, voice, rounds, 1)
    batch = _steady(stage, voice, rounds, _BATCH)
    peak = matmul_peak()
    found: dict[str, Any] = {
        "prompt_s": round(len(prompt.codes) / CODES_PER_SECOND, 2),
        "voice_setup_s": median_s(lambda: stage.prepare(data), rounds),
        "first_chunk_codes": first,
        "warm_first_chunk_s": median_s(lambda: stage.chunk([stage.open(voice)], 0, first), rounds),
        "warm_first_chunk_25_s": median_s(lambda: stage.chunk([stage.open(voice)], 0, STEADY), rounds),
        "first_sound_s": median_s(lambda: _first_sound(stage, voice, config.schedule), rounds),
        "steady_chunk_s": steady["chunk_s"],
        **{f"steady_{part}": steady[part] for part in ("encoder_s", "dit_s", "hift_s")},
        "matmul_peak_gflops": peak,
        "dit_gflops": steady["dit_gflop"] / steady["dit_s"],
        "dit_share_of_peak": steady["dit_gflop"] / steady["dit_s"] / peak,
        f"batch_{_BATCH}_chunk_s": batch["chunk_s"],
        f"batch_{_BATCH}_ratio": batch["chunk_s"] / steady["chunk_s"],
    }
    if offline:
        num_codes = _OFFLINE_S * CODES_PER_SECOND
        found[f"offline_{_OFFLINE_S}s_s"] = median_s(lambda: stage.whole(prompt, num_codes), min(rounds, 2))
    return found


def _first_sound(stage: Stage, voice: VoiceState, schedule: ChunkSchedule) -> None:
    """Render chunks of the schedule until there is sound."""
    stream, cutter, start = [stage.open(voice)], ChunkCutter(schedule), 0
    while chunk := cutter.next(schedule.steady + schedule.lookahead, ended=False):
        if len(stage.chunk(stream, start, chunk.num_codes)[0]):
            break
        start += chunk.num_codes
        cutter.advance()


def _steady(stage: Stage, voice: VoiceState, rounds: int, num_streams: int) -> dict[str, float]:
    """Medians over `rounds` successive chunks of 25 + 3 codes, their parts, and the DiT's operations."""
    streams = [stage.open(voice) for _ in range(num_streams)]
    for index in range(_WARM_CHUNKS):
        stage.chunk(streams, STEADY * index, STEADY)
    sampler, rows = stage.sampler, []
    for index in range(_WARM_CHUNKS, _WARM_CHUNKS + rounds):
        seen = len(streams[0].flow.window) + 2 * STEADY
        begun = time.perf_counter()
        with stage.parts() as spent:
            stage.chunk(streams, STEADY * index, STEADY)
        num_rows = 2 * STEADY * sampler.flow.config.groups * num_streams
        flop = sampler.num_steps * dit_flop(sampler.flow.estimator, num_rows, seen)
        rows.append({"chunk_s": time.perf_counter() - begun, "dit_gflop": flop / 1e9, **spent})
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}
