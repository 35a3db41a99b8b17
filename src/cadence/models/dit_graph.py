"""The DiT's blocks on a CPU as one graph for ONNX Runtime: a step of the solver is one call.

Rows are packed as in `models.dit`, and what came before them a `DiTMemory` gives and keeps. How weights are
multiplied, exactly or not, the caller says (`Kernels`).
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

from cadence.models.dit_memory import CONV_HISTORY, DiTSpan, StepMemory, scaled_attention
from cadence.models.graph_attention import MAX_SEQUENCES, GraphAttention
from cadence.models.graph_conv import Convolution, MinimalFiltering, Product
from cadence.models.onnx_graph import Graph
from cadence.models.rows import pack, unpack

__all__ = ["EXACT", "BlockWeights", "DiTGraph", "Kernels", "graphs_work", "mish", "plain_linear"]

_log = logging.getLogger(__name__)

_MISH_LIMIT = 20.0  # beyond it tanh(softplus(x)) is 1 in float32

# A block's nine modulating vectors: of attention, of the MLP, of the convolutions.
_PARTS = [f"{kind}_{part}" for part in "amc" for kind in ("shift", "scale", "gate")]


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


class DiTGraph:
    """The blocks of a DiT. Float32 on a CPU; safe to share between streams and threads."""

    def __init__(
        self,
        blocks: Sequence[BlockWeights],
        num_threads: int,
        kernels: Kernels,
        *,
        slots: int = 1,
        past: torch.dtype = torch.float32,
    ) -> None:
        """`slots` and `past` are for `GraphAttention`."""
        graph = Graph()
        self._attention = GraphAttention(graph, slots, blocks[0].num_heads, blocks[0].head_dim, past)
        self._indices, self._depth = kernels.convolution.indices, len(blocks)
        x, modulation, history = graph.input("x", 2), graph.input("modulation", 2), graph.input("history", 3)
        graph.input("tail", 1, kind=int)
        kernels.convolution.declare(graph)
        tails, fresh = [], []
        for layer, block in enumerate(blocks):
            parts = {name: _at(graph, modulation, len(_PARTS) * layer + i) for i, name in enumerate(_PARTS)}
            before = [_at(graph, history, 2 * layer + conv) for conv in range(2)]
            piece = _Piece(graph, block, parts, kernels)
            projected = piece.before(x)
            x, kept = piece.after(x, self._attention(*projected), before)
            tails += kept
            fresh += projected[1:]
        axis = graph.constant(np.array([0], np.int64))
        graph.output(x, 2)
        graph.output(graph.call("Concat", *(graph.call("Unsqueeze", t, axis) for t in tails), axis=0), 3)
        for rows in fresh:
            graph.output(rows, 3)
        self._session = graph.load(num_threads)

    def __call__(
        self, x: Tensor, modulation: Tensor, spans: Sequence[DiTSpan], memories: Sequence[StepMemory]
    ) -> Tensor:
        """The rows behind the last block.

        Args:
            x: rows before the first block [R, C].
            modulation: each block's nine vectors, [depth, 9, C].
            spans: what the rows are, in order.
            memories: the spans'.

        Returns:
            [R, C].
        """
        portions = _portions([span.groups for span in spans])
        sizes = [sum(span.groups * span.frames for span in spans[part]) for part in portions]
        rows = zip(unpack(x, sizes), portions, strict=True)
        return pack([self._run(own, modulation, spans[part], memories[part]) for own, part in rows])

    def _run(
        self, x: Tensor, modulation: Tensor, spans: Sequence[DiTSpan], memories: Sequence[StepMemory]
    ) -> Tensor:
        counts = tuple(span.frames for span in spans for _ in range(span.groups))
        recalled = [
            memory.recall(self._depth, span.groups, x) for span, memory in zip(spans, memories, strict=True)
        ]
        history = torch.cat(recalled, dim=2).flatten(2, 3).flatten(0, 1)  # [2·depth, 2·S, C]
        pasts = []
        for span, memory in zip(spans, memories, strict=True):
            runs = memory.past()
            pasts += [[run[:, :, group] for run in runs] for group in range(span.groups)]
        inputs = {"x": x.numpy(), "modulation": modulation.flatten(0, 1).numpy(), "history": history.numpy()}
        inputs |= self._indices(counts) | _tails(counts) | self._attention.inputs(counts, pasts)
        rows, tails, *fresh = (torch.from_numpy(part) for part in self._session(inputs))
        tails = tails.view(self._depth, 2, -1, CONV_HISTORY, x.shape[1])  # [depth, 2, S, 2, C]
        kept = torch.split_with_sizes(tails, [span.groups for span in spans], dim=2)
        sizes = [span.groups * span.frames for span in spans]
        new = zip(*(unpack(part, sizes) for part in fresh), strict=True)
        for span, memory, last, parts in zip(spans, memories, kept, new, strict=True):
            memory.retain(last, [part.unflatten(0, (span.groups, span.frames)) for part in parts])
        return rows


def _portions(groups: Sequence[int]) -> list[slice]:
    """Runs of spans with so many sequences each, no run with more than attention takes."""
    cuts, count = [0], 0
    for index, more in enumerate(groups):
        if count + more > MAX_SEQUENCES:
            cuts.append(index)
            count = 0
        count += more
    return [slice(*cut) for cut in pairwise([*cuts, len(groups)])]


def _at(graph: Graph, values: str, index: int) -> str:
    """`values[index]`."""
    return graph.call("Gather", values, graph.constant(np.array(index, np.int64)), axis=0)


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


class _Piece:
    """One block's operations."""

    def __init__(
        self, graph: Graph, weights: BlockWeights, parts: Mapping[str, str], kernels: Kernels
    ) -> None:
        """`parts` are the modulating vectors [C] by name."""
        self._graph, self._w, self._parts, self._kernels = graph, weights, parts, kernels

    def before(self, x: str) -> list[str]:
        """Queries, keys and values [R, heads, d] of rows [R, C]."""
        graph, w = self._graph, self._w
        rows = self._modulated(x, "a")
        heads = graph.constant(np.array([-1, w.num_heads, w.head_dim], np.int64))
        # Three products, as cutting one apart would copy it.
        queries, keys, values = (graph.call("Reshape", self._linear(rows, pair), heads) for pair in w.qkv)
        return [_norm(graph, queries, w.q_norm), _norm(graph, keys, w.k_norm), values]

    def after(self, x: str, found: str, past: Sequence[str]) -> tuple[str, list[str]]:
        """The block's output [R, C] from its input and what attention found, and the two rows [2·S, C] that
        either convolution needs of each sequence before the next ones; `past` are those kept before."""
        graph, w = self._graph, self._w
        h = self._gated(x, "gate_a", self._linear(found, w.proj))
        first, kept = self._convolved(self._modulated(h, "c"), past[0], w.conv1)
        second, kept_too = self._convolved(mish(graph, _norm(graph, first, w.conv_norm)), past[1], w.conv2)
        h = self._gated(h, "gate_c", second)
        inner = graph.call("Gelu", self._linear(self._modulated(h, "m"), w.fc1), approximate="tanh")
        return self._gated(h, "gate_m", self._linear(inner, w.fc2)), [kept, kept_too]

    def _linear(self, rows: str, layer: tuple[Tensor, Tensor]) -> str:
        return self._kernels.linear(self._graph, rows, *layer)

    def _convolved(self, rows: str, past: str, layer: tuple[Tensor, Tensor]) -> tuple[str, str]:
        source = self._graph.call("Concat", past, rows, axis=0)
        kept = self._graph.call("Gather", source, "tail", axis=0)
        return self._kernels.convolution(self._graph, source, *layer), kept

    def _gated(self, before: str, gate: str, change: str) -> str:
        return self._graph.call("Add", before, self._graph.call("Mul", change, self._parts[gate]))

    def _modulated(self, rows: str, part: str) -> str:
        inputs = (rows, self._parts[f"scale_{part}"], self._parts[f"shift_{part}"])
        return self._graph.call("LayerNormalization", *inputs, epsilon=self._w.eps)


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
    weight, bias, *rows = (torch.randn(s, generator=generator) for s in ((16, 16), (16,), *3 * [(3, 2, 8)]))
    past = torch.randn(1, 2, 5, 2, 8, generator=generator)
    graph = Graph()
    attention = GraphAttention(graph, 1, 2, 8, torch.float32)
    names = [graph.input(f"rows_{kind}", 3) for kind in "qkv"]
    inner = plain_linear(graph, attention(*names), weight, bias)
    graph.output(graph.call("Gelu", inner, approximate="tanh"), 2)
    inputs = {name: part.numpy() for name, part in zip(names, rows, strict=True)}
    try:
        (found,) = graph.load(1)(inputs | attention.inputs([3], [[past]]))
    except Exception as error:  # noqa: BLE001 - the runtime's errors have no common base
        _log.warning("ONNX Runtime cannot run the flow's blocks, slower kernels do: %s", error)
        return False
    seen = [torch.cat([past[0, kind], rows[1 + kind]])[None] for kind in range(2)]
    attended = scaled_attention(rows[0][None], *seen).reshape(3, 16)
    expected = nn.functional.gelu(nn.functional.linear(attended, weight, bias), approximate="tanh")
    return torch.allclose(torch.from_numpy(found), expected, atol=1e-4)
