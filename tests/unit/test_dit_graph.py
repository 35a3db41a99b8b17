"""A DiT computed by ONNX Runtime's graphs gives what its layers give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from cadence.models.dit import DiT
from cadence.models.dit_graph import mish
from cadence.models.dit_memory import CONV_HISTORY, DiTSpan, NoDiTMemory
from cadence.models.flow_config import DiTConfig
from cadence.models.onnx_graph import Graph

HIDDEN, DEPTH = 32, 2
CONFIG = DiTConfig(
    in_channels=320, out_channels=80, hidden=HIDDEN, depth=DEPTH, num_heads=2, head_dim=16, mlp_ratio=2.0
)


class Remembering(NoDiTMemory):
    """Attends within itself; its convolutions go on from given rows."""

    def __init__(self, past: Tensor) -> None:
        super().__init__()
        self.before, self.kept = past, torch.zeros_like(past)  # [depth, 2, G, 2, C]

    def precede(self, layer: int, conv: int, rows: Tensor) -> Tensor:
        padded = torch.cat([self.before[layer, conv], rows], dim=1)
        self.kept[layer, conv] = padded[:, -CONV_HISTORY:]
        return padded

    def recall(self, depth: int, groups: int, like: Tensor) -> Tensor:
        return self.before

    def retain(self, rows: Tensor, fresh: Sequence[Tensor]) -> None:
        self.kept = rows.clone()


@pytest.mark.parametrize("frames", [(7,), (5, 1, 4), (3, 2, 4, 1, 5, 2)])  # the last in two portions
@torch.inference_mode()
def test_graphs_give_what_the_layers_give(frames: tuple[int, ...]) -> None:
    with torch.inference_mode(False):
        torch.manual_seed(0)
        dit = DiT(CONFIG).eval()
        for parameter in dit.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    pasts = [torch.randn(DEPTH, 2, 2, CONV_HISTORY, HIDDEN) for _ in frames]
    rows = 2 * sum(frames)
    x, projected = torch.randn(rows, CONFIG.out_channels), torch.randn(rows, HIDDEN)
    (modulation,) = dit.modulation(torch.tensor([0.3]))

    def run() -> tuple[Tensor, list[Tensor]]:
        memories = [Remembering(past) for past in pasts]
        spans = [DiTSpan(2, n, memory) for n, memory in zip(frames, memories, strict=True)]
        return dit(x, projected, modulation, spans), [memory.kept for memory in memories]

    expected, kept = run()
    assert len(dit.load_graph(1)) > DEPTH
    found, kept_by_graphs = run()
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    for have, want in zip(kept_by_graphs, kept, strict=True):
        assert torch.allclose(have, want, atol=1e-4 * float(want.abs().max()))


def test_mish_of_large_and_small_numbers() -> None:
    x = torch.tensor([[-90.0, -20.0, -1.0, 0.0, 1e-3, 3.0, 19.0, 21.0, 1e4]])
    graph = Graph()
    graph.output(mish(graph, graph.input("x", 2)), 2)
    (found,) = graph.load(1)({"x": x.numpy()})
    assert np.allclose(found, torch.nn.functional.mish(x).numpy(), rtol=1e-5, atol=1e-7)
