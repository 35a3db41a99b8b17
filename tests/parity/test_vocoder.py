"""The vocoder and the voice prompt against the reference; tests/data/make_vocoder_golden.py made the data."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from cadence.audio.features import fbank, log_mel
from cadence.audio.sinc import sinc_resample
from cadence.models.hift import FRAME_SAMPLES, HiFT, HiFTState
from cadence.models.hift_weights import load_hift
from cadence.token2wav.voices import VoiceEncoder

DATA = Path(__file__).parents[1] / "data"
OFFLINE_FRAMES, KEEP, NOISE_SEED = 20, 7, 5


def error(found: np.ndarray | torch.Tensor, expected: np.ndarray) -> float:
    """Largest difference in units of the expected array's deviation."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / expected.std())


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(DATA / "hift_tiny.npz"))


@pytest.fixture(scope="module")
def hift(tiny_checkpoint: Path) -> HiFT:
    return load_hift(tiny_checkpoint / "token2wav")


@pytest.fixture
def mel(golden: dict[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(golden["mel"].astype(np.float32))


def test_pitch(hift: HiFT, golden: dict[str, np.ndarray], mel: torch.Tensor) -> None:
    assert error(hift.f0_predictor(mel[None, :, :OFFLINE_FRAMES])[0].detach(), golden["f0"]) < 1e-4


def test_source_from_the_reference_pitch(hift: HiFT, golden: dict[str, np.ndarray]) -> None:
    # Phases sum up the pitch: its last bits would hide whether the source itself is right.
    pitch = torch.from_numpy(golden["f0"][None])
    assert error(hift.m_source(pitch, None)[0].detach(), golden["source"]) < 1e-5


def test_sound_from_the_reference_source(
    hift: HiFT, golden: dict[str, np.ndarray], mel: torch.Tensor
) -> None:
    with torch.inference_mode():
        sound = hift.synthesise(mel[None, :, :OFFLINE_FRAMES], torch.from_numpy(golden["source"][None]))
    assert error(sound[0], golden["wav"]) < 1e-4


def test_whole_utterance(hift: HiFT, golden: dict[str, np.ndarray], mel: torch.Tensor) -> None:
    sound, source = hift.vocode(mel[None, :, :OFFLINE_FRAMES])
    assert error(source[0], golden["source"]) < 1e-3
    assert error(sound[0], golden["wav"]) < 1e-3


def test_whole_utterance_with_noise(hift: HiFT, golden: dict[str, np.ndarray], mel: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(NOISE_SEED)
    torch.rand(1, 9, generator=generator)  # start phases, which the reference draws to no effect
    noise = torch.randn(1, OFFLINE_FRAMES * FRAME_SAMPLES, 9, generator=generator)
    sound, source = hift.vocode(mel[None, :, :OFFLINE_FRAMES], noise=noise)
    assert error(source[0, ::KEEP], golden["source_noisy"]) < 1e-3
    assert error(sound[0, ::KEEP], golden["wav_noisy"]) < 1e-3


def test_stream(hift: HiFT, golden: dict[str, np.ndarray], mel: torch.Tensor) -> None:
    state, cuts = HiFTState(), golden["cuts"].tolist()
    parts = [
        hift.stream(state, part, last=i == len(cuts) - 1) for i, part in enumerate(mel.split(cuts, dim=1))
    ]
    held = 8 * FRAME_SAMPLES
    sizes = np.array(cuts) * FRAME_SAMPLES
    sizes[0], sizes[-1] = sizes[0] - held, sizes[-1] + held
    assert [len(part) for part in parts] == sizes.tolist()
    assert error(torch.cat(parts) * 32767, golden["pcm"]) < 3e-3  # of which 1e-3 are the rounding to 16 bit


def test_voice_prompt(tiny_checkpoint: Path) -> None:
    golden = dict(np.load(DATA / "voice_tiny.npz"))
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes(golden["pcm"].T.tobytes())
    heard = sinc_resample(golden["pcm"][0].astype(np.float32) / 32768, 24_000, 16_000)
    assert error(heard[:400], golden["audio16"]) < 1e-5
    assert error(log_mel(heard, padding=0)[:, :24], golden["log_mel"]) < 1e-3
    assert error(log_mel(heard)[:, -24:], golden["log_mel_padded"]) < 1e-3
    assert error(fbank(heard)[:24], golden["fbank"]) < 1e-3
    prompt = VoiceEncoder(tiny_checkpoint / "token2wav").encode(data.getvalue())
    assert prompt.codes.tolist() == golden["codes"].tolist()
    assert prompt.mel.shape == (2 * len(prompt.codes), 80)
    assert error(prompt.mel[-24:], golden["prompt_mel"]) < 1e-3
    assert error(prompt.embedding, golden["embedding"]) < 1e-3
