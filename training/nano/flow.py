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
from cadence.models.dit import DiT
from cadence.models.flow import Flow
from cadence.models.flow_config import DiTConfig, EncoderConfig, FlowConfig
from training.nano import phones
from training.nano.fit import Task, fit, trained
from training.nano.speaker_vectors import SPEAKER_DIM, speaker_vector
from training.nano.speech import Store, Utterance, batches_by_length

MEL_DIM = 80
GUIDANCE = 0.0  # codes say so much that it is not needed
STEPS = 1  # of the solver: as good as ten while the DiT renders mu
SIZES = FlowConfig(
    vocab_size=phones.NUM_CODES,
    mel_dim=MEL_DIM,
    speaker_dim=SPEAKER_DIM,
    guidance=GUIDANCE,
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
ENCODER_STEPS = 6_000
BATCH = 8
LEARNING_RATE = 1e-3
MU_WEIGHT = 1.0
PREFIX_SHARE, MAX_PREFIX = 0.5, 0.5
CHUNKED_SHARE, MIN_CHUNK, MAX_CHUNK = 0.5, 5, 30
SPEAKER_NOISE = 0.04
MEL_MEAN = -6.0
ANCHORS, ANCHOR, VIEW_WEIGHT, MAX_GAIN = 16, 400.0, 0.05, 8.0
DIFFERENCE = 6.5  # of mel and noise, root mean square
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
    """A fresh flow: its encoder starts at the mean mel, its DiT as a straight line to mu."""
    torch.manual_seed(0)
    flow = Flow(SIZES)
    flow.input_embedding = FactoredEmbedding(SIZES.encoder.hidden)  # type: ignore[assignment]
    with torch.no_grad():
        flow.encoder_proj.bias.fill_(MEL_MEAN)
    aim_at_mu(flow.estimator)
    return flow


@torch.no_grad()
def aim_at_mu(estimator: DiT) -> None:
    """Make the velocity (mu - x) / (1 - t), which ends at mu whatever the steps; training improves on it.

    The difference rides through the residual stream twice, with either sign, so that its mean is zero;
    `ANCHORS` channels of a large constant keep the final norm's divisor nearly the same for all frames;
    blocks start as identities; the final scale is fitted to 1 / (1 - t). Both copies of the difference
    also carry a random view of all inputs, which cancels at the end and gives the blocks something to see.
    """
    config = estimator.config
    width, mel = config.hidden, config.out_channels
    plus, minus = slice(0, mel), slice(mel + ANCHORS, 2 * mel + ANCHORS)
    view = VIEW_WEIGHT * torch.randn(mel, config.in_channels)
    weight = VIEW_WEIGHT * torch.randn(width, config.in_channels)
    weight[mel : mel + ANCHORS] = 0.0
    for rows, sign in ((plus, 1.0), (minus, -1.0)):
        weight[rows] = view
        weight[rows, :mel] -= sign * torch.eye(mel)
        weight[rows, mel : 2 * mel] += sign * torch.eye(mel)
    estimator.in_proj.weight.copy_(weight)
    estimator.in_proj.bias.zero_()
    signs = torch.ones(ANCHORS).cumsum(0) % 2 * 2 - 1
    estimator.in_proj.bias[mel : mel + ANCHORS] = ANCHOR * signs
    for block in estimator.blocks:
        _open_gates(block.adaLN_modulation[1])
        for branch in (block.attn.proj, block.mlp.fc2, block.conv.block["6"]):
            nn.init.zeros_(branch.weight)
            nn.init.zeros_(branch.bias)
    divisor = ANCHOR * math.sqrt(ANCHORS / width)
    final = estimator.final_layer.linear
    nn.init.zeros_(final.weight)
    nn.init.zeros_(final.bias)
    final.weight[:, plus] = 0.5 * divisor * torch.eye(mel)
    final.weight[:, minus] = -0.5 * divisor * torch.eye(mel)
    _fit_final_scale(estimator)


def _fit_final_scale(estimator: DiT) -> None:
    """Let the last modulation be no shift and a scale of 1 / (1 - t), bounded, by ridge regression.

    The few times that a solver of `STEPS` steps asks for count as much as all others together. What is left
    of the difference makes the final norm's divisor a little larger than the anchors alone; that is undone.
    """
    asked = 1 - torch.cos(torch.linspace(0, 1, STEPS + 1)[:-1] * 0.5 * math.pi)
    times = torch.cat([torch.linspace(0.0, 1.0, 801), asked.repeat_interleave(800 // STEPS)])
    features = F.silu(estimator.t_embedder(times))
    features = torch.cat([features, torch.ones(len(times), 1)], 1).double()
    left = 2 * estimator.config.out_channels * (DIFFERENCE * (1 - times)) ** 2 / (ANCHORS * ANCHOR**2)
    wanted = ((1.0 + left).sqrt() / (1.0 - times).clamp(min=1.0 / MAX_GAIN) - 1.0).double()
    ridge = 1e-6 * torch.eye(features.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(features.T @ features + ridge, features.T @ wanted).float()
    layer = estimator.final_layer.adaLN_modulation[1]
    width = estimator.config.hidden
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    layer.weight[width:] = solved[:-1]
    layer.bias[width:] = solved[-1]


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
        return self._loss([self.train[i] for i in chosen], rng, chunk)

    def _loss(
        self, utterances: list[Utterance], rng: np.random.Generator, chunk: int | None
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
        velocities, mus = self.flow(codes, noisy, times, speakers, conditions, chunk_codes=chunk)
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
        found = self._loss(self.held_out, rng, None)[1]
        torch.set_rng_state(state)
        return found


class EncoderTask(FlowTask):
    """The encoder's guess alone: half the work of a whole pass, and what the DiT builds on."""

    def _loss(
        self, utterances: list[Utterance], rng: np.random.Generator, chunk: int | None
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
            decay_part=0.3,
            validate_every=600,
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
