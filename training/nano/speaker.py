"""Stage `speaker`: filter banks to a speaker embedding, the checkpoint's campplus.onnx.

A small time-delay network, taught to point at the fixed vectors the flow is trained with. The teachers
resampled to other pitches and vocal tracts stand in for further speakers.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadence.audio.features import fbank
from training.nano.fit import Task, fit, trained
from training.nano.onnx_files import halve_weights
from training.nano.settings import SAMPLE_RATE_HZ
from training.nano.speaker_vectors import SPEAKER_DIM, VOICES, speaker_table
from training.nano.speech import Store, Utterance

NUM_BANKS, WIDTH, POOLED = 80, 96, 192
WARPS = (1.0, 0.78, 0.86, 1.12, 1.25, 1.4)  # 1.0 is the voice itself
NUM_STEPS = 600
BATCH, CROP_S = 24, 1.6
LEARNING_RATE = 2e-3
SCALE, MARGIN, VECTOR_WEIGHT = 16.0, 0.15, 2.0


class SpeakerNet(nn.Module):
    """Dilated convolutions, mean and deviation over time, a projection."""

    def __init__(self) -> None:
        super().__init__()
        shape = ((NUM_BANKS, WIDTH, 5, 1), (WIDTH, WIDTH, 3, 2), (WIDTH, WIDTH, 3, 3), (WIDTH, POOLED, 1, 1))
        self.layers = nn.ModuleList(
            [nn.Conv1d(i, o, k, dilation=d, padding=d * (k // 2)) for i, o, k, d in shape]
        )
        self.norms = nn.ModuleList([nn.BatchNorm1d(o) for _, o, _, _ in shape])
        self.project = nn.Linear(2 * POOLED, SPEAKER_DIM)

    def forward(self, input: Tensor) -> Tensor:
        """Filter banks [B, T, 80] -> embeddings [B, 192]."""
        x = input.transpose(1, 2)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(F.relu(layer(x)))
        mean = x.mean(2)
        deviation = ((x - mean[..., None]).pow(2).mean(2) + 1e-5).sqrt()
        output: Tensor = self.project(torch.cat([mean, deviation], 1))
        return output


def speaker_index(voice: str, warp: float) -> int:
    """Row of the speaker table: the voices themselves first."""
    v, w = VOICES.index(voice), WARPS.index(warp)
    return v if w == 0 else len(VOICES) + v * (len(WARPS) - 1) + w - 1


class SpeakerTask:
    """Random crops of both voices at random warps."""

    def __init__(self, net: SpeakerNet) -> None:
        self.net = net
        self.stores = {voice: Store(voice) for voice in VOICES}
        self.num_speakers = len(VOICES) * len(WARPS)

    @lru_cache(maxsize=8)  # noqa: B019  # the task lives as long as the training
    def _pool(self, voice: str, held_out: bool) -> list[Utterance]:
        shortest = (CROP_S * max(WARPS) + 0.1) * SAMPLE_RATE_HZ
        return [u for u in self.stores[voice].split(held_out=held_out) if u.num_samples > shortest]

    def _draw(self, rng: np.random.Generator, held_out: bool) -> tuple[Tensor, Tensor]:
        rows, labels = [], []
        for _ in range(BATCH):
            voice = VOICES[rng.integers(len(VOICES))]
            warp = 1.0 if rng.random() < 0.4 else WARPS[rng.integers(1, len(WARPS))]
            pool = self._pool(voice, held_out)
            utterance = pool[rng.integers(len(pool))]
            count = int(CROP_S * warp * SAMPLE_RATE_HZ)
            part = self.stores[voice].samples(
                utterance, int(rng.integers(utterance.num_samples - count)), count
            )
            samples = soxr.resample(part, SAMPLE_RATE_HZ * warp, 16_000, quality="LQ").astype(np.float32)
            samples = samples * rng.uniform(0.3, 1.0) + rng.choice([0.0, 1e-4, 1e-3]) * rng.standard_normal(
                len(samples)
            )
            banks = fbank(samples.astype(np.float32))[: int(CROP_S * 100) - 4]
            rows.append(banks)
            labels.append(speaker_index(voice, warp))
        shortest = min(map(len, rows))
        return torch.from_numpy(np.stack([row[:shortest] for row in rows])), torch.tensor(labels)

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cosine softmax with a margin, plus distance to the fixed vector."""
        return self._loss(*self._draw(rng, held_out=False))

    def _loss(self, banks: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        table = speaker_table()[: self.num_speakers]
        cosine = F.normalize(self.net(banks), dim=1) @ table.T
        target = F.one_hot(labels, self.num_speakers)
        own = (cosine * target).sum(1)
        loss = F.cross_entropy(SCALE * (cosine - MARGIN * target), labels) + VECTOR_WEIGHT * (1 - own).mean()
        return loss, {
            "accuracy": float((cosine.argmax(1) == labels).float().mean()),
            "own_cosine": own.mean().item(),
        }

    def validate(self) -> dict[str, float]:
        """The same on held-out speech."""
        rng = np.random.default_rng(0)
        found = [self._loss(*self._draw(rng, held_out=True))[1] for _ in range(6)]
        return {key: float(np.mean([f[key] for f in found])) for key in found[0]}


def export(path: Path) -> None:
    """Write the trained network as `campplus.onnx`."""
    net = SpeakerNet()
    net.load_state_dict(trained("speaker")[0])
    torch.onnx.export(
        net.eval(),
        (torch.zeros(1, 200, NUM_BANKS),),
        str(path),
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "B", 1: "T"}, "output": {0: "B"}},
        opset_version=17,
        dynamo=False,
    )
    halve_weights(path)


def run() -> dict[str, float]:
    """Train from the last checkpoint on."""
    torch.manual_seed(0)
    net = SpeakerNet()
    task = SpeakerTask(net)
    return fit(
        Task(
            name="speaker",
            module=net,
            loss=task.loss,
            validate=task.validate,
            num_steps=NUM_STEPS,
            learning_rate=LEARNING_RATE,
            validate_every=300,
        )
    )
