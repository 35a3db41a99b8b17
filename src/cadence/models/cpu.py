"""What this machine's processor can do."""

from __future__ import annotations

from functools import lru_cache

import torch

__all__ = ["has_bfloat16"]


@lru_cache(maxsize=1)
def has_bfloat16() -> bool:
    """Whether products of bfloat16 have instructions of their own (AVX-512 bf16); without, they are slower
    than float32's. False where torch is too old to tell."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
