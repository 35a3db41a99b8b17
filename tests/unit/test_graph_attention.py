"""Attention by the fused kernel is attention."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F

from cadence.models.graph_attention import fused_attention


def test_the_fused_kernel_gives_what_torchs_gives() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    draw = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(8):
        batch, heads, count, length = (draw.randrange(1, top) for top in (3, 9, 60, 300))
        queries = torch.randn(batch, count, heads, 64).transpose(1, 2)  # as they come out of a product
        keys, values = torch.randn(2, batch, heads, length, 64)
        expected = F.scaled_dot_product_attention(queries, keys, values)
        assert torch.allclose(fused_attention(queries, keys, values), expected, atol=1e-5)
