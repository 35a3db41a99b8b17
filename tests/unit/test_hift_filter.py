"""The vocoder's filtered convolutions give the sums that convolutions are."""

from __future__ import annotations

import random

import pytest
import torch

from cadence.models.hift_filter import Filtered
from cadence.models.hift_stage import snake

INPUTS, OUTPUTS = 24, 40


@pytest.mark.parametrize("num_taps", [1, 3, 7, 11])
@pytest.mark.parametrize("dilation", [1, 3, 5])
def test_any_length_is_convolved_with_zeros_to_either_side(num_taps: int, dilation: int) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    draw = random.Random(seed)
    torch.manual_seed(seed)
    weight, bias = torch.randn(OUTPUTS, INPUTS, num_taps), torch.randn(OUTPUTS)
    convolve = Filtered(weight, bias, dilation)
    for length in (1, 2, 19, 20, 21, draw.randrange(22, 200)):
        rows = torch.randn(2, length, INPUTS)
        before = rows.clone()
        found = convolve(rows)
        # In float64, so that the bound is on roundings and not on which kernel made them.
        bent = snake(rows.double()).transpose(1, 2)
        padding = dilation * (num_taps // 2)
        exact = torch.conv1d(bent, weight.double(), bias.double(), padding=padding, dilation=dilation)
        assert found.shape == (2, length, OUTPUTS) and torch.equal(rows, before)
        bound = 1e-5 * float(exact.abs().max()) * num_taps**0.5
        assert (found.transpose(1, 2) - exact).abs().max() < bound


def test_a_sequence_never_hears_another() -> None:
    torch.manual_seed(3)
    convolve = Filtered(torch.randn(OUTPUTS, INPUTS, 7), torch.randn(OUTPUTS), 3)
    rows = torch.randn(2, 50, INPUTS)
    assert torch.equal(convolve(rows)[0], convolve(torch.stack([rows[0], 100 * rows[1]]))[0])
