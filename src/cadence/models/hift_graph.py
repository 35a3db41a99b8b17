"""The vocoder's convolutions on a CPU by ONNX Runtime.

It keeps channels blocked as its kernels like them, dilated convolutions too, where torch is slower. It does
so for images only, so that sound is an image of height 1 here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cadence.models.hift_stage import snake
from cadence.models.onnx_graph import Graph

__all__ = ["Channels"]


class Channels:
    """A `Layout` of [B, C, T]."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads

    def enter(self, x: Tensor) -> Tensor:
        """As it is."""
        return x.contiguous()

    def leave(self, x: Tensor) -> Tensor:
        """As it is."""
        return x

    def across(self, values: Tensor) -> Tensor:
        """One number a channel, [C, 1]."""
        return values[:, None]

    def convolution(self, weight: Tensor, bias: Tensor, dilation: int) -> Callable[[Tensor], Tensor]:
        """See `Layout`."""
        num_taps = weight.shape[2]
        padding, graph = dilation * (num_taps // 2), Graph()
        x = graph.input("x", 4)
        constants = (graph.constant(weight.unsqueeze(2).numpy()), graph.constant(bias.numpy()))
        sizes = {"kernel_shape": (1, num_taps), "dilations": (1, dilation)}
        graph.output(graph.call("Conv", x, *constants, **sizes, pads=(0, padding, 0, padding)), 4)
        session = graph.load(self._num_threads)

        def convolve(signal: Tensor) -> Tensor:
            (found,) = session({"x": snake(signal, out=signal).unsqueeze(2).numpy()})
            return torch.from_numpy(found).squeeze(2)

        return convolve
