"""The flow's upsampling conformer encoder: speech codes at 25 Hz in, mel conditions at 50 Hz out.

Look-ahead layer (each frame sees the next three), blocks at 25 Hz, repetition to 50 Hz with a causal
convolution, blocks at 50 Hz. Attention is relative to distance only (Transformer-XL form), so positions
have no end; within a chunk it sees both ways, and it sees everything before the chunk.

One code path serves offline, streaming and training: a sequence's `EncoderMemory` says what lies before
its rows. `NoMemory` says nothing does; a stream's own memory is in `models.flow_stream`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadence.models.flow_config import EncoderConfig
from cadence.models.linear import Linear
from cadence.models.rows import RowConv, attend, pack, unpack

__all__ = ["UP_RATE", "EncoderMemory", "NoMemory", "UpsamplingConformer"]

UP_RATE = 2  # mel frames per code
_QUERY_BLOCK = 512  # bounds the score matrix of a long utterance


class EncoderMemory(Protocol):
    """What one sequence's layers see of the frames before the given rows."""

    def extend(self, stage: int, layer: int, keys: Tensor, values: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Add keys and values [heads, n, d] of new frames; all of them, oldest first."""
        ...

    def precede(self, name: str, rows: Tensor, count: int) -> Tensor:
        """Rows [n, C] with the `count` rows before them in front (zeros at the start)."""
        ...

    def mask(self, stage: int, start: int, count: int, length: int) -> Tensor | None:
        """Which of `length` keys the queries start..start+count may see; None = all."""
        ...


class NoMemory:
    """A sequence that is whole: nothing lies before it and nothing is kept.

    `chunk_codes` restricts attention to the query's own chunk and those before it, which is what a
    model must be trained with to stream.
    """

    def __init__(self, chunk_codes: int | None = None) -> None:
        self._chunk = chunk_codes

    def extend(self, stage: int, layer: int, keys: Tensor, values: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The new frames are all there is."""
        return [(keys, values)]

    def precede(self, name: str, rows: Tensor, count: int) -> Tensor:
        """Zeros in front."""
        return F.pad(rows, (0, 0, count, 0))

    def mask(self, stage: int, start: int, count: int, length: int) -> Tensor | None:
        """[count, length], True where visible."""
        if self._chunk is None:
            return None
        chunk = self._chunk * UP_RATE**stage
        ends = (torch.arange(start, start + count) // chunk + 1) * chunk
        visible: Tensor = torch.arange(length)[None, :] < ends[:, None]
        return visible


class RelativeAttention(nn.Module):
    """Multi-head attention with content and distance terms (https://arxiv.org/abs/1901.02860, 3.3)."""

    def __init__(self, hidden: int, num_heads: int, key_bias: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden // num_heads
        self.linear_q = Linear(hidden, hidden)
        self.linear_k = Linear(hidden, hidden, bias=key_bias)
        self.linear_v = Linear(hidden, hidden)
        self.linear_out = Linear(hidden, hidden)
        self.linear_pos = nn.Linear(hidden, hidden, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(num_heads, self.head_dim))
        self.pos_bias_v = nn.Parameter(torch.empty(num_heads, self.head_dim))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)
        # (farthest distance, nearest distance, table): projected distances are a constant of the
        # weights, computed as far as a stream has got and shared by all.
        self._table: tuple[int, int, Tensor] | None = None

    def forward(
        self, x: Tensor, lengths: Sequence[int], memories: Sequence[EncoderMemory], stage: int, layer: int
    ) -> Tensor:
        """Packed rows [R, C] to [R, C]."""
        shape = (-1, self.num_heads, self.head_dim)
        queries, keys, values = (
            unpack(linear(x).view(shape), lengths) for linear in (self.linear_q, self.linear_k, self.linear_v)
        )
        outputs = []
        for q, k, v, memory in zip(queries, keys, values, memories, strict=True):
            past = memory.extend(stage, layer, k.transpose(0, 1), v.transpose(0, 1))
            length = sum(segment[0].shape[1] for segment in past)
            first = length - len(q)
            for start in range(0, len(q), _QUERY_BLOCK):
                block = q[start : start + _QUERY_BLOCK]
                mask = memory.mask(stage, first + start, len(block), length)
                outputs.append(self._attend(block, first + start, past, length, mask))
        output: Tensor = self.linear_out(pack(outputs))
        return output

    def _attend(
        self,
        q: Tensor,
        start: int,
        past: Sequence[tuple[Tensor, Tensor]],
        length: int,
        mask: Tensor | None,
    ) -> Tensor:
        """Queries [n, heads, d] of the frames from `start` on, to [n, C]."""
        count, scale = len(q), self.head_dim**-0.5
        farthest, nearest = start + count - 1, start - length + 1
        by_distance = torch.bmm(
            ((q + self.pos_bias_v) * scale).transpose(0, 1),
            self._distances(farthest, nearest).transpose(1, 2),
        )
        # Column m of row r is distance farthest - m; key j lies at distance start + r - j, that is in
        # column count - 1 - r + j: a diagonal walk, read in place through strides.
        width = length + count - 1
        bias = by_distance.as_strided(
            (self.num_heads, count, length),
            (count * width, width - 1, 1),
            by_distance.storage_offset() + count - 1,
        )
        if mask is not None:
            bias = bias.masked_fill(~mask.to(bias.device), float("-inf"))
        content = ((q + self.pos_bias_u) * scale).transpose(0, 1)
        output = attend(content, past, bias)
        return output.transpose(0, 1).reshape(count, -1)

    def _distances(self, farthest: int, nearest: int) -> Tensor:
        """Projections of the distances farthest..nearest, descending: [heads, count, d]."""
        if torch.is_grad_enabled():
            return self._project(farthest, nearest)
        table = self._table
        if table is None or table[0] < farthest or table[1] > nearest:
            known = (farthest, nearest) if table is None else table[:2]
            high, low = max(farthest, known[0]), min(nearest, known[1])
            # Room to grow: a stream comes back a chunk farther each time.
            high, low = high + high // 2 + 64, low - 16
            table = self._table = (high, low, self._project(high, low))
        high, _, values = table
        return values[:, high - farthest : high - nearest + 1]

    def _project(self, farthest: int, nearest: int) -> Tensor:
        weight = self.linear_pos.weight
        encoded = _sinusoids(farthest, nearest, weight.shape[1], weight)
        projected: Tensor = self.linear_pos(encoded)
        return projected.view(-1, self.num_heads, self.head_dim).transpose(0, 1).contiguous()


def _sinusoids(farthest: int, nearest: int, dim: int, like: Tensor) -> Tensor:
    """Signed distances farthest..nearest as interleaved sine and cosine, [count, dim]."""
    distance = torch.arange(farthest, nearest - 1, -1, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * -(math.log(10000.0) / dim))
    pairs = torch.stack([torch.sin(distance * rate), torch.cos(distance * rate)], dim=-1)
    return pairs.flatten(1).to(like.device, like.dtype)


class _FeedForward(nn.Module):
    def __init__(self, hidden: int, units: int) -> None:
        super().__init__()
        self.w_1 = Linear(hidden, units)
        self.w_2 = Linear(units, hidden)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.w_2(F.silu(self.w_1(x)))
        return output


class _Block(nn.Module):
    """Pre-norm attention and feed-forward; the flow's conformer has neither macaron nor convolution."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(config.hidden, config.num_heads, config.key_bias)
        self.feed_forward = _FeedForward(config.hidden, config.linear_units)
        self.norm_ff = nn.LayerNorm(config.hidden, eps=1e-12)
        self.norm_mha = nn.LayerNorm(config.hidden, eps=1e-12)

    def forward(
        self, x: Tensor, lengths: Sequence[int], memories: Sequence[EncoderMemory], stage: int, layer: int
    ) -> Tensor:
        x = x + self.self_attn(self.norm_mha(x), lengths, memories, stage, layer)
        output: Tensor = x + self.feed_forward(self.norm_ff(x))
        return output


class _Embed(nn.Module):
    """Linear, layer norm, and the factor √C that precedes relative positions."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(hidden, hidden), nn.LayerNorm(hidden, eps=1e-5))
        self._factor = math.sqrt(hidden)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.out(x) * self._factor
        return output


class _LookAhead(nn.Module):
    def __init__(self, hidden: int, lookahead: int) -> None:
        super().__init__()
        self.conv1 = RowConv(hidden, hidden, lookahead + 1)
        self.conv2 = RowConv(hidden, hidden, 3)

    def forward(self, parts: Sequence[Tensor], memories: Sequence[EncoderMemory]) -> list[Tensor]:
        """Each part [n + lookahead, C] to [n, C]."""
        ahead = self.conv1.rows([part[None] for part in parts])
        padded = [
            memory.precede("lookahead", F.leaky_relu(rows[0]), self.conv2.taps - 1)
            for rows, memory in zip(ahead, memories, strict=True)
        ]
        changes = self.conv2.rows([part[None] for part in padded])
        return [part[: change.shape[1]] + change[0] for part, change in zip(parts, changes, strict=True)]


class _Upsample(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.conv = RowConv(hidden, hidden, UP_RATE * 2 + 1)

    def forward(self, parts: Sequence[Tensor], memories: Sequence[EncoderMemory]) -> list[Tensor]:
        """Each part [n, C] to [2n, C]."""
        padded = [
            memory.precede("upsample", part.repeat_interleave(UP_RATE, dim=0), UP_RATE * 2)
            for part, memory in zip(parts, memories, strict=True)
        ]
        return [rows[0] for rows in self.conv.rows([part[None] for part in padded])]


class UpsamplingConformer(nn.Module):
    """The whole encoder. Stage 0 runs at 25 Hz, stage 1 at 50 Hz."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = _Embed(config.hidden)
        self.pre_lookahead_layer = _LookAhead(config.hidden, config.lookahead)
        self.encoders = nn.ModuleList(_Block(config) for _ in range(config.num_blocks))
        self.up_layer = _Upsample(config.hidden)
        self.up_embed = _Embed(config.hidden)
        self.up_encoders = nn.ModuleList(_Block(config) for _ in range(config.num_up_blocks))
        self.after_norm = nn.LayerNorm(config.hidden, eps=1e-5)

    def forward(
        self, parts: Sequence[Tensor], memories: Sequence[EncoderMemory], last: Sequence[bool]
    ) -> list[Tensor]:
        """Encode token embeddings.

        Args:
            parts: [n_i, C] each; unless it is the last of its sequence, a part's final `lookahead`
                tokens are only looked at, and the next part must begin with them.
            memories: one per part.
            last: whether nothing follows a part.

        Returns:
            [2 m_i, C] each, m_i = n_i if last, else n_i - lookahead.
        """
        embedded = unpack(self.embed(pack(parts)), [len(part) for part in parts])
        ahead = self.config.lookahead
        padded = [F.pad(x, (0, 0, 0, ahead)) if end else x for x, end in zip(embedded, last, strict=True)]
        parts = self.pre_lookahead_layer(padded, memories)
        x, lengths = pack(parts), [len(part) for part in parts]
        for index, block in enumerate(self.encoders):
            x = block(x, lengths, memories, 0, index)
        parts = self.up_layer(unpack(x, lengths), memories)
        x, lengths = self.up_embed(pack(parts)), [len(part) for part in parts]
        for index, block in enumerate(self.up_encoders):
            x = block(x, lengths, memories, 1, index)
        return unpack(self.after_norm(x), lengths)
