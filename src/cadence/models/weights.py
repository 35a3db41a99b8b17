"""Checkpoint files in, parameters out: strict about names and shapes, lazy about memory.

Nothing here runs code from a checkpoint: safetensors hold plain arrays, `.pt` files are read with
`weights_only=True`. Whatever is wrong is a `CheckpointError` that names the file, the key, what was
expected and what was found.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cadence.errors import CheckpointError, ConfigError

__all__ = [
    "TensorFiles",
    "load_pt",
    "load_strict",
    "open_safetensors",
    "read_json",
    "resolve_device",
    "resolve_dtype",
    "total_memory_bytes",
]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_MAX_NAMED_KEYS = 8  # how many keys one message lists
_MAX_MAPPED_BYTES = 256 << 20  # of source tensors left in memory after their conversion

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing, is not JSON, or does not hold an object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: the file is missing.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(data).__name__}.")
    return data


class TensorFiles(Mapping[str, Tensor]):
    """Read-only view of the tensors of one or more safetensors files.

    The files are memory-mapped: opening reads headers only, and a tensor taken from here is backed by
    the file's pages until it is converted or moved. Keep no more references than needed.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        """`files` maps each key to the file that must hold it."""
        self._files = dict(files)
        self._handles: dict[Path, Any] = {}
        for path in sorted(set(self._files.values())):
            self._handles[path] = _open_file(path)
        found = {path: set(handle.keys()) for path, handle in self._handles.items()}
        for key, path in self._files.items():
            if key not in found[path]:
                raise CheckpointError(
                    f"{path}: expected the tensor {key!r} that the index places here, found no such key."
                )
        extra = sorted(key for keys in found.values() for key in keys if key not in self._files)
        if extra:
            raise CheckpointError(
                f"{_home(extra[0], found)}: holds keys absent from the index: {_some(extra)}."
            )

    def __getitem__(self, key: str) -> Tensor:
        """The tensor, in the file's shape and dtype, on the CPU."""
        path = self._files[key]
        try:
            tensor: Tensor = self._handles[path].get_tensor(key)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: cannot read the tensor {key!r} ({error}).") from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, key: object) -> bool:
        return key in self._files

    def unmap(self) -> None:
        """Let go of the pages read so far, but for those of tensors still in use."""
        self._handles = {path: _open_file(path) for path in self._handles}

    def file_of(self, key: str) -> Path:
        """The file that holds `key`."""
        return self._files[key]

    def shape_of(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header alone."""
        return tuple(self._handles[self._files[key]].get_slice(key).get_shape())

    @property
    def num_bytes(self) -> int:
        """Size of the files."""
        return sum(path.stat().st_size for path in self._handles)


def _open_file(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="pt", device="cpu")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: the file is missing.") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is not a readable safetensors file ({error}).") from error


def _home(key: str, found: Mapping[Path, set[str]]) -> Path:
    return next(path for path, keys in found.items() if key in keys)


def _some(keys: list[str]) -> str:
    text = ", ".join(keys[:_MAX_NAMED_KEYS])
    return text if len(keys) <= _MAX_NAMED_KEYS else f"{text} and {len(keys) - _MAX_NAMED_KEYS} more"


def open_safetensors(root: Path) -> TensorFiles:
    """Open a checkpoint folder: `model.safetensors`, or the shards that its index names.

    Raises:
        CheckpointError: no weights here, a shard is missing or unreadable, or index and shards disagree.
    """
    index = root / INDEX_FILE
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index}: expected an object 'weight_map', found {weight_map!r}.")
        for key, name in weight_map.items():
            # A name with a directory part could point outside the checkpoint.
            if not isinstance(name, str) or name != os.path.basename(name):
                raise CheckpointError(f"{index}: {key!r} must name a file of this folder, found {name!r}.")
            if not (root / name).exists():
                raise CheckpointError(
                    f"{root / name}: the shard is missing, {index.name} places {key!r} in it."
                )
        return TensorFiles({str(key): root / name for key, name in weight_map.items()})
    single = root / SINGLE_FILE
    if not single.exists():
        raise CheckpointError(f"{root}: expected {SINGLE_FILE} or {INDEX_FILE}, found neither.")
    return TensorFiles(dict.fromkeys(_open_file(single).keys(), single))


def load_pt(path: Path) -> dict[str, Tensor]:
    """Read a flat `.pt` state dict onto the CPU, memory-mapped where its format allows; plain tensors only.

    Raises:
        CheckpointError: missing, unreadable, holds anything but named tensors.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: the file is missing.")
    try:
        # Only the zip format (torch >= 1.6) can be mapped.
        data = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as plain tensors ({error}).") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a dict of tensors, found {type(data).__name__}.")
    for key, value in data.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {key!r} must be a tensor, found {type(value).__name__}.")
    return data


def load_strict(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    file: Path,
    prefix: str = "",
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Give every parameter and buffer of `module` its tensor: all of them, and nothing left over.

    Build `module` on the meta device, so that the weights exist once: a tensor already in `dtype` on
    `device` is used as it is (mapped pages stay mapped), another is converted on its own.

    Args:
        tensors: named as `module.state_dict()` names them, after `prefix`; keys without it are ignored.
        file: named in messages.
        dtype: floating tensors are converted to it; None keeps the file's.

    Raises:
        CheckpointError: one message with all leftover, missing and misshapen keys.
    """
    expected = module.state_dict(keep_vars=True)
    given = {key.removeprefix(prefix) for key in tensors if key.startswith(prefix)}
    problems = []
    if missing := sorted(prefix + key for key in expected.keys() - given):
        problems.append(f"missing: {_some(missing)}")
    if leftover := sorted(prefix + key for key in given - expected.keys()):
        problems.append(f"not part of the model: {_some(leftover)}")
    shapes = [
        f"{prefix + key} (expected {list(want.shape)}, found {list(found)})"
        for key, want in expected.items()
        if key in given and (found := _shape(tensors, prefix + key)) != tuple(want.shape)
    ]
    if shapes:
        problems.append(f"of another shape: {_some(shapes)}")
    if problems:
        raise CheckpointError(f"{file}: tensors {'; '.join(problems)}.")
    mapped = 0
    for key, want in expected.items():
        tensor = tensors[prefix + key]
        target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        placed = tensor.to(device=device, dtype=target)
        _assign(module, key, placed, isinstance(want, nn.Parameter))
        mapped += tensor.nbytes if placed is not tensor else 0
        if mapped > _MAX_MAPPED_BYTES and isinstance(tensors, TensorFiles):
            del tensor
            tensors.unmap()
            mapped = 0


def _shape(tensors: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    if isinstance(tensors, TensorFiles):
        return tensors.shape_of(key)
    return tuple(tensors[key].shape)


def _assign(module: nn.Module, key: str, tensor: Tensor, is_parameter: bool) -> None:
    parent, _, name = key.rpartition(".")
    owner = module.get_submodule(parent)
    if is_parameter:
        setattr(owner, name, nn.Parameter(tensor, requires_grad=False))
    else:
        owner.register_buffer(name, tensor)


def resolve_device(name: str) -> torch.device:
    """`auto` takes cuda, then mps, then cpu; any other name must exist on this machine.

    Raises:
        ConfigError: not a device, or not present.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"Unknown device {name!r}; expected auto, cpu, cuda, cuda:N or mps.") from error
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        raise ConfigError(f"The device {name!r} is not available on this machine.", hint="Use --device auto.")
    return device


def resolve_dtype(
    name: str,
    device: torch.device,
    *,
    num_parameters: int = 0,
    checkpoint_dtype: torch.dtype = torch.float32,
) -> torch.dtype:
    """Turn a configured dtype into a torch one.

    `auto` on a GPU is the checkpoint's own. On a CPU it is float32 as long as `num_parameters` of it
    take less than a third of the memory: without matrix units (AMX) bfloat16 products run at about
    half the speed of float32 ones. A larger model keeps the checkpoint's type, half the bytes.

    Raises:
        ConfigError: unknown name.
    """
    if name != "auto":
        if name not in DTYPES:
            raise ConfigError(f"Unknown dtype {name!r}; expected auto, {', '.join(sorted(DTYPES))}.")
        return DTYPES[name]
    if device.type != "cpu":
        return checkpoint_dtype
    fits = num_parameters * 4 < total_memory_bytes() / 3
    return torch.float32 if fits else checkpoint_dtype


def total_memory_bytes() -> int:
    """Physical memory of this machine; a container's own limit is respected where it says one."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        return min(total, int(text))
    return total
