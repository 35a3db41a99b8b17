"""Attention over packed rows, and over keys and values from before them, as operations of a graph.

Several sequences' rows lie side by side; each attends to itself and to its own past, which is read where it
lies, in a few runs of frames. The graph knows two ways to take rows apart: into `slots` sequences of equal
length, and into up to `MAX_SEQUENCES` of any lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadence.models.onnx_graph import Graph, as_input, bfloat16

__all__ = ["MAX_SEQUENCES", "RUNS", "GraphAttention"]

MAX_SEQUENCES = 8  # four streams with guidance: at so many rows, more of them gain nothing
RUNS = 8  # a stream's own frames between those that it overwrites, two to six, and its voice's

_FEW_ROWS = 128  # up to so many, two products with the scores between them beat the fused kernel


class GraphAttention:
    """softmax(q·kᵀ / √d)·v without a mask in every layer of a graph: call it once a layer, in order."""

    def __init__(self, graph: Graph, slots: int, heads: int, head_dim: int, past: torch.dtype) -> None:
        """Declares the inputs that do not belong to one layer. Past keys and values come in the dtype `past`;
        they are multiplied in float32."""
        self._graph, self._slots, self._heads, self._dim = graph, slots, heads, head_dim
        self._past = past
        # By sequence and run: each layer's keys and values, by turns.
        self._names: list[list[list[str]]] = [[[] for _ in range(RUNS)] for _ in range(MAX_SEQUENCES)]
        for name in ("alike", "few"):
            graph.input(name, 0, kind=bool)
        graph.input("ends", 1, kind=int)

    def __call__(self, queries: str, keys: str, values: str) -> str:
        """Rows [R, heads, d] to [R, heads · d]."""
        layer, shape = len(self._names[0][0]) // 2, (0, self._heads, self._dim)
        for place, runs in enumerate(self._names):
            for number, names in enumerate(runs):
                for kind in "kv":
                    name = f"past_{layer}_{kind}_{place}_{number}"
                    names.append(self._graph.optional(name, shape, kind=self._past))

        def sequence(graph: Graph, place: int, own: str, new: Sequence[str]) -> str:
            seen = []
            for kind, rows in enumerate(new):
                past = [names[2 * layer + kind] for names in self._names[place]]
                if self._past != torch.float32:
                    past = [graph.widened(run) for run in past]
                seen.append(graph.call("Concat", *past, rows, axis=0))
            return self._attend(graph, own, *seen)

        def alike(graph: Graph) -> str:
            parts = [_cut(graph, rows, self._slots) for rows in (queries, keys, values)]
            found = [
                sequence(graph, place, own, new) for place, (own, *new) in enumerate(zip(*parts, strict=True))
            ]
            return graph.call("Concat", *found, axis=0)

        def any_lengths(graph: Graph) -> str:
            count = graph.call("Size", "ends")

            def part(place: int) -> str:
                def present(inner: Graph) -> str:
                    bounds = [inner.constant(np.array([place + i], np.int64)) for i in range(2)]
                    first, stop = (inner.call("Gather", "ends", at) for at in bounds)
                    axis = inner.constant(np.array([0], np.int64))
                    own, *new = (
                        inner.call("Slice", rows, first, stop, axis) for rows in (queries, keys, values)
                    )
                    return sequence(inner, place, own, new)

                def absent(inner: Graph) -> str:
                    return inner.constant(np.zeros((0, self._heads * self._dim), np.float32))

                limit = graph.constant(np.array(place + 1, np.int64))
                return graph.choose(graph.call("Greater", count, limit), present, absent)

            return graph.call("Concat", *map(part, range(MAX_SEQUENCES)), axis=0)

        # A branch's result has no known rank, and products are only joined with their bias where it is 2.
        return self._flat(self._graph, self._graph.choose("alike", alike, any_lengths))

    def inputs(self, counts: Sequence[int], pasts: Sequence[Sequence[Tensor]]) -> dict[str, Any]:
        """The graph's inputs for up to `MAX_SEQUENCES` sequences of so many rows and their past: runs
        [depth, 2, n, heads, d] each, in any order."""
        found: dict[str, Any] = {
            "alike": np.array(len(counts) == self._slots and len(set(counts)) == 1),
            "few": np.array(max(counts) <= _FEW_ROWS),
            "ends": np.array([0, *accumulate(counts)], np.int64),
        }
        for place, tensors in enumerate(pasts):
            runs = [self._widened(run) for run in tensors]
            if len(runs) > RUNS:
                runs[RUNS - 1 :] = [torch.cat(runs[RUNS - 1 :], dim=2)]
            for number, run in enumerate(runs):
                # Hundreds of arrays, while the caches are full of weights: taken apart without bytecode.
                parts: Any = as_input(run.view(-1, *run.shape[2:]))
                if self._past == torch.bfloat16:
                    parts = map(bfloat16, parts)
                found.update(zip(self._names[place][number], parts, strict=True))
        return found

    def _widened(self, run: Tensor) -> Tensor:
        if run.dtype != self._past != torch.float32:
            raise ValueError(f"Past keys and values are to be {self._past}, found {run.dtype}.")
        return run.to(self._past)

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
