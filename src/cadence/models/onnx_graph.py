"""Small graphs for ONNX Runtime's CPU kernels.

ONNX Runtime is here for the voice encoders anyway. Its float32 products with constant weights are faster
than torch's at the rows of a streaming chunk, and one call runs a chain of small operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Graph", "Session"]

_OPSET, _IR_VERSION = 20, 9  # the first with Gelu; read by onnxruntime 1.17 and later


class Graph:
    """A graph under construction: name the inputs, add operations, name the outputs, `load` it."""

    RUNTIMES_OWN = "com.microsoft"  # domain of operations that ONNX Runtime adds to the standard

    def __init__(self) -> None:
        self._inputs: list[Any] = []
        self._constants: list[Any] = []
        self._nodes: list[Any] = []
        self._outputs: list[Any] = []
        self._count = 0

    def input(self, name: str, rank: int, *, integer: bool = False) -> str:
        """Declare an input of float32 (or int64) with `rank` axes of any size."""
        self._inputs.append(_value_info(name, rank, TensorProto.INT64 if integer else TensorProto.FLOAT))
        return name

    def constant(self, value: NDArray[Any]) -> str:
        """A tensor that never changes, of float32 or integers; products pack it when the graph is loaded."""
        name = self._new()
        array = value if value.dtype.kind in "iu" else np.ascontiguousarray(value, dtype=np.float32)
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def call(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Apply an operation of the ONNX standard, or of a `domain`; the name of what it returns."""
        name = self._new()
        self._nodes.append(helper.make_node(operation, inputs, [name], **attributes))
        return name

    def split(self, value: str, parts: int, axis: int) -> list[str]:
        """Cut into equal parts."""
        names = [self._new() for _ in range(parts)]
        self._nodes.append(helper.make_node("Split", [value], names, axis=axis, num_outputs=parts))
        return names

    def output(self, value: str, rank: int) -> None:
        """Return a float32 value with `rank` axes."""
        self._outputs.append(_value_info(value, rank, TensorProto.FLOAT))

    def load(self, num_threads: int) -> Session:
        """A session that computes the outputs, in the order they were declared."""
        graph = helper.make_graph(self._nodes, "graph", self._inputs, self._outputs, self._constants)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(self.RUNTIMES_OWN, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        return Session(model.SerializeToString(), [output.name for output in self._outputs], num_threads)

    def _new(self) -> str:
        self._count += 1
        return f"v{self._count}"


class Session:
    """A loaded graph. Safe to run from several threads."""

    def __init__(self, model: bytes, outputs: Sequence[str], num_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        # One pool per session would keep the largest chunk's memory once per layer.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        # Threads that spin between calls would take the cores from torch's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._outputs = list(outputs)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for inputs by name; inputs are read where they lie."""
        found: list[NDArray[Any]] = self._session.run(self._outputs, dict(inputs))
        return found


def _value_info(name: str, rank: int, kind: int) -> Any:
    return helper.make_tensor_value_info(name, kind, [f"{name}_{axis}" for axis in range(rank)])
