"""Every figure of the model card, from a checkpoint through the serving engine, in one command.

    python -m training.nano.measure src/cadence/nano --count 30
    python -m training.nano.measure src/cadence/nano --tasks speech -- --flow-weights int8   # as served so

Speech of held-out sentences by both voices (streamed and whole), transcription of the teachers (clean, in
noise, two sentences at once) and of strangers, repetition of heard speech, the two voices apart; beside the
teachers' own figures. Prints a line for each measurement, then JSON. Needs the packages of the extra `nano`,
but no training data.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cadence.audio.decode import decode_audio
from cadence.audio.features import fbank
from cadence.cli.serve import build_config, serve
from cadence.engine import Engine, start_engine
from cadence.models.onnx import SpeakerEncoder
from cadence.prompt import READ_ALOUD_PROMPT
from cadence.types import AudioChunk, AudioPart, Done, Message, Request, TextDelta, TextPart
from training.nano import settings
from training.nano.hearing_data import in_noise
from training.nano.held_out import DOMAINS, HEARING_RATE_HZ, VOICES, Readers, Reading, Wave, lines
from training.nano.recogniser import Recogniser
from training.nano.text_vocabulary import SYSTEM_PROMPTS

TASKS = ("teacher", "speech", "whole", "transcribe", "repeat", "voices", "strangers")
STRANGERS = ("slt", "rms", "awb")  # voices of flite, if it is installed: for information
PAIR_GAP_S = 0.3  # between two sentences, on top of the silence at their ends
_LOUD = 0.02
_ids = itertools.count()


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request gave, and its times in seconds."""

    text: str
    samples: Wave
    first_audio_s: float
    total_s: float


async def ask(engine: Engine, request: Request) -> Answer:
    """Run one request to its end."""
    begun = time.perf_counter()
    text, chunks, first = "", [np.zeros(0, np.float32)], 0.0
    async for event in engine.generate(request):
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, AudioChunk):
            first = first or time.perf_counter() - begun
            chunks.append(event.samples)
        else:
            assert isinstance(event, Done)
    return Answer(text, np.concatenate(chunks), first, time.perf_counter() - begun)


def speech_request(engine: Engine, text: str, voice: str, streamed: bool) -> Request:
    """Read a text aloud, word for word."""
    messages = (Message("system", (TextPart(READ_ALOUD_PROMPT),)), Message("user", (TextPart(text),)))
    return Request(
        request_id=f"speech-{next(_ids)}", messages=messages, output="speech", verbatim=text,
        voice=f"default_{voice}", sampling=engine.default_sampling["speech"], async_chunk=streamed,
    )  # fmt: skip


def heard_request(engine: Engine, samples: Wave, task: str) -> Request:
    """`transcribe` or `repeat` what is heard; samples at 16 kHz."""
    system = Message("system", (TextPart(SYSTEM_PROMPTS[task]),))
    kind = "speech" if task == "repeat" else "text"
    return Request(
        request_id=f"{task}-{next(_ids)}", messages=(system, Message("user", (AudioPart(samples),))),
        output="speech" if task == "repeat" else "text", sampling=engine.default_sampling[kind],
    )  # fmt: skip


def longest_pause_s(samples: Wave) -> float:
    """The longest quiet stretch between first and last sound."""
    step = settings.SAMPLE_RATE_HZ // 100
    loud = np.abs(samples[: len(samples) // step * step].reshape(-1, step)).max(1, initial=0) > _LOUD
    at = np.flatnonzero(loud)
    return float(np.diff(at).max(initial=1) - 1) / 100 if len(at) else 0.0


def word_hits(wanted: Sequence[str], found: Sequence[str]) -> int:
    """How many of the wanted words are found in order (longest common subsequence)."""
    previous = [0] * (len(found) + 1)
    for word in wanted:
        row = [0]
        for j, other in enumerate(found):
            row.append(previous[j] + 1 if word == other else max(previous[j + 1], row[-1]))
        previous = row
    return previous[-1]


def flite(voice: str, text: str) -> Wave:
    """A line read by a voice of flite, 16 kHz."""
    wav = subprocess.run(
        ["flite", "-voice", voice, "-t", text, "-o", "/dev/stdout"], check=True, capture_output=True
    ).stdout
    return decode_audio(wav, rate_hz=HEARING_RATE_HZ)


class Measurement:
    """The figures so far, by name. Word error rates are shares of the wanted words."""

    def __init__(self, engine: Engine, model: Path, count: int, domains: Sequence[str]) -> None:
        self.engine, self.count, self.domains = engine, count, domains
        self.recogniser = Recogniser()
        self.speakers = SpeakerEncoder(model / "token2wav" / "campplus.onnx")
        self.figures: dict[str, float] = {}
        readers = Readers()
        self.readings = {
            (voice, domain): readers.read(voice, domain, count)
            for voice, domain in itertools.product(VOICES, domains)
        }

    def _rate(self, name: str, wanted: Sequence[str], found: Sequence[str]) -> None:
        self.figures[name] = round(self.recogniser.word_error_rate(wanted, found), 4)
        print(f"{name:40} {self.figures[name]:.3f}   {found[0] if found else ''}", flush=True)

    async def _read(self, readings: Sequence[Reading], voice: str, streamed: bool) -> list[Answer]:
        return [
            await ask(self.engine, speech_request(self.engine, r.text, voice, streamed)) for r in readings
        ]

    async def speech(self, voice: str, domain: str, streamed: bool) -> None:
        """Word error rate, words in order, speed, pace beside the teacher, clipping and pauses."""
        readings = self.readings[voice, domain]
        answers = await self._read(readings, voice, streamed)
        name = f"speech_{voice}_{domain}" + ("" if streamed else "_whole")
        wanted = [r.text for r in readings]
        heard = [self.recogniser.transcribe(a.samples) for a in answers]
        self._rate(name, wanted, heard)
        words = [
            (self.recogniser.words(a), self.recogniser.words(b)) for a, b in zip(wanted, heard, strict=True)
        ]
        seconds = sum(len(a.samples) for a in answers) / settings.SAMPLE_RATE_HZ
        spoken = sum(a.text.split() == r.text.split() for a, r in zip(answers, readings, strict=True))
        self.figures |= {
            f"{name}_words_in_order": round(
                sum(word_hits(a, b) for a, b in words) / max(1, sum(len(a) for a, _ in words)), 4
            ),
            f"{name}_text_exact": round(spoken / len(readings), 4),
            f"{name}_rtf": round(sum(a.total_s for a in answers) / max(seconds, 1e-9), 3),
            f"{name}_first_audio_s": round(float(np.median([a.first_audio_s for a in answers])), 3),
            f"{name}_pace": round(seconds / sum(r.seconds for r in readings), 3),
            f"{name}_peak": round(max(float(np.abs(a.samples).max(initial=0)) for a in answers), 3),
            f"{name}_longest_pause_s": max(longest_pause_s(a.samples) for a in answers),
        }

    def teacher(self, voice: str, domain: str) -> None:
        """The ceiling."""
        readings = self.readings[voice, domain]
        heard = [self.recogniser.transcribe(r.samples) for r in readings]
        self._rate(f"teacher_{voice}_{domain}", [r.text for r in readings], heard)

    async def _transcribe(self, name: str, texts: Sequence[str], sounds: Sequence[Wave]) -> None:
        said = [(await ask(self.engine, heard_request(self.engine, s, "transcribe"))).text for s in sounds]
        self._rate(name, texts, said)

    async def transcription(self, voice: str, domain: str) -> None:
        """Word error rate of our own listening: clean, in mild noise, two sentences in one recording."""
        readings = self.readings[voice, domain]
        texts, sounds = [r.text for r in readings], [r.heard() for r in readings]
        await self._transcribe(f"transcribe_{voice}_{domain}", texts, sounds)
        noisy = [in_noise(s, np.random.default_rng(i)) for i, s in enumerate(sounds)]
        await self._transcribe(f"transcribe_{voice}_{domain}_noisy", texts, noisy)
        gap = np.zeros(int(PAIR_GAP_S * HEARING_RATE_HZ), np.float32)
        both = [np.concatenate([a, gap, b]) for a, b in zip(sounds[::2], sounds[1::2], strict=False)]
        pairs = [f"{a} {b}" for a, b in zip(texts[::2], texts[1::2], strict=False)]
        await self._transcribe(f"transcribe_{voice}_{domain}_pairs", pairs, both)

    async def repetition(self, voice: str, domain: str) -> None:
        """Speech in, the same words out."""
        readings = self.readings[voice, domain]
        answers = [await ask(self.engine, heard_request(self.engine, r.heard(), "repeat")) for r in readings]
        heard = [self.recogniser.transcribe(a.samples) for a in answers]
        self._rate(f"repeat_{voice}_{domain}", [r.text for r in readings], heard)

    async def voices(self) -> None:
        """How often the speaker embedding finds the voice that was asked for, and how near it is."""
        readings = {voice: self.readings[voice, self.domains[-1]] for voice in VOICES}
        taught = {voice: self._embedding([r.samples for r in read]) for voice, read in readings.items()}
        right, own = 0, list[float]()
        for voice, spoken in readings.items():
            for answer in await self._read(spoken, voice, streamed=True):
                likeness = {v: float(self._embedding([answer.samples]) @ taught[v]) for v in VOICES}
                right += max(likeness, key=lambda v: likeness[v]) == voice
                own.append(likeness[voice])
        found = {"voices_told_apart": right / len(own), "voice_similarity": float(np.mean(own))}
        for name, value in found.items():
            self.figures[name] = round(value, 4)
            print(f"{name:40} {value:.3f}", flush=True)

    def _embedding(self, sounds: Sequence[Wave]) -> Wave:
        """Mean direction of several utterances at 24 kHz."""
        found = np.zeros(192, np.float32)
        for samples in sounds:
            one = self.speakers.encode(fbank(Reading("", samples).heard()))
            found += one / np.linalg.norm(one)
        return found / np.linalg.norm(found)

    async def strangers(self) -> None:
        """Voices that nothing was trained on, where Debian's flite is installed."""
        if not shutil.which("flite"):
            print("strangers: flite is not installed, left out", flush=True)
            return
        texts = lines("everyday")[: self.count]
        for voice in STRANGERS:
            await self._transcribe(f"transcribe_flite_{voice}", texts, [flite(voice, t) for t in texts])


async def measure(
    model: Path,
    count: int,
    tasks: Sequence[str],
    domains: Sequence[str] = DOMAINS,
    flags: Sequence[str] = (),
) -> dict[str, float]:
    """All figures of a checkpoint folder; `flags` as `cadence serve` takes them."""
    options = serve.make_context("serve", [str(model), "--in-process", "--threads", "1", *flags]).params
    config = build_config(options, say=print)
    begun = time.perf_counter()
    engine = await start_engine(config)
    load_s = time.perf_counter() - begun
    try:
        found = Measurement(engine, model, count, domains)
        found.figures |= {"sentences": count, "load_s": round(load_s, 2)}
        for voice, domain in itertools.product(VOICES, domains):
            if "teacher" in tasks:
                found.teacher(voice, domain)
            if "speech" in tasks:
                await found.speech(voice, domain, streamed=True)
            if "whole" in tasks:
                await found.speech(voice, domain, streamed=False)
            if "transcribe" in tasks:
                await found.transcription(voice, domain)
            if "repeat" in tasks:
                await found.repetition(voice, domain)
        if "voices" in tasks:
            await found.voices()
        if "strangers" in tasks:
            await found.strangers()
    finally:
        await engine.aclose()
    return found.figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--domains", default=",".join(DOMAINS))
    given, flags = sys.argv[1:], list[str]()
    if "--" in given:
        at = given.index("--")
        given, flags = given[:at], given[at + 1 :]
    args = parser.parse_args(given)
    tasks, domains = args.tasks.split(","), args.domains.split(",")
    figures = json.dumps(asyncio.run(measure(args.model, args.count, tasks, domains, flags)), indent=1)
    print(figures)
    if args.json:
        args.json.write_text(figures + "\n")


if __name__ == "__main__":
    main()
