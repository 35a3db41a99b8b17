"""The detector tells speech from what is none, and hears a stream alike however it is cut."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cadence.audio.vad import FRAME_SAMPLES, SpeechDetector
from talker import talk

RATE_HZ = 16_000
TIME = np.arange(4 * RATE_HZ) / RATE_HZ


def probabilities(sound: NDArray[np.floating]) -> NDArray[np.float32]:
    detector = SpeechDetector()
    return np.concatenate((detector.push(sound.astype(np.float32)), detector.flush()))


@pytest.mark.parametrize("pitch_hz", [100.0, 200.0])
def test_speech_is_found(pitch_hz: float) -> None:
    speech = probabilities(talk(3.0, pitch_hz=pitch_hz))
    assert speech.shape == (np.ceil(3 * RATE_HZ / FRAME_SAMPLES),)
    assert speech[3:].mean() > 0.9


NO_SPEECH = {
    "silence": np.zeros(TIME.size),
    "white noise": 0.3 * np.random.default_rng(0).standard_normal(TIME.size),
    "faint noise": 0.001 * np.random.default_rng(1).standard_normal(TIME.size),
    "tone": 0.5 * np.sin(2 * np.pi * 440 * TIME),
    "mains hum": 0.3 * np.sin(2 * np.pi * 50 * TIME) + 0.1 * np.sin(2 * np.pi * 150 * TIME),
}


@pytest.mark.parametrize("name", NO_SPEECH)
def test_what_is_no_speech(name: str) -> None:
    assert probabilities(NO_SPEECH[name]).max() < 0.2


def test_pauses_are_where_they_are() -> None:
    sound = np.concatenate((talk(2.0), np.zeros(2 * RATE_HZ, np.float32), talk(2.0, seed=1)))
    frames = probabilities(sound) > 0.5
    at_s = np.flatnonzero(frames) * FRAME_SAMPLES / RATE_HZ
    assert not ((at_s > 2.3) & (at_s < 3.9)).any()
    assert ((at_s > 4.0) & (at_s < 6.0)).mean() > 0.4


def test_any_cut_gives_the_same() -> None:
    sound = talk(2.0)
    rng = np.random.default_rng(7)
    detector = SpeechDetector()
    cuts = np.sort(rng.integers(0, sound.size, 20))
    pieces = [detector.push(piece) for piece in np.split(sound, cuts)]
    np.testing.assert_array_equal(np.concatenate((*pieces, detector.flush())), probabilities(sound))
    detector.reset()
    np.testing.assert_array_equal(
        np.concatenate((detector.push(sound), detector.flush())), probabilities(sound)
    )
