"""One upsampling stage of the vocoder with its convolutions in bfloat16: an option for CPUs, not exact.

CPUs with instructions for bfloat16 multiply it at twice the speed of float32, sums being float32. What is
summed up along the residual path, and the Snakes between, stay in float32. Samples lie with their channels
beside each other, as these kernels like them best.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Bfloat16Stage"]


class Bfloat16Stage:
    """The mean of a stage's branches over a signal to which a block over the source was added."""

    def __init__(self, source: nn.Module, branches: Sequence[nn.Module]) -> None:
        """`source` and `branches` are `SnakeBlock`s."""
        self._source = _Block(source)
        self._branches = [_Block(branch) for branch in branches]

    def __call__(self, x: Tensor, source: Tensor) -> Tensor:
        """Signal and source [B, C, T] to [B, C, T]."""
        x = _rows(x) + self._source(_rows(source))
        total, *others = (branch(x) for branch in self._branches)
        for other in others:
            total += other
        return (total / len(self._branches)).transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    """[B, C, T] to [B, T, C], laid out so."""
    return x.transpose(1, 2).contiguous()


class _Block:
    """A `SnakeBlock` over rows [B, T, C] of float32."""

    def __init__(self, block: Any) -> None:
        layers = zip(block.activations1, block.convs1, block.activations2, block.convs2, strict=True)
        self._layers = [(_Snake(a), _Conv(b), _Snake(c), _Conv(d)) for a, b, c, d in layers]

    def __call__(self, rows: Tensor) -> Tensor:
        for snake1, dilated, snake2, plain in self._layers:
            rows = rows + plain(snake2(dilated(snake1(rows)).float()))
        return rows


class _Snake:
    def __init__(self, snake: Any) -> None:
        self._alpha: Tensor = snake.alpha.detach().clone()
        self._scale = 1.0 / (self._alpha + 1e-9)

    def __call__(self, rows: Tensor) -> Tensor:
        """Float32 to bfloat16."""
        ripple: Tensor = (rows * self._alpha).sin_()
        return ripple.square_().mul_(self._scale).add_(rows).bfloat16()


class _Conv:
    """A convolution over rows as one over an image of height 1, whose channels may lie beside each other."""

    def __init__(self, conv: nn.Conv1d) -> None:
        assert conv.bias is not None and isinstance(conv.padding[0], int)
        image = conv.weight.detach().unsqueeze(2).bfloat16()
        self._weight = image.contiguous(memory_format=torch.channels_last)
        self._bias = conv.bias.detach().bfloat16()
        self._padding, self._dilation = (0, conv.padding[0]), (1, conv.dilation[0])

    def __call__(self, rows: Tensor) -> Tensor:
        image = rows.transpose(1, 2).unsqueeze(2)
        found = F.conv2d(image, self._weight, self._bias, padding=self._padding, dilation=self._dilation)
        return found.squeeze(2).transpose(1, 2)
