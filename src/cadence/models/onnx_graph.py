"""Small graphs for ONNX Runtime's CPU kernels, written without the `onnx` package.

ONNX Runtime is here for the voice encoders anyway. Its float32 products with constant weights are faster
than torch's at the rows of a streaming chunk, and one call runs a chain of small operations. A graph
is the ONNX message of that name (https://onnx.ai, onnx.proto): fields with numbers, nested and in order.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

__all__ = ["Graph"]

_OPSET, _IR_VERSION = 20, 9  # the first with Gelu; read by onnxruntime 1.17 and later
_FLOAT, _INT64 = 1, 7  # TensorProto.DataType
_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_STRING, _ATTRIBUTE_INTS = (
    1,
    2,
    3,
    7,
)  # AttributeProto.AttributeType

_Value = float | str | tuple[int, ...]  # of an attribute


class Graph:
    """A graph under construction: name the inputs, add operations, name the outputs, `load` it."""

    def __init__(self) -> None:
        self._fields: list[bytes] = [_text(2, "graph")]
        self._count = 0
        self._outputs: list[str] = []

    def input(self, name: str, rank: int, *, integer: bool = False) -> str:
        """Declare an input of float32 (or int64) with `rank` axes of any size."""
        self._fields.append(_message(11, _value_info(name, rank, _INT64 if integer else _FLOAT)))
        return name

    def constant(self, value: NDArray[Any]) -> str:
        """A float32 or int64 tensor that never changes; products pack it when the graph is loaded."""
        name = self._new()
        kind = _INT64 if value.dtype == np.int64 else _FLOAT
        array = value if kind == _INT64 else np.ascontiguousarray(value, dtype=np.float32)
        dims = b"".join(_integer(1, size) for size in array.shape)
        body = dims + _integer(2, kind) + _text(8, name) + _message(9, array.tobytes())
        self._fields.append(_message(5, body))
        return name

    def call(self, operation: str, *inputs: str, **attributes: _Value) -> str:
        """Apply an operation of the ONNX standard; the name of what it returns."""
        return self._add(operation, inputs, 1, attributes)[0]

    def split(self, value: str, parts: int, axis: int) -> list[str]:
        """Cut into equal parts."""
        return self._add("Split", (value,), parts, {"axis": axis, "num_outputs": parts})

    def _add(
        self, operation: str, inputs: Sequence[str], outputs: int, attributes: Mapping[str, _Value]
    ) -> list[str]:
        names = [self._new() for _ in range(outputs)]
        body = b"".join(_text(1, name) for name in inputs) + b"".join(_text(2, name) for name in names)
        body += _text(4, operation)
        body += b"".join(_message(5, _attribute(name, value)) for name, value in attributes.items())
        self._fields.append(_message(1, body))
        return names

    def output(self, value: str, rank: int) -> None:
        """Return a float32 value with `rank` axes."""
        self._outputs.append(value)
        self._fields.append(_message(12, _value_info(value, rank, _FLOAT)))

    def load(self, num_threads: int) -> Session:
        """A session that computes the outputs, in the order they were declared."""
        opset = _text(1, "") + _integer(2, _OPSET)
        model = _integer(1, _IR_VERSION) + _message(7, b"".join(self._fields)) + _message(8, opset)
        return Session(model, self._outputs, num_threads)

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


# ------------------------------------------------------------- protocol buffers
def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative number is its 64-bit complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(body)) + body


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _value_info(name: str, rank: int, kind: int) -> bytes:
    shape = b"".join(_message(1, _text(2, f"{name}_{axis}")) for axis in range(rank))
    tensor = _integer(1, kind) + _message(2, shape)
    return _text(1, name) + _message(2, _message(1, tensor))


def _attribute(name: str, value: _Value) -> bytes:
    if isinstance(value, str):
        return _text(1, name) + _text(4, value) + _integer(20, _ATTRIBUTE_STRING)
    if isinstance(value, tuple):
        numbers = b"".join(_integer(8, number) for number in value)
        return _text(1, name) + numbers + _integer(20, _ATTRIBUTE_INTS)
    if isinstance(value, int):
        return _text(1, name) + _integer(3, value) + _integer(20, _ATTRIBUTE_INT)
    fixed = _varint(2 << 3 | 5) + struct.pack("<f", value)
    return _text(1, name) + fixed + _integer(20, _ATTRIBUTE_FLOAT)
