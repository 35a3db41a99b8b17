"""Token2Wav beside the reference package on one thread: same weights, same noise, in turns, in one process.

    python bench/beside_reference.py --checkpoint CKPT --voice WAV --threads 1 2 --fast --json FILE

Without the reference package (see bench/reference.py) there is nothing to compare with, and it says so;
`python -m cadence.bench token2wav` measures ours alone. Without a checkpoint, one of the public sizes with
random weights is written first. Prints a table of medians and ratios, and by how much the two mels differ.

A whole run takes minutes. In parts: `--no-offline` for set-up and streams, `--chunks 0` for whole utterances.
Wall and CPU seconds are printed; on a machine with other work the latter say more, of one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from reference import Reference, missing
from torch import Tensor

from cadence.bench.stage import LOOKAHEAD, STEADY, Stage, codes_of, machine, matmul_peak
from cadence.config import Token2WavConfig
from cadence.models.cpu import has_bfloat16
from cadence.models.flow_stream import VoiceState
from cadence.models.sample import write_sample_checkpoint
from cadence.token2wav.voices import VoicePrompt
from cadence.types import ChunkSchedule

OFFLINE_CODES, MEL_CODES = 250, 15
FIRSTS = sorted({5, ChunkSchedule().first})
FIGURES = ("set-up", "first chunk", "steady chunk", "offline 10 s")


def small(count: int) -> str:
    """What the figure of a prepared voice's first chunk of `count` codes is called."""
    return f"first chunk, {count} + {LOOKAHEAD}"


class Seconds(NamedTuple):
    """What a call took."""

    wall: float
    cpu: float


def timed(function: Callable[[], Any]) -> Seconds:
    """Time one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


Times = dict[str, list[Seconds]]  # by figure


class Ours:
    """Our stage in one configuration, with its own number of threads."""

    def __init__(self, checkpoint: Path, wav: bytes, config: Token2WavConfig) -> None:
        self.threads = config.threads or 1
        self.stage = Stage(checkpoint, config)
        self.prompt: VoicePrompt
        self.state: VoiceState
        self.set_up_s = timed(lambda: self._prepare(wav))
        self.stage.chunk([self.stage.open(self.state)], 0, STEADY)  # warm

    def _prepare(self, wav: bytes) -> None:
        self.prompt, self.state = self.stage.prepare(wav)

    def round(self, chunks: int, offline: bool) -> Times:
        """Set-up (taken when loading), the small first chunk that a listener waits for, one of 25 + 3 codes,
        later ones."""
        torch.set_num_threads(self.threads)
        found: Times = {}
        if chunks:
            found["set-up"] = [self.set_up_s]
            for count in FIRSTS:
                taken = timed(lambda count=count: self.stage.chunk([self.stage.open(self.state)], 0, count))  # type: ignore[misc]
                found[small(count)] = [taken]
        stream = [self.stage.open(self.state)]
        for index in range(chunks):
            name = "first chunk" if index == 0 else "steady chunk"
            taken = timed(lambda index=index: self.stage.chunk(stream, STEADY * index, STEADY))  # type: ignore[misc]
            found.setdefault(name, []).append(taken)
        if offline:
            found["offline 10 s"] = [timed(lambda: self.stage.whole(self.prompt, OFFLINE_CODES))]
        return found

    def mel(self, num_codes: int) -> Tensor:
        """Mel [F, 80] of a whole utterance."""
        job = self.stage.runner.begin_whole(codes_of(0, num_codes), self.prompt)
        while not job.advance():
            pass
        return job.mel.T


class Sides:
    """The reference with one thread, and ours in several configurations."""

    def __init__(self, checkpoint: Path, voice: Path, configs: dict[str, Token2WavConfig]) -> None:
        wav = voice.read_bytes()
        self.ours = {name: Ours(checkpoint, wav, config) for name, config in configs.items()}
        noise = next(iter(self.ours.values())).stage.sampler.noise.frames(0, 30_000)
        self.theirs = Reference(checkpoint, voice, noise)
        self.theirs.features()

    def reference(self, chunks: int, offline: bool) -> Times:
        """Set-up, the first chunk of 25 + 3 codes, later ones, ten seconds at once."""
        torch.set_num_threads(1)
        found = {"set-up": [timed(self.theirs.set_up)]} if chunks else {}
        for index in range(chunks):
            part = codes_of(STEADY * index, STEADY + LOOKAHEAD)
            name = "first chunk" if index == 0 else "steady chunk"
            found.setdefault(name, []).append(timed(lambda part=part: self.theirs.chunk(part)))  # type: ignore[misc]
        if offline:
            codes = codes_of(0, OFFLINE_CODES)
            found["offline 10 s"] = [timed(lambda: self.theirs.whole(codes))]
        return found

    def mel_error(self, num_codes: int) -> float:
        """Largest difference of our first mel from the reference's, over its largest value."""
        torch.set_num_threads(1)
        expected = self.theirs.whole(codes_of(0, num_codes))
        ours = next(iter(self.ours.values())).mel(num_codes)
        return float((ours - expected).abs().max() / expected.abs().max())


def compare(sides: Sides, rounds: int, chunks: int, offline: bool) -> dict[str, Any]:
    """Rounds in turns; by clock, medians of all sides and their ratios (the reference's time over ours)."""
    theirs: Times = {}
    ours: dict[str, Times] = {name: {} for name in sides.ours}

    def add(side: str, found: Times, times: Times) -> None:
        print(side, {name: [round(t.wall, 2) for t in taken] for name, taken in times.items()}, flush=True)
        for name, taken in times.items():
            # the window fills with the second chunk; steady are those behind it
            found.setdefault(name, []).extend(taken[1:] if name == "steady chunk" else taken)

    if chunks:
        sides.reference(2, False)  # its first calls take several times as long
    for _ in range(rounds):
        for name, side in sides.ours.items():
            add(name, ours[name], side.round(chunks, offline))
        add("reference", theirs, sides.reference(chunks, offline))
    found: dict[str, Any] = {}
    for clock in Seconds._fields:
        reference = medians(theirs, clock)
        found[clock] = {"reference": reference, "ours": {}}
        for name, times in ours.items():
            seconds = medians(times, clock)
            found[clock]["ours"][name] = {"seconds": seconds, **ratios(seconds, reference)}
    return found


def medians(times: Times, clock: str) -> dict[str, float]:
    """By figure."""
    return {name: statistics.median(getattr(t, clock) for t in taken) for name, taken in times.items()}


def ratios(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, Any]:
    """The reference's time over ours, for a first chunk of a prepared voice its set-up and first chunk."""
    found = {name: theirs[name] / ours[name] for name in FIGURES if name in ours and name in theirs}
    for name in map(small, FIRSTS):
        if name in ours:
            found[name] = waited(theirs) / ours[name]
    return {"ratios": found}


def waited(reference: dict[str, float]) -> float:
    """What a listener waits for in the reference: set-up and first chunk."""
    return reference["set-up"] + reference["first chunk"]


def table(found: dict[str, Any]) -> str:
    """Markdown: seconds and, behind them, the reference's time over ours."""
    names = list(found["ours"])
    lines = ["| | reference | " + " | ".join(names) + " |", "| --- |" + " --- |" * (1 + len(names))]
    reference = found["reference"]
    for figure in FIGURES:
        if figure in reference:
            cells = [
                f"{side['seconds'][figure]:.2f} s ({side['ratios'][figure]:.2f})"
                for side in found["ours"].values()
            ]
            lines.append(f"| {figure} | {reference[figure]:.2f} s | " + " | ".join(cells) + " |")
    for name in map(small, FIRSTS):
        if name in next(iter(found["ours"].values()))["ratios"]:
            cells = [
                f"{side['seconds'][name]:.2f} s (**{side['ratios'][name]:.1f}**)"
                for side in found["ours"].values()
            ]
            lines.append(
                f"| {name}, of a prepared voice | {waited(reference):.2f} s | " + " | ".join(cells) + " |"
            )
    return "\n".join(lines)


def configurations(threads: list[int], fast: bool) -> dict[str, Token2WavConfig]:
    """Exact ones, and with `fast` those that round what is multiplied and keep all solver steps, by name."""
    found, vocoder = {}, "bfloat16" if has_bfloat16() else "plain"
    for count in threads:
        plain = Token2WavConfig(device="cpu", dtype="float32", threads=count)
        found[f"{count} thread{'s' * (count > 1)}"] = plain
        if fast:
            name = f"rounded, {count} thread{'s' * (count > 1)}"
            found[name] = replace(plain, flow_weights="int8", vocoder_weights=vocoder)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--voice", type=Path, help="recording to speak with [default: the checkpoint's]")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1], help="ours; the reference always has one"
    )
    parser.add_argument("--fast", action="store_true", help="also with int8 and bfloat16 weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=5, help="of each stream; 0 = no streams")
    parser.add_argument("--no-offline", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if names := missing():
        sys.exit(f"Nothing to compare with: the reference needs {', '.join(names)} (see bench/reference.py).")
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = options.checkpoint or Path(scratch)
        if options.checkpoint is None:
            write_sample_checkpoint(checkpoint, preset="token2wav-full")
        voice = options.voice or checkpoint / "assets" / "default_male.wav"
        sides = Sides(checkpoint, voice, configurations(options.threads, options.fast))
        error = sides.mel_error(MEL_CODES)
        found = compare(sides, options.rounds, options.chunks, not options.no_offline)
    torch.set_num_threads(1)
    peak = matmul_peak()
    prompt_s = len(next(iter(sides.ours.values())).prompt.codes) / 25
    print(f"prompt {prompt_s:.1f} s, peak {peak:.0f} GFLOP/s, largest mel error {error:.1e}")
    for clock, figures in found.items():
        print(f"\n{clock} seconds\n\n{table(figures)}")
    if options.json:
        report = {
            "bench": "token2wav_beside_reference",
            "machine": machine(),
            "prompt_s": prompt_s,
            "mel_error": error,
            "matmul_peak_gflops": peak,
            **found,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
