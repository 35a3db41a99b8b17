"""The decoder prepared for serving: the same numbers as `Qwen2.forward`, with less work around them.

Products that share their input are one product, each weight lies in the layout its kernel reads fastest,
rotary angles come from a table, and no module machinery runs between two tensors. At one row a step's time is
that of reading the weights once; what else it does per layer is kept to a few calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cadence.models.linear import Product, RowProduct, fuse
from cadence.models.qwen2 import AttentionMemory, DecoderLayer, Qwen2, RMSNorm, rotary_table

__all__ = ["DecoderStep"]


class _Layer(NamedTuple):
    """One layer's weights: norms as they are, products that share an input joined."""

    attention_norm: Tensor
    qkv: RowProduct
    out: RowProduct
    mlp_norm: Tensor
    gate_up: RowProduct
    down: RowProduct


class DecoderStep:
    """Computes what `model` computes with an `AttentionMemory`, for inference alone.

    The model's weights must not change any more; some become views of joined ones (`linear.fuse`).

    Args:
        make: builds a product from a weight and its bias.
    """

    def __init__(self, model: Qwen2, make: Callable[[Tensor, Tensor | None], RowProduct] = Product) -> None:
        config = model.config
        self._num_query = config.num_attention_heads
        self._num_rotated = config.num_attention_heads + config.num_key_value_heads
        self._head_dim = config.head_dim
        self._eps = config.rms_norm_eps
        self._final_norm = model.norm.weight.detach()
        weight = model.embed_tokens.weight
        positions = torch.arange(config.max_position_embeddings, device=weight.device)
        self._cos, sin = rotary_table(positions, config.head_dim, config.rope_theta, weight.dtype)
        half = config.head_dim // 2
        self._signed_sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        self._layers = [_prepare(layer, make) for layer in model.layers if isinstance(layer, DecoderLayer)]

    def __call__(self, embeds: Tensor, positions: Tensor, memory: AttentionMemory) -> Tensor:
        """embeds [N, hidden], positions [N] -> hidden states [N, hidden] after the final norm."""
        cos, sin = self._cos.index_select(0, positions), self._signed_sin.index_select(0, positions)
        x = embeds
        for index, layer in enumerate(self._layers):
            heads = layer.qkv(self._norm(x, layer.attention_norm)).view(len(x), -1, self._head_dim)
            turned = heads[:, : self._num_rotated]
            turned = torch.addcmul(turned * cos, turned.roll(self._head_dim // 2, -1), sin)
            y = memory.attend(
                index,
                turned[:, : self._num_query],
                turned[:, self._num_query :],
                heads[:, self._num_rotated :],
            )
            x = x + layer.out(y.flatten(1))
            gate, up = layer.gate_up(self._norm(x, layer.mlp_norm)).chunk(2, dim=-1)
            x = x + layer.down(F.silu(gate).mul_(up))
        return self._norm(x, self._final_norm)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """`RMSNorm`, in the few calls that cost least on a CPU."""
        if x.dtype != torch.float32 or x.device.type != "cpu":
            return RMSNorm.normalise(x, weight, self._eps)
        scale = x.square().mean(-1, keepdim=True).add_(self._eps).rsqrt_()
        return (x * scale).mul_(weight)


def _prepare(layer: DecoderLayer, make: Callable[[Tensor, Tensor | None], RowProduct]) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        layer.input_layernorm.weight.detach(),
        fuse(attention.q_proj, attention.k_proj, attention.v_proj, make=make),
        fuse(attention.o_proj, make=make),
        layer.post_attention_layernorm.weight.detach(),
        fuse(mlp.gate_proj, mlp.up_proj, make=make),
        fuse(mlp.down_proj, make=make),
    )
