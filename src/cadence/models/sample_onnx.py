"""Stand-ins for the two ONNX models of a checkpoint: real names, types and shapes, random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

__all__ = ["write_speaker_encoder", "write_speech_tokenizer"]

Draw = Callable[[str, tuple[int, ...], float], NDArray[np.float32]]  # name, shape, std -> values
_OPSET = 17  # widely supported; ReduceMean still takes its axes as an attribute


def write_speaker_encoder(path: Path, draw: Draw) -> None:
    """`campplus.onnx`: input f32 [B, T, 80] -> output f32 [B, 192], a projection of the mean activity."""
    node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes = [
        node("MatMul", ["input", "inner"], ["projected"]),
        node("Tanh", ["projected"], ["active"]),
        node("ReduceMean", ["active"], ["mean"], axes=[1], keepdims=0),
        node("MatMul", ["mean", "outer"], ["output"]),
    ]
    constants = [
        tensor(draw("campplus.inner", (80, 48), 0.12), "inner"),
        tensor(draw("campplus.outer", (48, 192), 3.0), "outer"),
    ]
    _save(path, "campplus", nodes, constants, {"input": ["B", "T", 80]}, ("output", ["B", 192], "FLOAT"))


def write_speech_tokenizer(path: Path, draw: Draw) -> None:
    """`speech_tokenizer_v2_25hz.onnx`: feats f32 [B, 128, T], feats_length i32 [B] -> indices i32 [B, ⌈T/4⌉].

    As in the real model a code is eight ternary digits (3^8 = 6561); here one strided convolution
    over the valid frames makes the digits.
    """
    node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes = [
        node("Shape", ["feats"], ["num_frames"], start=2, end=3),
        node("Squeeze", ["num_frames"], ["stop"]),
        node("Range", ["zero", "stop", "one"], ["frame"]),
        node("Cast", ["feats_length"], ["length64"], to=onnx.TensorProto.INT64),
        node("Unsqueeze", ["length64", "rows"], ["length"]),
        node("Less", ["frame", "length"], ["is_valid"]),
        node("Unsqueeze", ["is_valid", "rows"], ["valid"]),
        node("Where", ["valid", "feats", "silence"], ["heard"]),
        node("Conv", ["heard", "kernel", "bias"], ["wide"], kernel_shape=[4], strides=[4], pads=[0, 3]),
        node("Tanh", ["wide"], ["bounded"]),
        node("Round", ["bounded"], ["signs"]),
        node("Add", ["signs", "shift"], ["digits"]),
        node("Mul", ["digits", "powers"], ["places"]),
        node("ReduceSum", ["places", "rows"], ["sum"], keepdims=0),
        node("Cast", ["sum"], ["indices"], to=onnx.TensorProto.INT32),
    ]
    constants = [
        tensor(draw("tokenizer.kernel", (8, 128, 4), 0.15), "kernel"),
        tensor(draw("tokenizer.bias", (8,), 0.4), "bias"),
        tensor((3.0 ** np.arange(8)).astype(np.float32).reshape(1, 8, 1), "powers"),
        tensor(np.array(0.0, np.float32), "silence"),
        tensor(np.array(1.0, np.float32), "shift"),
        tensor(np.array(0, np.int64), "zero"),
        tensor(np.array(1, np.int64), "one"),
        tensor(np.array([1], np.int64), "rows"),
    ]
    inputs: dict[str, list[str | int]] = {"feats": ["B", 128, "T"], "feats_length": ["B"]}
    _save(path, "speech_tokenizer", nodes, constants, inputs, ("indices", ["B", "L"], "INT32"))


def _save(
    path: Path,
    name: str,
    nodes: list[Any],
    constants: list[Any],
    inputs: dict[str, list[str | int]],
    output: tuple[str, list[str | int], str],
) -> None:
    info, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    graph = onnx.helper.make_graph(
        nodes,
        name,
        [info(k, types.INT32 if len(v) == 1 else types.FLOAT, v) for k, v in inputs.items()],
        [info(output[0], getattr(types, output[2]), output[1])],
        constants,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", _OPSET)])
    model.ir_version = 8  # what opset 17 came with: older runtimes refuse newer numbers
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
