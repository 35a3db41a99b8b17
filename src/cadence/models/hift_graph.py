"""One upsampling stage of the vocoder on a CPU as a graph for ONNX Runtime.

ONNX Runtime keeps the channels of neighbouring convolutions blocked as its kernels like them, dilated ones
too, where torch goes to and from that layout around each. It does so for images only, so that sound is
an image of height 1 here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cadence.models.onnx_graph import Graph

__all__ = ["StageGraph"]


class StageGraph:
    """The mean of a stage's branches over a signal to which a block over the source was added."""

    def __init__(self, source: nn.Module, branches: Sequence[nn.Module], num_threads: int) -> None:
        """`source` and `branches` are `SnakeBlock`s."""
        graph = Graph()
        x, excitation = graph.input("x", 4), graph.input("source", 4)
        x = graph.call("Add", x, _block(graph, excitation, source))
        total, *others = (_block(graph, x, branch) for branch in branches)
        for other in others:
            total = graph.call("Add", total, other)
        share = graph.constant(np.array(1 / (1 + len(others)), np.float32))
        graph.output(graph.call("Mul", total, share), 4)
        self._session = graph.load(num_threads)

    def __call__(self, x: Tensor, source: Tensor) -> Tensor:
        """Signal and source [B, C, T] to [B, C, T]."""
        seen = {"x": x, "source": source}
        inputs = {name: signal.contiguous().unsqueeze(2).numpy() for name, signal in seen.items()}
        (output,) = self._session(inputs)
        return torch.from_numpy(output).squeeze(2)


def _block(graph: Graph, x: str, block: Any) -> str:
    layers = zip(block.activations1, block.convs1, block.activations2, block.convs2, strict=True)
    for snake1, dilated, snake2, plain in layers:
        change = _convolution(graph, _snake(graph, x, snake1), dilated)
        x = graph.call("Add", x, _convolution(graph, _snake(graph, change, snake2), plain))
    return x


def _snake(graph: Graph, x: str, snake: Any) -> str:
    alpha = snake.alpha.detach()[:, None, None]
    wave = graph.call("Sin", graph.call("Mul", x, graph.constant(alpha.numpy())))
    scale = graph.constant((1.0 / (alpha + 1e-9)).numpy())
    return graph.call("Add", x, graph.call("Mul", graph.call("Mul", wave, wave), scale))


def _convolution(graph: Graph, x: str, conv: nn.Conv1d) -> str:
    assert conv.bias is not None and isinstance(conv.padding[0], int)
    weight = graph.constant(conv.weight.detach().unsqueeze(2).numpy())
    padding, bias = conv.padding[0], graph.constant(conv.bias.detach().numpy())
    return graph.call(
        "Conv",
        x,
        weight,
        bias,
        kernel_shape=(1, conv.kernel_size[0]),
        dilations=(1, conv.dilation[0]),
        pads=(0, padding, 0, padding),
    )
