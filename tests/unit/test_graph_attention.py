"""Attention in a graph is attention, however sequences lie and however many runs their past has."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cadence.models.graph_attention import RUNS, GraphAttention
from cadence.models.onnx_graph import Graph

HEADS, DIM, DEPTH = 3, 8, 2


def attended(
    slots: int,
    counts: list[int],
    pasts: list[list[Tensor]],
    rows: list[list[Tensor]],
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Of each layer, [R, heads · d]; `rows` are queries, keys and values [R, heads, d] of each."""
    graph = Graph()
    attention = GraphAttention(graph, slots, HEADS, DIM, dtype)
    inputs = {}
    for layer in range(DEPTH):
        names = [graph.input(f"{kind}_{layer}", 3) for kind in "qkv"]
        inputs |= {name: part.numpy() for name, part in zip(names, rows[layer], strict=True)}
        graph.output(attention(*names), 2)
    inputs |= attention.inputs(counts, pasts)
    return [torch.from_numpy(found) for found in graph.load(1)(inputs)]


def expected(counts: list[int], pasts: list[list[Tensor]], rows: list[list[Tensor]], layer: int) -> Tensor:
    """The same by torch, sequence by sequence."""
    found = []
    for *own, runs in zip(*(part.split(counts) for part in rows[layer]), pasts, strict=True):
        seen = [torch.cat([*(run[layer, kind] for run in runs), own[1 + kind]]) for kind in range(2)]
        q, k, v = (part.transpose(0, 1) for part in (own[0], *seen))
        found.append(F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1))
    return torch.cat(found)


CASES = [
    (1, [7], [1]),
    (2, [7, 7], [2, 2]),  # a stream's guided and unguided rows: read where they lie
    (1, [7, 7], [1, 0]),
    (2, [5, 4], [0, 1]),
    (1, [9], [RUNS + 2]),
    (2, [3, 3], [RUNS + 1, 1]),
    (1, [1, 150, 3], [2, 1, 0]),  # by the fused kernel
    (2, [3, 4, 1, 9, 2, 2, 5, 6], [0, 1, 2, 3, 4, 3, 2, 1]),  # as many as there may be
    (1, [200], [0]),
]


@pytest.mark.parametrize(("slots", "counts", "num_runs"), CASES)
def test_each_sequence_attends_to_itself_and_to_its_past(
    slots: int, counts: list[int], num_runs: list[int]
) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    draw = random.Random(seed)
    torch.manual_seed(seed)
    pasts = [
        [torch.randn(DEPTH, 2, draw.randrange(1, 20), HEADS, DIM) for _ in range(count)] for count in num_runs
    ]
    rows = [[torch.randn(sum(counts), HEADS, DIM) for _ in range(3)] for _ in range(DEPTH)]
    for layer, found in enumerate(attended(slots, counts, pasts, rows)):
        assert torch.allclose(found, expected(counts, pasts, rows, layer), atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("slots", "counts"), [(1, [6]), (1, [4, 9])])  # where it lies, and in turn
def test_a_past_of_16_bits_is_multiplied_in_float32(
    slots: int, counts: list[int], dtype: torch.dtype
) -> None:
    torch.manual_seed(4)
    pasts = [[torch.randn(DEPTH, 2, n, HEADS, DIM).to(dtype) for n in (5, 11)] for _ in counts]
    rows = [[torch.randn(sum(counts), HEADS, DIM) for _ in range(3)] for _ in range(DEPTH)]
    wide = [[run.float() for run in runs] for runs in pasts]
    for layer, found in enumerate(attended(slots, counts, pasts, rows, dtype)):
        assert torch.allclose(found, expected(counts, wide, rows, layer), atol=1e-5)
    # Wider ones are never rounded on the way, narrower ones fit.
    with pytest.raises(ValueError, match="float32"):
        attended(slots, counts, wide, rows, dtype)
    for layer, found in enumerate(attended(slots, counts, pasts, rows)):
        assert torch.allclose(found, expected(counts, wide, rows, layer), atol=1e-5)


def test_one_streams_past_is_not_copied() -> None:
    graph = Graph()
    attention = GraphAttention(graph, 2, HEADS, DIM, torch.float32)
    attention(*(graph.input(f"{kind}_0", 3) for kind in "qkv"))
    store = torch.zeros(1, 2, 2, 40, HEADS, DIM)
    pasts = [[store[:, :, group, :11], store[:, :, group, 20:]] for group in range(2)]
    inputs = attention.inputs([6, 6], pasts)
    read = [part for name, part in inputs.items() if name.startswith("past_0") and part.size]
    assert len(read) == 8 and sum(part.size for part in read) == 2 * 2 * 31 * HEADS * DIM
    assert all(np.shares_memory(part, store.numpy()) and part.flags.c_contiguous for part in read)
