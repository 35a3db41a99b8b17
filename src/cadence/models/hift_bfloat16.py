"""The vocoder's convolutions in bfloat16: an option for CPUs, not exact.

CPUs with instructions for bfloat16 multiply it at twice the speed of float32, sums being float32. What is
summed up along the residual path, and the Snakes between, stay in float32. Samples lie with their channels
beside each other, as these kernels like them best.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cadence.models.hift_filter import FilteredRows
from cadence.models.hift_stage import snake

__all__ = ["Bfloat16Rows"]


class Bfloat16Rows(FilteredRows):
    """A `Layout` of [B, T, C], of float32."""

    def convolution(self, weight: Tensor, bias: Tensor, dilation: int) -> Callable[[Tensor], Tensor]:
        """See `Layout`; as over an image of height 1, whose channels may lie beside each other."""
        image = weight.unsqueeze(2).bfloat16().contiguous(memory_format=torch.channels_last)
        bias, padding = bias.bfloat16(), (0, dilation * (weight.shape[2] // 2))

        def convolve(rows: Tensor) -> Tensor:
            bent = snake(rows, out=rows).bfloat16().transpose(1, 2).unsqueeze(2)
            found = F.conv2d(bent, image, bias, padding=padding, dilation=(1, dilation))
            return found.squeeze(2).transpose(1, 2).float()

        return convolve
