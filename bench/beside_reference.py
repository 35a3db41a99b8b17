"""Token2Wav beside the reference package: same weights, same noise, same threads, in turns, in one process.

    python bench/beside_reference.py --checkpoint CKPT --voice WAV --threads 1 --json runs/beside.json

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
from pathlib import Path
from typing import Any

import torch
from reference import Reference, missing

from cadence.bench.stage import LOOKAHEAD, STEADY, Stage, codes_of, machine, matmul_peak
from cadence.config import Token2WavConfig
from cadence.models.flow_stream import VoiceState
from cadence.models.sample import write_sample_checkpoint
from cadence.token2wav.session import StreamState
from cadence.token2wav.voices import VoicePrompt
from cadence.types import ChunkSchedule

OFFLINE_CODES = 250
FIRST = ChunkSchedule().first
FIGURES = ("set-up", "first chunk", "steady chunk", "offline 10 s")


class Sides:
    """Both stages, and what one round of each takes in seconds."""

    def __init__(self, checkpoint: Path, voice: Path, config: Token2WavConfig) -> None:
        self.ours, self.wav = Stage(checkpoint, config), voice.read_bytes()
        noise = self.ours.sampler.noise.frames(0, 30_000)
        self.theirs = Reference(checkpoint, voice, noise)
        self.theirs.features()
        self.prompt: VoicePrompt
        self.state: VoiceState
        self.prompt, self.state = self.ours.prepare(self.wav)
        self.streams: list[StreamState] = []

    def reference(self, chunks: int) -> dict[str, list[float]]:
        """Set-up, the first chunk of 25 + 3 codes, later ones."""
        found = {"set-up": [timed(self.theirs.set_up)]}
        for index in range(chunks):
            part = codes_of(STEADY * index, STEADY + LOOKAHEAD)
            name = "first chunk" if index == 0 else "steady chunk"
            found.setdefault(name, []).append(timed(lambda part=part: self.theirs.chunk(part)))  # type: ignore[misc]
        return found

    def cadence(self, chunks: int) -> dict[str, list[float]]:
        """The same of ours, and the smaller first chunk that a listener waits for."""
        small = [self.ours.open(self.state)]
        found = {
            "set-up": [timed(lambda: self.ours.prepare(self.wav))],
            "first chunk, 5 + 3": [timed(lambda: self.ours.chunk(small, 0, FIRST))],
        }
        stream = [self.ours.open(self.state)]
        for index in range(chunks):
            name = "first chunk" if index == 0 else "steady chunk"
            taken = timed(lambda index=index: self.ours.chunk(stream, STEADY * index, STEADY))  # type: ignore[misc]
            found.setdefault(name, []).append(taken)
        return found

    def offline(self) -> tuple[float, float]:
        """Ten seconds at once: ours, theirs."""
        codes = codes_of(0, OFFLINE_CODES)
        return (
            timed(lambda: self.ours.whole(self.prompt, OFFLINE_CODES)),
            timed(lambda: self.theirs.whole(codes)),
        )

    def mel_error(self, num_codes: int) -> float:
        """Largest difference of the two mels of a whole utterance, over the largest value."""
        job = self.ours.runner.begin_whole(codes_of(0, num_codes), self.prompt)
        while not job.advance():
            pass
        ours, theirs = job.mel.T, self.theirs.whole(codes_of(0, num_codes))
        return float((ours - theirs).abs().max() / theirs.abs().max())


def timed(function: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def compare(sides: Sides, rounds: int, chunks: int, offline: bool) -> dict[str, Any]:
    """Rounds in turns; medians of both sides and their ratios (the reference's time over ours)."""
    ours: dict[str, list[float]] = {}
    theirs: dict[str, list[float]] = {}
    sides.cadence(2), sides.reference(2)  # warm
    for _ in range(rounds):
        for run, found in ((sides.cadence, ours), (sides.reference, theirs)):
            for name, times in run(chunks).items():
                # the window fills with the second chunk; steady are those behind it
                found.setdefault(name, []).extend(times[1:] if name == "steady chunk" else times)
        if offline:
            for found, taken in zip((ours, theirs), sides.offline(), strict=True):
                found.setdefault("offline 10 s", []).append(taken)
    medians = [{name: statistics.median(times) for name, times in side.items()} for side in (ours, theirs)]
    return {"ours": medians[0], "reference": medians[1], **ratios(*medians)}


def ratios(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, Any]:
    """The reference's time over ours, and how much sooner a prepared voice's first chunk is there."""
    found = {name: theirs[name] / ours[name] for name in FIGURES if name in ours and name in theirs}
    waited = theirs["set-up"] + theirs["first chunk"]
    return {"ratios": found, "first_sound_ratio": waited / ours["first chunk, 5 + 3"]}


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| | reference | Cadence | ratio |", "| --- | --- | --- | --- |"]
    for name in FIGURES:
        if name in found["ratios"]:
            theirs, ours = found["reference"][name], found["ours"][name]
            note = " (once per voice)" if name == "set-up" else ""
            lines.append(f"| {name} | {theirs:.2f} s | {ours:.2f} s{note} | {found['ratios'][name]:.2f} |")
    waited = found["reference"]["set-up"] + found["reference"]["first chunk"]
    first = found["ours"]["first chunk, 5 + 3"]
    ratio = found["first_sound_ratio"]
    lines.append(f"| first sound of a prepared voice | {waited:.2f} s | {first:.2f} s | **{ratio:.1f}** |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--voice", type=Path, help="recording to speak with [default: the checkpoint's]")
    parser.add_argument("--threads", type=int, default=1)
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
        sides = Sides(
            checkpoint, voice, Token2WavConfig(device="cpu", dtype="float32", threads=options.threads)
        )
        error = sides.mel_error(50)
        found = compare(sides, options.rounds, options.chunks, not options.no_offline)
    prompt_s = len(sides.prompt.codes) / 25
    print(
        f"prompt {prompt_s:.1f} s, {options.threads} threads, mel differs by {error:.1e} of its largest value"
    )
    print(table(found))
    if options.json:
        report = {
            "bench": "token2wav_beside_reference",
            "machine": machine(),
            "prompt_s": prompt_s,
            "mel_error": error,
            "matmul_peak_gflops": matmul_peak(),
            **found,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
