"""Cutting long recordings: nothing lost, nothing twice, no piece too long, the same however it arrives."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cadence.audio.pieces import Piece, SplitPolicy, Splitter, split
from cadence.audio.vad import FRAME_S, FRAME_SAMPLES, SpeechDetector
from talker import talk

RATE_HZ = 16_000
SEED = 11
POLICIES = [
    SplitPolicy(),
    SplitPolicy(max_s=15.0, pause_s=0.5, min_s=1.0),
    SplitPolicy(max_s=3.0, pause_s=0.2, padding_s=0.0),
    SplitPolicy(max_s=1.0, pause_s=99.0, padding_s=1.0, min_speech_s=0.0),
]


def scripted(speech: NDArray[np.float32], policy: SplitPolicy, *, batch: int) -> list[Piece]:
    """Split sound whose samples count up, so that each tells where it came from."""
    sound = np.arange(speech.size * FRAME_SAMPLES, dtype=np.float32)
    splitter = Splitter(policy)
    pieces: list[Piece] = []
    for at in range(0, speech.size, batch):
        frames = slice(at * FRAME_SAMPLES, (at + batch) * FRAME_SAMPLES)
        pieces += splitter.push(sound[frames], speech[at : at + batch])
    return [*pieces, *splitter.flush()]


def curve(rng: np.random.Generator) -> NDArray[np.float32]:
    """Speech and pauses of random lengths, a few minutes at most."""
    runs = rng.geometric(1 / rng.choice([5, 30, 300]), size=rng.integers(0, 40))
    return np.concatenate([np.zeros(0), *(np.full(run, i % 2) for i, run in enumerate(runs))]).astype(
        np.float32
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_laws(policy: SplitPolicy) -> None:
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    for _ in range(40):
        speech = curve(rng)
        pieces = scripted(speech, policy, batch=int(rng.integers(1, 200)))
        position = 0
        heard = np.zeros(speech.size, bool)
        for piece in pieces:
            assert piece.start >= position and piece.samples.size <= policy.max_s * RATE_HZ
            assert piece.samples[0] == piece.start and (np.diff(piece.samples) == 1).all()
            position = piece.start + piece.samples.size
            assert piece.start <= piece.speech_start < piece.speech_end <= position
            assert piece.speech_start - piece.start <= policy.padding_s * RATE_HZ + FRAME_SAMPLES
            assert position - piece.speech_end <= policy.padding_s * RATE_HZ + FRAME_SAMPLES
            heard[piece.start // FRAME_SAMPLES : position // FRAME_SAMPLES] = True
        missed = (speech >= policy.threshold) & ~heard
        # only clicks may be missed: runs shorter than a word
        runs = np.split(missed, np.flatnonzero(np.diff(missed)) + 1)
        assert max((run.sum() for run in runs), default=0) * FRAME_S < max(policy.min_speech_s, FRAME_S / 2)


@pytest.mark.parametrize("policy", POLICIES)
def test_arrival_does_not_matter(policy: SplitPolicy) -> None:
    speech = curve(np.random.default_rng(SEED))
    whole = [(p.start, p.samples.size) for p in scripted(speech, policy, batch=speech.size)]
    assert whole and whole == [(p.start, p.samples.size) for p in scripted(speech, policy, batch=1)]


def test_cuts_fall_in_pauses() -> None:
    speech = np.ones(2000, np.float32)
    speech[600:606] = 0  # the longest pause of the first 25 s
    speech[700:703] = 0
    first, second, *_ = scripted(speech, SplitPolicy(), batch=64)
    assert first.start == 0 and first.start + first.samples.size == 603 * FRAME_SAMPLES == second.start


def test_without_a_pause_the_quietest_moment_is_taken() -> None:
    sound = np.tile(talk(6.0), 5)
    sound[20 * RATE_HZ : 20 * RATE_HZ + 4000] *= 0.01
    splitter = Splitter(SplitPolicy())
    whole = sound[: sound.size // FRAME_SAMPLES * FRAME_SAMPLES]
    pieces = splitter.push(whole, np.ones(whole.size // FRAME_SAMPLES, np.float32))
    assert pieces[0].samples.size / RATE_HZ == pytest.approx(20.125, abs=0.1)


def test_a_real_detector_on_a_made_recording() -> None:
    sound = np.concatenate(
        [
            np.zeros(7 * RATE_HZ),
            talk(4.0),
            np.zeros(9 * RATE_HZ),
            np.tile(talk(8.0, seed=1), 5),
            np.zeros(3 * RATE_HZ + 77),
        ]
    ).astype(np.float32)
    blocks = np.split(sound, np.sort(np.random.default_rng(3).integers(0, sound.size, 50)))
    pieces = list(split(blocks, SpeechDetector(), SplitPolicy()))
    assert len(pieces) == 3
    at_s = [(piece.speech_start / RATE_HZ, piece.speech_end / RATE_HZ) for piece in pieces]
    assert at_s[0] == (pytest.approx(7.0, abs=0.15), pytest.approx(11.0, abs=0.15))
    assert at_s[1][0] == pytest.approx(20.0, abs=0.15) and at_s[2][1] == pytest.approx(60.0, abs=0.15)
    assert pieces[1].start + pieces[1].samples.size == pytest.approx(pieces[2].start, abs=0.2 * RATE_HZ)
    for piece in pieces:
        np.testing.assert_array_equal(sound[piece.start : piece.start + piece.samples.size], piece.samples)


@pytest.mark.parametrize("seconds", [0.0, 0.01, 5.0, 20.0])
def test_silence_has_no_pieces(seconds: float) -> None:
    silence = np.zeros(int(seconds * RATE_HZ), np.float32)
    assert list(split([silence], SpeechDetector(), SplitPolicy())) == []


def test_sound_to_the_very_end_is_kept() -> None:
    sound = talk(1.01)
    (piece,) = split([sound], SpeechDetector(), SplitPolicy())
    assert piece.start == 0 and piece.samples.size == sound.size and piece.speech_end <= sound.size


def test_a_policy_that_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="at least a second"):
        SplitPolicy(max_s=0.5)
