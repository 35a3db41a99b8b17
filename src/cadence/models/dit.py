"""The flow's velocity estimator: a diffusion transformer whose blocks also hold a causal convolution.

Each block adds attention, convolution and MLP, each normalised, shifted, scaled and gated by nine
vectors that depend on the time step alone; for a fixed schedule they are computed once. Attention has
no positions: the convolutions order the frames.

Rows are packed, and what came before them is remembered, as in `models.dit_memory`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadence.models.dit_graph import EXACT, BlockWeights, DiTGraph, Kernels, graphs_work
from cadence.models.dit_memory import DiTSpan, StepMemory, attend_spans
from cadence.models.flow_config import DiTConfig
from cadence.models.linear import Linear
from cadence.models.rows import RowConv, pack, unpack

__all__ = ["DiT", "Modulation"]

_NUM_PARTS = 9  # shift, scale, gate for attention, MLP and convolution, in this order
_TIME_FEATURES = 256
_TIME_SCALE = 1000.0
_NORM_EPS = 1e-6


class Modulation(NamedTuple):
    """Modulating vectors: `blocks` [depth, 9, C] and `final` [2, C], scales with their 1 added.

    With one time step per row, [depth, 9, R, C] and [2, R, C].
    """

    blocks: Tensor
    final: Tensor


def _modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights of its own, then x * scale + shift."""
    if shift.dim() == 1:
        return F.layer_norm(x, x.shape[-1:], scale, shift, _NORM_EPS)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=_NORM_EPS), scale)


class _Attention(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        inner = config.num_heads * config.head_dim
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        self.to_q = Linear(config.hidden, inner)
        self.to_k = Linear(config.hidden, inner)
        self.to_v = Linear(config.hidden, inner)
        self.q_norm = nn.LayerNorm(config.head_dim)
        self.k_norm = nn.LayerNorm(config.head_dim)
        self.proj = Linear(inner, config.hidden)

    def _projections(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of packed rows, [R, heads, d] each."""
        shape = (-1, self.num_heads, self.head_dim)
        return tuple(linear(x).view(shape) for linear in (self.to_q, self.to_k, self.to_v))

    def forward(self, x: Tensor, spans: Sequence[DiTSpan], layer: int) -> Tensor:
        """Packed rows [R, C] to [R, C]."""
        queries, keys, values = self._projections(x)
        output: Tensor = self.proj(
            attend_spans((self.q_norm(queries), self.k_norm(keys), values), spans, layer)
        )
        return output


class _ConvBlock(nn.Module):
    """Causal convolution, norm, Mish, causal convolution. The indices are the checkpoint's names."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.block = nn.ModuleDict(
            {"1": RowConv(hidden, hidden, 3), "3": nn.LayerNorm(hidden), "6": RowConv(hidden, hidden, 3)}
        )

    def forward(self, x: Tensor, spans: Sequence[DiTSpan], layer: int) -> Tensor:
        """Packed rows [R, C] to [R, C]."""
        x = self._conv("1", 0, x, spans, layer)
        x = F.mish(self.block["3"](x))
        return self._conv("6", 1, x, spans, layer)

    def _conv(self, name: str, conv: int, x: Tensor, spans: Sequence[DiTSpan], layer: int) -> Tensor:
        parts = unpack(x, [span.groups * span.frames for span in spans])
        padded = [
            span.memory.precede(layer, conv, part.view(span.groups, span.frames, -1))
            for span, part in zip(spans, parts, strict=True)
        ]
        module = self.block[name]
        assert isinstance(module, RowConv)
        return pack([rows.flatten(0, 1) for rows in module.rows(padded)])


class _MLP(nn.Module):
    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.fc1 = Linear(hidden, inner)
        self.fc2 = Linear(inner, hidden)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return output


class _Block(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.attn = _Attention(config)
        self.mlp = _MLP(config.hidden, int(config.hidden * config.mlp_ratio))
        self.conv = _ConvBlock(config.hidden)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.hidden, _NUM_PARTS * config.hidden))

    def weights(self) -> BlockWeights:
        """The layers as graphs take them."""
        attn, mlp, first, second = self.attn, self.mlp, self.conv.block["1"], self.conv.block["6"]
        norm = self.conv.block["3"]
        assert isinstance(first, RowConv) and isinstance(second, RowConv) and isinstance(norm, nn.LayerNorm)
        return BlockWeights(
            qkv=[(layer.weight, layer.bias) for layer in (attn.to_q, attn.to_k, attn.to_v)],
            q_norm=attn.q_norm,
            k_norm=attn.k_norm,
            proj=(attn.proj.weight, attn.proj.bias),
            conv1=first.tap_major(),
            conv_norm=norm,
            conv2=second.tap_major(),
            fc1=(mlp.fc1.weight, mlp.fc1.bias),
            fc2=(mlp.fc2.weight, mlp.fc2.bias),
            num_heads=attn.num_heads,
            head_dim=attn.head_dim,
            eps=_NORM_EPS,
        )

    def forward(self, x: Tensor, parts: Sequence[Tensor], spans: Sequence[DiTSpan], layer: int) -> Tensor:
        """Packed rows [R, C]; `parts` are the nine modulating vectors."""
        attn_parts, mlp_parts, conv_parts = parts[0:3], parts[3:6], parts[6:9]
        x = torch.addcmul(x, attn_parts[2], self.attn(_modulated_norm(x, *attn_parts[:2]), spans, layer))
        x = torch.addcmul(x, conv_parts[2], self.conv(_modulated_norm(x, *conv_parts[:2]), spans, layer))
        return torch.addcmul(x, mlp_parts[2], self.mlp(_modulated_norm(x, *mlp_parts[:2])))


class _TimeEmbedder(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(_TIME_FEATURES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, t: Tensor) -> Tensor:
        """Times [T] in 0..1 to [T, C]."""
        half = _TIME_FEATURES // 2
        rates = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32) / half)
        angles = (t.float() * _TIME_SCALE)[:, None] * rates.to(t.device)
        features = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
        output: Tensor = self.mlp(features.to(next(self.mlp.parameters()).dtype))
        return output


class _FinalLayer(nn.Module):
    def __init__(self, hidden: int, out_channels: int) -> None:
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))
        self.linear = nn.Linear(hidden, out_channels)


class DiT(nn.Module):
    """The estimator: packed noisy frames and their conditions to velocities."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.t_embedder = _TimeEmbedder(config.hidden)
        self.in_proj = nn.Linear(config.in_channels, config.hidden)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.final_layer = _FinalLayer(config.hidden, config.out_channels)
        self.graph: DiTGraph | None = None  # the blocks' same computation, for inference

    def modulation(self, t: Tensor) -> list[Modulation]:
        """The modulating vectors of each of the times `t` [T]; they depend on nothing else."""
        embedded = self.t_embedder(t)
        blocks = torch.stack([self._parts(block, embedded, _NUM_PARTS) for block in self.blocks], dim=1)
        final = self._parts(self.final_layer, embedded, 2)
        return [Modulation(*pair) for pair in zip(blocks, final, strict=True)]

    def _parts(self, owner: nn.Module, embedded: Tensor, count: int) -> Tensor:
        """[T, count, C], every second of three (the last of two) being a scale with its 1 added."""
        layer = owner.get_submodule("adaLN_modulation")
        parts: Tensor = layer(embedded).view(len(embedded), count, -1)
        is_scale = (torch.arange(count, device=parts.device) % 3 == 1).to(parts.dtype)
        return parts + is_scale[None, :, None]

    def project(self, mu: Tensor, speaker: Tensor, condition: Tensor) -> Tensor:
        """The share of the input layer that stays the same over the solver's steps.

        Args:
            mu: [R, 80]. speaker: [R, 80] or [80]. condition: [R, 80].

        Returns:
            [R, C].
        """
        _, *weights = self._input_weights()
        total = F.linear(mu, weights[0], self.in_proj.bias) + F.linear(speaker, weights[1])
        return total + F.linear(condition, weights[2])

    def load_graph(
        self,
        num_threads: int,
        kernels: Kernels = EXACT,
        *,
        slots: int = 1,
        past: torch.dtype = torch.float32,
    ) -> list[nn.Module]:
        """Let ONNX Runtime compute the blocks where it can: float32 weights on a CPU. It does not see later
        weights. `slots` sequences of one length are what it is fastest with, their past kept in the dtype
        `past`.

        Returns:
            The layers whose weights are not read any more unless gradients are wanted.
        """
        weight = self.in_proj.weight
        if weight.device.type != "cpu" or weight.dtype != torch.float32 or not graphs_work():
            return []
        blocks = [block for block in self.blocks if isinstance(block, _Block)]
        self.graph = DiTGraph(
            [block.weights() for block in blocks], num_threads, kernels, slots=slots, past=past
        )
        return [module for block in blocks for module in block.modules()]

    def _input_weights(self) -> tuple[Tensor, ...]:
        return torch.chunk(self.in_proj.weight, 4, dim=1)

    def forward(
        self, x: Tensor, projected: Tensor, modulation: Modulation, spans: Sequence[DiTSpan]
    ) -> Tensor:
        """Velocities of packed rows.

        Args:
            x: noisy frames [R, 80].
            projected: the conditions' share of the input layer, [R, C], from `project`.
            modulation: of this step's time.
            spans: what the rows are, in order.

        Returns:
            [R, 80].
        """
        h = projected + F.linear(x, self._input_weights()[0])
        is_plain = modulation.final.dim() == 2  # one time step for all rows
        memories = [span.memory for span in spans if isinstance(span.memory, StepMemory)]
        if self.graph and is_plain and len(memories) == len(spans) and not torch.is_grad_enabled():
            h = self.graph(h, modulation.blocks, spans, memories)
        else:
            for layer, block in enumerate(self.blocks):
                h = block(h, modulation.blocks[layer].unbind(0), spans, layer)
        shift, scale = modulation.final.unbind(0)
        output: Tensor = self.final_layer.linear(_modulated_norm(h, shift, scale))
        return output
