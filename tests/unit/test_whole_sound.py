"""A whole utterance's sound made in pieces: the samples of one pass, and streams served in between."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hift_kit import some_mel
from torch import Tensor

from cadence.models.hift import FRAME_SAMPLES, HiFT, HiFTConfig
from cadence.models.hift_weights import load_hift
from cadence.token2wav import whole
from cadence.token2wav.scheduler import whole_piece
from cadence.token2wav.whole import WholeSound, reach_frames

NUM_FRAMES = 130


@pytest.fixture(scope="module")
def hift(tiny_checkpoint: Path) -> HiFT:
    return load_hift(tiny_checkpoint / "token2wav")


def in_pieces(hift: HiFT, mel: Tensor, size: int) -> Tensor:
    speech = WholeSound(hift, mel, torch.Generator().manual_seed(5))
    while not speech.advance(size):
        pass
    return speech.sound


@pytest.mark.parametrize("size", [1, 7, 30, 64, NUM_FRAMES, 1000])
def test_pieces_are_the_whole(hift: HiFT, size: int) -> None:
    mel = some_mel(NUM_FRAMES)
    expected, _ = hift.vocode(mel[None], generators=[torch.Generator().manual_seed(5)])
    torch.testing.assert_close(in_pieces(hift, mel, size), expected[0], rtol=0, atol=1e-5)


def test_reach_covers_all_that_a_sample_depends_on() -> None:
    torch.manual_seed(0)
    hift = HiFT(HiFTConfig(base_channels=16, f0_channels=8)).eval()  # the public kernels
    reach, at = reach_frames(hift.config), 40
    assert reach < 20
    mel = some_mel(80).double()
    source = torch.rand(
        1, 80 * FRAME_SAMPLES, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    with torch.no_grad():
        sound = hift.double().synthesise(mel[None], source)[0]
        mel[:, at:] += 1.0
        source[:, at * FRAME_SAMPLES :] *= -1.0
        changed = (hift.synthesise(mel[None], source)[0] - sound).abs() > 1e-12
    first = int(changed.nonzero()[0])
    assert (at - reach) * FRAME_SAMPLES <= first < at * FRAME_SAMPLES


def test_a_long_utterance_is_the_same_however_it_is_served(
    hift: HiFT, monkeypatch: pytest.MonkeyPatch
) -> None:
    mel = some_mel(NUM_FRAMES)
    expected = in_pieces(hift, mel, NUM_FRAMES)
    monkeypatch.setattr(whole, "MAX_AT_ONCE", 100)
    monkeypatch.setattr(whole, "_BLOCK", 50)
    found = in_pieces(hift, mel, 10)
    assert torch.equal(found, in_pieces(hift, mel, 1000))
    assert found.shape == expected.shape
    before_seam = slice(0, 40 * FRAME_SAMPLES)
    assert (found[before_seam] - expected[before_seam]).abs().max() < 0.05


def test_pieces_are_small_while_somebody_listens() -> None:
    assert whole_piece(1) < whole_piece(0)
