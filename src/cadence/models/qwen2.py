"""The language model: a Qwen2 decoder (grouped-query attention, rotary positions, RMS norm, SwiGLU).

Pure: embeddings in, hidden states out. Where earlier keys and values live is the caller's business: it
passes an `AttentionMemory`, or nothing for plain causal attention over what it passes (training,
tests). Sources: config.json and the weight names of the public checkpoint; arXiv 2407.10671.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadence.errors import CheckpointError

__all__ = ["AttentionMemory", "DecoderLayer", "Qwen2", "Qwen2Config", "RMSNorm", "rotary_table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen2Config:
    """Sizes as `text_config` of config.json names them."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 16384
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    tie_word_embeddings: bool = False

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Qwen2Config:
        """Read the `text_config` section of config.json.

        Raises:
            CheckpointError: a size is missing or wrong, or the section asks for something this decoder
                does not do (scaled rotary positions, a sliding window).
        """
        section = config.get("text_config")
        if not isinstance(section, Mapping):
            raise CheckpointError(f"config.json: expected an object text_config, found {section!r}.")
        if section.get("rope_scaling"):
            raise CheckpointError(
                f"config.json: text_config.rope_scaling must be null, found {section['rope_scaling']!r}."
            )
        if config.get("use_sliding_window") or section.get("use_sliding_window"):
            raise CheckpointError("config.json: use_sliding_window must be false, found true.")
        size = partial(_size, section)
        heads, hidden = size("num_attention_heads"), size("hidden_size")
        # Older configs of the family call the number of key/value heads `num_attention_groups`.
        groups = section.get("num_key_value_heads") or section.get("num_attention_groups") or heads
        head_dim = section.get("head_dim") or hidden // heads
        if heads % groups or head_dim % 2:
            raise CheckpointError(
                f"config.json: {heads} heads must be a multiple of {groups} key/value heads, "
                f"and the head size {head_dim} even."
            )
        limits = [section.get(name) for name in ("max_position_embeddings", "max_seq_len")]
        tied = section.get("tie_word_embeddings", config.get("tie_word_embeddings", False))
        return cls(
            vocab_size=size("vocab_size"),
            hidden_size=hidden,
            intermediate_size=size("intermediate_size"),
            num_hidden_layers=size("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=int(groups),
            head_dim=int(head_dim),
            max_position_embeddings=min([int(limit) for limit in limits if limit] or [16384]),
            rms_norm_eps=float(section.get("rms_norm_eps", 1e-6)),
            rope_theta=float(section.get("rope_theta", 1e6)),
            tie_word_embeddings=bool(tied),
        )


def _size(section: Mapping[str, Any], name: str) -> int:
    value = section.get(name)
    if not isinstance(value, int) or value < 1:
        raise CheckpointError(f"config.json: text_config.{name} must be a positive integer, found {value!r}.")
    return value


class AttentionMemory(Protocol):
    """Earlier keys and values of a batch of sequences, packed along one axis of N new tokens."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keep `k`, `v` [N, kv_heads, d] of the new tokens and let `q` [N, heads, d] see its own past.

        Returns [N, heads, d].
        """
        ...


class RMSNorm(nn.Module):
    """x / rms(x) * weight; the mean square in float32, as bfloat16 would lose it."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> [..., D], in x's dtype."""
        return self.normalise(x, self.weight, self.eps)

    @staticmethod
    def normalise(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """The same with a given `weight` [D]."""
        if x.dtype == torch.float32:
            return F.rms_norm(x, x.shape[-1:], weight, eps)
        # Rounded to x's dtype before the weight is applied, as the public model was trained.
        return F.rms_norm(x.float(), x.shape[-1:], None, eps).to(x.dtype) * weight


def rotary_table(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [..., 1, head_dim] of `positions` [...]; angles in float32, the halves repeated."""
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions.to(torch.float32)[..., None] * theta**-exponent
    angles = torch.cat((angles, angles), dim=-1)[..., None, :]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + d/2]) by its angle. x [..., heads, d] -> the same shape."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, T, heads, d], k and v [B, T, kv_heads, d] -> [B, T, heads, d], each position seeing its past."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


class _Attention(nn.Module):
    def __init__(self, config: Qwen2Config, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        query, kv = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        self.q_proj = nn.Linear(config.hidden_size, query)
        self.k_proj = nn.Linear(config.hidden_size, kv)
        self.v_proj = nn.Linear(config.hidden_size, kv)
        self.o_proj = nn.Linear(query, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, memory: AttentionMemory | None) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (-1, self.head_dim))
            for part in (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = causal_attention(q, k, v) if memory is None else memory.attend(self.layer, q, k, v)
        return self.o_proj(y.flatten(-2))  # type: ignore[no-any-return]


class _MLP(nn.Module):
    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Attention and MLP, each behind its norm and added to what came in."""

    def __init__(self, config: Qwen2Config, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = _Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = _MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, memory: AttentionMemory | None) -> Tensor:
        """Rows [..., hidden] through attention and MLP; `cos` and `sin` rotate their positions."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, memory)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class Qwen2(nn.Module):
    """Embedding table, decoder layers and final norm; parameter names are those under `model.`."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            [DecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, embeds: Tensor, positions: Tensor, memory: AttentionMemory | None = None) -> Tensor:
        """Hidden states after the final norm, in the shape of `embeds`.

        Without `memory`: embeds [B, T, hidden], positions [T] or [B, T], plain causal attention (rows padded
        on the right need no mask). With it: embeds [N, hidden], positions [N], N tokens of any sequences.
        """
        config = self.config
        cos, sin = rotary_table(positions, config.head_dim, config.rope_theta, embeds.dtype)
        x = embeds
        for layer in self.layers:
            x = layer(x, cos, sin, memory)
        return self.norm(x)  # type: ignore[no-any-return]
