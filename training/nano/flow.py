"""Stage `flow`: codes to mel. First the encoder alone learns a plain guess (mu), then the DiT joins.

Half of the passes attend as a stream does, in chunks of random size, so that streaming is trained in.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadence.audio.features import prompt_mel
from cadence.models.conformer import NoMemory
from cadence.models.flow import Flow
from cadence.models.flow_config import DiTConfig, EncoderConfig, FlowConfig
from training.nano import phones
from training.nano.fit import Task, fit, trained
from training.nano.speaker_vectors import SPEAKER_DIM, speaker_vector
from training.nano.speech import Store, Utterance, batches_by_length

MEL_DIM = 80
SIZES = FlowConfig(
    vocab_size=phones.NUM_CODES,
    mel_dim=MEL_DIM,
    speaker_dim=SPEAKER_DIM,
    guidance=0.7,
    encoder=EncoderConfig(hidden=192, num_blocks=3, num_up_blocks=2, num_heads=3, linear_units=384),
    dit=DiTConfig(
        in_channels=4 * MEL_DIM,
        out_channels=MEL_DIM,
        hidden=192,
        depth=4,
        num_heads=3,
        head_dim=64,
        mlp_ratio=2.0,
    ),
)
NUM_STEPS = 40_000
ENCODER_STEPS = 1_000
BATCH = 8
LEARNING_RATE = 1e-3
MU_WEIGHT = 1.0
DROP_CONDITION = 0.2
PREFIX_SHARE, MAX_PREFIX = 0.5, 0.5
CHUNKED_SHARE, MIN_CHUNK, MAX_CHUNK = 0.5, 5, 30
SPEAKER_NOISE = 0.02
MEL_MEAN, MEL_DEVIATION = -6.0, 2.5
_MODULATED = 9


class FactoredEmbedding(nn.Module):
    """Code embeddings as sums over a code's four parts; `rows` gives the plain table."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        counts = (phones.NUM_PHONES, phones.NUM_POSITIONS, phones.NUM_BOUNDARIES, phones.NUM_PITCHES)
        self.tables = nn.ModuleList([nn.Embedding(count, hidden) for count in counts])
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.5)
        parts = np.stack(phones.split_code(np.arange(phones.NUM_CODES)), 1)
        self.register_buffer("_parts", torch.from_numpy(parts), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """codes [n] -> [n, hidden]."""
        part_table: Tensor = self._parts
        parts = part_table[codes]
        total = sum(table(parts[..., i]) for i, table in enumerate(self.tables))
        assert isinstance(total, Tensor)
        return total

    @torch.no_grad()
    def rows(self) -> Tensor:
        """The table of the public layout, [6561, hidden]."""
        return self(torch.arange(phones.NUM_CODES))


def build() -> Flow:
    """A fresh flow that starts at the mean mel, with every branch open but small."""
    torch.manual_seed(0)
    flow = Flow(SIZES)
    flow.input_embedding = FactoredEmbedding(SIZES.encoder.hidden)  # type: ignore[assignment]
    estimator = flow.estimator
    with torch.no_grad():
        flow.encoder_proj.bias.fill_(MEL_MEAN)
        estimator.final_layer.linear.weight.mul_(0.5)
        estimator.final_layer.linear.bias.fill_(MEL_MEAN)
        estimator.in_proj.weight.div_(MEL_DEVIATION)
        # At the middle of the way the noisy mel has half the mean; mu has all of it.
        mean = torch.zeros(4 * MEL_DIM)
        mean[:MEL_DIM], mean[MEL_DIM : 2 * MEL_DIM] = 0.5 * MEL_MEAN, MEL_MEAN
        estimator.in_proj.bias.copy_(-estimator.in_proj.weight @ mean)
        for block in estimator.blocks:
            _open_gates(block.adaLN_modulation[1])
            for branch in (block.attn.proj, block.mlp.fc2):
                branch.weight.mul_(0.3)
        nn.init.zeros_(estimator.final_layer.adaLN_modulation[1].weight)
        nn.init.zeros_(estimator.final_layer.adaLN_modulation[1].bias)
    return flow


def _open_gates(layer: nn.Linear) -> None:
    """No shift, no scale, gates at one; all of it learns to depend on time."""
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    layer.bias.view(_MODULATED, -1)[2::3] = 1.0


class FlowTask:
    """Whole utterances of both voices in groups of similar length."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.stores = {voice: Store(voice) for voice in ("female", "male")}
        self.train = [u for store in self.stores.values() for u in store.split(held_out=False)]
        self.held_out = [u for store in self.stores.values() for u in store.split(held_out=True)[:24]]
        self.batches = batches_by_length([len(u.codes) for u in self.train], BATCH)

    def mel(self, utterance: Utterance) -> Tensor:
        """[2 n, 80] of an utterance of n codes."""
        return torch.from_numpy(prompt_mel(self.stores[utterance.voice].samples(utterance)))

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Of one random batch; the encoder alone at first."""
        chosen = self.batches[rng.integers(len(self.batches))]
        chunk = int(rng.integers(MIN_CHUNK, MAX_CHUNK)) if rng.random() < CHUNKED_SHARE else None
        return self._loss([self.train[i] for i in chosen], rng, chunk, drop=DROP_CONDITION)

    def _loss(
        self, utterances: list[Utterance], rng: np.random.Generator, chunk: int | None, drop: float
    ) -> tuple[Tensor, dict[str, float]]:
        mels = [self.mel(u) for u in utterances]
        codes = [torch.tensor(u.codes) for u in utterances]
        times = 1 - torch.cos(torch.from_numpy(rng.random(len(mels)).astype(np.float32)) * 0.5 * math.pi)
        noise = [torch.randn_like(mel) for mel in mels]
        noisy = [(1 - t) * z + t * mel for t, z, mel in zip(times, noise, mels, strict=True)]
        known = [
            int(len(mel) * MAX_PREFIX * rng.random()) if rng.random() < PREFIX_SHARE else 0 for mel in mels
        ]
        conditions = [
            torch.cat([mel[:k], torch.zeros_like(mel[k:])]) for mel, k in zip(mels, known, strict=True)
        ]
        speakers = torch.stack([speaker_vector(u.voice) for u in utterances])
        speakers = speakers + SPEAKER_NOISE * torch.randn_like(speakers)
        keep = torch.from_numpy(rng.random(len(mels)) >= drop)
        velocities, mus = self.flow(codes, noisy, times, speakers, conditions, keep=keep, chunk_codes=chunk)
        guess = F.l1_loss(torch.cat(mus), torch.cat(mels))
        wanted = torch.cat([(mel - z)[k:] for mel, z, k in zip(mels, noise, known, strict=True)])
        found = torch.cat([v[k:] for v, k in zip(velocities, known, strict=True)])
        velocity = F.mse_loss(found, wanted)
        return velocity + MU_WEIGHT * guess, {"velocity": velocity.item(), "mu": guess.item()}

    def validate(self) -> dict[str, float]:
        """Held-out utterances, whole, fixed noise."""
        rng = np.random.default_rng(0)
        state = torch.get_rng_state()
        torch.manual_seed(0)
        found = self._loss(self.held_out, rng, None, drop=0.0)[1]
        torch.set_rng_state(state)
        return found


class EncoderTask(FlowTask):
    """The encoder's guess alone: half the work of a whole pass, and what the DiT builds on."""

    def _loss(
        self, utterances: list[Utterance], rng: np.random.Generator, chunk: int | None, drop: float
    ) -> tuple[Tensor, dict[str, float]]:
        codes = [torch.tensor(u.codes) for u in utterances]
        mus = self.flow.encode(codes, [NoMemory(chunk) for _ in codes], [True] * len(codes))
        guess = F.l1_loss(torch.cat(mus), torch.cat([self.mel(u) for u in utterances]))
        return guess, {"mu": guess.item()}


def _sizes() -> dict[str, object]:
    return dataclasses.asdict(SIZES)


def run_encoder() -> dict[str, float]:
    """The first, short part."""
    flow = build()
    task = EncoderTask(flow)
    return fit(
        Task(
            name="flow-encoder",
            module=flow,
            loss=task.loss,
            validate=task.validate,
            num_steps=ENCODER_STEPS,
            learning_rate=LEARNING_RATE,
            decay_part=0.01,
            validate_every=250,
            sizes=_sizes(),
        )
    )


def run() -> dict[str, float]:
    """The whole flow, from the encoder's weights on."""
    flow = build()
    flow.load_state_dict(trained("flow-encoder")[0])
    task = FlowTask(flow)
    return fit(
        Task(
            name="flow",
            module=flow,
            loss=task.loss,
            validate=task.validate,
            num_steps=NUM_STEPS,
            learning_rate=LEARNING_RATE,
            average=0.999,
            validate_every=500,
            sizes=_sizes(),
        )
    )
