"""Weights in eight bits, of the language model's layers: an option for CPUs, not exact.

A weight is scaled per output and rounded to -127..127, an input per row to as many levels around a middle.
Rows are scaled one by one so that no stream changes another's. A product then reads a quarter of the
memory and is about twice as fast as float32. The kernels belong to torch's older quantisation, which it means
to remove some day; where they are gone, the option is refused. The flow's are `models.int8_graph`.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cadence.errors import ConfigError

__all__ = ["Int8Product", "int8_works", "require_int8"]

_LEVELS = 127
_SMALLEST = 1e-12


class Int8Product:
    """x [R, in] times a rounded weight [out, in], plus a bias, to [R, out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        weight = weight.detach().float()
        scales = weight.abs().amax(1).clamp(min=_SMALLEST) / _LEVELS
        self._packed = _packed(weight, scales)
        self._levels = _LEVELS if _sums_are_exact() else _LEVELS // 2
        self._bias = None if bias is None else bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        """[R, in] float32 to [R, out]."""
        size = torch.linalg.vector_norm(x, float("inf"), dim=1, keepdim=True).clamp_(min=_SMALLEST)
        product = _product(x / size, self._levels, self._packed)
        return product.mul_(size) if self._bias is None else torch.addcmul(self._bias, product, size)


def _packed(weight: Tensor, scales: Tensor) -> Any:
    """A weight [out, in] in multiples of `scales` [out], laid out for the kernels."""
    torch.backends.quantized.engine = "x86"  # when packing; a packed weight knows its own kernels
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says what this module's head says
        rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(rounded, None)


def _product(x: Tensor, levels: int, packed: Any) -> Tensor:
    """x [R, in] within ±1, rounded to `levels` on either side of a middle, times a packed weight."""
    product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        x, 1.0 / levels, levels + 1, packed
    )
    return product


@lru_cache(maxsize=1)
def _sums_are_exact() -> bool:
    """Whether pairs of full-range products fit the kernels' sums: without integer dot products (VNNI) they
    are added in 16 bits, where two products of 255 and 127 are cut off; inputs then keep to seven bits."""
    packed = _packed(torch.ones(32, 64), torch.full((32,), 1.0 / _LEVELS))
    found = _product(torch.ones(4, 64), _LEVELS, packed)
    return bool((found - 64).abs().max() < 0.1)


def require_int8(device: torch.device, dtype: torch.dtype, param: str, *, works: bool) -> None:
    """Say by name why weights on a device, of a dtype, cannot be rounded as `param` asks for.

    Raises:
        ConfigError: not float32 on a CPU, or its kernels do not work here (`works`).
    """
    if device.type != "cpu" or dtype != torch.float32 or not works:
        raise ConfigError("int8 weights need a CPU in float32 and its kernels for eight bits.", param=param)


@lru_cache(maxsize=1)
def int8_works() -> bool:
    """Whether the kernels are here and compute what they should."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(48, 64, generator=generator), torch.randn(5, 64, generator=generator)
    try:
        found = Int8Product(weight, None)(x)
    except (AttributeError, RuntimeError, TypeError):
        return False
    expected = x @ weight.T
    return bool((found - expected).var() < 1e-3 * expected.var())
