"""Attention on a CPU by ONNX Runtime's fused kernel: the scores of a few rows never leave the cache.

Two blocks' products drive everything else out of the caches, so one call in the place of some ten is part of
what this is faster by.
"""

from __future__ import annotations

import logging
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from cadence.models.onnx_graph import Graph, Session

__all__ = ["fused_attention", "fused_attention_works"]

_log = logging.getLogger(__name__)


def fused_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(q·kᵀ / √d)·v in float32 on a CPU.

    Args:
        queries: [B, heads, n, d].
        keys: [B, heads, L, d], contiguous.
        values: as `keys`.

    Returns:
        [B, heads, n, d], a view of [B, n, heads, d].
    """
    batch, heads, count, dim = queries.shape
    rows = queries.transpose(1, 2).reshape(batch, count, heads * dim)
    attend = _session(heads, dim, torch.get_num_threads())
    (found,) = attend({"queries": rows.numpy(), "keys": keys.numpy(), "values": values.numpy()})
    return torch.from_numpy(found).view(batch, count, heads, dim).transpose(1, 2)


@lru_cache(maxsize=16)
def _session(heads: int, dim: int, num_threads: int) -> Session:
    graph = Graph()
    inputs = (graph.input("queries", 3), graph.input("keys", 4), graph.input("values", 4))
    found = graph.call(
        "MultiHeadAttention", *inputs, domain=graph.RUNTIMES_OWN, num_heads=heads, scale=dim**-0.5
    )
    graph.output(found, 3)
    return graph.load(num_threads)


@lru_cache(maxsize=1)
def fused_attention_works() -> bool:
    """Whether this build of ONNX Runtime has the operation and computes what it should."""
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(2, 3, n, 8, generator=generator) for n in (5, 9, 9))
    try:
        found = fused_attention(queries, keys, values)
    except Exception as error:  # noqa: BLE001 - the runtime's errors have no common base
        _log.warning("ONNX Runtime cannot compute attention, torch's products do: %s", error)
        return False
    return torch.allclose(found, F.scaled_dot_product_attention(queries, keys, values), atol=1e-5)
