"""Products with weights and inputs in eight bits, as operations of a graph for ONNX Runtime: not exact.

As in `models.int8`, a weight is scaled per output and an input per row, so that no stream changes another's.
ONNX Runtime multiplies such numbers with integer dot products (VNNI) at over three times float32's speed, and
rounds and scales within the graph that also holds the norms and activations around.
"""

from __future__ import annotations

import logging
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cadence.models.dit_graph import Kernels
from cadence.models.graph_conv import ShiftedSums
from cadence.models.onnx_graph import Graph

__all__ = ["INT8", "int8_graphs_work", "int8_linear"]

_log = logging.getLogger(__name__)

_LEVELS = 127
_MIDDLE = 128  # an input's zero: unsigned inputs with signed weights are what the kernels are best at
_SMALLEST = 1e-12


def int8_linear(graph: Graph, x: str, weight: Tensor, bias: Tensor | None) -> str:
    """Rows `x` [R, in] times a rounded weight [out, in], plus a bias, [R, out]."""
    return _product(graph, x, weight, bias, _levels())


# The sums and differences of minimal filtering would have to be rounded to the same 256 levels.
INT8 = Kernels(int8_linear, ShiftedSums(int8_linear))


def _product(graph: Graph, x: str, weight: Tensor, bias: Tensor | None, levels: int) -> str:
    weight = weight.detach().float()
    scales = weight.abs().amax(1).clamp(min=_SMALLEST) / _LEVELS
    rounded = (weight / scales[:, None]).round().to(torch.int8)

    def number(value: float) -> str:
        return graph.constant(np.array(value, np.float32))

    along = graph.constant(np.array([1], np.int64))
    low, high = (graph.call(kind, x, along, keepdims=0) for kind in ("ReduceMin", "ReduceMax"))
    size = graph.call("Max", high, graph.call("Neg", low), number(_SMALLEST))
    steps = graph.call("Mul", size, number(1.0 / levels))  # [R]
    middle = graph.constant(np.array(_MIDDLE, np.uint8))
    inputs = graph.call(
        "QuantizeLinear", x, steps, graph.call("Expand", middle, graph.call("Shape", steps)), axis=0
    )
    columns = graph.constant(rounded.t().contiguous().numpy())
    scaled = (number(1.0), graph.constant(scales.numpy()), middle)
    product = graph.call("MatMulIntegerToFloat", inputs, columns, *scaled, domain=graph.RUNTIMES_OWN)
    product = graph.call("Mul", product, graph.call("Unsqueeze", steps, along))
    return product if bias is None else graph.call("Add", product, graph.constant(bias.detach().numpy()))


@lru_cache(maxsize=1)
def _levels() -> int:
    """To either side of an input's middle: 127, or 63 where the kernels add pairs of products in 16 bits (no
    VNNI), which two of 255 and 127 do not fit."""
    rows, weight = torch.ones(4, 64), torch.ones(32, 64)
    return _LEVELS if (_tried(rows, weight, _LEVELS) - 64).abs().max() < 0.1 else _LEVELS // 2


def _tried(x: Tensor, weight: Tensor, levels: int) -> Tensor:
    graph = Graph()
    graph.output(_product(graph, graph.input("x", 2), weight, None, levels), 2)
    (found,) = graph.load(1)({"x": x.numpy()})
    return torch.from_numpy(found)


@lru_cache(maxsize=1)
def int8_graphs_work() -> bool:
    """Whether this build of ONNX Runtime knows the operations and computes what it should."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(5, 64, generator=generator), torch.randn(48, 64, generator=generator)
    try:
        found = _tried(x, weight, _levels())
    except Exception as error:  # noqa: BLE001 - the runtime's errors have no common base
        _log.warning("ONNX Runtime cannot multiply in eight bits: %s", error)
        return False
    expected = x @ weight.T
    return bool((found - expected).var() < 1e-3 * expected.var())
