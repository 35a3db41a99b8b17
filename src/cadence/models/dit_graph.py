"""A DiT block on a CPU as two graphs for ONNX Runtime: what comes before its attention, and after it.

Attention itself stays with torch, where keys and values lie. Rows are packed as in `models.dit`. How weights
are multiplied, exactly or not, the caller says (`Kernels`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cadence.models.graph_conv import Convolution, MinimalFiltering, Product
from cadence.models.onnx_graph import Graph

__all__ = ["EXACT", "BlockGraphs", "BlockWeights", "Kernels", "graphs_work", "mish", "plain_linear"]

_log = logging.getLogger(__name__)

_MISH_LIMIT = 20.0  # beyond it tanh(softplus(x)) is 1 in float32
_MODULATION = ("gate_a", "shift_c", "scale_c", "gate_c", "shift_m", "scale_m", "gate_m")


class BlockWeights(NamedTuple):
    """A block's layers: linear layers as (weight [out, in], bias), convolutions tap by tap [3·C, C] with
    their bias, norms as modules with the sizes and epsilons they have."""

    qkv: tuple[Tensor, Tensor]
    q_norm: nn.LayerNorm
    k_norm: nn.LayerNorm
    proj: tuple[Tensor, Tensor]
    conv1: tuple[Tensor, Tensor]
    conv_norm: nn.LayerNorm
    conv2: tuple[Tensor, Tensor]
    fc1: tuple[Tensor, Tensor]
    fc2: tuple[Tensor, Tensor]
    num_heads: int
    head_dim: int
    eps: float  # of the modulated norms


class Kernels(NamedTuple):
    """How a block's weights are multiplied."""

    linear: Product
    convolution: Convolution


class BlockGraphs:
    """One block's two graphs. Float32 on a CPU; safe to share between streams."""

    def __init__(self, weights: BlockWeights, num_threads: int, kernels: Kernels) -> None:
        self._before = _before(weights, kernels).load(num_threads)
        self._after = _after(weights, kernels).load(num_threads)
        self._indices = kernels.convolution.indices

    def before(self, x: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values [R, heads, d] of rows [R, C]."""
        found = self._before({"x": x.numpy(), "shift": shift.numpy(), "scale": scale.numpy()})
        return tuple(torch.from_numpy(part) for part in found)

    def after(
        self, x: Tensor, found: Tensor, parts: Sequence[Tensor], history: Tensor, shape: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """The block's output and the rows that its convolutions need before the next ones.

        Args:
            x: the block's input [R, C].
            found: what attention found, [R, heads · d].
            parts: the attention's gate, then shift, scale and gate of convolution and of MLP, [C] each.
            history: [2, 2·S, C], two rows for each of S sequences, of either convolution.
            shape: rows of each of the S sequences.

        Returns:
            [R, C] and [2, 2·S, C].
        """
        inputs = {name: part.numpy() for name, part in zip(_MODULATION, parts, strict=True)}
        inputs |= {"x": x.numpy(), "found": found.numpy(), "history": history.numpy()}
        inputs |= self._indices(tuple(shape)) | _tails(tuple(shape))
        output, tails = self._after(inputs)
        return torch.from_numpy(output), torch.from_numpy(tails)


@lru_cache(maxsize=64)
def _tails(shape: tuple[int, ...]) -> dict[str, NDArray[np.int64]]:
    """`tail`: the last two rows of each sequence among all history followed by all rows."""
    ends = np.cumsum([2 * len(shape), *shape])[1:]
    pairs = [
        (2 * index + 1 if count == 1 else end - 2, end - 1)
        for index, (count, end) in enumerate(zip(shape, ends, strict=True))
    ]
    return {"tail": np.array(pairs, np.int64).ravel()}


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().numpy()
    return array


def plain_linear(graph: Graph, x: str, weight: Tensor, bias: Tensor | None) -> str:
    """Rows `x` [R, in] times a weight [out, in], plus a bias, [R, out]."""
    product = graph.call("MatMul", x, graph.constant(_array(weight.t().contiguous())))
    return product if bias is None else graph.call("Add", product, graph.constant(_array(bias)))


EXACT = Kernels(plain_linear, MinimalFiltering())


def _norm(graph: Graph, x: str, norm: nn.LayerNorm) -> str:
    affine = [graph.constant(_array(part)) for part in (norm.weight, norm.bias)]
    return graph.call("LayerNormalization", x, *affine, epsilon=norm.eps)


def _before(w: BlockWeights, kernels: Kernels) -> Graph:
    graph, linear = Graph(), kernels.linear
    x, shift, scale = (graph.input(name, rank) for name, rank in (("x", 2), ("shift", 1), ("scale", 1)))
    rows = linear(graph, graph.call("LayerNormalization", x, scale, shift, epsilon=w.eps), *w.qkv)
    heads = graph.constant(np.array([-1, w.num_heads, w.head_dim], np.int64))
    queries, keys, values = (graph.call("Reshape", part, heads) for part in graph.split(rows, 3, axis=1))
    for part in (_norm(graph, queries, w.q_norm), _norm(graph, keys, w.k_norm), values):
        graph.output(part, 3)
    return graph


def _after(w: BlockWeights, kernels: Kernels) -> Graph:
    graph, linear = Graph(), kernels.linear
    x, found, history = (graph.input(n, r) for n, r in (("x", 2), ("found", 2), ("history", 3)))
    m = {name: graph.input(name, 1) for name in _MODULATION}
    tail = graph.input("tail", 1, integer=True)
    kernels.convolution.declare(graph)

    def gated(before: str, gate: str, change: str) -> str:
        return graph.call("Add", before, graph.call("Mul", change, m[gate]))

    def modulated(rows: str, part: str) -> str:
        inputs = (rows, m[f"scale_{part}"], m[f"shift_{part}"])
        return graph.call("LayerNormalization", *inputs, epsilon=w.eps)

    tails = []

    def convolved(rows: str, index: int, weight: Tensor, bias: Tensor) -> str:
        past = graph.call("Gather", history, graph.constant(np.array(index, np.int64)), axis=0)
        source = graph.call("Concat", past, rows, axis=0)
        tails.append(graph.call("Gather", source, tail, axis=0))
        return kernels.convolution(graph, source, weight, bias)

    h = gated(x, "gate_a", linear(graph, found, *w.proj))
    middle = _norm(graph, convolved(modulated(h, "c"), 0, *w.conv1), w.conv_norm)
    h = gated(h, "gate_c", convolved(mish(graph, middle), 1, *w.conv2))
    inner = graph.call("Gelu", linear(graph, modulated(h, "m"), *w.fc1), approximate="tanh")
    graph.output(gated(h, "gate_m", linear(graph, inner, *w.fc2)), 2)
    axis = graph.constant(np.array([0], np.int64))
    graph.output(graph.call("Concat", *(graph.call("Unsqueeze", part, axis) for part in tails), axis=0), 3)
    return graph


def mish(graph: Graph, x: str) -> str:
    """Mish, x · tanh(ln(1 + eˣ)) = x · n / (n + 2) with n = eˣ · (eˣ + 2)."""
    two = graph.constant(np.array(2.0, np.float32))
    grown = graph.call("Exp", graph.call("Min", x, graph.constant(np.array(_MISH_LIMIT, np.float32))))
    n = graph.call("Mul", grown, graph.call("Add", grown, two))
    return graph.call("Mul", x, graph.call("Div", n, graph.call("Add", n, two)))


@lru_cache(maxsize=1)
def graphs_work() -> bool:
    """Whether this build of ONNX Runtime knows the operations and computes what it should."""
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(shape, generator=generator) for shape in ((24, 16), (24,), (3, 16)))
    graph = Graph()
    name = graph.input("x", 2)
    graph.output(graph.call("Gelu", plain_linear(graph, name, weight, bias), approximate="tanh"), 2)
    try:
        (found,) = graph.load(1)({"x": x.numpy()})
    except Exception as error:  # noqa: BLE001 - the runtime's errors have no common base
        _log.warning("ONNX Runtime cannot run the flow's blocks, slower kernels do: %s", error)
        return False
    expected = nn.functional.gelu(nn.functional.linear(x, weight, bias), approximate="tanh")
    return torch.allclose(torch.from_numpy(found), expected, atol=1e-4)
