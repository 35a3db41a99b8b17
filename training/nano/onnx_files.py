"""ONNX files at half their size: weights stored in half precision, computed with in single."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_SMALL = 64  # elements; below, nothing is gained


def halve_weights(path: Path) -> None:
    """Rewrite a model so that each large float weight is a half-precision constant behind a cast."""
    import onnx

    model = onnx.load(str(path))
    casts = []
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.size >= _SMALL:
            name = weight.name
            weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
