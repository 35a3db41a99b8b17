"""Token2Wav beside the reference package on one thread: same weights, same noise, in turns, in one process.

    python bench/beside_reference.py --checkpoint CKPT --voice WAV --threads 1 2 --fast --json FILE

Without the reference package (see bench/reference.py) there is nothing to compare with, and it says so;
`python -m cadence.bench token2wav` measures ours alone. Without a checkpoint, one of the public sizes with
random weights is written first. Prints a table of medians and ratios, and by how much the two mels differ.
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
from typing import Any

import torch
from reference import Reference, missing
from torch import Tensor

from cadence.bench.stage import LOOKAHEAD, STEADY, Stage, codes_of, machine, matmul_peak
from cadence.config import Token2WavConfig
from cadence.models.flow_stream import VoiceState
from cadence.models.sample import write_sample_checkpoint
from cadence.token2wav.voices import VoicePrompt
from cadence.types import ChunkSchedule

OFFLINE_CODES, MEL_CODES = 250, 15
FIRST = ChunkSchedule().first
SMALL = f"first chunk, {FIRST} + {LOOKAHEAD}"
FIGURES = ("set-up", "first chunk", "steady chunk", "offline 10 s")


class Ours:
    """Our stage in one configuration, with its own number of threads."""

    def __init__(self, checkpoint: Path, wav: bytes, config: Token2WavConfig) -> None:
        self.threads = config.threads or 1
        self.stage = Stage(checkpoint, config)
        self.prompt: VoicePrompt
        self.state: VoiceState
        begun = time.perf_counter()
        self.prompt, self.state = self.stage.prepare(wav)
        self.set_up_s = time.perf_counter() - begun
        self.stage.chunk([self.stage.open(self.state)], 0, FIRST)  # warm

    def round(self, chunks: int, offline: bool) -> dict[str, list[float]]:
        """Set-up (taken when loading), the small first chunk that a listener waits for, one of 25 + 3 codes,
        later ones."""
        torch.set_num_threads(self.threads)
        small = [self.stage.open(self.state)]
        found = {
            "set-up": [self.set_up_s],
            SMALL: [timed(lambda: self.stage.chunk(small, 0, FIRST))],
        }
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

    def reference(self, chunks: int, offline: bool) -> dict[str, list[float]]:
        """Set-up, the first chunk of 25 + 3 codes, later ones, ten seconds at once."""
        torch.set_num_threads(1)
        found = {"set-up": [timed(self.theirs.set_up)]}
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


def timed(function: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def compare(sides: Sides, rounds: int, chunks: int, offline: bool) -> dict[str, Any]:
    """Rounds in turns; medians of all sides and their ratios (the reference's time over ours)."""
    theirs: dict[str, list[float]] = {}
    ours: dict[str, dict[str, list[float]]] = {name: {} for name in sides.ours}

    def add(side: str, found: dict[str, list[float]], times: dict[str, list[float]]) -> None:
        print(side, {name: [round(t, 2) for t in taken] for name, taken in times.items()}, flush=True)
        for name, taken in times.items():
            # the window fills with the second chunk; steady are those behind it
            found.setdefault(name, []).extend(taken[1:] if name == "steady chunk" else taken)

    print("reference, warming up", sides.reference(2, False), flush=True)
    for _ in range(rounds):
        for name, side in sides.ours.items():
            add(name, ours[name], side.round(chunks, offline))
        add("reference", theirs, sides.reference(chunks, offline))
    reference = {name: statistics.median(times) for name, times in theirs.items()}
    found: dict[str, Any] = {"reference": reference, "ours": {}}
    for name, times in ours.items():
        medians = {figure: statistics.median(taken) for figure, taken in times.items()}
        found["ours"][name] = {"seconds": medians, **ratios(medians, reference)}
    return found


def ratios(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, Any]:
    """The reference's time over ours, and how much sooner a prepared voice's first chunk is there."""
    found = {name: theirs[name] / ours[name] for name in FIGURES if name in ours and name in theirs}
    waited = theirs["set-up"] + theirs["first chunk"]
    return {"ratios": found, "first_sound_ratio": waited / ours[SMALL]}


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
    waited = reference["set-up"] + reference["first chunk"]
    cells = [
        f"{side['seconds'][SMALL]:.2f} s (**{side['first_sound_ratio']:.1f}**)"
        for side in found["ours"].values()
    ]
    lines.append(f"| {SMALL}, of a prepared voice | {waited:.2f} s | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def configurations(threads: list[int], fast: bool) -> dict[str, Token2WavConfig]:
    """Exact ones, and with `fast` those of int8 weights and five steps, by name."""
    found = {}
    for count in threads:
        plain = Token2WavConfig(device="cpu", dtype="float32", threads=count)
        found[f"{count} thread{'s' * (count > 1)}"] = plain
        if fast:
            name = f"int8, 5 steps, {count} thread{'s' * (count > 1)}"
            found[name] = replace(plain, flow_weights="int8", num_steps=5)
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
    parser.add_argument("--fast", action="store_true", help="also with int8 weights and five solver steps")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=5, help="of each stream")
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
    print(table(found))
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
