"""Sound to language-model embeddings: Whisper's encoder, an average pool, and an adapter.

100 mel frames a second become 12.5 embeddings a second: the second convolution, the pool and the
adapter's convolution each halve the rate. Sources: config.json and the weight names of the public
checkpoint; the encoder blocks are those of Whisper (arXiv 2212.04356).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadence.errors import CheckpointError

__all__ = ["Adapter", "AudioEncoder", "AudioEncoderConfig"]

ADAPTER_HIDDEN = 2048  # width between the adapter's two linear layers in every public checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioEncoderConfig:
    """Sizes as `audio_encoder_config` of config.json names them; `adapter_hidden` is read off the weights."""

    n_mels: int = 128
    n_audio_ctx: int = 1500
    n_audio_state: int = 1280
    n_audio_head: int = 20
    n_audio_layer: int = 32
    llm_dim: int = 3584
    kernel_size: int = 3
    adapter_stride: int = 2
    adapter_hidden: int = ADAPTER_HIDDEN

    @property
    def max_frames(self) -> int:
        """Mel frames that the position table covers (30 s for the public model)."""
        return 2 * self.n_audio_ctx

    @classmethod
    def from_json(cls, config: Mapping[str, Any], *, adapter_hidden: int) -> AudioEncoderConfig:
        """Read the `audio_encoder_config` section of config.json.

        Raises:
            CheckpointError: the section or a size is missing or not a positive integer.
        """
        section = config.get("audio_encoder_config")
        if not isinstance(section, Mapping):
            raise CheckpointError(f"config.json: expected an object audio_encoder_config, found {section!r}.")
        names = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer", "llm_dim")
        sizes: dict[str, int] = {}
        for name in (*names, "kernel_size", "adapter_stride"):
            value = section.get(name)
            if not isinstance(value, int) or value < 1:
                raise CheckpointError(
                    f"config.json: audio_encoder_config.{name} must be a positive integer, found {value!r}."
                )
            sizes[name] = value
        if sizes["n_audio_state"] % sizes["n_audio_head"]:
            raise CheckpointError(
                f"config.json: n_audio_state {sizes['n_audio_state']} is not a multiple of "
                f"n_audio_head {sizes['n_audio_head']}."
            )
        return cls(**sizes, adapter_hidden=adapter_hidden)


class _SelfAttention(nn.Module):
    """Bidirectional attention; the key projection has no bias."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, D], mask bool [B, 1, 1, T] (True = attend) -> [B, T, D]."""
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query(x), self.key(x), self.value(x))
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attn = _SelfAttention(dim, num_heads)
        self.attn_ln = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.mlp_ln = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, D], mask bool [B, 1, 1, T] -> [B, T, D]."""
        x = x + self.attn(self.attn_ln(x), mask)
        return x + self.mlp(self.mlp_ln(x))  # type: ignore[no-any-return]


class AudioEncoder(nn.Module):
    """Log-mel pieces in, pooled features out."""

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        dim = config.n_audio_state
        self.conv1 = nn.Conv1d(config.n_mels, dim, config.kernel_size, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, config.kernel_size, stride=2, padding=1)
        self.positional_embedding = nn.Embedding(config.n_audio_ctx, dim)
        self.blocks = nn.ModuleList([_Block(dim, config.n_audio_head) for _ in range(config.n_audio_layer)])
        self.after_norm = nn.LayerNorm(dim)

    def forward(self, mels: Tensor, num_frames: Tensor) -> Tensor:
        """mels [B, n_mels, F], zero after each piece's `num_frames` [B] -> [B, ceil(F/2)//2, D].

        A piece gives the same rows whatever it is padded to; the first `num_features(num_frames)` count.
        """
        x = F.gelu(self.conv1(mels))
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        positions = x.shape[1]
        x = x + self.positional_embedding.weight[:positions]
        # The last two frames of a piece are not attended to: the reference passes `frames - 2` as length.
        valid = (num_frames.to(x.device) - 1).div(2, rounding_mode="floor")
        mask = (torch.arange(positions, device=x.device) < valid.clamp(min=1)[:, None])[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        x = F.avg_pool1d(x.transpose(1, 2), 2, 2).transpose(1, 2)
        return self.after_norm(x)  # type: ignore[no-any-return]

    @staticmethod
    def num_features(num_frames: int) -> int:
        """Rows of the output that stand for sound, for a piece of `num_frames` mel frames."""
        return (num_frames - 1) // 2 // 2


class Adapter(nn.Module):
    """Encoder features to embeddings of the language model, at half their rate."""

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        dim = config.n_audio_state
        self.conv = nn.Conv1d(dim, dim, config.kernel_size, stride=config.adapter_stride, padding=1)
        self.linear1 = nn.Linear(dim, config.adapter_hidden)
        self.linear2 = nn.Linear(config.adapter_hidden, config.llm_dim)
        self.stride = config.adapter_stride

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, (T-1)//stride + 1, llm_dim]."""
        x = F.gelu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return self.linear2(F.relu(self.linear1(x)))  # type: ignore[no-any-return]

    def num_embeddings(self, num_features: int) -> int:
        """Embeddings, and so patches in the prompt, for `num_features` rows of the encoder."""
        return (num_features - 1) // self.stride + 1 if num_features > 0 else 0
