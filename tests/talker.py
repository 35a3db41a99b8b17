"""A talker made of formulas: what a voice activity detector takes for speech, with no one's voice in it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["talk"]

# Formants F1..F3 of five vowels, Hz, after Peterson & Barney's averages for men; F4 stays where it is.
_VOWELS = np.array(
    [[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410]], float
)
_F4_HZ = 3500.0
_BANDWIDTHS_HZ = (60.0, 90.0, 150.0, 250.0)
_BREATH = 0.0005
_TOP_HZ = 4000.0


def talk(
    seconds: float, *, seed: int = 0, rate_hz: int = 16_000, pitch_hz: float = 120.0
) -> NDArray[np.float32]:
    """Syllables without words, float32 [T], ±0.5: gliding vowels, then a hiss or a short stop."""
    return _talk(seconds, seed, rate_hz, pitch_hz).copy()


@lru_cache(maxsize=64)
def _talk(seconds: float, seed: int, rate_hz: int, pitch_hz: float) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    num_samples = round(seconds * rate_hz)
    sound = np.zeros(0)
    while sound.size < num_samples:
        consonant = _hiss(rng, rate_hz) if rng.random() < 0.6 else np.zeros(rate_hz // 25)
        sound = np.concatenate((sound, _vowel(rng, rate_hz, pitch_hz), consonant))
    breath = _BREATH * rng.standard_normal(num_samples)
    return (sound[:num_samples] + breath).astype(np.float32)


def _vowel(rng: np.random.Generator, rate_hz: int, pitch_hz: float) -> NDArray[np.float64]:
    """Harmonics of a falling pitch through four resonances in a row."""
    size = int(rate_hz * rng.uniform(0.12, 0.25))
    time = np.arange(size) / rate_hz
    melody = pitch_hz * (1 + 0.1 * rng.standard_normal()) * np.linspace(1.1, 0.9, size)
    phase = 2 * np.pi * np.cumsum(melody) / rate_hz
    start, end = _VOWELS[rng.integers(len(_VOWELS), size=2)]
    formants = [*np.linspace(start, end, size).T, np.full(size, _F4_HZ)]
    sound = np.zeros(size)
    for k in range(1, int(_TOP_HZ / pitch_hz)):
        sound += _resonance(k * melody, formants) / k * np.sin(k * phase)
    rise_and_fall = np.minimum(1, np.minimum(time / 0.03, (time[-1] - time) / 0.05))
    return 0.5 * rng.uniform(0.6, 1) * rise_and_fall * sound / np.abs(sound).max()


def _resonance(hz: NDArray[np.float64], formants: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    gain = np.ones(hz.size)
    for centre, width in zip(formants, _BANDWIDTHS_HZ, strict=True):
        gain *= centre**2 / np.hypot(hz**2 - centre**2, hz * width)
    return gain


def _hiss(rng: np.random.Generator, rate_hz: int) -> NDArray[np.float64]:
    """A band of noise, as in s or f."""
    size = int(rate_hz * rng.uniform(0.05, 0.11))
    hz = np.fft.rfftfreq(size, 1 / rate_hz)
    band = np.exp(-(((hz - rng.uniform(2500, 5500)) / 1200) ** 2))
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * band, size) * np.hanning(size)
    return 0.15 * noise / np.abs(noise).max()
