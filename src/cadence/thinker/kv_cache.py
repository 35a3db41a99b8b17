"""Keys and values of all running sequences, in blocks, and attention over them.

One step computes N new tokens of several sequences, packed along one axis. Linear layers see them as one
matrix; attention is done span by span here. Spans with as many new tokens and about as long a past are
attended in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cadence.models.qwen2 import Qwen2Config, causal_attention
from cadence.models.transfers import to_device

__all__ = ["KVMemory", "Span", "StepAttention", "TableAttention", "kv_token_bytes"]

# Spans up to this many new tokens are grouped, longer ones (chunks of prompts) are attended alone.
MAX_GROUPED_TOKENS = 2


def kv_token_bytes(config: Qwen2Config, dtype: torch.dtype) -> int:
    """Bytes that keys and values of one token take."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize


@dataclass(frozen=True, slots=True)
class Span:
    """New tokens of one sequence: positions `start` to `start + count` of the sequence at `row`."""

    row: int
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class _Group:
    """Spans attended in one call: tokens `first` to `last` of the packed axis.

    `blocks` [B * num_blocks] is what to gather (None: a prompt's first chunk, there is no past); blocks that
    lie in a row, from `start` on, need no gathering. `mask` is added to the scores, [B, 1, count, length]
    (None: all of those tokens are seen).
    """

    first: int
    last: int
    num_spans: int
    length: int
    blocks: Tensor | None
    mask: Tensor | None
    start: int | None = None

    def seen(self, stored: Tensor) -> Tensor:
        """The group's past [B, length, kv_heads, d] out of one layer's keys or values."""
        if self.start is not None:
            first = self.start * stored.shape[1]
            return stored.flatten(0, 1)[None, first : first + self.length]
        assert self.blocks is not None, "a first chunk has no past"
        gathered = stored.index_select(0, self.blocks)
        return gathered.view(self.num_spans, -1, *stored.shape[2:])[:, : self.length]


class KVMemory:
    """Storage [layers, blocks, block_size, kv_heads, head_dim] for keys, the same for values.

    There is one block more than `num_blocks`, `spare_block`, which no row holds: rows that pad write there.
    Starts zeroed: masked-out places are multiplied by a weight of zero, so they must be finite. On a CPU
    the system hands out zeroed pages on first touch; unused blocks cost nothing.
    """

    def __init__(
        self,
        config: Qwen2Config,
        *,
        num_blocks: int,
        block_size: int,
        max_rows: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (config.num_hidden_layers, num_blocks + 1, block_size)
        self.spare_block = num_blocks
        heads = (config.num_key_value_heads, config.head_dim)
        self.keys = torch.zeros(*shape, *heads, device=device, dtype=dtype)
        self.values = torch.zeros(*shape, *heads, device=device, dtype=dtype)
        self.block_size = block_size
        self.device, self.dtype = device, dtype
        # Which block holds a row's n-th run of tokens. On the host: planning a step must not wait for a GPU,
        # and numpy handles a few numbers in a fraction of torch's time.
        self._tables = np.zeros((max_rows, num_blocks), dtype=np.int64)
        self._num_known = [0] * max_rows

    def set_blocks(self, row: int, blocks: Sequence[int]) -> None:
        """Tell which blocks a row holds; `blocks` may only have grown since the last call for the row."""
        known = self._num_known[row]
        if len(blocks) > known:
            self._tables[row, known : len(blocks)] = blocks[known:]
            self._num_known[row] = len(blocks)

    def forget(self, row: int) -> None:
        """Start a row anew, for another sequence."""
        self._num_known[row] = 0

    def scrub(self, blocks: Sequence[int]) -> None:
        """Zero blocks that may hold something not finite, before another sequence gets them."""
        index = torch.tensor(list(blocks), dtype=torch.int64, device=self.device)
        self.keys.index_fill_(1, index, 0)
        self.values.index_fill_(1, index, 0)

    def store(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values [N, kv_heads, d] to `slots` [N]; the whole layer's storage of both."""
        keys, values = self.keys[layer], self.values[layer]
        keys.flatten(0, 1).index_copy_(0, slots, k)
        values.flatten(0, 1).index_copy_(0, slots, v)
        return keys, values

    def slots(self, spans: Sequence[Span]) -> Tensor:
        """Flat storage index [N] of each new token of `spans`, in order; on the host."""
        rows = np.repeat([span.row for span in spans], [span.count for span in spans])
        positions = _positions(spans)
        size = self.block_size
        return torch.from_numpy(self._tables[rows, positions // size] * size + positions % size)

    def tables(self, rows: Sequence[int], num_blocks: int) -> Tensor:
        """The first `num_blocks` blocks of each row, flat [B * num_blocks]; unused entries are some block."""
        return torch.from_numpy(self._tables[list(rows), :num_blocks].ravel())

    def padded_tables(self, spans: Sequence[Span], num_blocks: int) -> NDArray[np.int64]:
        """For each new token of `spans` the blocks up to its position, then its sequence's first block again,
        [N, num_blocks]; on the host. What is not finite in a padded row can only be that row's own."""
        rows = np.repeat([span.row for span in spans], [span.count for span in spans])
        tables = np.repeat(self._tables[rows, :1], num_blocks, axis=1)
        width = min(num_blocks, self._tables.shape[1])
        held = np.arange(width) <= (_positions(spans) // self.block_size)[:, None]
        np.copyto(tables[:, :width], self._tables[rows, :width], where=held)
        return tables


def span_positions(spans: Sequence[Span]) -> Tensor:
    """Position of each new token in its sequence, [N]; on the host."""
    return torch.from_numpy(_positions(spans))


def _positions(spans: Sequence[Span]) -> NDArray[np.int64]:
    if all(span.count == 1 for span in spans):
        return np.array([span.start for span in spans], dtype=np.int64)
    return np.concatenate([np.arange(span.start, span.start + span.count) for span in spans])


def order_spans(spans: Sequence[Span]) -> list[list[int]]:
    """Indices of `spans` in groups to attend together, short spans first.

    Grouped spans have equally many new tokens, and pasts whose block counts share a power of two, so
    that padding at most doubles the work.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, span in enumerate(spans):
        if span.count <= MAX_GROUPED_TOKENS:
            key: tuple[int, ...] = (span.count, (span.start + span.count - 1).bit_length())
        else:
            key = (span.count, 0, index)
        groups.setdefault(key, []).append(index)
    return [groups[key] for key in sorted(groups)]


class StepAttention:
    """`AttentionMemory` of one step. Spans must come packed group after group, as `groups` lists them."""

    def __init__(self, memory: KVMemory, groups: Sequence[Sequence[Span]]) -> None:
        spans = [span for group in groups for span in group]
        self._memory = memory
        self._slots = to_device(memory.slots(spans), memory.device)
        self._groups = []
        first = 0
        for group in groups:
            self._groups.append(self._plan(group, first))
            first = self._groups[-1].last

    def _plan(self, spans: Sequence[Span], first: int) -> _Group:
        memory, count = self._memory, spans[0].count
        last = first + count * len(spans)
        if len(spans) == 1 and spans[0].start == 0:
            return _Group(first, last, 1, count, None, None)
        longest = max(span.start for span in spans) + count
        num_blocks = -(-longest // memory.block_size)
        table = memory.tables([span.row for span in spans], num_blocks)
        start = _run_start(table) if len(spans) == 1 else None
        blocks = to_device(table, memory.device)
        if len(spans) == 1 and count == 1:
            return _Group(first, last, 1, longest, blocks, None, start)
        length = num_blocks * memory.block_size
        starts = np.array([span.start for span in spans])
        limits = starts[:, None] + np.arange(count)  # [B, count]: the last position each token sees
        hidden = torch.from_numpy(np.arange(length) > limits[:, :, None])
        mask = torch.zeros(hidden.shape, dtype=memory.dtype).masked_fill_(hidden, float("-inf"))
        return _Group(first, last, len(spans), length, blocks, to_device(mask[:, None], memory.device), start)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the new keys and values [N, kv_heads, d], then attend; q [N, heads, d] -> [N, heads, d]."""
        keys, values = self._memory.store(layer, self._slots, k, v)
        parts = []
        for group in self._groups:
            here = slice(group.first, group.last)
            if group.blocks is None:
                parts.append(causal_attention(q[None, here], k[None, here], v[None, here])[0])
                continue
            parts.append(_attend_group(q[here], group.seen(keys), group.seen(values), group))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class TableAttention:
    """`AttentionMemory` of B single tokens whose whole plan lies on the device, in one group.

    `slots` [B] take their keys and values; `blocks` [B * num_blocks] are read, `mask` [B, 1, 1, length] is
    added to the scores.
    """

    def __init__(self, memory: KVMemory, slots: Tensor, blocks: Tensor, mask: Tensor) -> None:
        self._memory, self._slots = memory, slots
        self._group = _Group(0, len(slots), len(slots), mask.shape[-1], blocks, mask)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `StepAttention.attend`; every token's key is stored before any is read."""
        keys, values = self._memory.store(layer, self._slots, k, v)
        return _attend_group(q, self._group.seen(keys), self._group.seen(values), self._group)


def _run_start(blocks: Tensor) -> int | None:
    """The first of blocks [n] that lie one behind the other, else None. A sequence alone gets such."""
    numbers = blocks.numpy()
    return int(numbers[0]) if bool((np.diff(numbers) == 1).all()) else None


def _attend_group(q: Tensor, k: Tensor, v: Tensor, group: _Group) -> Tensor:
    """q [B * count, heads, d] over k, v [B, length, kv_heads, d] -> [B * count, heads, d]."""
    num_heads, dim = q.shape[1:]
    kv_heads = k.shape[2]
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    count = q.shape[0] // group.num_spans
    if count == 1:
        # The heads that share a key head become its queries: keys and values are read once, not copied.
        folded = q.view(group.num_spans, kv_heads, num_heads // kv_heads, dim)
        return F.scaled_dot_product_attention(folded, k, v, attn_mask=group.mask).view(-1, num_heads, dim)
    q = q.view(group.num_spans, count, num_heads, dim).transpose(1, 2)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=group.mask, enable_gqa=True)
    return y.transpose(1, 2).reshape(-1, num_heads, dim)
