"""Stages `speech-*`: a teacher reads the corpus, or the small talk, into a store.

The store `male-timed` is the male teacher in the female teacher's timing, for the flow.

A store is a folder of three growing files: `wav.i16` (24 kHz), `f0.f16` (50 Hz) and `utterances.jsonl`. A
line without sound (codes alone, for the language model) has offset -1. An interrupted stage goes on behind
the last whole line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.nano import corpus, dialogue, phones, settings, teacher
from training.nano.progress import track

FloatArray = npt.NDArray[np.float32]
NUM_WITH_SOUND = {"female": 9_000, "male": 7_200}
FIRST_SENTENCE = {"female": 0, "male": 6_000}
NUM_WITHOUT_SOUND = {"female": 40_000, "male": 0}
NUM_TIMED = 3_000
PROMPT_S = (3.0, 4.2)


@dataclass(frozen=True, slots=True)
class Utterance:
    """One spoken line: its codes, the start of each written word in seconds (None if words do not match)."""

    text: str
    domain: str
    held_out: bool
    voice: str
    offset: int
    codes: list[int]
    word_starts_s: list[float] | None

    @property
    def num_samples(self) -> int:
        """Length of the sound at 24 kHz."""
        return len(self.codes) * settings.CODE_SAMPLES


class Store:
    """Read side of one voice's folder."""

    def __init__(self, voice: str, *, sound: bool = True) -> None:
        folder = store_dir(voice)
        lines = (folder / "utterances.jsonl").read_text().splitlines()
        every = [Utterance(**json.loads(line)) for line in lines]
        self.utterances = [u for u in every if u.offset >= 0 or not sound]
        self._samples = np.memmap(folder / "wav.i16", dtype="<i2", mode="r")
        self._f0 = np.memmap(folder / "f0.f16", dtype="<f2", mode="r")

    def split(self, held_out: bool, domains: Sequence[str] = ()) -> list[Utterance]:
        """Training or held-out utterances, of some domains only if any are named."""
        return [u for u in self.utterances if u.held_out == held_out and (not domains or u.domain in domains)]

    def samples(self, utterance: Utterance, start: int = 0, count: int | None = None) -> FloatArray:
        """Sound in [-1, 1]; `start` and `count` in samples."""
        begin = utterance.offset + start
        end = begin + count if count is not None else utterance.offset + utterance.num_samples
        return np.asarray(self._samples[begin:end], np.float32) / 32_768

    def f0(self, utterance: Utterance) -> FloatArray:
        """F0 in Hz, one value for each 20 ms, 0 where unvoiced."""
        begin = utterance.offset // settings.MEL_SAMPLES
        return np.asarray(self._f0[begin : begin + utterance.num_samples // settings.MEL_SAMPLES], np.float32)


def prompt_of(store: Store) -> Utterance:
    """The held-out utterance that is a voice's prompt in the checkpoint: 3.0 to 4.2 s long."""
    low, high = (seconds * settings.SAMPLE_RATE_HZ for seconds in PROMPT_S)
    return next(u for u in store.split(held_out=True) if low <= u.num_samples <= high)


def store_dir(voice: str) -> Path:
    """The folder of one voice."""
    folder = settings.work_dir() / "speech" / voice
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _plan(name: str) -> list[tuple[corpus.Sentence, bool]]:
    """What a store holds: the corpus, or in a store `VOICE-chat` the small talk."""
    voice, _, part = name.partition("-")
    if part == "timed":
        train = [s for s in corpus.load() if not s.held_out][FIRST_SENTENCE["female"] :]
        return [(sentence, True) for sentence in train[:NUM_TIMED]]
    if part:
        return [(corpus.Sentence(line, part, held_out=False), True) for line in dialogue.lines(voice)]
    return _corpus_plan(voice)


def _corpus_plan(voice: str) -> list[tuple[corpus.Sentence, bool]]:
    """Sentences in reading order, and whether their sound is kept: held-out ones first."""
    sentences = corpus.load()
    train = [s for s in sentences if not s.held_out][FIRST_SENTENCE[voice] :]
    with_sound = NUM_WITH_SOUND[voice]
    last = with_sound + NUM_WITHOUT_SOUND[voice]
    # Plain sentences come first: the language model learns those before the rest. Of these only our own
    # everyday sentences are kept as sound too, for `hearing`.
    rest = sorted(train[with_sound:last], key=lambda s: s.domain == "open")
    held_out = [(s, True) for s in sentences if s.held_out]
    return [*held_out, *((s, True) for s in train[:with_sound]), *((s, s.domain == "spoken") for s in rest)]


def _resume(folder: Path) -> tuple[int, int]:
    """(plan entries done, samples written), with half-written ends cut off."""
    state = folder / "state.json"
    done, samples, lines = (0, 0, 0)
    if state.exists():
        done, samples, lines = json.loads(state.read_text())
    for name, size in (("wav.i16", samples * 2), ("f0.f16", samples // settings.MEL_SAMPLES * 2)):
        (folder / name).touch()
        os.truncate(folder / name, size)
    listing = folder / "utterances.jsonl"
    listing.touch()
    kept = listing.read_text().splitlines()[:lines]
    listing.write_text("".join(line + "\n" for line in kept))
    return done, samples


def open_voice(name: str) -> teacher.Teacher:
    """The teacher who speaks in a store."""
    if name == "male-timed":
        return teacher.InFemaleTime()
    return teacher.Female() if name.startswith("female") else teacher.Male()


def say(
    phonemizer: teacher.Phonemizer, voice: teacher.Teacher, text: str
) -> tuple[teacher.Spoken, bool] | None:
    """The spoken line and whether its words match the written ones; None where the teacher cannot say it."""
    phonemes = phonemizer(text)
    try:
        spoken = teacher.speak(voice, phonemes) if phonemes else None
    except ValueError:
        return None  # a phoneme outside the voice's alphabet
    if spoken is None or len(spoken.samples) > 9 * settings.SAMPLE_RATE_HZ:
        return None
    return spoken, len(spoken.word_starts_s) == teacher.num_written_words(text)


def run_chat() -> dict[str, float]:
    """Both teachers' small talk, in stores of its own."""
    return {voice: run(f"{voice}-chat")["utterances"] for voice in ("female", "male")}


def run(voice_name: str) -> dict[str, float]:
    """Read the plan of one store, from where it stopped."""
    folder = store_dir(voice_name)
    done, samples = _resume(folder)
    plan = _plan(voice_name)
    phonemizer, voice = teacher.Phonemizer(), open_voice(voice_name)
    lines = len((folder / "utterances.jsonl").read_text().splitlines())
    with (
        open(folder / "wav.i16", "ab") as wav,
        open(folder / "f0.f16", "ab") as f0,
        open(folder / "utterances.jsonl", "a") as out,
    ):
        for i in track(range(done, len(plan)), f"speech-{voice_name}"):
            sentence, keep = plan[i]
            said = say(phonemizer, voice, sentence.text)
            if said:
                spoken, aligned = said
                codes = phones.codes_of_spans(
                    spoken.spans, len(spoken.samples) // settings.CODE_SAMPLES, voice.median_hz
                )
                starts = [round(s, 3) for s in spoken.word_starts_s] if aligned else None
                utterance = Utterance(
                    sentence.text,
                    sentence.domain,
                    sentence.held_out,
                    voice_name,
                    samples if keep else -1,
                    codes.tolist(),
                    starts,
                )
                if keep:
                    (np.clip(spoken.samples, -1, 1) * 32_767).astype("<i2").tofile(wav)
                    spoken.f0_hz.astype("<f2").tofile(f0)
                    samples += len(spoken.samples)
                out.write(json.dumps(asdict(utterance), ensure_ascii=False) + "\n")
                lines += 1
            if i % 100 == 99 or i == len(plan) - 1:
                for file in (wav, f0, out):
                    file.flush()
                (folder / "state.json").write_text(json.dumps([i + 1, samples, lines]))
    return {"utterances": lines, "hours": round(samples / settings.SAMPLE_RATE_HZ / 3600, 2)}


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in groups of similar length, so that padding is small."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[i : i + batch_size] for i in range(0, len(order) - batch_size + 1, batch_size)]


def iterate(voices: Sequence[str]) -> Iterator[tuple[Store, Utterance]]:
    """Every training utterance with sound of the named voices."""
    for voice in voices:
        store = Store(voice)
        yield from ((store, utterance) for utterance in store.split(held_out=False))
