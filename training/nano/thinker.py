"""Stage `thinker`: the language model that turns text into codes.

What keeps it on its text: text placed where it is spoken, the phones of each word asked of an early layer,
and inputs in which some codes are wrong, so that it does not lean on its own past alone.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch
from torch import Tensor

from training.nano import generate, phones, text_vocabulary, thinker_data
from training.nano.fit import Task, fit
from training.nano.speech import batches_by_length
from training.nano.thinker_model import NanoThinker, ThinkerSizes, spelling_loss

NUM_STEPS = 24_000
BATCH = 12
DOMAIN_SHARES = {"template": 0.1, "common": 0.3, "spoken": 0.25, "open": 0.28, "joined": 0.07}
LEARNING_RATE = 1.2e-3
MAX_CORRUPTION = 0.3
SPELLING_WEIGHT = 0.3
VALIDATE_EVERY = 4000  # minutes each: speech is generated without a cache
NUM_SPOKEN = 8


class ThinkerTask:
    """Batches, loss and validation."""

    def __init__(self, model: NanoThinker) -> None:
        self.model = model
        self.tokenizer = text_vocabulary.open_tokenizer()
        begun = time.monotonic()
        every = list(thinker_data.load_sequences(self.tokenizer, held_out=False))
        self.train = [s for _, s in every]
        self.held_out = list(thinker_data.load_sequences(self.tokenizer, held_out=True))
        self.batches = {}
        for domain in DOMAIN_SHARES:
            rows = [i for i, (u, _) in enumerate(every) if u.domain == domain]
            groups = batches_by_length([len(self.train[i].ids) for i in rows], BATCH)
            if groups:
                self.batches[domain] = [[rows[k] for k in group] for group in groups]
        shares = np.array([DOMAIN_SHARES[domain] for domain in self.batches])
        self.shares = shares / shares.sum()
        print(
            f"{len(self.train)} sequences, {sum(len(s.ids) for s in self.train)} ids, "
            f"{time.monotonic() - begun:.0f} s to load",
            flush=True,
        )

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Of one batch drawn at random."""
        batches = self.batches[rng.choice(list(self.batches), p=self.shares)]
        chosen = batches[rng.integers(len(batches))]
        batch = thinker_data.collate([self.train[i] for i in chosen], self.tokenizer.special.tts_pad)
        return self.batch_loss(batch, corrupt(batch, self.tokenizer.special.audio_0, rng))

    def batch_loss(self, batch: thinker_data.Batch, inputs: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Negative log-likelihood of the answers' ids, plus the spelling loss."""
        model = self.model
        hidden, spelled = model.hidden(model.embed(inputs))
        at = torch.arange(batch.ids.shape[1])
        answers = (at >= batch.answers[:, None]) & (at < batch.lengths[:, None])
        rows, columns = answers.nonzero(as_tuple=True)
        loss, found = answer_loss(model, hidden[rows, columns - 1], batch.ids[rows, columns])
        spelling = spelling_loss(model.spelling(spelled[batch.spelled_row, batch.spelled_at]), batch.spelled)
        return loss + SPELLING_WEIGHT * spelling, {**found, "spelling": spelling.item()}

    def validate(self) -> dict[str, float]:
        """Teacher-forced likelihood, and phone error rates of free speech by domain."""
        batch = thinker_data.collate([s for _, s in self.held_out[:64]], self.tokenizer.special.tts_pad)
        found = self.batch_loss(batch, batch.ids)[1]
        for domain in ("template", "common", "everyday"):
            spoken = [u for u, _ in self.held_out if u.domain == domain][:NUM_SPOKEN]
            said = generate.speak(self.model, self.tokenizer, [u.text for u in spoken])
            wanted = [phones.phones_of_codes(np.asarray(u.codes)) for u in spoken]
            found[f"per_{domain}"] = generate.phone_error_rate(
                wanted, [phones.phones_of_codes(c) for c in said]
            )
        return found


def answer_loss(model: NanoThinker, state: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Mean negative log-likelihood of ids [n] after hidden states [n, hidden].

    An id's probability is that of its class (text or code) times its own within the class. The class is
    learned at every text slot and, to save work, at a quarter of the audio slots.
    """
    first_code = model.sizes.num_text
    is_code = targets >= first_code
    classed = ~is_code | (torch.rand(len(targets)) < 0.25)
    text_logits = model.text_head(state[classed])
    parts, mass = model.code_log_probs(state)
    total = torch.logaddexp(text_logits.logsumexp(-1), mass[classed])
    of_text = text_logits.gather(-1, targets[classed].clamp(max=first_code - 1)[:, None])[:, 0]
    class_nll = total - torch.where(is_code[classed], mass[classed], of_text)
    text_nll = class_nll[~is_code[classed]]
    found = {"text_nll": text_nll.mean().item()} if len(text_nll) else {}
    loss = class_nll.sum()
    if bool(is_code.any()):
        wanted = model.parts_of(targets[is_code])
        inside = [part[is_code] for part in parts]
        code_nll = -torch.stack([p.gather(-1, wanted[:, i, None])[:, 0] for i, p in enumerate(inside)]).sum(0)
        loss = loss + code_nll.sum()
        found |= {
            "code_nll": code_nll.mean().item(),
            "phone": _accuracy(inside[0], wanted[:, 0]),
            "pitch": _accuracy(inside[3], wanted[:, 3]),
        }
    return loss / len(targets), found


def corrupt(batch: thinker_data.Batch, audio_0: int, rng: np.random.Generator) -> Tensor:
    """The batch's ids with wrong codes: another utterance's, the one before or the one after."""
    ids = batch.ids
    is_code = ids >= audio_0
    rate = torch.from_numpy(rng.random((len(ids), 1)) * MAX_CORRUPTION)
    hit = is_code & (torch.from_numpy(rng.random(ids.shape)) < rate)
    pool = ids[is_code]
    strange = pool[torch.from_numpy(rng.integers(len(pool), size=ids.shape))]
    kind = torch.from_numpy(rng.integers(3, size=ids.shape))
    shifted = torch.where(kind == 0, ids.roll(1, 1), ids.roll(-1, 1))
    neighbour = torch.where(shifted >= audio_0, shifted, strange)
    return torch.where(hit, torch.where(kind == 2, strange, neighbour), ids)


def _accuracy(log_probs: Tensor, wanted: Tensor) -> float:
    return float((log_probs.argmax(-1) == wanted).float().mean())


def sizes() -> ThinkerSizes:
    """Nano's sizes, with the vocabulary that lies in the work folder."""
    return ThinkerSizes(num_text=text_vocabulary.open_tokenizer().special.audio_0)


def run() -> dict[str, float]:
    """Train from the last checkpoint on."""
    torch.manual_seed(0)
    model = NanoThinker(sizes())
    model.compile_layers()
    task = ThinkerTask(model)
    return fit(
        Task(
            name="thinker",
            module=model,
            loss=task.loss,
            validate=task.validate,
            num_steps=NUM_STEPS,
            learning_rate=LEARNING_RATE,
            weight_decay=0.02,
            validate_every=VALIDATE_EVERY,
            average=0.998,
            sizes=dataclasses.asdict(model.sizes),
        )
    )
