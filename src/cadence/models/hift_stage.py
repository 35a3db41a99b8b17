"""One upsampling stage of the vocoder for inference: residual blocks of Snakes and convolutions.

A convolution's weights take up what a Snake multiplies with: with y = αx, x + sin²(αx) / α is
(y + sin² y) / α, so that the α of the Snake behind goes into a convolution's outputs and 1 / α of the one
before into its inputs. What is left between two convolutions is `snake`. How a signal lies in memory and how
it is convolved there, a `Layout` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["Layout", "Stage", "snake"]

_SMALLEST = 1e-6  # of |α|: what is divided by must not be 0, and so small an α bends nothing


class Layout(Protocol):
    """How a signal lies in memory."""

    def enter(self, x: Tensor) -> Tensor:
        """A signal [B, C, T] in this layout."""
        ...

    def leave(self, x: Tensor) -> Tensor:
        """And back."""
        ...

    def across(self, values: Tensor) -> Tensor:
        """One number a channel [C], to multiply a signal with."""
        ...

    def convolution(self, weight: Tensor, bias: Tensor, dilation: int) -> Callable[[Tensor], Tensor]:
        """What convolves `snake` of a signal to a new one of equal length, with zeros to either side. It may
        leave anything in the signal that it is given.

        Args:
            weight: [out, in, taps], an odd number of them.
            bias: [out].
        """
        ...


class Stage:
    """The mean of a stage's branches over a signal to which a block over the source was added."""

    def __init__(self, source: nn.Module, branches: Sequence[nn.Module], layout: Layout) -> None:
        """`source` and `branches` are `SnakeBlock`s."""
        self._layout = layout
        self._source = _Block(source, layout)
        self._branches = [_Block(branch, layout) for branch in branches]

    def __call__(self, x: Tensor, source: Tensor) -> Tensor:
        """Signal and source [B, C, T] to [B, C, T]."""
        signal = self._source(self._layout.enter(source)) + self._layout.enter(x)
        total, *others = (branch(signal) for branch in self._branches)
        for other in others:
            total += other
        return self._layout.leave(total.mul_(1.0 / len(self._branches)))


class _Block:
    """A `SnakeBlock`."""

    def __init__(self, block: Any, layout: Layout) -> None:
        self._layers = []
        layers = zip(block.activations1, block.convs1, block.activations2, block.convs2, strict=True)
        for snake1, dilated, snake2, plain in layers:
            first, second = _alpha(snake1), _alpha(snake2)
            change = _folded(dilated, first, second, layout)
            self._layers.append((layout.across(first), change, _folded(plain, second, None, layout)))

    def __call__(self, signal: Tensor) -> Tensor:
        for alpha, dilated, plain in self._layers:
            signal = plain(dilated(signal * alpha)).add_(signal)
        return signal


def _alpha(module: Any) -> Tensor:
    alpha: Tensor = module.alpha.detach().clone()
    return torch.where(alpha.abs() < _SMALLEST, _SMALLEST, alpha)


def _folded(
    conv: nn.Conv1d, before: Tensor, behind: Tensor | None, layout: Layout
) -> Callable[[Tensor], Tensor]:
    assert conv.bias is not None and isinstance(conv.padding[0], int)
    assert 2 * conv.padding[0] == conv.dilation[0] * (conv.kernel_size[0] - 1)
    weight, bias = conv.weight.detach() / before[:, None], conv.bias.detach().clone()
    if behind is not None:
        weight, bias = weight * behind[:, None, None], bias * behind
    return layout.convolution(weight, bias, conv.dilation[0])


def snake(y: Tensor, *, out: Tensor | None = None) -> Tensor:
    """y + sin² y; into `out` if given."""
    wave = torch.sin(y)
    return torch.addcmul(y, wave, wave, out=out)
