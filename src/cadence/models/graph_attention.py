"""Attention over packed rows, and over keys and values from before them, as operations of a graph.

Several sequences' rows lie side by side; each attends to itself and to its own past. The graph knows two ways
to take them apart: `slots` sequences of equal length, whose past is read where it lies, in up to `RUNS` runs
of frames each; and any number of any lengths one after the other, their past in one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadence.models.onnx_graph import Graph, as_input, bfloat16

__all__ = ["RUNS", "GraphAttention"]

RUNS = 3  # a stream's own frames around those that it writes, and its voice's

_FEW_ROWS = 128  # up to so many, two products with the scores between them beat the fused kernel


class GraphAttention:
    """softmax(q·kᵀ / √d)·v without a mask in every layer of a graph: call it once a layer, in order."""

    def __init__(self, graph: Graph, slots: int, heads: int, head_dim: int, past: torch.dtype) -> None:
        """Declares the inputs that do not belong to one layer. Past keys and values come in the dtype `past`;
        they are multiplied in float32."""
        self._graph, self._slots, self._heads, self._dim = graph, slots, heads, head_dim
        self._past = past
        self._layers: list[list[list[list[str]]]] = []  # names by layer, keys or values, slot and run
        for name in ("direct", "few"):
            graph.input(name, 0, kind=bool)
        for name in ("row_ends", "past_ends"):
            graph.input(name, 1, kind=int)

    def __call__(self, queries: str, keys: str, values: str) -> str:
        """Rows [R, heads, d] to [R, heads · d]."""
        layer = len(self._layers)
        past = [
            [
                [
                    self._graph.input(f"past_{layer}_{kind}_{slot}_{run}", 3, kind=self._past)
                    for run in range(RUNS)
                ]
                for slot in range(self._slots)
            ]
            for kind in range(2)
        ]
        self._layers.append(past)

        def direct(graph: Graph) -> str:
            parts = [_cut(graph, rows, self._slots) for rows in (queries, keys, values)]
            found = []
            for slot, (own, *new) in enumerate(zip(*parts, strict=True)):
                joined = [self._joined(graph, kind[slot], n) for kind, n in zip(past, new, strict=True)]
                found.append(self._attend(graph, own, *joined))
            return graph.call("Concat", *found, axis=0)

        def in_turn(graph: Graph) -> str:
            nothing = graph.constant(np.zeros((0, self._heads * self._dim), np.float32))
            axis = graph.constant(np.array([0], np.int64))
            times = graph.call("Sub", graph.call("Size", "row_ends"), graph.constant(np.array(1, np.int64)))

            def one(inner: Graph, index: str, before: str) -> str:
                def bounds(ends: str) -> tuple[str, str]:
                    first = inner.call("Unsqueeze", index, axis)
                    after = inner.call("Add", first, inner.constant(np.array([1], np.int64)))
                    return inner.call("Gather", ends, first), inner.call("Gather", ends, after)

                rows, frames = bounds("row_ends"), bounds("past_ends")
                own, *new = (inner.call("Slice", part, *rows, axis) for part in (queries, keys, values))
                joined = [
                    self._joined(inner, [inner.call("Slice", kind[0][0], *frames, axis)], n)
                    for kind, n in zip(past, new, strict=True)
                ]
                return inner.call("Concat", before, self._attend(inner, own, *joined), axis=0)

            return graph.repeat(times, nothing, one)

        # A branch's result has no known rank, and products are only joined with their bias where it is 2.
        return self._flat(self._graph, self._graph.choose("direct", direct, in_turn))

    def inputs(self, counts: Sequence[int], pasts: Sequence[Sequence[Tensor]]) -> dict[str, Any]:
        """The graph's inputs for sequences of so many rows and their past: runs [depth, 2, n, heads, d] each,
        in any order."""
        direct = len(counts) == self._slots and len(set(counts)) == 1
        lengths = [sum(run.shape[2] for run in runs) for runs in pasts]
        found: dict[str, Any] = {
            "direct": np.array(direct),
            "few": np.array(max(counts) <= _FEW_ROWS),
            "row_ends": np.array([0, *accumulate(counts)], np.int64),
            "past_ends": np.array([0, *accumulate(lengths)], np.int64),
        }
        sizes = (len(self._layers), 2, 0, self._heads, self._dim)
        nothing = as_input(torch.empty(sizes, dtype=self._past))
        arrays = [[as_input(self._widened(run)) for run in runs] for runs in pasts]
        slots = arrays if direct else [[run for runs in arrays for run in runs]]
        wrapped = bfloat16 if self._past == torch.bfloat16 else np.asarray
        limit = RUNS if direct else 1
        for slot in range(self._slots):
            runs = list(slots[slot]) if slot < len(slots) else []
            if len(runs) > limit:
                runs[limit - 1 :] = [np.concatenate(runs[limit - 1 :], axis=2)]
            runs += [nothing] * (RUNS - len(runs))
            for layer, names in enumerate(self._layers):
                for kind in range(2):
                    for name, run in zip(names[kind][slot], runs, strict=True):
                        found[name] = wrapped(run[layer, kind])
        return found

    def _widened(self, run: Tensor) -> Tensor:
        if run.dtype != self._past != torch.float32:
            raise ValueError(f"Past keys and values are to be {self._past}, found {run.dtype}.")
        return run.to(self._past)

    def _joined(self, graph: Graph, past: Sequence[str], new: str) -> str:
        if self._past != torch.float32:
            past = [graph.widened(run) for run in past]
        return graph.call("Concat", *past, new, axis=0)

    def _attend(self, graph: Graph, queries: str, keys: str, values: str) -> str:
        """[n, heads, d] and twice [L, heads, d] to [n, heads · d]."""
        scale, own = self._dim**-0.5, Graph.RUNTIMES_OWN

        def products(inner: Graph) -> str:
            options = {"transBatchB": 1, "domain": own}
            scores = inner.call("FusedMatMul", queries, keys, transBatchA=1, transB=1, alpha=scale, **options)
            found = inner.call("FusedMatMul", inner.call("Softmax", scores, axis=-1), values, **options)
            return self._flat(inner, inner.call("Transpose", found, perm=(1, 0, 2)))

        def fused(inner: Graph) -> str:
            width = inner.constant(np.array([1, -1, self._heads * self._dim], np.int64))
            rows = (inner.call("Reshape", part, width) for part in (queries, keys, values))
            options = {"num_heads": self._heads, "scale": scale, "domain": own}
            return self._flat(inner, inner.call("MultiHeadAttention", *rows, **options))

        return graph.choose("few", products, fused)

    def _flat(self, graph: Graph, found: str) -> str:
        return graph.call("Reshape", found, graph.constant(np.array([-1, self._heads * self._dim], np.int64)))


def _cut(graph: Graph, rows: str, parts: int) -> list[str]:
    return [rows] if parts == 1 else graph.split(rows, parts, axis=0)
