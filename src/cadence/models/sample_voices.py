"""Voice prompts for the sample checkpoint: a buzz through moving formants, sung by nobody."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["write_voices"]

# Formants F1..F3 of five vowels, Hz, after Peterson & Barney's averages for men.
_VOWELS = np.array(
    [[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410]]
)
_BANDWIDTH_HZ = np.array([80.0, 110.0, 160.0])


def write_voices(folder: Path, seed: int) -> None:
    """Write default_female.wav and default_male.wav (mono, 16 bit, 24 kHz, about 2 s)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pitch_hz, tract, seconds in (
        ("default_female", 205.0, 1.17, 2.2),
        ("default_male", 118.0, 1.0, 1.9),
    ):
        samples = _sing(pitch_hz, tract, seconds, np.random.default_rng([seed, *name.encode()]))
        _write_wav(folder / f"{name}.wav", samples, 24_000)


def _sing(
    pitch_hz: float, tract: float, seconds: float, rng: np.random.Generator, rate_hz: int = 24_000
) -> NDArray[np.float64]:
    """Harmonics weighted by three gliding formants, with syllables and a little breath; peak 0.5."""
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    knots = np.arange(0.0, seconds + 0.25, 0.25)
    vowels = _VOWELS[rng.integers(0, len(_VOWELS), len(knots))] * tract
    formants = [np.interp(time, knots, vowels[:, i]) for i in range(3)]
    melody = np.interp(time, knots, pitch_hz * (1 + 0.08 * rng.standard_normal(len(knots))))
    phase = 2 * np.pi * np.cumsum(melody) / rate_hz
    sound = np.zeros_like(time)
    for k in range(1, int(5000 / pitch_hz)):
        gain = sum(
            width / np.hypot(k * melody - centre, width)
            for centre, width in zip(formants, _BANDWIDTH_HZ, strict=True)
        )
        sound += gain / k**0.5 * np.sin(k * phase)
    syllables = np.clip(1.3 * np.sin(np.pi * time / 0.25 * 0.5 + 0.3) ** 2, 0.0, 1.0)
    sound = sound * syllables + 0.05 * rng.standard_normal(len(time))
    return np.asarray(0.5 * sound / np.abs(sound).max())


def _write_wav(path: Path, samples: NDArray[np.float64], rate_hz: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
