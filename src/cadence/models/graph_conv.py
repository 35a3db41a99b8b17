"""A causal convolution of three taps over packed rows, as operations of a graph, in two ways.

`ShiftedSums` multiplies every row with all taps and adds up shifted results, by any kind of product.
`MinimalFiltering` multiplies fewer rows: F(2, 3) (`models.minimal_filtering`) gives two outputs of a channel
from four products in the place of six. Inputs and outputs pass small constant matrices before and after, the
taps once when the graph is built. F(3, 3) multiplies less and has more weights to read, which is what the few
rows of a first chunk wait for.

The source of rows is [2·S + R, C]: two rows of history for each of S sequences, then the R rows of all of
them. Index lists, made from the sequences' lengths, keep them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cadence.models.minimal_filtering import transforms
from cadence.models.onnx_graph import Graph

__all__ = ["Convolution", "MinimalFiltering", "Product", "ShiftedSums"]

_TAPS = 3

Product = Callable[[Graph, str, Tensor, Tensor | None], str]
"""Rows [R, in] times a weight [out, in], plus a bias, [R, out]: the name of the result."""

Indices = dict[str, NDArray[np.int64]]


class Convolution(Protocol):
    """A way to convolve."""

    def declare(self, graph: Graph) -> None:
        """Declare the inputs that `indices` gives."""
        ...

    def indices(self, shape: tuple[int, ...]) -> Indices:
        """The graph's inputs for sequences of these lengths."""
        ...

    def __call__(self, graph: Graph, source: str, weight: Tensor, bias: Tensor) -> str:
        """The source's rows convolved with a weight [3·out, in], tap by tap, to [R, out]."""
        ...


class ShiftedSums:
    """Products of every row with every tap, then sums along each sequence."""

    def __init__(self, linear: Product) -> None:
        self._linear = linear

    def declare(self, graph: Graph) -> None:
        """Two lists of rows."""
        for name in ("fill", "keep"):
            graph.input(name, 1, kind=int)

    def indices(self, shape: tuple[int, ...]) -> Indices:
        """`fill` puts its history before each sequence, `keep` drops the sums that straddle two."""
        return _straddling(shape)

    def __call__(self, graph: Graph, source: str, weight: Tensor, bias: Tensor) -> str:
        """See `Convolution`."""
        padded = graph.call("Gather", source, "fill", axis=0)
        columns = graph.split(self._linear(graph, padded, weight, None), _TAPS, axis=1)
        total = graph.call("Gather", columns[0], "keep", axis=0)
        for tap in range(1, _TAPS):
            offset = graph.call("Add", "keep", graph.constant(np.array(tap, np.int64)))
            total = graph.call("Add", total, graph.call("Gather", columns[tap], offset, axis=0))
        return graph.call("Add", total, graph.constant(bias.detach().numpy()))


class MinimalFiltering:
    """Two outputs of a sequence at a time, by four products of a row each."""

    def declare(self, graph: Graph) -> None:
        """The tiles' inputs, and where the outputs lie."""
        graph.input("tiles", 2, kind=int)
        graph.input("back", 1, kind=int)

    def indices(self, shape: tuple[int, ...]) -> Indices:
        """`tiles` [4, N] are the rows that each tile of two outputs sees, `back` [R] brings the outputs
        from [2·N] into order."""
        return _tiling(shape)

    def __call__(self, graph: Graph, source: str, weight: Tensor, bias: Tensor) -> str:
        """See `Convolution`."""
        taps = weight.detach().double().view(_TAPS, -1, weight.shape[-1]).numpy()

        def mixed(matrix: NDArray[Any], rows: str, width: int) -> str:
            """Rows [k·N, C] times a matrix [m, k], every tile and channel alike, [m·N, C]."""
            flat = graph.call("Reshape", rows, _numbers(graph, len(matrix[0]), -1))
            flat = graph.call("MatMul", graph.constant(matrix), flat)
            return graph.call("Reshape", flat, _numbers(graph, -1, width))

        seen = mixed(_MATRICES.inputs, graph.call("Gather", source, "tiles", axis=0), taps.shape[2])
        products = []
        for index, part in enumerate(graph.split(seen, _PRODUCTS, axis=0)):
            share = graph.constant(np.tensordot(_MATRICES.taps[index], taps, axes=1).T)
            product = graph.call("MatMul", part, share)
            if index == _EVERY:
                product = graph.call("Add", product, graph.constant(bias.detach().numpy()))
            products.append(product)
        outputs = mixed(_MATRICES.outputs, graph.call("Concat", *products, axis=0), taps.shape[1])
        return graph.call("Gather", outputs, "back", axis=0)


def _numbers(graph: Graph, *values: int) -> str:
    return graph.constant(np.array(values, np.int64))


# ------------------------------------------------------------------ F(2, 3)
_TILE = 2  # outputs
_PRODUCTS = _TILE + _TAPS - 1
_POINTS = (0.0, 1.0, -1.0)  # and infinity
_EVERY = _POINTS.index(1.0)  # whose product is part of every output once: the bias goes there
_MATRICES = transforms(_TILE, _TAPS, _POINTS)


# ------------------------------------------------------------------ where rows lie
def _sequences(shape: Sequence[int]) -> list[list[int]]:
    """The source's rows of each sequence, its history first."""
    starts = np.cumsum([2 * len(shape), *shape])
    return [
        [2 * index, 2 * index + 1, *range(int(starts[index]), int(starts[index]) + count)]
        for index, count in enumerate(shape)
    ]


def _lists(**lists: Any) -> Indices:
    return {name: np.array(part, np.int64) for name, part in lists.items()}


@lru_cache(maxsize=64)
def _straddling(shape: tuple[int, ...]) -> Indices:
    sequences = _sequences(shape)
    starts = np.cumsum([0, *(len(rows) for rows in sequences)])
    keep = [int(start) + row for start, count in zip(starts, shape, strict=False) for row in range(count)]
    return _lists(fill=[row for rows in sequences for row in rows], keep=keep)


@lru_cache(maxsize=64)
def _tiling(shape: tuple[int, ...]) -> Indices:
    tiles: list[list[int]] = []
    outputs: list[tuple[int, int]] = []  # (place in its tile, tile) of each row
    for rows, count in zip(_sequences(shape), shape, strict=True):
        outputs += [(row % _TILE, len(tiles) + row // _TILE) for row in range(count)]
        starts = range(0, count, _TILE)
        # Rows behind the end only reach outputs that nobody asks for.
        tiles += [[rows[min(start + i, len(rows) - 1)] for i in range(_PRODUCTS)] for start in starts]
    back = [place * len(tiles) + tile for place, tile in outputs]
    return _lists(tiles=np.ascontiguousarray(np.array(tiles).T), back=back)
