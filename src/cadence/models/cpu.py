"""What this machine's processor can do."""

from __future__ import annotations

import torch

__all__ = ["has_bfloat16"]


def has_bfloat16() -> bool:
    """Whether it has instructions for products of bfloat16; without them those are slower than float32's."""
    return bool(torch.cpu._is_avx512_bf16_supported())
