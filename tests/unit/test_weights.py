"""Checkpoint files: what is refused, and that nothing is copied needlessly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cadence.errors import CheckpointError, ConfigError
from cadence.models.weights import (
    load_pt,
    load_strict,
    open_safetensors,
    read_json,
    resolve_device,
    resolve_dtype,
)

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


def linear() -> nn.Linear:
    with torch.device("meta"):
        return nn.Linear(3, 2)


def write_shards(root: Path) -> dict[str, str]:
    weight_map = {"weight": "model-00001-of-00002.safetensors", "bias": "model-00002-of-00002.safetensors"}
    for key, name in weight_map.items():
        save_file({key: TENSORS[key]}, root / name)
    write_index(root, weight_map)
    return weight_map


def write_index(root: Path, weight_map: object) -> None:
    (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_folder_loads_whole(tmp_path: Path, sharded: bool) -> None:
    if sharded:
        write_shards(tmp_path)
    else:
        save_file(TENSORS, tmp_path / "model.safetensors")
    files = open_safetensors(tmp_path)
    assert set(files) == {"weight", "bias"} and files.shape_of("weight") == (2, 3)
    module = linear()
    load_strict(module, files, file=tmp_path)
    assert torch.equal(module.weight, TENSORS["weight"]) and torch.equal(module.bias, TENSORS["bias"])


def test_same_dtype_uses_the_tensor_itself_and_another_is_converted() -> None:
    module = linear()
    load_strict(module, TENSORS, file=Path("here"))
    assert module.weight.data_ptr() == TENSORS["weight"].data_ptr()
    load_strict(module, TENSORS, file=Path("here"), dtype=torch.bfloat16)
    assert module.weight.dtype == module.bias.dtype == torch.bfloat16


def test_source_pages_are_let_go_during_a_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cadence.models.weights._MAX_MAPPED_BYTES", 0)
    write_shards(tmp_path)
    files = open_safetensors(tmp_path)
    handles = dict(files._handles)
    module = linear()
    load_strict(module, files, file=tmp_path, dtype=torch.bfloat16)
    assert not set(map(id, files._handles.values())) & set(map(id, handles.values()))
    assert torch.equal(module.weight.float(), TENSORS["weight"])


def test_integers_keep_their_type() -> None:
    module = nn.Module()
    module.register_buffer("steps", torch.zeros(2, dtype=torch.int64, device="meta"))
    load_strict(module, {"a.steps": torch.tensor([1, 2]), "b": torch.ones(1)}, file=Path("x"), prefix="a.",
                dtype=torch.bfloat16)  # fmt: skip
    assert module.steps.tolist() == [1, 2] and module.steps.dtype == torch.int64


def test_all_that_is_wrong_is_named_at_once() -> None:
    tensors = {"p.weight": torch.zeros(3, 2), "p.extra": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        load_strict(linear(), tensors, file=Path("model.pt"), prefix="p.")
    message = str(caught.value)
    for part in ("model.pt", "missing: p.bias", "p.extra", "p.weight (expected [2, 3], found [3, 2])"):
        assert part in message


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found neither"):
        open_safetensors(tmp_path)
    weight_map = write_shards(tmp_path)
    write_index(tmp_path, {**weight_map, "scale": weight_map["bias"]})
    with pytest.raises(CheckpointError, match=r"00002.*'scale'.*no such key"):
        open_safetensors(tmp_path)
    write_index(tmp_path, {"bias": weight_map["bias"], "weight": weight_map["bias"]})
    with pytest.raises(CheckpointError, match="'weight'"):
        open_safetensors(tmp_path)
    write_index(tmp_path, {**weight_map, "weight": "../elsewhere.safetensors"})
    with pytest.raises(CheckpointError, match=r"elsewhere"):
        open_safetensors(tmp_path)
    write_index(tmp_path, weight_map)
    (tmp_path / weight_map["weight"]).unlink()
    with pytest.raises(CheckpointError, match=r"00001.*missing"):
        open_safetensors(tmp_path)
    (tmp_path / weight_map["weight"]).write_bytes(b"not a tensor file")
    with pytest.raises(CheckpointError, match="not a readable"):
        open_safetensors(tmp_path)


def test_a_shard_with_keys_that_the_index_lacks_is_refused(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "one.safetensors")
    write_index(tmp_path, {"weight": "one.safetensors"})
    with pytest.raises(CheckpointError, match=r"absent from the index: bias"):
        open_safetensors(tmp_path)


class Foreign:
    """Anything but a tensor; unpickling it would run code."""


def test_pt_files(tmp_path: Path) -> None:
    path = tmp_path / "flow.pt"
    torch.save(TENSORS, path)
    assert torch.equal(load_pt(path)["weight"], TENSORS["weight"])
    torch.save({"weight": Foreign()}, path)
    with pytest.raises(CheckpointError, match=r"flow\.pt"):
        load_pt(path)
    torch.save({"weight": 3}, path)
    with pytest.raises(CheckpointError, match="must be a tensor"):
        load_pt(path)
    with pytest.raises(CheckpointError, match="missing"):
        load_pt(tmp_path / "none.pt")


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text, says in (("{", "JSON"), ("[1]", "list")):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=says):
            read_json(path)


def test_devices_and_dtypes() -> None:
    assert resolve_device("cpu").type == "cpu"
    for name in ("cuda:99", "abacus"):
        with pytest.raises(ConfigError, match=name):
            resolve_device(name)
    cpu = torch.device("cpu")
    assert resolve_dtype("bf16", cpu) == torch.bfloat16
    assert resolve_dtype("auto", cpu, num_parameters=1000, checkpoint_dtype=torch.bfloat16) == torch.float32
    assert (
        resolve_dtype("auto", cpu, num_parameters=10**13, checkpoint_dtype=torch.bfloat16) == torch.bfloat16
    )
    assert resolve_dtype("auto", torch.device("cuda"), checkpoint_dtype=torch.bfloat16) == torch.bfloat16
    with pytest.raises(ConfigError, match="int4"):
        resolve_dtype("int4", cpu)
