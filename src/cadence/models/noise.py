"""The flow's start noise: one endless, fixed strip of Gaussian frames.

The reference draws a buffer of 30000 frames, unseeded, when it is built. Here it comes from a seed,
block by block as far as it is read, so every frame has one value whatever was read before. A given
buffer replaces its first frames.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from cadence.errors import ConfigError

__all__ = ["NoiseStrip"]

_BLOCK_FRAMES = 1024
_SEED_STRIDE = 1_000_003  # keeps the blocks of neighbouring seeds apart


class NoiseStrip:
    """Frames of noise by number; float32, kept on `device`."""

    def __init__(
        self, dim: int, *, seed: int = 0, given: Tensor | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """`given` [1, dim, N] are the first N frames.

        Raises:
            ConfigError: `given` has another shape.
        """
        if given is not None and (given.dim() != 3 or given.shape[:2] != (1, dim)):
            raise ConfigError(f"Start noise must be [1, {dim}, N], found {list(given.shape)}.")
        self._dim, self._seed, self._device = dim, seed, device
        self._given = None if given is None else given[0].T.to(device, torch.float32).contiguous()
        self._blocks: list[Tensor] = []
        self._lock = threading.Lock()  # a voice may be prepared while streams run

    def frames(self, start: int, count: int) -> Tensor:
        """Frames [start, start + count) as float32 [count, dim]."""
        stop = start + count
        known = 0 if self._given is None else len(self._given)
        if self._given is not None and stop <= known:
            return self._given[start:stop]
        with self._lock:
            while len(self._blocks) * _BLOCK_FRAMES < stop:
                self._blocks.append(self._draw(len(self._blocks)))
        first, last = start // _BLOCK_FRAMES, -(-stop // _BLOCK_FRAMES)
        drawn = torch.cat(self._blocks[first:last])[start - first * _BLOCK_FRAMES :][:count]
        if self._given is not None and start < known:
            drawn = torch.cat([self._given[start:], drawn[known - start :]])
        return drawn

    def _draw(self, block: int) -> Tensor:
        # A CPU generator, so that the values do not depend on the device.
        generator = torch.Generator().manual_seed(self._seed * _SEED_STRIDE + block)
        return torch.randn(_BLOCK_FRAMES, self._dim, generator=generator).to(self._device)
