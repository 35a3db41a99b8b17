"""Stage `flow`: codes to mel. First the encoder alone learns a plain guess (mu), then the DiT joins.

The checkpoint asks for one solver step, so that is what is trained: from noise at time 0 to the mel at once,
behind a prompt of the same voice as in use. Half of the passes attend as a stream does, in chunks of random
size, so that streaming is trained in.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadence.audio.features import prompt_mel
from cadence.models.conformer import NoMemory
from cadence.models.dit import DiT
from cadence.models.flow import Flow
from cadence.models.flow_config import DiTConfig, EncoderConfig, FlowConfig
from training.nano import phones
from training.nano.fit import Task, fit, stage_dir, trained
from training.nano.speaker_vectors import SPEAKER_DIM, VOICES, speaker_vector
from training.nano.speech import Store, Utterance

MEL_DIM = 80
GUIDANCE = 0.0  # codes say so much that it is not needed
STEPS = 1  # of the solver: the one that is trained
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
NUM_STEPS = 6_000
ENCODER_STEPS = 6_000
BATCH = 8
LEARNING_RATE, FLOW_LEARNING_RATE = 1e-3, 6e-4  # of the encoder alone, of all
MU_WEIGHT = 0.5
SHARES = {"female": 0.33, "male": 0.2, "male-timed": 0.47}  # of the utterances
PROMPT_SHARE, MIN_PROMPT, MAX_PROMPT = 0.85, 30, 90  # codes
MISREAD_SHARE, MISREAD = 0.7, 0.2  # prompts with errors of the speech tokenizer, and how many of their codes
FEMALE_PITCH_SHARE = 0.7  # of the lines in the female teacher's timing
CHUNKED_SHARE, MIN_CHUNK, MAX_CHUNK = 0.5, 5, 30
SPEAKER_NOISE = 0.04
SPEAKER_SCALE = 1.0  # of the initial speaker projection: outputs as large as a mel's deviation
MEL_MEAN = -6.0
ANCHORS, ANCHOR, VIEW_WEIGHT, MAX_GAIN = 16, 400.0, 0.2, 8.0
DIFFERENCE = 6.5  # of mel and noise, root mean square
HELD_OUT = 24  # utterances of each store
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
        nn.init.normal_(flow.spk_embed_affine_layer.weight, std=SPEAKER_SCALE)
    aim_at_mu(flow.estimator)
    return flow


@torch.no_grad()
def aim_at_mu(estimator: DiT) -> None:
    """Make the velocity (mu - x) / (1 - t), which ends at mu whatever the steps; training improves on it.

    The difference rides through the residual stream twice, with either sign, so that its mean is zero;
    `ANCHORS` channels of a large constant keep the final norm's divisor nearly the same for all frames;
    blocks start as identities; the final scale is fitted to 1 / (1 - t). Both copies of the difference
    also carry a random view of the conditions, which cancels at the end and gives the blocks something to
    see: beside the anchors it is small in a block's norm, so the blocks' scales enlarge it and leave the
    anchors out.
    """
    config = estimator.config
    width, mel = config.hidden, config.out_channels
    plus, minus = slice(0, mel), slice(mel + ANCHORS, 2 * mel + ANCHORS)
    view = VIEW_WEIGHT * torch.randn(mel, config.in_channels)
    view[:, :mel] = 0.0  # not of the noise
    weight = torch.zeros(width, config.in_channels)
    for rows, sign in ((plus, 1.0), (minus, -1.0)):
        weight[rows] = view
        weight[rows, :mel] -= sign * torch.eye(mel)
        weight[rows, mel : 2 * mel] += sign * torch.eye(mel)
    estimator.in_proj.weight.copy_(weight)
    estimator.in_proj.bias.zero_()
    divisor = ANCHOR * math.sqrt(ANCHORS / width)
    scales = torch.full((width,), divisor / DIFFERENCE - 1.0)
    scales[mel : mel + ANCHORS] = -1.0
    signs = torch.ones(ANCHORS).cumsum(0) % 2 * 2 - 1
    estimator.in_proj.bias[mel : mel + ANCHORS] = ANCHOR * signs
    for block in estimator.blocks:
        _open_gates(block.adaLN_modulation[1], scales)
        for branch in (block.attn.proj, block.mlp.fc2, block.conv.block["6"]):
            nn.init.zeros_(branch.weight)
            nn.init.zeros_(branch.bias)
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


def freeze_time(estimator: DiT) -> None:
    """Leave the dependence on time as it is.

    One solver step has one time, so biases say all there is to say; and a step of the optimiser moves the
    last scale, a sum over all features of time, by percents of the whole mel.
    """
    for layer in (estimator.t_embedder, estimator.final_layer.adaLN_modulation):
        layer.requires_grad_(False)
    for block in estimator.blocks:
        block.adaLN_modulation[1].weight.requires_grad_(False)


def _open_gates(layer: nn.Linear, scales: Tensor) -> None:
    """No shift, the given scales, gates at one; all of it learns to depend on time."""
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    layer.bias.view(_MODULATED, -1)[1::3] = scales
    layer.bias.view(_MODULATED, -1)[2::3] = 1.0


class Example(NamedTuple):
    """An utterance behind a prompt of its voice."""

    codes: Tensor  # [n]
    mel: Tensor  # [2 n, 80]
    num_known: int  # frames of the prompt
    voice: str


class FlowTask:
    """Utterances of both voices, each behind a prompt of its voice.

    The language model writes codes that go like the female teacher's. So that they can be spoken in the male
    voice, many examples are the male teacher in her timing, most of those with her pitch in the codes.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.stores = {name: Store(name) for name in SHARES}
        split = {name: (s.split(held_out=False), s.split(held_out=True)) for name, s in self.stores.items()}
        train, held_out = split["male-timed"]
        split["male-timed"] = (train[:-HELD_OUT], held_out or train[-HELD_OUT:])
        self.train = {name: parts[0] for name, parts in split.items()}
        self.held_out = {name: parts[1][:HELD_OUT] for name, parts in split.items()}
        wanted = {u.text for u in train}
        self._female = {u.text: u.codes for u in Store("female", sound=False).utterances if u.text in wanted}

    def mel(self, utterance: Utterance) -> Tensor:
        """[2 n, 80] of an utterance of n codes."""
        return torch.from_numpy(prompt_mel(self.stores[utterance.voice].samples(utterance)))

    def example(self, rng: np.random.Generator, utterance: Utterance) -> Example:
        """The utterance, mostly behind a prompt."""
        codes, mel = self._codes(rng, utterance), self.mel(utterance)
        voice = utterance.voice.partition("-")[0]
        if rng.random() >= PROMPT_SHARE:
            return Example(torch.from_numpy(codes), mel, 0, voice)
        prompt = self.train[voice][rng.integers(len(self.train[voice]))]
        length = min(len(prompt.codes), int(rng.integers(MIN_PROMPT, MAX_PROMPT)))
        read = np.asarray(prompt.codes[:length])
        if rng.random() < MISREAD_SHARE:
            wrong = rng.random(length) < MISREAD
            read = np.where(wrong, rng.permutation(read), read)
        mel = torch.cat([self.mel(prompt)[: 2 * length], mel])
        return Example(torch.from_numpy(np.concatenate([read, codes])), mel, 2 * length, voice)

    def _codes(self, rng: np.random.Generator, utterance: Utterance) -> npt.NDArray[np.int64]:
        codes = np.asarray(utterance.codes)
        female = self._female.get(utterance.text)
        if utterance.voice != "male-timed" or female is None or rng.random() >= FEMALE_PITCH_SHARE:
            return codes
        phone, position, boundary, pitch = phones.split_code(codes)
        theirs = phones.split_code(np.asarray(female))[3]
        count = min(len(theirs), len(pitch))
        pitch[:count] = np.where(phones.are_voiced(phone[:count]), theirs[:count], pitch[:count])
        return phones.join_code(phone, position, boundary, pitch)

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Of one random batch."""
        chunk = int(rng.integers(MIN_CHUNK, MAX_CHUNK)) if rng.random() < CHUNKED_SHARE else None
        names = rng.choice(list(SHARES), BATCH, p=list(SHARES.values()))
        chosen = [self.train[name][rng.integers(len(self.train[name]))] for name in names]
        found, guess = self._errors([self.example(rng, u) for u in chosen], chunk)
        return found + MU_WEIGHT * guess, {"mel": found.item(), "mu": guess.item()}

    def _errors(self, examples: list[Example], chunk: int | None) -> tuple[Tensor, Tensor]:
        """Mean distance of the mel after one solver step, where it is not known, and of mu."""
        noise = [torch.randn_like(e.mel) for e in examples]
        conditions = [torch.cat([e.mel[: e.num_known], 0 * e.mel[e.num_known :]]) for e in examples]
        speakers = torch.stack([speaker_vector(e.voice) for e in examples])
        speakers = speakers + SPEAKER_NOISE * torch.randn_like(speakers)
        velocities, mus = self.flow(
            [e.codes for e in examples], noise, torch.zeros(1), speakers, conditions, chunk_codes=chunk
        )
        ends = [z + v for z, v in zip(noise, velocities, strict=True)]
        found = torch.cat([end[e.num_known :] for end, e in zip(ends, examples, strict=True)])
        wanted = torch.cat([e.mel[e.num_known :] for e in examples])
        guess = F.l1_loss(torch.cat(mus), torch.cat([e.mel for e in examples]))
        return F.l1_loss(found, wanted), guess

    def validate(self) -> dict[str, float]:
        """Held-out utterances, whole, with fixed noise and prompts."""
        found = {}
        state = torch.get_rng_state()
        for name, utterances in self.held_out.items():
            torch.manual_seed(0)
            rng = np.random.default_rng(0)
            mel, mu = self._errors([self.example(rng, u) for u in utterances], None)
            found |= {f"mel_{name}": mel.item(), f"mu_{name}": mu.item()}
        torch.set_rng_state(state)
        return found


class EncoderTask:
    """The encoder's guess alone: half the work of a whole pass, and what the DiT builds on."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.stores = {voice: Store(voice) for voice in VOICES}
        self.train = [u for store in self.stores.values() for u in store.split(held_out=False)]
        self.held_out = [u for s in self.stores.values() for u in s.split(held_out=True)[:HELD_OUT]]

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Of one random batch."""
        chunk = int(rng.integers(MIN_CHUNK, MAX_CHUNK)) if rng.random() < CHUNKED_SHARE else None
        return self._loss([self.train[i] for i in rng.integers(len(self.train), size=BATCH)], chunk)

    def validate(self) -> dict[str, float]:
        """Held-out utterances, whole."""
        return self._loss(self.held_out, None)[1]

    def _loss(self, utterances: list[Utterance], chunk: int | None) -> tuple[Tensor, dict[str, float]]:
        codes = [torch.tensor(u.codes) for u in utterances]
        mus = self.flow.encode(codes, [NoMemory(chunk) for _ in codes], [True] * len(codes))
        mels = [torch.from_numpy(prompt_mel(self.stores[u.voice].samples(u))) for u in utterances]
        guess = F.l1_loss(torch.cat(mus), torch.cat(mels))
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
    if (stage_dir("flow-encoder") / "last.pt").exists():  # else from what `restore` found
        flow.load_state_dict(trained("flow-encoder")[0])
    freeze_time(flow.estimator)
    task = FlowTask(flow)
    return fit(
        Task(
            name="flow",
            module=flow,
            loss=task.loss,
            validate=task.validate,
            num_steps=NUM_STEPS,
            learning_rate=FLOW_LEARNING_RATE,
            weight_decay=0.001,
            average=0.998,
            decay_part=0.4,
            validate_every=500,
            sizes=_sizes(),
        )
    )
