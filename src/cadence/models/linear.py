"""Linear layers whose weights can be packed once for a CPU's matrix kernels.

A plain product reorders its weight on every call; at the 20-400 rows of a streaming chunk a weight that
was packed beforehand is 1.25 to 1.4 times as fast. The packed form is a copy: pages of a mapped
checkpoint file that only packing has read are dropped by the system when memory is short.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Linear", "Product", "RowProduct", "fuse", "pack_half", "pack_weight", "packed_linear"]

_TYPICAL_ROWS = 100  # guided and unguided rows of a 50-frame chunk; other counts are as fast


class Linear(nn.Linear):
    """`nn.Linear`, packed by `pack` once its weight is final; gradients need the plain form and get it."""

    packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if self.packed is None or torch.is_grad_enabled():
            return F.linear(x, self.weight, self.bias)
        return packed_linear(x, self.packed, self.bias)

    def pack(self) -> None:
        """Pack the weight, where this machine gains by it; later changes of the weight are not seen."""
        self.packed = pack_weight(self.weight.detach())


RowProduct = Callable[[Tensor], Tensor]
"""x [N, in] to [N, out], row by row."""


class Product:
    """x times a weight [out, in] (plus a bias) for inference, in the fastest form that keeps its numbers.

    On a CPU a few rows are bound by reading the weight. Checkpoints come in 16 bit: a weight that float16
    holds exactly is kept so and multiplied in float32, half the bytes for the same products. Any other is
    plain for one row, where that reads fastest, and packed for more.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._half = pack_half(weight, bias)
        self._packed = None if self._half is not None else pack_weight(weight)
        self._weight: Tensor | None = None if self._half is not None else weight
        self._bias = bias

    @property
    def is_half(self) -> bool:
        """Whether a 16-bit copy does the work: the weight itself is not held."""
        return self._half is not None

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, in] -> [N, out]."""
        if self._weight is None:
            output: Tensor = torch.ops.quantized.linear_dynamic_fp16.default(x, self._half)
            return output
        if self._packed is None or x.shape[0] == 1:
            return F.linear(x, self._weight, self._bias)
        return packed_linear(x, self._packed, self._bias)


def fuse(*parts: nn.Linear, make: Callable[[Tensor, Tensor | None], RowProduct] = Product) -> RowProduct:
    """One product for linear layers of the same input, their outputs side by side.

    Where the product holds the joined weight, the layers' own become views of it. `make` builds another
    kind of product from weight and bias.
    """
    weight = torch.cat([part.weight.detach() for part in parts])
    bias = None
    if parts[0].bias is not None:
        bias = torch.cat([part.bias.detach() for part in parts])
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        weight = weight.t().contiguous().t()  # column after column: a tenth faster to read for one row
    product = make(weight, bias)
    if isinstance(product, Product) and not product.is_half:
        sizes = [part.out_features for part in parts]
        for part, view in zip(parts, torch.split(weight, sizes), strict=True):
            part.weight = nn.Parameter(view, requires_grad=False)
    return product


def pack_half(weight: Tensor, bias: Tensor | None = None) -> Any:
    """A float16 copy of a float32 weight [out, in] for FBGEMM's product, or None where that would change
    the weight (by more than float16's smallest step, 6e-8) or cannot be computed."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _half_works():
        return None
    if not torch.allclose(weight.half().float(), weight, rtol=0, atol=2**-25):
        return None
    return torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), bias)


def pack_weight(weight: Tensor) -> Tensor | None:
    """An opaque copy of a weight [out, in] for `packed_linear`, or None where there is no gain."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _packing_works():
        return None
    return _pack(weight)


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., in] times a packed weight, to [..., out]."""
    output: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")
    return output


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _TYPICAL_ROWS)
    return packed


@lru_cache(maxsize=1)
def _packing_works() -> bool:
    """Whether this build of torch has oneDNN's packed product, and it computes what it should.

    torch's own compiler emits these operators, but they are not part of its documented interface.
    """
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 32, generator=generator)
    bias, x = torch.randn(48, generator=generator), torch.randn(3, 32, generator=generator)
    try:
        found = packed_linear(x, _pack(weight), bias)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(found, F.linear(x, weight, bias), atol=1e-4)


@lru_cache(maxsize=1)
def _half_works() -> bool:
    """Whether this build of torch has FBGEMM's product with float16 weights, and it keeps its promise.

    Builds for other processors have the operators, but not the kernels.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 32, generator=generator).half().float()
    bias, x = torch.randn(48, generator=generator), torch.randn(3, 32, generator=generator)
    try:
        found = torch.ops.quantized.linear_dynamic_fp16(
            x, torch.ops.quantized.linear_prepack_fp16(weight, bias)
        )
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(found, F.linear(x, weight, bias), atol=1e-4)
