"""The speaker embeddings of the trained voices: fixed directions, chosen before anything is trained.

The flow is trained with them and the speaker encoder is trained to find them: neither waits for the other.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from training.nano import settings

SPEAKER_DIM = 192
VOICES = ("female", "male")


@lru_cache(maxsize=1)
def speaker_table(count: int = 64) -> Tensor:
    """[count, 192] orthogonal unit vectors; the first belong to `VOICES`, the rest to helper speakers."""
    generator = torch.Generator().manual_seed(settings.SEED)
    basis, _ = torch.linalg.qr(torch.randn(SPEAKER_DIM, count, generator=generator))
    return basis.T.contiguous()


def speaker_vector(voice: str) -> Tensor:
    """[192] of a trained voice."""
    return speaker_table()[VOICES.index(voice)]
