"""What lies around the rows that the DiT works on: to whom they belong, and what came before them.

Rows are packed (`models.rows`): a span of G × n rows is one sequence, G = 2 when the unguided copy runs
beside the guided one. A span's `DiTMemory` says what lies before its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor

from cadence.models.rows import pack, unpack

__all__ = [
    "CONV_HISTORY",
    "DiTMemory",
    "DiTSpan",
    "NoDiTMemory",
    "Sequences",
    "StepMemory",
    "attend_spans",
    "scaled_attention",
]

CONV_HISTORY = 2  # kernel 3, causal


class DiTMemory(Protocol):
    """What one span's layers see of the frames before its rows, at one step of the solver."""

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of [G, n, heads, d] queries over the past and the new frames, likewise."""
        ...

    def precede(self, layer: int, conv: int, rows: Tensor) -> Tensor:
        """Rows [G, n, C] with the two rows before them in front, [G, n + 2, C]."""
        ...


@runtime_checkable
class StepMemory(DiTMemory, Protocol):
    """A memory for who computes all layers at once, every frame seeing all others: what was before, and what
    is to be kept."""

    def past(self) -> Sequence[Tensor]:
        """Keys and values of the past frames, in runs [depth, 2, G, n, heads, d] in any order."""
        ...

    def recall(self, depth: int, groups: int, like: Tensor) -> Tensor:
        """The two rows before either convolution's at every layer, [depth, 2, G, 2, C], C as in `like`."""
        ...

    def retain(self, rows: Tensor, fresh: Sequence[Tensor]) -> None:
        """Keep what `recall` will give the next chunk, and the new frames' keys and values, layer by layer
        [G, n, heads, d] each."""
        ...


class Sequences:
    """Whole sequences: they attend within themselves, through `mask` [n, n] (True = visible) if given."""

    def __init__(self, mask: Tensor | None = None) -> None:
        self._mask = mask

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention within the span."""
        return scaled_attention(queries, keys, values, self._mask)

    def precede(self, layer: int, conv: int, rows: Tensor) -> Tensor:
        """Zeros in front."""
        return F.pad(rows, (0, 0, CONV_HISTORY, 0))


class NoDiTMemory(Sequences):
    """Whole sequences without a mask."""

    def __init__(self) -> None:
        super().__init__()

    def past(self) -> Sequence[Tensor]:
        """None."""
        return ()

    def recall(self, depth: int, groups: int, like: Tensor) -> Tensor:
        """Zeros."""
        return like.new_zeros(depth, 2, groups, CONV_HISTORY, like.shape[-1])

    def retain(self, rows: Tensor, fresh: Sequence[Tensor]) -> None:
        """Nothing follows a whole sequence."""

    def group(self, index: int) -> NoDiTMemory:
        """All groups are alike."""
        return self


class DiTSpan(NamedTuple):
    """`groups` × `frames` rows that belong together."""

    groups: int
    frames: int
    memory: DiTMemory


def attend_spans(projected: Sequence[Tensor], spans: Sequence[DiTSpan], layer: int) -> Tensor:
    """Attention of packed queries, keys and values [R, heads, d], to [R, heads · d]."""
    sizes = [span.groups * span.frames for span in spans]
    outputs = []
    for span, *rows in zip(spans, *(unpack(part, sizes) for part in projected), strict=True):
        found = span.memory.attend(layer, *(part.unflatten(0, (span.groups, span.frames)) for part in rows))
        outputs.append(found.reshape(span.groups * span.frames, -1))
    return pack(outputs)


def scaled_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q·kᵀ / √d)·v of [G, n, heads, d] and [G, L, heads, d], to [G, n, heads, d]; `mask` [n, L] is
    True where a key is seen."""
    q, k, v = (part.transpose(1, 2) for part in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
