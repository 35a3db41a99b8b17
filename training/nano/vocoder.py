"""Stages `vocoder`, `vocoder-tune`: a small HiFT, trained on teacher speech by spectral losses at four
resolutions, at last on the flow's own mels.

The harmonic source follows the teacher's F0 while training, where the sound itself is periodic: hibari's own
F0 runs on through most unvoiced consonants, which need noise. The F0 predictor learns beside it, from more
crops than the network, as they cost little.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadence.audio.features import prompt_mel
from cadence.models.hift import VOICED_HZ, HiFT, HiFTConfig
from training.nano import pitch
from training.nano.fit import Task, fit, save_start, stage_dir, trained
from training.nano.rendered import Rendered
from training.nano.settings import MEL_SAMPLES, SAMPLE_RATE_HZ
from training.nano.speech import Store, Utterance

# Channels in multiples of 16, fewer and smaller kernels: 1.6 times as fast as 96 channels as usual.
SIZES = HiFTConfig(base_channels=128, f0_channels=96, kernels=(3, 7), dilations=(1, 3))
NUM_STEPS = 12_000
BATCH, CROP_FRAMES, MARGIN_FRAMES = 4, 30, 3
LEARNING_RATE = 1.2e-3
TUNE_STEPS, TUNE_LEARNING_RATE, RENDERED_SHARE = 6_000, 1e-3, 0.75
SHARES = {"female": 0.65, "male": 0.35}  # of the crops
TUNE_SHARES = {"female": 0.3, "male": 0.3, "male-timed": 0.4}
F0_CROPS = 12
F0_SCALE_HZ = 50.0
RESOLUTIONS = ((2048, 300), (1024, 150), (512, 75), (256, 40))


@lru_cache(maxsize=8)
def _window(size: int) -> Tensor:
    return torch.hann_window(size)


@lru_cache(maxsize=8)
def _mel_matrix(n_fft: int) -> Tensor:
    """Triangles on a mel scale over the whole band, [n_fft // 8 at most 128, bins]."""
    count = min(128, n_fft // 8)
    top = 2595.0 * np.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    edges = 700.0 * (10 ** (np.linspace(0, top, count + 2) / 2595.0) - 1)
    hz = np.arange(n_fft // 2 + 1) * SAMPLE_RATE_HZ / n_fft
    rising = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    rows = np.maximum(0, np.minimum(rising, falling))
    return torch.tensor(rows / np.maximum(rows.sum(1, keepdims=True), 1e-3), dtype=torch.float32)


def _magnitude(wave: Tensor, n_fft: int, hop: int) -> Tensor:
    spectrum = torch.view_as_real(
        torch.stft(wave, n_fft, hop, n_fft, _window(n_fft), center=False, return_complex=True)
    )
    return spectrum.pow(2).sum(-1).add(1e-7).sqrt()


def spectral_loss(wave: Tensor, wanted: Tensor) -> Tensor:
    """Distance of log magnitudes, of magnitudes, and of log mel magnitudes; waves [B, S]."""
    total = wave.new_zeros(())
    for n_fft, hop in RESOLUTIONS:
        ours, theirs = _magnitude(wave, n_fft, hop), _magnitude(wanted, n_fft, hop)
        mel = _mel_matrix(n_fft)
        total = total + (ours.log() - theirs.log()).abs().mean()
        total = total + 0.5 * (ours - theirs).norm() / theirs.norm()
        total = total + ((mel @ ours + 1e-4).log() - (mel @ theirs + 1e-4).log()).abs().mean()
    return total / len(RESOLUTIONS)


class VocoderTask:
    """Random crops of all voices; a store without held-out lines is not checked."""

    def __init__(self, model: HiFT, *, rendered: bool = False) -> None:
        """`rendered`: most crops, and all that are held out, begin with the flow's mel."""
        self.model = model
        self.shares = TUNE_SHARES if rendered else SHARES
        self.stores = [Store(voice) for voice in self.shares]
        self.rendered = [Rendered(voice) for voice in self.shares] if rendered else []
        shortest = (CROP_FRAMES + 2 * MARGIN_FRAMES + 2) * MEL_SAMPLES
        self.train = [[u for u in s.split(held_out=False) if u.num_samples > shortest] for s in self.stores]
        self.held_out = [
            [u for u in s.split(held_out=True) if u.num_samples > shortest][:24] for s in self.stores
        ]

        if rendered:
            for pools in (self.train, self.held_out):
                pools[:] = [
                    [u for u in pool if u in mels] for pool, mels in zip(pools, self.rendered, strict=True)
                ]
        self._voiced: dict[tuple[str, int], np.ndarray] = {}

    def f0(self, store: Store, utterance: Utterance) -> np.ndarray:
        """F0 in Hz every 20 ms, 0 where the sound is not periodic."""
        key = (utterance.voice, utterance.offset)
        known = store.f0(utterance)
        if key not in self._voiced:
            track = pitch.track(soxr.resample(store.samples(utterance), SAMPLE_RATE_HZ, 8_000))
            voiced = np.zeros(len(known), bool)
            voiced[: len(track)] = track[: len(known)] > 0
            self._voiced[key] = voiced
        return known * self._voiced[key]

    def crop(
        self, store: Store, utterance: Utterance, begin: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(mel [80, CROP_FRAMES], samples, F0) of the crop at a frame; the mel saw what lies around it."""
        first = (begin - MARGIN_FRAMES) * MEL_SAMPLES
        samples = store.samples(utterance, first, (CROP_FRAMES + 2 * MARGIN_FRAMES) * MEL_SAMPLES)
        mel = prompt_mel(samples)[MARGIN_FRAMES:-MARGIN_FRAMES]
        inner = samples[MARGIN_FRAMES * MEL_SAMPLES : -MARGIN_FRAMES * MEL_SAMPLES]
        return mel.T, inner, self.f0(store, utterance)[begin : begin + CROP_FRAMES]

    def batch(
        self, rng: np.random.Generator, pools: list[list[Utterance]], count: int, rendered_share: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mel [B, 80, F], samples [B, 480 F], F0 [B, F]."""
        shares = np.array(
            [share * bool(pool) for share, pool in zip(self.shares.values(), pools, strict=True)]
        )
        rows = []
        for voice in rng.choice(len(pools), size=count, p=shares / shares.sum()).tolist():
            utterance = pools[voice][rng.integers(len(pools[voice]))]
            frames = utterance.num_samples // MEL_SAMPLES
            begin = int(rng.integers(MARGIN_FRAMES, frames - CROP_FRAMES - MARGIN_FRAMES))
            mel, samples, f0 = self.crop(self.stores[voice], utterance, begin)
            if self.rendered and rng.random() < rendered_share:
                mel = self.rendered[voice](utterance, begin, CROP_FRAMES).T
            rows.append((mel, samples, f0))
        mels, sounds, tracks = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        return mels, sounds, tracks

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Of one random batch."""
        return self._loss(*self.batch(rng, self.train, BATCH + F0_CROPS, RENDERED_SHARE))

    def _loss(self, mel: Tensor, samples: Tensor, f0: Tensor) -> tuple[Tensor, dict[str, float]]:
        heard = mel[:BATCH]
        noise = torch.randn(BATCH, f0.shape[1] * MEL_SAMPLES, 9)
        wave = self.model.synthesise(heard, self.model.m_source(f0[:BATCH], noise))
        spectral = spectral_loss(wave, samples[:BATCH])
        guess = self.model.f0_predictor(mel)
        error = F.l1_loss(guess, f0)
        with torch.no_grad():
            voicing = ((guess > VOICED_HZ) != (f0 > 0)).float().mean().item()
        found = {"spectral": spectral.item(), "f0_hz": error.item(), "voicing_errors": voicing}
        return spectral + error / F0_SCALE_HZ, found

    def validate(self) -> dict[str, float]:
        """The same on held-out crops, always the same ones."""
        rng = np.random.default_rng(0)
        found = [self._loss(*self.batch(rng, self.held_out, BATCH + F0_CROPS, 1.0))[1] for _ in range(8)]
        return {key: float(np.mean([f[key] for f in found])) for key in found[0]}


def build() -> HiFT:
    """A fresh vocoder whose output layers start quiet."""
    torch.manual_seed(0)
    model = HiFT(SIZES)
    nn.init.constant_(model.conv_post.bias, 0.0)
    nn.init.constant_(model.f0_predictor.classifier.bias, 100.0)
    with torch.no_grad():
        model.conv_post.bias[: model.conv_post.out_channels // 2] = -3.0
    return model


def run() -> dict[str, float]:
    """Train from the last checkpoint on."""
    return _fit("vocoder", VocoderTask(build()), NUM_STEPS, LEARNING_RATE)


def run_tune() -> dict[str, float]:
    """Go on from the stage `vocoder` with the flow's mels, which `rendered-*` must have made before."""
    if (stage_dir("vocoder") / "last.pt").exists():  # else from what `restore` found
        save_start("vocoder-tune", trained("vocoder", averaged=True)[0])
    return _fit("vocoder-tune", VocoderTask(build(), rendered=True), TUNE_STEPS, TUNE_LEARNING_RATE)


def _fit(name: str, task: VocoderTask, num_steps: int, learning_rate: float) -> dict[str, float]:
    return fit(
        Task(
            name=name,
            module=task.model,
            loss=task.loss,
            validate=task.validate,
            num_steps=num_steps,
            learning_rate=learning_rate,
            betas=(0.8, 0.99),
            max_norm=5.0,
            average=0.998,
            decay_part=0.4,
            validate_every=1000,
            sizes=dataclasses.asdict(SIZES),
        )
    )
