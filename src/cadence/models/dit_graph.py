"""The DiT's blocks on a CPU as graphs for ONNX Runtime: one for what lies between two attentions.

Attention itself stays with `DiTMemory`, where keys and values lie. Rows are packed as in `models.dit`. How
weights are multiplied, exactly or not, the caller says (`Kernels`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cadence.models.dit_memory import CONV_HISTORY, DiTSpan, attend_spans
from cadence.models.graph_conv import Convolution, MinimalFiltering, Product
from cadence.models.onnx_graph import Graph

__all__ = ["EXACT", "BlockWeights", "DiTGraphs", "Kernels", "graphs_work", "mish", "plain_linear"]

_log = logging.getLogger(__name__)

_MISH_LIMIT = 20.0  # beyond it tanh(softplus(x)) is 1 in float32

# Places among a block's nine modulating vectors: of attention, of the MLP, of the convolutions.
_BEFORE = {"shift_a": 0, "scale_a": 1}
_AFTER = {"gate_a": 2, "shift_m": 3, "scale_m": 4, "gate_m": 5, "shift_c": 6, "scale_c": 7, "gate_c": 8}


class BlockWeights(NamedTuple):
    """A block's layers: linear layers as (weight [out, in], bias), convolutions tap by tap [3·C, C] with
    their bias, norms as modules with the sizes and epsilons they have."""

    qkv: Sequence[tuple[Tensor, Tensor]]  # three
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


class DiTGraphs:
    """The blocks of a DiT. Float32 on a CPU; safe to share between streams."""

    def __init__(self, blocks: Sequence[BlockWeights], num_threads: int, kernels: Kernels) -> None:
        pieces = [*pairwise([None, *blocks, None])]
        self._graphs = [_between(*piece, kernels).load(num_threads) for piece in pieces]
        self._indices = kernels.convolution.indices
        self._depth = len(blocks)

    def __call__(self, x: Tensor, modulation: Tensor, spans: Sequence[DiTSpan]) -> Tensor:
        """The rows behind the last block.

        Args:
            x: rows before the first block [R, C].
            modulation: each block's nine vectors, [depth, 9, C].
            spans: what the rows are, in order.

        Returns:
            [R, C].
        """
        shape = tuple(span.frames for span in spans for _ in range(span.groups))
        lists = self._indices(shape) | _tails(shape)
        recalled = [span.memory.recall(self._depth, span.groups, x).flatten(2, 3) for span in spans]
        history = torch.cat(recalled, dim=2).numpy()  # [depth, 2, 2·S, C]
        parts = modulation.numpy()
        rows, tails = x.numpy(), []
        first, *others = self._graphs
        projected = first(_named(_BEFORE, parts[0]) | {"x": rows})
        for layer, graph in enumerate(others):
            found = attend_spans([torch.from_numpy(part) for part in projected], spans, layer)
            inputs = {"x": rows, "found": found.numpy(), "history": history[layer]}
            inputs |= lists | _named(_AFTER, parts[layer])
            if layer + 1 < self._depth:
                inputs |= _named(_BEFORE, parts[layer + 1])
            rows, tail, *projected = graph(inputs)
            tails.append(torch.from_numpy(tail))
        kept = torch.stack(tails).view(self._depth, 2, -1, CONV_HISTORY, x.shape[1])  # [depth, 2, S, 2, C]
        groups = [span.groups for span in spans]
        for span, part in zip(spans, torch.split_with_sizes(kept, groups, dim=2), strict=True):
            span.memory.retain(part)
        return torch.from_numpy(rows)


def _named(places: Mapping[str, int], parts: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {name: parts[place] for name, place in places.items()}


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


def _between(past: BlockWeights | None, following: BlockWeights | None, kernels: Kernels) -> Graph:
    """What lies between two attentions: the rest of one block, the beginning of the next."""
    graph = Graph()
    x = graph.input("x", 2)
    if past is not None:
        x, tails = _after(graph, x, past, kernels)
        graph.output(x, 2)
        graph.output(tails, 3)
    if following is not None:
        for part in _before(graph, x, following, kernels):
            graph.output(part, 3)
    return graph


def _before(graph: Graph, x: str, w: BlockWeights, kernels: Kernels) -> tuple[str, str, str]:
    """Queries, keys and values [R, heads, d] of rows [R, C]."""
    scale, shift = (graph.input(name, 1) for name in ("scale_a", "shift_a"))
    rows = graph.call("LayerNormalization", x, scale, shift, epsilon=w.eps)
    heads = graph.constant(np.array([-1, w.num_heads, w.head_dim], np.int64))
    # Three products, as cutting one apart would copy it.
    queries, keys, values = (graph.call("Reshape", kernels.linear(graph, rows, *p), heads) for p in w.qkv)
    return _norm(graph, queries, w.q_norm), _norm(graph, keys, w.k_norm), values


def _after(graph: Graph, x: str, w: BlockWeights, kernels: Kernels) -> tuple[str, str]:
    """The block's output [R, C], and the two rows [2, 2·S, C] that either convolution needs of each sequence
    before the next ones."""
    found, history = graph.input("found", 2), graph.input("history", 3)
    m = {name: graph.input(name, 1) for name in _AFTER}
    tail = graph.input("tail", 1, integer=True)
    kernels.convolution.declare(graph)
    linear = kernels.linear

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
    h = gated(h, "gate_m", linear(graph, inner, *w.fc2))
    axis = graph.constant(np.array([0], np.int64))
    return h, graph.call("Concat", *(graph.call("Unsqueeze", part, axis) for part in tails), axis=0)


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
