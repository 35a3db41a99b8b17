"""The two ONNX models that turn a voice prompt into what the flow continues: codes and a speaker.

Both run on one CPU thread; a prompt is encoded once per voice. Names and shapes are checked when opening
and again on what comes out, so that a foreign file is refused by name and never feeds the flow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from cadence.errors import CheckpointError
from cadence.types import NUM_CODES

__all__ = ["SpeakerEncoder", "SpeechTokenizer"]

_ERRORS = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class _OnnxModel:
    """One session with the checks that both models share."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise CheckpointError(f"{path}: the file is missing.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # errors only: exporters leave many harmless warnings
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except _ERRORS as error:
            raise CheckpointError(f"{path}: is not a readable ONNX model ({error}).") from error
        self._path = path

    def _check(
        self, kind: str, given: list[Any], expected: dict[str, tuple[str, tuple[int | None, ...]]]
    ) -> None:
        """Compare declared names, element types and shapes; None and symbolic axes fit any size."""
        names = [node.name for node in given]
        if sorted(names) != sorted(expected):
            raise CheckpointError(f"{self._path}: expected the {kind}s {sorted(expected)}, found {names}.")
        for node in given:
            type_name, shape = expected[node.name]
            fits = len(node.shape) == len(shape) and all(
                want is None or not isinstance(have, int) or have == want
                for have, want in zip(node.shape, shape, strict=True)
            )
            if node.type != type_name or not fits:
                raise CheckpointError(
                    f"{self._path}: the {kind} {node.name!r} must be {type_name} {list(shape)}, "
                    f"found {node.type} {node.shape}."
                )

    def _run(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        try:
            output: NDArray[Any] = self._session.run(None, inputs)[0]
        except _ERRORS as error:
            raise CheckpointError(f"{self._path}: cannot run ({error}).") from error
        return output


class SpeechTokenizer(_OnnxModel):
    """`speech_tokenizer_v2_25hz.onnx`: log-mel to speech codes, 25 a second."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            CheckpointError: missing, unreadable, or with other inputs and outputs than this model has.
        """
        super().__init__(path)
        inputs: dict[str, tuple[str, tuple[int | None, ...]]] = {
            "feats": ("tensor(float)", (None, 128, None)),
            "feats_length": ("tensor(int32)", (None,)),
        }
        self._check("input", self._session.get_inputs(), inputs)
        self._check("output", self._session.get_outputs(), {"indices": ("tensor(int32)", (None, None))})

    def encode(self, mel: NDArray[np.float32]) -> NDArray[np.int32]:
        """Log-mel [128, F] (100 frames a second, no padding) to codes int32 [⌈F / 4⌉] in 0..6560.

        Raises:
            CheckpointError: the model gives another number of codes, or codes out of range.
        """
        num_frames = mel.shape[1]
        feeds = {"feats": mel[None], "feats_length": np.array([num_frames], np.int32)}
        codes: NDArray[np.int32] = self._run(feeds).astype(np.int32)
        expected = (1, -(-num_frames // 4))
        if codes.shape != expected or codes.min() < 0 or codes.max() >= NUM_CODES:
            raise CheckpointError(
                f"{self._path}: expected codes of shape {expected} in 0..{NUM_CODES - 1}, "
                f"found {codes.shape} in {codes.min(initial=0)}..{codes.max(initial=0)}."
            )
        first: NDArray[np.int32] = codes[0]
        return first


class SpeakerEncoder(_OnnxModel):
    """`campplus.onnx` (CAM++): filter banks to a speaker's embedding."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            CheckpointError: missing, unreadable, or with other inputs and outputs than this model has.
        """
        super().__init__(path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise CheckpointError(
                f"{path}: expected one input and one output, found {len(inputs)} and {len(outputs)}."
            )
        self._input = inputs[0].name  # exports differ in the names
        self._check("input", inputs, {self._input: ("tensor(float)", (None, None, 80))})
        self._check("output", outputs, {outputs[0].name: ("tensor(float)", (None, 192))})

    def encode(self, fbank: NDArray[np.float32]) -> NDArray[np.float32]:
        """Filter banks [T, 80], mean removed, to an embedding float32 [192].

        Raises:
            CheckpointError: the model gives another shape, or numbers that are not finite.
        """
        embedding: NDArray[np.float32] = self._run({self._input: fbank[None]})
        if embedding.shape != (1, 192) or not np.isfinite(embedding).all():
            raise CheckpointError(
                f"{self._path}: expected a finite embedding of shape (1, 192), found {embedding.shape}."
            )
        first: NDArray[np.float32] = embedding[0]
        return first
