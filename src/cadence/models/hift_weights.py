"""`hift.pt` in and out: weight norm folded, either spelling of it, with or without the prefix.

A checkpoint with another vocoder size than the public one says so in `hift.json` beside it, an object with
any of the fields of `HiFTConfig`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cadence.errors import CheckpointError, ConfigError
from cadence.models.cpu import has_bfloat16
from cadence.models.hift import HiFT, HiFTConfig
from cadence.models.weights import load_pt, load_strict, read_json

__all__ = ["load_hift", "read_hift_config", "save_hift"]

PREFIX = "generator."
_SPELLINGS = (
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ("weight_g", "weight_v"),
)
# Plain in the public file as well; every other weight is stored as gain and direction.
_PLAIN = ("m_source.", "source_downs.", "f0_predictor.classifier.")


def read_hift_config(folder: Path) -> HiFTConfig:
    """Sizes from `hift.json`, the public ones without that file.

    Raises:
        CheckpointError: a field is unknown, of the wrong type or out of range.
    """
    path = folder / "hift.json"
    if not path.exists():
        return HiFTConfig()
    given = read_json(path)
    default = HiFTConfig()
    if unknown := sorted(given.keys() - {f.name for f in fields(HiFTConfig)}):
        raise CheckpointError(f"{path}: unknown fields {', '.join(unknown)}.")
    values = {name: _checked(path, name, value, getattr(default, name)) for name, value in given.items()}
    config = replace(default, **values)
    if config.base_channels % 8:
        raise CheckpointError(f"{path}: base_channels must be divisible by 8, found {config.base_channels}.")
    if any(kernel % 2 == 0 for kernel in (*config.kernels, *config.source_kernels)):
        raise CheckpointError(f"{path}: kernels must be odd, found {config.kernels} {config.source_kernels}.")
    return config


def _checked(path: Path, name: str, value: object, default: object) -> Any:
    """The value as HiFTConfig holds it: an integer, or a tuple as long as the default where that matters."""
    values = value if isinstance(value, list) else [value]
    is_positive = bool(values) and all(type(v) is int and v > 0 for v in values)
    if isinstance(default, int):
        if is_positive and not isinstance(value, list):
            return value
        raise CheckpointError(f"{path}: {name} must be a positive integer, found {value!r}.")
    if is_positive and isinstance(value, list) and (name != "source_kernels" or len(value) == 3):
        return tuple(values)
    raise CheckpointError(f"{path}: {name} must be a list of positive integers, found {value!r}.")


def load_hift(
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    num_threads: int | None = None,
    bfloat16: bool = False,
) -> HiFT:
    """Load the vocoder of a `token2wav` folder, ready to serve.

    On a CPU in float32 the residual blocks run on ONNX Runtime, with `num_threads` (None = torch's number);
    `bfloat16` rounds what their convolutions multiply. Pitch and source stay in float32 whatever `dtype`:
    half precision would be heard as detuning.

    Raises:
        CheckpointError: `hift.pt` or `hift.json` is missing parts, foreign or of another shape.
        ConfigError: `bfloat16` where it would not be faster.
    """
    is_float_on_cpu = torch.device(device).type == "cpu" and dtype == torch.float32
    if bfloat16 and not (is_float_on_cpu and has_bfloat16()):
        raise ConfigError(
            "A vocoder in bfloat16 needs a CPU with instructions for it, and float32 for the rest.",
            param="token2wav.vocoder_weights",
        )
    path = folder / "hift.pt"
    with torch.device("meta"):
        model = HiFT(read_hift_config(folder))
    load_strict(model, _folded(load_pt(path), path), file=path, dtype=dtype, device=device)
    model.f0_predictor.float()
    model.m_source.float()
    model.prepare_inference(num_threads or torch.get_num_threads(), bfloat16=bfloat16)
    return model.eval()


def _folded(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Names without prefix, and one plain weight, gain * direction / |direction|, for each pair.

    Folded by torch's own kernel because its rounding matters: the source sums the pitch into phases,
    where the last bits of a weight grow to 1 % of the wave.
    """
    plain = {key.removeprefix(PREFIX): value for key, value in tensors.items()}
    if len(plain) < len(tensors):
        raise CheckpointError(f"{path}: has keys both with and without the prefix {PREFIX!r}.")
    for gain_name, direction_name in _SPELLINGS:
        for key in [key for key in plain if key.endswith("." + gain_name)]:
            stem = key.removesuffix(gain_name)
            gain, direction = plain.pop(key), plain.pop(stem + direction_name, None)
            if direction is None:
                raise CheckpointError(f"{path}: {key!r} has no {stem + direction_name!r} beside it.")
            if gain.shape != (*direction.shape[:1], *[1] * (direction.ndim - 1)):
                raise CheckpointError(
                    f"{path}: {key!r} must hold one gain per row of {list(direction.shape)}, "
                    f"found {list(gain.shape)}."
                )
            plain[stem + "weight"] = torch._weight_norm(direction.float(), gain.float(), 0)
    return plain


def _norm(direction: Tensor) -> Tensor:
    """Euclidean norm over all axes but the first, which keeps its place."""
    norm: Tensor = torch.linalg.vector_norm(direction, dim=tuple(range(1, direction.ndim)), keepdim=True)
    return norm


def save_hift(model: HiFT, folder: Path) -> None:
    """Write `hift.pt` in the public layout (float32), and `hift.json` where the sizes are not public."""
    tensors: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        value = value.detach().float().cpu()
        if key.endswith(".weight") and not key.startswith(_PLAIN):
            gain, direction = (PREFIX + key.removesuffix("weight") + part for part in _SPELLINGS[0])
            tensors[gain], tensors[direction] = _norm(value), value.contiguous()
        else:
            tensors[PREFIX + key] = value.contiguous()
    torch.save(tensors, folder / "hift.pt")
    if model.config == HiFTConfig():
        (folder / "hift.json").unlink(missing_ok=True)
    else:
        (folder / "hift.json").write_text(json.dumps(asdict(model.config), indent=2) + "\n", encoding="utf-8")
