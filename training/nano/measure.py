"""Every figure of the model card, from an exported checkpoint through the serving engine.

    python -m training.nano.measure src/cadence/nano --count 30

Speech of held-out sentences by both voices (streamed and whole), transcription of the teachers (clean and in
noise), repetition of heard speech; beside the teacher's own figures. Prints a table and JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from cadence.config import EngineConfig, ServeConfig, ThinkerConfig, Token2WavConfig
from cadence.engine import Engine, start_engine
from cadence.prompt import READ_ALOUD_PROMPT
from cadence.types import AudioChunk, AudioPart, Done, Message, Request, TextDelta, TextPart
from training.nano import settings
from training.nano.hearing_data import INPUT_RATE_HZ, in_noise
from training.nano.recogniser import Recogniser
from training.nano.speech import Store, Utterance
from training.nano.text_vocabulary import SYSTEM_PROMPTS

Wave = npt.NDArray[np.float32]
DOMAINS = ("template", "common", "everyday")
VOICES = ("female", "male")
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


def sound_of(store: Store, utterance: Utterance) -> Wave:
    """The teacher's utterance at 16 kHz."""
    return soxr.resample(store.samples(utterance), settings.SAMPLE_RATE_HZ, INPUT_RATE_HZ).astype(np.float32)


class Measurement:
    """The figures so far, by name."""

    def __init__(self, engine: Engine, count: int) -> None:
        self.engine, self.count = engine, count
        self.recogniser = Recogniser()
        self.stores = {voice: Store(voice) for voice in VOICES}
        self.figures: dict[str, float] = {}

    def _chosen(self, voice: str, domain: str) -> list[Utterance]:
        return self.stores[voice].split(held_out=True, domains=[domain])[: self.count]

    def _rate(self, name: str, wanted: Sequence[str], found: Sequence[str]) -> None:
        self.figures[name] = round(self.recogniser.word_error_rate(wanted, found), 4)
        print(f"{name:40} {self.figures[name]:.3f}   {found[0] if found else ''}", flush=True)

    async def speech(self, voice: str, domain: str, streamed: bool) -> None:
        """Word error rate, speed, pace beside the teacher, clipping and pauses."""
        utterances = self._chosen(voice, domain)
        answers = [
            await ask(self.engine, speech_request(self.engine, u.text, voice, streamed)) for u in utterances
        ]
        name = f"speech_{voice}_{domain}" + ("" if streamed else "_whole")
        self._rate(
            name, [u.text for u in utterances], [self.recogniser.transcribe(a.samples) for a in answers]
        )
        seconds = sum(len(a.samples) for a in answers) / settings.SAMPLE_RATE_HZ
        taught = sum(u.num_samples for u in utterances) / settings.SAMPLE_RATE_HZ
        self.figures |= {
            f"{name}_rtf": round(sum(a.total_s for a in answers) / max(seconds, 1e-9), 3),
            f"{name}_first_audio_s": round(float(np.median([a.first_audio_s for a in answers])), 3),
            f"{name}_pace": round(seconds / taught, 3),
            f"{name}_peak": round(max(float(np.abs(a.samples).max(initial=0)) for a in answers), 3),
            f"{name}_longest_pause_s": max(longest_pause_s(a.samples) for a in answers),
        }

    def teacher(self, voice: str, domain: str) -> None:
        """The ceiling."""
        utterances = self._chosen(voice, domain)
        heard = [self.recogniser.transcribe(self.stores[voice].samples(u)) for u in utterances]
        self._rate(f"teacher_{voice}_{domain}", [u.text for u in utterances], heard)

    async def transcription(self, voice: str, domain: str, noisy: bool) -> None:
        """Word error rate of our own listening."""
        utterances = self._chosen(voice, domain)
        sounds = [sound_of(self.stores[voice], u) for u in utterances]
        if noisy:
            sounds = [in_noise(s, np.random.default_rng(i)) for i, s in enumerate(sounds)]
        texts = [(await ask(self.engine, heard_request(self.engine, s, "transcribe"))).text for s in sounds]
        self._rate(f"transcribe_{voice}_{domain}" + "_noisy" * noisy, [u.text for u in utterances], texts)

    async def repetition(self, voice: str, domain: str) -> None:
        """Speech in, the same words out."""
        utterances = self._chosen(voice, domain)
        sounds = [sound_of(self.stores[voice], u) for u in utterances]
        answers = [await ask(self.engine, heard_request(self.engine, s, "repeat")) for s in sounds]
        heard = [self.recogniser.transcribe(a.samples) for a in answers]
        self._rate(f"repeat_{voice}_{domain}", [u.text for u in utterances], heard)


async def measure(model: Path, count: int, tasks: Sequence[str]) -> dict[str, float]:
    """All figures of a checkpoint folder."""
    config = ServeConfig(
        model=str(model), engine=EngineConfig(in_process=True),
        thinker=ThinkerConfig(threads=1), token2wav=Token2WavConfig(threads=1),
    )  # fmt: skip
    begun = time.perf_counter()
    engine = await start_engine(config)
    found = Measurement(engine, count)
    found.figures["load_s"] = round(time.perf_counter() - begun, 2)
    try:
        for voice, domain in itertools.product(VOICES, DOMAINS):
            if "teacher" in tasks:
                found.teacher(voice, domain)
            if "speech" in tasks:
                await found.speech(voice, domain, streamed=True)
            if "whole" in tasks:
                await found.speech(voice, domain, streamed=False)
            if "transcribe" in tasks:
                await found.transcription(voice, domain, noisy=False)
                await found.transcription(voice, domain, noisy=True)
            if "repeat" in tasks:
                await found.repetition(voice, domain)
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
    parser.add_argument("--tasks", default="teacher,speech,whole,transcribe,repeat")
    args = parser.parse_args()
    figures = asyncio.run(measure(args.model, args.count, args.tasks.split(",")))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
