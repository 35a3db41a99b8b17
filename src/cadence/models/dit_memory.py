"""What lies around the rows that the DiT works on: to whom they belong, and what came before them.

Rows are packed (`models.rows`): a span of G × n rows is one sequence, G = 2 when the unguided copy runs
beside the guided one. A span's `DiTMemory` says what lies before its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor

from cadence.models.rows import pack, unpack

__all__ = ["CONV_HISTORY", "DiTMemory", "DiTSpan", "NoDiTMemory", "attend_spans"]

CONV_HISTORY = 2  # kernel 3, causal


class DiTMemory(Protocol):
    """What one span's layers see of the frames before its rows, at one step of the solver."""

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of [G, heads, n, d] queries over the past and the new frames."""
        ...

    def precede(self, layer: int, conv: int, rows: Tensor) -> Tensor:
        """Rows [G, n, C] with the two rows before them in front, [G, n + 2, C]."""
        ...

    def recall(self, depth: int, groups: int, like: Tensor) -> Tensor:
        """The two rows before either convolution's at every layer, [depth, 2, G, 2, C], C as in `like`;
        with `retain` the same as `precede` for who computes both convolutions at once."""
        ...

    def retain(self, rows: Tensor) -> None:
        """Keep what `recall` will give the next chunk."""
        ...


class NoDiTMemory:
    """A whole sequence: it attends within itself, through `mask` [n, n] (True = visible) if given."""

    def __init__(self, mask: Tensor | None = None) -> None:
        self._mask = mask

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention within the span."""
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=self._mask)

    def precede(self, layer: int, conv: int, rows: Tensor) -> Tensor:
        """Zeros in front."""
        return F.pad(rows, (0, 0, CONV_HISTORY, 0))

    def recall(self, depth: int, groups: int, like: Tensor) -> Tensor:
        """Zeros."""
        return like.new_zeros(depth, 2, groups, CONV_HISTORY, like.shape[-1])

    def retain(self, rows: Tensor) -> None:
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
        shape = (span.groups, span.frames, *projected[0].shape[1:])
        found = span.memory.attend(layer, *(part.view(shape).transpose(1, 2) for part in rows))
        outputs.append(found.transpose(1, 2).reshape(span.groups * span.frames, -1))
    return pack(outputs)
