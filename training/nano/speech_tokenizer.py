"""Stage `speech-tokenizer`: 16 kHz log-mel to codes, trained on the teacher's known codes.

Four classifiers (phone, position, boundary, pitch) at 25 Hz; their answers put together are the code. It
serves voice prompts: a new voice is described by codes, a mel and a speaker embedding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadence.audio.features import log_mel
from training.nano import phones
from training.nano.fit import Task, fit, trained
from training.nano.onnx_files import halve_weights
from training.nano.settings import SAMPLE_RATE_HZ
from training.nano.speech import Store, Utterance, batches_by_length

NUM_MELS, FRAMES_PER_CODE = 128, 4
WIDTH, WIDE_BLOCKS, BLOCKS = 160, 2, 5
NUM_STEPS = 6_000
BATCH = 16
LEARNING_RATE = 2e-3
_COUNTS = (phones.NUM_PHONES, phones.NUM_POSITIONS, phones.NUM_BOUNDARIES, phones.NUM_PITCHES)
_WEIGHTS = (1.0, 0.3, 0.3, 0.3)
_QUIET = -1.5


class Block(nn.Module):
    """Depthwise convolution and a pointwise MLP (ConvNeXt), with the utterance's mean mixed in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.context = nn.Linear(width, width)
        self.wide = nn.Linear(width, 3 * width)
        self.narrow = nn.Linear(3 * width, width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x [B, T, C], valid [B, T, 1] as 0 and 1 -> [B, T, C]."""
        y = self.norm(self.depthwise((x * valid).transpose(1, 2)).transpose(1, 2))
        mean = (y * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True)
        output: Tensor = x + self.narrow(F.gelu(self.wide(y + self.context(mean))))
        return output


class SpeechTokenizerNet(nn.Module):
    """Convolutions from 100 to 25 Hz, blocks at 50 and 25 Hz, four classifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(NUM_MELS, WIDTH, 3, padding=1)
        self.halve = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.wide_blocks = nn.ModuleList([Block(WIDTH) for _ in range(WIDE_BLOCKS)])
        self.halve_again = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList([Block(WIDTH) for _ in range(BLOCKS)])
        self.norm = nn.LayerNorm(WIDTH)
        self.heads = nn.ModuleList([nn.Linear(WIDTH, count) for count in _COUNTS])

    def forward(self, feats: Tensor, lengths: Tensor) -> list[Tensor]:
        """feats [B, 128, T], lengths [B] -> logits [B, ⌈T/4⌉, n] of the four parts."""
        frames = torch.arange(feats.shape[2])
        x = torch.where(frames[None, None] < lengths[:, None, None], feats, torch.full_like(feats, _QUIET))
        x = F.gelu(self.halve(F.gelu(self.stem(x))))
        valid = (frames[: x.shape[2]] * 2 < lengths[:, None])[..., None].to(x.dtype)
        x = x.transpose(1, 2)
        for block in self.wide_blocks:
            x = block(x, valid)
        x = self.halve_again((x * valid).transpose(1, 2)).transpose(1, 2)
        valid = (frames[: x.shape[1]] * FRAMES_PER_CODE < lengths[:, None])[..., None].to(x.dtype)
        for block in self.blocks:
            x = block(x, valid)
        x = self.norm(x)
        return [head(x) for head in self.heads]


class CodesOf(nn.Module):
    """The network as the checkpoint's ONNX file: features and lengths to codes."""

    def __init__(self, net: SpeechTokenizerNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, feats: Tensor, feats_length: Tensor) -> Tensor:
        """feats [B, 128, T], feats_length int32 [B] -> codes int32 [B, ⌈T/4⌉]."""
        phone, position, boundary, pitch = (part.argmax(-1) for part in self.net(feats, feats_length))
        code = phone + phones.NUM_PHONES * (
            position + phones.NUM_POSITIONS * (boundary + phones.NUM_BOUNDARIES * pitch)
        )
        return code.to(torch.int32)


def vary(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Another vocal tract and a noisy room, in the log-mel domain: mel [128, T] -> same."""
    if rng.random() < 0.6:
        factor = float(np.exp(rng.uniform(-0.16, 0.16)))
        at = torch.arange(NUM_MELS) * factor
        low = at.floor().long().clamp(max=NUM_MELS - 2)
        part = (at - low).clamp(0, 1)[:, None]
        mel = mel[low] * (1 - part) + mel[low + 1] * part
    if rng.random() < 0.5:
        floor = (
            float(mel.max())
            - rng.uniform(0.6, 2.0)
            + rng.uniform(-0.3, 0.3) * torch.linspace(-1, 1, NUM_MELS)[:, None]
        )
        mel = torch.logaddexp(mel * 4 * np.log(10), floor * 4 * np.log(10) + 0.5 * torch.randn_like(mel)) / (
            4 * np.log(10)
        )
    return torch.maximum(mel, mel.max() - 2.0)


class TokenizerTask:
    """Batches of both voices; features are computed once and kept in half precision."""

    def __init__(self, net: SpeechTokenizerNet) -> None:
        self.net = net
        self.stores = {voice: Store(voice) for voice in ("female", "male")}
        self.train = [u for store in self.stores.values() for u in store.split(held_out=False)]
        self.held_out = {voice: store.split(held_out=True)[:48] for voice, store in self.stores.items()}
        self.batches = batches_by_length([len(u.codes) for u in self.train], BATCH)
        self._mels: dict[tuple[str, int], Tensor] = {}

    def mel(self, utterance: Utterance) -> Tensor:
        """[128, T] float32."""
        key = (utterance.voice, utterance.offset)
        if key not in self._mels:
            samples = self.stores[utterance.voice].samples(utterance)
            wide = soxr.resample(samples, SAMPLE_RATE_HZ, 16_000).astype(np.float32)
            self._mels[key] = torch.from_numpy(log_mel(wide, NUM_MELS, padding=0)).half()
        return self._mels[key].float()

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Of one random batch, varied."""
        chosen = [self.train[i] for i in self.batches[rng.integers(len(self.batches))]]
        loss, found = self._loss(chosen, [vary(self.mel(u), rng) for u in chosen])
        return loss, {"phone": found["phone"], "pitch": found["pitch"]}

    def _loss(self, chosen: list[Utterance], mels: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
        lengths = torch.tensor([mel.shape[1] for mel in mels])
        feats = torch.full((len(mels), NUM_MELS, int(lengths.max())), _QUIET)
        codes = torch.full((len(mels), -(-feats.shape[2] // FRAMES_PER_CODE)), -1)
        for row, (mel, utterance) in enumerate(zip(mels, chosen, strict=True)):
            feats[row, :, : mel.shape[1]] = mel
            codes[row, : len(utterance.codes)] = torch.tensor(utterance.codes)[: codes.shape[1]]
        logits = self.net(feats, lengths)
        counted = codes >= 0
        parts = phones.split_code(codes[counted].numpy())
        wanted = [torch.from_numpy(part) for part in parts]
        loss = torch.zeros(())
        found = {}
        for name, weight, logit, part in zip(
            ("phone", "position", "boundary", "pitch"), _WEIGHTS, logits, wanted, strict=True
        ):
            guess = logit[counted]
            loss = loss + weight * F.cross_entropy(guess, part)
            found[name] = float((guess.argmax(-1) == part).float().mean())
        return loss, found

    def validate(self) -> dict[str, float]:
        """Accuracy of the four parts per frame, for each voice."""
        found: dict[str, float] = {}
        for voice, utterances in self.held_out.items():
            accuracy = self._loss(utterances, [self.mel(u) for u in utterances])[1]
            found |= {f"{voice}_{part}": value for part, value in accuracy.items()}
        return found


def export(path: Path) -> None:
    """Write the trained network as `speech_tokenizer_v2_25hz.onnx`."""
    net = SpeechTokenizerNet()
    net.load_state_dict(trained("speech-tokenizer", averaged=True)[0])
    example = (torch.zeros(1, NUM_MELS, 203), torch.tensor([203], dtype=torch.int32))
    torch.onnx.export(
        CodesOf(net.eval()),
        example,
        str(path),
        input_names=["feats", "feats_length"],
        output_names=["indices"],
        dynamic_axes={"feats": {0: "B", 2: "T"}, "feats_length": {0: "B"}, "indices": {0: "B", 1: "L"}},
        opset_version=17,
        dynamo=False,
    )
    halve_weights(path)


def run() -> dict[str, float]:
    """Train from the last checkpoint on."""
    torch.manual_seed(0)
    net = SpeechTokenizerNet()
    task = TokenizerTask(net)
    return fit(
        Task(
            name="speech-tokenizer",
            module=net,
            loss=task.loss,
            validate=task.validate,
            num_steps=NUM_STEPS,
            learning_rate=LEARNING_RATE,
            average=0.998,
            validate_every=600,
        )
    )
