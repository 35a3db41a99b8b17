"""Stage `hearing`: speaking, transcribing, repeating and small talk together, from `thinker`'s weights on.

Whisper's encoder stays as it is; the adapter and the language model learn. A head on the adapter asks for
the phones under each patch, so that what was said is plain to read before the words are learned.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadence.models.audio_encoder import Adapter
from training.nano import joined, phones, settings, whisper
from training.nano import thinker as thinker_stage
from training.nano.chat_data import ChatExamples
from training.nano.dialogue import ANSWERING, VOICES
from training.nano.fit import Task, fit, stage_dir, trained
from training.nano.generate import edit_distance
from training.nano.hearing_data import VARIANTS, Features, Heard, HeardExamples, Sound
from training.nano.joined import joined_name
from training.nano.speech import Store, batches_by_length
from training.nano.thinker_model import NanoThinker

ADAPTER_HIDDEN = 512
NUM_STEPS = 16_000
SHARES = {"speak": 0.4, "transcribe": 0.3, "repeat": 0.2, "chat": 0.1}
BATCH = {"transcribe": 24, "repeat": 12, "chat": 10}
USUAL_WORDING = 0.5  # of the examples are asked for as the server does by itself
LEARNING_RATE, DECAY_PART = 1e-3, 0.3
PHONE_WEIGHT = 0.5
NUM_CHECKED = 24
MAX_ANSWER = 120


class HearingModel(nn.Module):
    """The language model with ears."""

    def __init__(self, thinker: NanoThinker) -> None:
        super().__init__()
        self.thinker = thinker
        self.adapter = Adapter(whisper.encoder_config(thinker.sizes.hidden, ADAPTER_HIDDEN))
        self.heard_phones = nn.Linear(thinker.sizes.hidden, 2 * phones.NUM_PHONES)

    def listen(self, features: list[Tensor]) -> list[Tensor]:
        """Features [n_i, 384] of each to embeddings [m_i, hidden]."""
        longest = max(map(len, features))
        padded = torch.stack([F.pad(f, (0, 0, 0, longest - len(f))) for f in features])
        embeds = self.adapter(padded)
        return [row[: self.adapter.num_embeddings(len(f))] for row, f in zip(embeds, features, strict=True)]

    def embed(self, ids: Tensor, heard: list[Tensor], at: list[tuple[int, int]]) -> Tensor:
        """Embeddings of padded ids [B, T] with what was heard in place of the patches at (row, start)."""
        embeds = self.thinker.embed(ids).clone()
        for part, (row, start) in zip(heard, at, strict=True):
            embeds[row, start : start + len(part)] = part
        return embeds


class HearingTask:
    """A mixture of four tasks; speaking is the thinker stage's own."""

    def __init__(self, model: HearingModel) -> None:
        self.model = model
        self.speaking = thinker_stage.ThinkerTask(model.thinker)
        self.tokenizer = self.speaking.tokenizer
        make, draw = HeardExamples(self.tokenizer), np.random.default_rng(settings.SEED)
        stores = [*VOICES, *map(joined_name, VOICES)]
        self.features = {voice: Features(voice) for voice in stores}
        self.train: dict[str, list[Heard]] = {"transcribe": [], "repeat": []}
        self.held_out: list[Heard] = []
        others = []
        for voice, features in self.features.items():
            for utterance in (u for u in Store(voice).utterances if u in features):
                usual = utterance.held_out or draw.random() < USUAL_WORDING
                wording = 0 if usual else int(draw.integers(60))
                heard = make(utterance, repeat=False, wording=wording)
                if utterance.held_out:
                    self.held_out += [heard] if heard else []
                    continue
                others += [utterance] if utterance.domain != joined.DOMAIN else []
                self.train["transcribe"] += [heard] if heard else []
                answering = voice in (ANSWERING, joined_name(ANSWERING))
                repeated = make(utterance, repeat=True, wording=wording) if answering else None
                self.train["repeat"] += [repeated] if repeated else []
        self.chat = ChatExamples(self.tokenizer, others)
        self.features |= self.chat.features
        self.batches = {
            k: batches_by_length([len(h.ids) for h in v], BATCH[k]) for k, v in self.train.items()
        }

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Of one batch of one task."""
        task = rng.choice(list(SHARES), p=list(SHARES.values()))
        if task == "speak":
            loss, found = self.speaking.loss(rng)
            return loss, {f"speak_{k}": v for k, v in found.items()}
        if task == "chat":
            chosen = [self.chat(rng) for _ in range(BATCH[task])]
        else:
            groups = self.batches[task]
            chosen = [self.train[task][i] for i in groups[rng.integers(len(groups))]]
        loss, found = self._loss(chosen, rng)
        return loss, {f"{task}_{k}": v for k, v in found.items()}

    def _listen(self, sounds: list[Sound], variants: list[int]) -> list[Tensor]:
        features = [
            self.features[s.utterance.voice](s.utterance, v) for s, v in zip(sounds, variants, strict=True)
        ]
        return self.model.listen(features) if features else []

    def _loss(self, chosen: list[Heard], rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        model, special = self.model, self.tokenizer.special
        sounds = [sound for h in chosen for sound in h.sounds]
        at = [(row, sound.start) for row, h in enumerate(chosen) for sound in h.sounds]
        heard = self._listen(sounds, rng.integers(len(VARIANTS), size=len(sounds)).tolist())
        ids = torch.full((len(chosen), max(len(h.ids) for h in chosen)), special.tts_pad)
        for row, h in enumerate(chosen):
            ids[row, : len(h.ids)] = torch.from_numpy(h.ids)
        answers = torch.tensor([[h.answer, len(h.ids)] for h in chosen])
        hidden, _ = model.thinker.hidden(model.embed(ids, heard, at))
        column = torch.arange(ids.shape[1])
        rows, columns = ((column >= answers[:, :1]) & (column < answers[:, 1:])).nonzero(as_tuple=True)
        loss, found = thinker_stage.answer_loss(model.thinker, hidden[rows, columns - 1], ids[rows, columns])
        if not sounds:
            return loss, found
        wanted = torch.cat(
            [torch.from_numpy(s.phones[: len(part)]) for s, part in zip(sounds, heard, strict=True)]
        )
        guess = model.heard_phones(torch.cat(heard)).view(-1, 2, phones.NUM_PHONES)
        phone_loss = F.cross_entropy(guess.flatten(0, 1), wanted.flatten())
        found["heard"] = float((guess.argmax(-1) == wanted).float().mean())
        return loss + PHONE_WEIGHT * phone_loss, found

    def validate(self) -> dict[str, float]:
        """Speech as the thinker stage checks it, and the word error rate of greedy transcription by voice."""
        found = {f"speak_{k}": v for k, v in self.speaking.validate().items()}
        checked = [(voice, domain) for voice in VOICES for domain in ("common", "everyday")]
        for voice, domain in (*checked, *((joined_name(voice), joined.DOMAIN) for voice in VOICES)):
            chosen = [
                h
                for h in self.held_out
                if (said := h.sounds[0].utterance).voice == voice and said.domain == domain
            ]
            found[f"wer_{voice}_{domain}"] = self.word_error_rate(chosen[:NUM_CHECKED])
        return found

    def word_error_rate(self, chosen: list[Heard]) -> float:
        """Of greedy transcription; case and marks do not count."""
        errors = total = 0
        for h, text in zip(chosen, self.transcribe(chosen), strict=True):
            wanted, said = (
                re.sub(r"[,.?!]", "", t.lower()).split() for t in (h.sounds[0].utterance.text, text)
            )
            errors += edit_distance(wanted, said)
            total += len(wanted)
        return errors / max(1, total)

    def transcribe(self, chosen: list[Heard]) -> list[str]:
        """Greedy text of each example's sound."""
        model, special = self.model, self.tokenizer.special
        heard = self._listen([h.sounds[0] for h in chosen], [0] * len(chosen))
        texts = []
        for h, part in zip(chosen, heard, strict=True):
            ids = h.ids[: h.answer].tolist()
            while len(ids) < h.answer + MAX_ANSWER:
                embeds = model.embed(torch.tensor([ids]), [part], [(0, h.sounds[0].start)])
                hidden, _ = model.thinker.hidden(embeds)
                best = int(model.thinker.next_logits(hidden[0, -1])[: special.text_limit].argmax())
                if best == special.eot:
                    break
                ids.append(best)
            texts.append(self.tokenizer.decode(ids[h.answer :]).strip())
        return texts


def run() -> dict[str, float]:
    """Train from the last checkpoint on."""
    torch.manual_seed(0)
    thinker = NanoThinker(thinker_stage.sizes())
    if (stage_dir("thinker") / "last.pt").exists():  # else from what `restore` found
        thinker.load_state_dict(trained("thinker", averaged=True)[0])
    thinker.compile_layers()
    model = HearingModel(thinker)
    task = HearingTask(model)
    return fit(
        Task(
            name="hearing",
            module=model,
            loss=task.loss,
            validate=task.validate,
            num_steps=NUM_STEPS,
            learning_rate=LEARNING_RATE,
            weight_decay=0.02,
            average=0.998,
            decay_part=DECAY_PART,
            validate_every=10_000,
            sizes=dataclasses.asdict(thinker.sizes),
        )
    )
