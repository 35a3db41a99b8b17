"""Small graphs for ONNX Runtime's CPU kernels.

ONNX Runtime is here for the voice encoders anyway. Its float32 products with constant weights are faster
than torch's at the rows of a streaming chunk, and one call runs a chain of small operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

__all__ = ["Graph", "Kind", "Session", "as_input", "bfloat16"]

Kind = type | torch.dtype  # of a graph's inputs

_KINDS: dict[Kind, int] = {
    float: TensorProto.FLOAT,
    int: TensorProto.INT64,
    bool: TensorProto.BOOL,
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
}
_LARGE = 4096  # bytes
_OPSET, _IR_VERSION = 20, 9  # the first with Gelu; read by onnxruntime 1.17 and later


class Graph:
    """A graph under construction: name the inputs, add operations, name the outputs, `load` it."""

    RUNTIMES_OWN = "com.microsoft"  # domain of operations that ONNX Runtime adds to the standard

    def __init__(self) -> None:
        self._inputs: list[Any] = []
        self._constants: list[Any] = []
        self._large: dict[str, Any] = {}  # constants beside the serialised graph, which would copy them
        self._nodes: list[Any] = []
        self._outputs: list[Any] = []
        self._numbers = count(1)  # of names, which a graph and those inside of it share

    def input(self, name: str, rank: int, *, kind: Kind = float) -> str:
        """Declare an input of float32 (or `int`: int64, `bool`, or 16 bits) with `rank` axes of any size."""
        self._inputs.append(_value_info(name, rank, kind))
        return name

    def optional(self, name: str, shape: Sequence[int], *, kind: Kind = float) -> str:
        """Declare an input that is `shape`, of no elements, unless it is given."""
        self._constants.append(helper.make_tensor(name, _KINDS[kind], shape, []))
        return self.input(name, len(shape), kind=kind)

    def constant(self, value: NDArray[Any]) -> str:
        """A tensor that never changes, of float32 or integers; products pack it when the graph is loaded."""
        name = self._new()
        array = np.ascontiguousarray(value, dtype=None if value.dtype.kind in "iu" else np.float32)
        if array.nbytes < _LARGE:
            self._constants.append(numpy_helper.from_array(array.reshape(value.shape), name))
            return name
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        place = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
        place.external_data.add(key="location", value="given when the graph is loaded")
        self._constants.append(place)
        self._large[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
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

    def choose(self, condition: str, then: Callable[[Graph], str], otherwise: Callable[[Graph], str]) -> str:
        """What `then` adds to a graph where a boolean holds, and what `otherwise` does where not. Either may
        use this graph's values."""
        name = self._new()
        branches = {"then_branch": self._inner(then), "else_branch": self._inner(otherwise)}
        self._nodes.append(helper.make_node("If", [condition], [name], **branches))
        return name

    def _inner(self, make: Callable[[Graph], str]) -> Any:
        graph = Graph()
        graph._numbers, graph._large = self._numbers, self._large
        outputs = [_value_info(make(graph), None)]
        return helper.make_graph(graph._nodes, "inner", [], outputs, graph._constants)

    def widened(self, value: str) -> str:
        """A value of 16 bits as float32."""
        return self.call("Cast", value, to=TensorProto.FLOAT)

    def output(self, value: str, rank: int) -> None:
        """Return a float32 value with `rank` axes."""
        self._outputs.append(_value_info(value, rank))

    def load(self, num_threads: int) -> Session:
        """A session that computes the outputs, in the order they were declared. The graph, which gives its
        large constants away, is used up."""
        graph = helper.make_graph(self._nodes, "graph", self._inputs, self._outputs, self._constants)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(self.RUNTIMES_OWN, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        outputs, large = [output.name for output in self._outputs], self._large
        self._large = {}
        return Session(model.SerializeToString(), outputs, num_threads, large)

    def _new(self) -> str:
        return f"v{next(self._numbers)}"


class Session:
    """A loaded graph. Safe to run from several threads."""

    def __init__(
        self, model: bytes, outputs: Sequence[str], num_threads: int, constants: Mapping[str, Any]
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        # A pool per session, of which the vocoder has many, would keep the longest utterance's memory.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        # Threads that spin between calls would take the cores from torch's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if constants:
            options.add_external_initializers(list(constants), list(constants.values()))
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._outputs = list(outputs)

    def __call__(self, inputs: Mapping[str, Any]) -> list[NDArray[Any]]:
        """The outputs for inputs by name, arrays or `bfloat16`; inputs are read where they lie."""
        found: list[NDArray[Any]] = self._session.run(self._outputs, dict(inputs))
        return found


def as_input(tensor: Tensor) -> NDArray[Any]:
    """A tensor on a CPU as numpy sees it where it lies; bfloat16, which numpy has not, by its bits."""
    bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    array: NDArray[Any] = bits.numpy()
    return array


def bfloat16(bits: NDArray[Any]) -> Any:
    """An input of bfloat16 from its bits [int16, contiguous], where they lie."""
    kind = TensorProto.BFLOAT16
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits.view(np.uint16), kind)


def _value_info(name: str, rank: int | None, kind: Kind = float) -> Any:
    shape = None if rank is None else [f"{name}_{axis}" for axis in range(rank)]
    return helper.make_tensor_value_info(name, _KINDS[kind], shape)
