"""The vocoder's convolutions on a CPU by minimal filtering: half of the products, the same sum.

Samples lie with their channels beside each other, [B, T, C]. Taps are taken four at a time and give four
samples from seven products, F(4, 4): 7, 14 and 21 products for three, seven and eleven taps in the place of
12, 28 and 44. Dilated by d, a signal is d signals that lie interleaved, which strides take apart. All of it
is a few large products and copies.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cadence.models.hift_stage import snake
from cadence.models.minimal_filtering import transforms

__all__ = ["Filtered", "FilteredRows"]

_TILE = 4  # samples, and taps: so that the next four taps need what the next tile holds already
_MATRICES = transforms(_TILE, _TILE, (0.0, 1.0, -1.0, 0.5, -0.5, 2.0))


class FilteredRows:
    """A `Layout` of [B, T, C]."""

    def enter(self, x: Tensor) -> Tensor:
        """[B, C, T] to [B, T, C], laid out so."""
        return x.transpose(1, 2).contiguous()

    def leave(self, x: Tensor) -> Tensor:
        """And back."""
        return x.transpose(1, 2)

    def across(self, values: Tensor) -> Tensor:
        """One number a channel."""
        return values

    def convolution(self, weight: Tensor, bias: Tensor, dilation: int) -> Callable[[Tensor], Tensor]:
        """See `Layout`."""
        return Filtered(weight, bias, dilation)


class Filtered:
    """Convolves `snake` of rows [B, T, in] to [B, T, out], with zeros to either side."""

    def __init__(self, weight: Tensor, bias: Tensor, dilation: int) -> None:
        """Weight [out, in, taps], an odd number of them; bias [out]."""
        num_out, num_in, num_taps = weight.shape
        taps, inputs, outputs = (torch.from_numpy(matrix) for matrix in _MATRICES)
        groups = -(-num_taps // _TILE)
        padded = weight.new_zeros(groups * _TILE, num_in, num_out, dtype=torch.float64)
        padded[:num_taps] = weight.permute(2, 1, 0)
        mixed = torch.einsum("pt,gtio->gpio", taps, padded.view(groups, _TILE, num_in, num_out))
        self._weights = list(mixed.float().contiguous())  # [p, in, out] for each four taps
        self._inputs, self._outputs = inputs.float(), outputs.float()
        self._bias, self._dilation = bias, dilation
        self._before = dilation * (num_taps // 2)  # zeros

    def __call__(self, rows: Tensor) -> Tensor:
        """Changes nothing in `rows`."""
        found = [self._sequence(sequence) for sequence in rows]
        return found[0][None] if len(found) == 1 else torch.stack(found)

    def _sequence(self, rows: Tensor) -> Tensor:
        length, width, apart = len(rows), rows.shape[1], self._dilation
        num_products = len(self._inputs)
        tiles = -(-length // (_TILE * apart))  # of outputs, in each of the interleaved signals
        seen = tiles + len(self._weights) - 1  # and of inputs
        source = rows.new_empty(apart * (_TILE * seen + _TILE - 1), width)
        source[: self._before] = 0
        source[self._before + length :] = 0
        snake(rows, out=source[self._before : self._before + length])
        # By place in its tile, tile and interleaved signal; the places overlap from tile to tile.
        strides = (apart * width, _TILE * apart * width, 1)
        places = source.as_strided((num_products, seen, apart * width), strides)
        mixed = (self._inputs @ places.reshape(num_products, -1)).view(num_products, seen * apart, width)
        first, *others = self._weights
        products = torch.bmm(mixed[:, : tiles * apart], first)
        for group, weight in enumerate(others, 1):
            part = mixed[:, group * apart : (group + tiles) * apart]
            torch.baddbmm(products, part, weight, out=products)
        outputs = (self._outputs @ products.flatten(1)).view(_TILE, tiles, apart, -1)
        return (outputs.transpose(0, 1) + self._bias).reshape(-1, len(self._bias))[:length]
