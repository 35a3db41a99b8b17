"""Feature extraction at its borders; values are checked in tests/parity."""

from __future__ import annotations

import numpy as np
import pytest

from cadence.audio.features import fbank, log_mel, num_patches, prompt_mel
from cadence.audio.sinc import sinc_resample


def tone(num_samples: int, rate_hz: int, hz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(num_samples) / rate_hz)).astype(np.float32)


@pytest.mark.parametrize("num_samples", [1, 159, 160, 16_000, 16_001])
def test_log_mel_has_a_frame_every_10_ms(num_samples: int) -> None:
    mel = log_mel(tone(num_samples, 16_000))
    assert mel.shape == (128, (num_samples + 479) // 160)
    assert mel.dtype == np.float32 and np.isfinite(mel).all()


def test_log_mel_is_relative_to_its_loudest_bin() -> None:
    mel = log_mel(tone(16_000, 16_000), n_mels=80)
    assert mel.shape[0] == 80
    assert mel.max() - mel.min() <= 2.0 + 1e-6  # 80 dB over 40 dB a unit


@pytest.mark.parametrize(("seconds", "patches"), [(25.0, 313), (10.0, 125), (3.0, 38), (0.08, 1)])
def test_patches_for_a_duration(seconds: float, patches: int) -> None:
    num_frames = log_mel(np.zeros(int(seconds * 16_000), np.float32)).shape[1]
    assert num_patches(num_frames) == patches


@pytest.mark.parametrize("num_samples", [721, 24_000, 24_479])
def test_prompt_mel_has_a_frame_every_20_ms(num_samples: int) -> None:
    assert prompt_mel(tone(num_samples, 24_000)).shape == (num_samples // 480, 80)


def test_fbank_mean_is_removed() -> None:
    features = fbank(tone(16_000, 16_000) + 0.01 * np.random.default_rng(0).standard_normal(16_000))
    assert features.shape == (98, 80) and features.dtype == np.float32
    assert np.abs(features.mean(axis=0)).max() < 1e-4


def test_too_little_sound_is_refused() -> None:
    short = np.zeros(200, np.float32)
    for extract in (lambda: log_mel(short, padding=0), lambda: prompt_mel(short), lambda: fbank(short)):
        with pytest.raises(ValueError, match="200 samples are too few"):
            extract()


@pytest.mark.parametrize(
    ("from_hz", "to_hz"), [(44_100, 16_000), (48_000, 24_000), (16_000, 24_000), (44_101, 16_000)]
)
def test_sinc_resampling_keeps_a_tone(from_hz: int, to_hz: int) -> None:
    found = sinc_resample(tone(from_hz, from_hz), from_hz, to_hz)
    assert len(found) == to_hz
    inner = slice(to_hz // 10, -to_hz // 10)
    assert np.abs(found - tone(to_hz, to_hz))[inner].max() < 3e-3


def test_sinc_resampling_removes_what_the_lower_rate_cannot_hold() -> None:
    inner = slice(2000, -2000)
    assert np.abs(sinc_resample(tone(48_000, 48_000, 11_000.0), 48_000, 16_000)[inner]).max() < 3e-3
