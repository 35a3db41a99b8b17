"""Either way to convolve packed rows in a graph gives the sum that a convolution is."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from cadence.models.dit_graph import EXACT, plain_linear
from cadence.models.graph_conv import Convolution, MinimalFiltering, ShiftedSums
from cadence.models.onnx_graph import Graph

INPUTS, OUTPUTS = 24, 40


def convolved(how: Convolution, parts: list[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    """By a graph; `parts` [n + 2, in] begin with their history."""
    graph = Graph()
    source = graph.input("source", 2)
    how.declare(graph)
    tap_major = weight.permute(2, 0, 1).reshape(-1, INPUTS)
    graph.output(how(graph, source, tap_major, bias), 2)
    shape = tuple(len(part) - 2 for part in parts)
    rows = torch.cat([part[:2] for part in parts] + [part[2:] for part in parts])
    (found,) = graph.load(1)({"source": rows.numpy(), **how.indices(shape)})
    return list(torch.from_numpy(found).split(list(shape)))


@pytest.mark.parametrize("how", [ShiftedSums(plain_linear), MinimalFiltering()])
def test_sequences_of_any_lengths_are_convolved_each_for_itself(how: Convolution) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    draw = random.Random(seed)
    torch.manual_seed(seed)
    weight, bias = torch.randn(OUTPUTS, INPUTS, 3), torch.randn(OUTPUTS)
    for shape in ([1], [2], [3], [4], [50, 50], [draw.randrange(1, 12) for _ in range(5)]):
        parts = [torch.randn(count + 2, INPUTS) for count in shape]
        for part, found in zip(parts, convolved(how, parts, weight, bias), strict=True):
            # In float64, so that the bound is on roundings and not on which kernel made them.
            exact = torch.conv1d(part.double().T, weight.double(), bias.double()).T
            assert (found - exact).abs().max() < 3e-6 * exact.abs().max() * INPUTS**0.5


def test_the_exact_kernels_multiply_less_than_every_row_with_every_tap() -> None:
    assert isinstance(EXACT.convolution, MinimalFiltering)
    tiles = EXACT.convolution.indices((50, 50))["tiles"]
    assert tiles.size == 4 * 2 * 25  # rows multiplied with one tap's worth of weights each
    assert tiles.size < 0.7 * 3 * 100


def test_rows_behind_a_sequences_end_change_nothing() -> None:
    torch.manual_seed(3)
    weight, bias = torch.randn(OUTPUTS, INPUTS, 3), torch.randn(OUTPUTS)
    first, other = torch.randn(6, INPUTS), torch.randn(9, INPUTS)
    together = convolved(MinimalFiltering(), [first, other], weight, bias)
    beside = convolved(MinimalFiltering(), [first, 100 * other], weight, bias)
    assert torch.equal(together[0], beside[0])
