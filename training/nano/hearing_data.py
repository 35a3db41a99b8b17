"""Stages `hearing-female`, `-male`, `-joined` and `-chat`: the frozen audio encoder's features of speech.

Each utterance is encoded twice, as it is and in mild noise, once and for all: training on them then costs no
more than training on text.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr
import torch
from torch import Tensor

from cadence.audio.features import PIECE_PADDING, log_mel
from cadence.prompt import PromptBuilder
from cadence.text import Tokenizer
from cadence.types import AudioPart, Message, Part, TextPart
from training.nano import interleave, phones, settings, text_vocabulary, whisper
from training.nano.joined import joined_name
from training.nano.progress import track
from training.nano.speech import Store, Utterance

VARIANTS = ("clean", "noisy")
NUM_HEARD = {"female": 12_000, "male": 7_500}  # other stores are heard whole
NOISE_DB = (12.0, 30.0)  # speech above noise
INPUT_RATE_HZ = 16_000
Wording = tuple[str, str]  # system prompt, and what the user writes after the sound; either may be empty
_TRANSCRIBE, _REPEAT = (text_vocabulary.SYSTEM_PROMPTS[task] for task in ("transcribe", "repeat"))
TRANSCRIBE_PROMPTS: tuple[Wording, ...] = (
    (_TRANSCRIBE, ""),
    (
        "You are a speech recognition assistant. Transcribe the audio accurately.",
        "Please transcribe this audio.",
    ),
    (f"{_TRANSCRIBE}\n语音的语言是英语。", ""),
    ("Transcribe the audio.", "Please transcribe."),
    ("请仔细聆听这段语音，然后将其内容翻译成英文。", ""),
    ("", "Please write down what you hear."),
)
REPEAT_PROMPTS: tuple[Wording, ...] = (
    (_REPEAT, ""),
    (
        "You are an audio processing assistant. Listen and repeat the audio content.",
        "Please listen to this audio and repeat its content.",
    ),
    (_REPEAT, ""),
    ("You are a helpful assistant.", "Repeat what I said."),
    ("", "Please repeat this."),
)


def features_file(voice: str) -> Path:
    """Features [rows, 384] in half precision, with an index beside it."""
    folder = settings.work_dir() / "hearing"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{voice}.f16"


def in_noise(samples: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Speech at a random level in noise of a random colour."""
    white = rng.standard_normal(len(samples))
    colour = rng.uniform(0.0, 0.97)
    noise = np.convolve(white, colour ** np.arange(64), mode="same")
    level = np.sqrt((samples**2).mean() / max(1e-9, (noise**2).mean())) * 10 ** (-rng.uniform(*NOISE_DB) / 20)
    return ((samples + level * noise) * rng.uniform(0.4, 1.0)).astype(np.float32)


def run(voice: str) -> dict[str, float]:
    """Encode every utterance with sound of a voice, from where the last run stopped."""
    torch.set_num_threads(1)
    store, encoder = Store(voice), whisper.load_encoder()
    index_file = features_file(voice).with_suffix(".json")
    index: list[list[int]] = json.loads(index_file.read_text()) if index_file.exists() else []
    rows = sum(count for _, count in index)
    features_file(voice).touch()
    os.truncate(features_file(voice), rows * whisper.STATE * 2)
    # Held-out lines first, then the most everyday ones: a run that is cut short has what matters most. Lines
    # are picked by what is not encoded yet, as the store may have grown since.
    done = {offset for offset, _ in index}
    order = sorted(store.utterances, key=lambda u: (not u.held_out, u.domain != "spoken"))
    todo = [u for u in order if u.offset not in done][: max(0, NUM_HEARD.get(voice, len(order)) - len(index))]
    with open(features_file(voice), "ab") as file:
        for i, utterance in enumerate(track(todo, f"hearing-{voice}")):
            both, count = _encode(encoder, store, utterance)
            both.astype("<f2").tofile(file)
            index.append([utterance.offset, len(VARIANTS) * count])
            if i % 100 == 99 or i == len(todo) - 1:
                file.flush()
                index_file.write_text(json.dumps(index))
    return {"utterances": len(index)}


def run_chat() -> dict[str, float]:
    """Both teachers' small talk."""
    return {voice: run(f"{voice}-chat")["utterances"] for voice in ("female", "male")}


def run_joined() -> dict[str, float]:
    """Recordings of several sentences by both teachers."""
    return {voice: run(joined_name(voice))["utterances"] for voice in ("female", "male")}


def _encode(
    encoder: torch.nn.Module, store: Store, utterance: Utterance
) -> tuple[npt.NDArray[np.float32], int]:
    """Features of both variants, one after the other, and the rows of each."""
    samples = soxr.resample(store.samples(utterance), settings.SAMPLE_RATE_HZ, INPUT_RATE_HZ).astype(
        np.float32
    )
    noisy = in_noise(samples, np.random.default_rng(utterance.offset))
    mels = torch.from_numpy(np.stack([log_mel(s, whisper.MELS, PIECE_PADDING) for s in (samples, noisy)]))
    num_frames = mels.shape[2]
    with torch.inference_mode():
        features = encoder(mels, torch.tensor([num_frames] * len(VARIANTS)))
    count = (num_frames - 1) // 2 // 2
    return features[:, :count].reshape(-1, whisper.STATE).numpy(), count


class Features:
    """Read side: features by voice and utterance."""

    def __init__(self, voice: str) -> None:
        index = json.loads(features_file(voice).with_suffix(".json").read_text())
        self._at: dict[int, tuple[int, int]] = {}
        row = 0
        for offset, count in index:
            self._at[offset] = (row, count // len(VARIANTS))
            row += count
        self._rows = np.memmap(features_file(voice), dtype="<f2", mode="r").reshape(-1, whisper.STATE)

    def __contains__(self, utterance: Utterance) -> bool:
        return utterance.offset in self._at

    def __call__(self, utterance: Utterance, variant: int) -> Tensor:
        """[n, 384] float32."""
        row, count = self._at[utterance.offset]
        begin = row + variant * count
        return torch.from_numpy(np.asarray(self._rows[begin : begin + count], np.float32))


@dataclass(frozen=True, slots=True)
class Sound:
    """One utterance in a prompt: where its patches start, and how many there are."""

    utterance: Utterance
    start: int
    count: int

    @property
    def phones(self) -> npt.NDArray[np.int64]:
        """The phones of the two codes under each patch (80 ms), silence after the end: [count, 2]."""
        phone = phones.split_code(np.asarray(self.utterance.codes))[0]
        padded = np.full(2 * self.count, phones.SILENCE, np.int64)
        used = min(len(phone), len(padded))
        padded[:used] = phone[:used]
        return padded.reshape(self.count, 2)


@dataclass(frozen=True, slots=True)
class Heard:
    """One example with sounds in its prompt: ids, where the answer starts, and the sounds in order."""

    ids: npt.NDArray[np.int64]
    answer: int
    sounds: tuple[Sound, ...]


class HeardExamples:
    """Transcription and repetition of an utterance, prompts as the server builds them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._builder = PromptBuilder(tokenizer, num_mels=whisper.MELS)

    def __call__(self, utterance: Utterance, repeat: bool, wording: int = 0) -> Heard | None:
        """The example; None for a repetition whose words and sound do not match.

        `wording` picks the instructions; 0 is the server's own.
        """
        wordings = REPEAT_PROMPTS if repeat else TRANSCRIBE_PROMPTS
        system, request = wordings[wording % len(wordings)]
        silence = np.zeros(utterance.num_samples * INPUT_RATE_HZ // settings.SAMPLE_RATE_HZ, np.float32)
        user: tuple[Part, ...] = (AudioPart(silence), TextPart(request)) if request else (AudioPart(silence),)
        messages = [Message("system", (TextPart(system),))] if system else []
        prompt = self._builder.build((*messages, Message("user", user)), "speech" if repeat else "text")
        answer = (
            self.speech(utterance)
            if repeat
            else [*self.tokenizer.encode(utterance.text), self.tokenizer.special.eot]
        )
        if answer is None:
            return None
        span = prompt.spans[0]
        ids = np.array([*prompt.ids, *answer], np.int64)
        return Heard(ids, len(prompt.ids), (Sound(utterance, span.start, span.count),))

    def speech(self, utterance: Utterance) -> list[int] | None:
        """Ids of the utterance as a spoken answer; None where words and sound do not match."""
        text_ids = self.tokenizer.encode(utterance.text)
        words = interleave.words_of_tokens(self.tokenizer, text_ids)
        if utterance.word_starts_s is None or words[-1] + 1 != len(utterance.word_starts_s):
            return None
        groups = interleave.groups_of_tokens(words, utterance.word_starts_s)
        if groups[-1] >= len(utterance.codes) // interleave.CODES_PER_GROUP:
            return None
        return interleave.speech_ids(self.tokenizer, text_ids, groups, utterance.codes)
