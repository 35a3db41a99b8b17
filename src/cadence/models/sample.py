"""Write a complete checkpoint in the public layout with random weights: for tests, and for trying things.

Random but not degenerate: layers keep the scale of what passes through them, greedy decoding mixes text
and audio ids, pitch is voiced and the wave stays inside the limiter. Every tensor is a function of
(seed, tensor name) alone, so presets share what they have in common.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cadence.models.hift import HiFTConfig
from cadence.models.sample_layout import (
    FLOWS,
    THINKERS,
    flow_layout,
    flow_yaml,
    hift_layout,
    thinker_config,
    thinker_layout,
)
from cadence.models.sample_onnx import write_speaker_encoder, write_speech_tokenizer
from cadence.models.sample_tokenizer import SampleVocabulary, sample_vocabulary, write_tokenizer
from cadence.models.sample_voices import write_voices

__all__ = ["PRESETS", "Preset", "write_sample_checkpoint"]

Preset = Literal["tiny", "small", "token2wav-full", "thinker-full", "full"]
PRESETS: dict[Preset, tuple[str, str]] = {  # sizes of (thinker, flow)
    "tiny": ("tiny", "tiny"),
    "small": ("small", "small"),
    "token2wav-full": ("tiny", "full"),
    "thinker-full": ("full", "tiny"),
    "full": ("full", "full"),
}
SMALL_HIFT = HiFTConfig(base_channels=64, f0_channels=64)
_DTYPES = {
    "bfloat16": ("BF16", torch.bfloat16),
    "float16": ("F16", torch.float16),
    "float32": ("F32", torch.float32),
}


def write_sample_checkpoint(
    out: Path,
    *,
    preset: Preset = "tiny",
    seed: int = 0,
    dtype: str = "bfloat16",
    shards: int = 1,
    public_hift: bool | None = None,
    public_vocabulary: bool | None = None,
) -> None:
    """Write a checkpoint folder; existing files of the same names are replaced.

    Args:
        out: folder to create.
        preset: "tiny" and "small" are for tests; the others have public sizes where they say "full".
        dtype: how the Thinker's weights are stored; Token2Wav is float32 as in the public checkpoint.
        shards: number of safetensors files. Memory stays at one tensor whatever the size.
        public_hift: vocoder in the public size (20.8 M parameters); None = all presets but tiny and small.
            Otherwise `token2wav/hift.json` tells its widths.
        public_vocabulary: 158720 rows, ids equal to the public ones; None = as `public_hift`.

    Raises:
        ConfigError: the package onnx is not installed.
        ValueError: unknown preset or dtype, or fewer than one shard.
    """
    if preset not in PRESETS or dtype not in _DTYPES or shards < 1:
        raise ValueError(f"no such sample: preset {preset!r}, dtype {dtype!r}, {shards} shards")
    is_public = preset not in ("tiny", "small")
    thinker, flow = PRESETS[preset]
    vocabulary = sample_vocabulary(public=is_public if public_vocabulary is None else public_vocabulary)
    out.mkdir(parents=True, exist_ok=True)
    write_tokenizer(out, vocabulary)
    _write_thinker(out, thinker, vocabulary, seed, dtype, shards)
    folder = out / "token2wav"
    folder.mkdir(exist_ok=True)
    _write_flow(folder, flow, seed)
    _write_hift(folder, is_public if public_hift is None else public_hift, seed)

    def draw(name: str, shape: tuple[int, ...], std: float) -> NDArray[np.float32]:
        return _normal(seed, f"onnx.{name}", shape, std).numpy()

    write_speaker_encoder(folder / "campplus.onnx", draw)
    write_speech_tokenizer(folder / "speech_tokenizer_v2_25hz.onnx", draw)
    write_voices(out / "assets", seed)


# ------------------------------------------------------------------ random values
def _normal(seed: int, name: str, shape: tuple[int, ...], std: float, mean: float = 0.0) -> Tensor:
    """float32 of the given shape, from a generator keyed by seed and name."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1
    generator = torch.Generator().manual_seed(key)
    return torch.randn(shape, generator=generator).mul_(std).add_(mean)


def _unit_gain(shape: tuple[int, ...]) -> float:
    """Deviation that keeps the scale of the input: 1 / sqrt(fan in)."""
    return 1.0 / math.sqrt(max(1, math.prod(shape[1:])))


# ------------------------------------------------------------------ thinker
def _thinker_tensor(seed: int, name: str, shape: tuple[int, ...], vocabulary: SampleVocabulary) -> Tensor:
    if len(shape) == 1:
        if name.endswith("weight"):  # gains of norms
            return _normal(seed, name, shape, 0.1, 1.0)
        return _normal(seed, name, shape, 0.3 if "_proj" in name else 0.1)
    if name == "model.embed_tokens.weight":
        return _normal(seed, name, shape, 1.0)
    if name == "encoder.positional_embedding.weight":
        return _normal(seed, name, shape, 0.3)
    values = _normal(seed, name, shape, _unit_gain(shape))
    if name == "lm_head.weight":
        # The greatest of n normal values grows with sqrt(log n): level text and audio, however many.
        level = math.sqrt(
            math.log(vocabulary.text_size) / math.log(vocabulary.num_ids - vocabulary.first_audio)
        )
        values *= 2.0
        values[vocabulary.first_audio : vocabulary.num_ids] *= level
        values[vocabulary.num_ids :] *= 0.3
    return values


def _write_thinker(
    out: Path, sizes: str, vocabulary: SampleVocabulary, seed: int, dtype: str, shards: int
) -> None:
    eos_id = vocabulary.special["<|endoftext|>"]
    config = thinker_config(THINKERS[sizes], vocabulary=vocabulary.num_rows, eos_id=eos_id, dtype=dtype)
    _write_json(out / "config.json", config)
    _write_json(out / "generation_config.json", {"eos_token_id": eos_id, "pad_token_id": eos_id})
    for stale in out.glob("model*.safetensors*"):  # another number of shards, and an index of them
        stale.unlink()
    layout = list(thinker_layout(config))
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        part = layout[len(layout) * shard // shards : len(layout) * (shard + 1) // shards]
        name = "model.safetensors" if shards == 1 else f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        _write_safetensors(out / name, part, seed, vocabulary, dtype)
        weight_map |= {key: name for key, _ in part}
    if shards > 1:
        size = _num_bytes(layout, dtype)
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        _write_json(out / "model.safetensors.index.json", index)


def _num_bytes(layout: Iterable[tuple[str, tuple[int, ...]]], dtype: str) -> int:
    return sum(math.prod(shape) for _, shape in layout) * _DTYPES[dtype][1].itemsize


def _write_safetensors(
    path: Path, layout: list[tuple[str, tuple[int, ...]]], seed: int, vocabulary: SampleVocabulary, dtype: str
) -> None:
    """The format written out by hand, so that only one tensor is in memory at a time."""
    label, torch_dtype = _DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in layout:
        end = at + math.prod(shape) * torch_dtype.itemsize
        header[name] = {"dtype": label, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in layout:
            values = _thinker_tensor(seed, name, shape, vocabulary).to(torch_dtype)
            file.write(values.flatten().view(torch.uint8).numpy().data)


# ------------------------------------------------------------------ token2wav
def _flow_tensor(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    key = f"flow.{name}"
    if "embed.out.1." in name:  # this norm is followed by a factor sqrt(hidden)
        return _normal(seed, key, shape, 0.02, 0.15 if name.endswith("weight") else 0.0)
    if len(shape) == 1:
        return (
            _normal(seed, key, shape, 0.1, 1.0) if name.endswith("weight") else _normal(seed, key, shape, 0.2)
        )
    if "pos_bias" in name:
        return _normal(seed, key, shape, 0.5)
    if name == "input_embedding.weight":
        return _normal(seed, key, shape, 1.0)
    gain = 1.0
    if "adaLN_modulation" in name or "final_layer" in name:
        gain = 0.5
    elif name.endswith(("linear_out.weight", "w_2.weight", "proj.weight", "fc2.weight", "block.6.weight")):
        gain = 2.0 if name == "encoder_proj.weight" else 0.7  # branches add up along the residual path
    return _normal(seed, key, shape, gain * _unit_gain(shape))


def _write_flow(folder: Path, sizes: str, seed: int) -> None:
    (folder / "flow.yaml").write_text(flow_yaml(FLOWS[sizes]), encoding="utf-8")
    tensors = {name: _flow_tensor(seed, name, shape) for name, shape in flow_layout(FLOWS[sizes])}
    torch.save(tensors, folder / "flow.pt")


def _hift_gain(name: str) -> float:
    """Norm of each channel's kernel: the channel then has about this gain on uncorrelated input."""
    if name.startswith("conv_pre"):
        return 0.25  # log-mel values lie around -4
    if name.startswith("conv_post") or ".convs2." in name:
        return 0.5
    return 1.6 if name.startswith("ups") else 1.0  # transposed: most taps of a kernel miss a sample


def _hift_tensor(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    key = f"hift.{name}"
    if name.endswith("alpha"):
        return _normal(seed, key, shape, 0.2, 1.0).clamp_(min=0.3)
    if name.endswith("original0"):
        gain = _hift_gain(name)
        return _normal(seed, key, shape, 0.1 * gain, gain)
    if name.endswith("original1"):
        return _normal(seed, key, shape, 1.0)
    if name == "f0_predictor.classifier.bias":
        return torch.full(shape, 120.0)
    if name == "f0_predictor.classifier.weight":
        return _normal(seed, key, shape, 270.0 * _unit_gain(shape))
    if name.startswith("m_source"):
        return _normal(seed, key, shape, 0.8)
    if name == "conv_post.bias":
        values = _normal(seed, key, shape, 0.3)
        values[:9] -= 1.2  # log magnitudes: quiet enough for the limiter
        return values
    if name.endswith("bias"):
        return _normal(seed, key, shape, 0.1)
    return _normal(seed, key, shape, _unit_gain(shape))


def _write_hift(folder: Path, public: bool, seed: int) -> None:
    config = HiFTConfig() if public else SMALL_HIFT
    extra = folder / "hift.json"
    if public:
        extra.unlink(missing_ok=True)
    else:
        _write_json(extra, asdict(config))
    tensors = {f"generator.{name}": _hift_tensor(seed, name, shape) for name, shape in hift_layout(config)}
    torch.save(tensors, folder / "hift.pt")


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
