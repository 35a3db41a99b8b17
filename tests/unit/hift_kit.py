"""A small vocoder's input for tests: mels that change slowly, as speech does."""

from __future__ import annotations

import torch
from torch import Tensor


def some_mel(num_frames: int, seed: int = 0) -> Tensor:
    """[80, num_frames], random at every fourth frame and straight between."""
    knots = torch.randn(1, 80, num_frames // 4 + 2, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(knots, size=num_frames, mode="linear")[0] - 1.0
