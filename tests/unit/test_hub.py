"""Finding a checkpoint: folders, ids, names, and clear words when something is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from cadence.errors import CheckpointError, ConfigError
from cadence.hub import canonical_id, missing_files, model_aliases, resolve_checkpoint


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint's file names; contents do not matter here."""
    for path in tiny_checkpoint.rglob("*"):
        if path.is_file():
            copy = tmp_path / "model" / path.relative_to(tiny_checkpoint)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(b"x" * 2000)
    return tmp_path / "model"


def test_a_complete_folder_is_returned(tiny_checkpoint: Path) -> None:
    assert resolve_checkpoint(str(tiny_checkpoint)) == tiny_checkpoint.resolve()
    assert missing_files(tiny_checkpoint) == []


def test_every_missing_file_is_named(folder: Path) -> None:
    for name in ("config.json", "tokenizer.json", "vocab.json", "model.safetensors", "token2wav/hift.pt"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"config\.json, token2wav/hift\.pt, vocab\.json, model\.saf"):
        resolve_checkpoint(str(folder))


def test_a_thinker_alone_needs_no_token2wav(folder: Path) -> None:
    shutil.rmtree(folder / "token2wav")
    with pytest.raises(CheckpointError, match=r"flow\.pt.*Text answers alone"):
        resolve_checkpoint(str(folder))
    assert resolve_checkpoint(str(folder), thinker_only=True) == folder.resolve()


def test_shards_are_those_of_the_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    assert missing_files(folder) == ["b.safetensors"]
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="no index"):
        missing_files(folder)


def test_pointers_of_git_lfs_are_recognised(folder: Path) -> None:
    (folder / "token2wav" / "flow.pt").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )
    with pytest.raises(CheckpointError, match=r"token2wav/flow\.pt.*git lfs pull"):
        resolve_checkpoint(str(folder))


@pytest.mark.parametrize("model", ["", "nowhere", "./nowhere/x", "/etc/hostname", "a/b/c"])
def test_what_is_neither_folder_nor_id_is_refused(model: str) -> None:
    with pytest.raises(ConfigError, match="neither a folder nor"):
        resolve_checkpoint(model)


def test_a_revision_belongs_to_an_id(tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="revision"):
        resolve_checkpoint(str(tiny_checkpoint), revision="main")


def test_both_spellings_fetch_the_same_model(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo_id, revision))
        return str(tiny_checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    steps: list[float] = []
    for model in ("stepfun-ai/Step-Audio2-mini", "Step-Audio-2-mini-Base"):
        resolve_checkpoint(model, revision="v1", progress=lambda text, fraction: steps.append(fraction))
    assert asked == [("stepfun-ai/Step-Audio-2-mini", "v1"), ("stepfun-ai/Step-Audio-2-mini-Base", "v1")]
    assert steps == [0.0, 1.0, 0.0, 1.0]


def test_an_unreachable_hub_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> str:
        raise ConnectionError("secret internals")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ConfigError, match=r"someone/else could not be fetched.*pass the path") as info:
        resolve_checkpoint("someone/else")
    assert "secret" not in str(info.value)


def test_names_that_requests_may_use() -> None:
    both = {
        "stepfun-ai/Step-Audio-2-mini",
        "stepfun-ai/Step-Audio2-mini",
        "Step-Audio-2-mini",
        "Step-Audio2-mini",
    }
    for model in both:
        assert model_aliases(model)[0] == model
        assert set(model_aliases(model)) == both
    local = model_aliases("/models/my-think/")
    assert local[:2] == ("/models/my-think/", "my-think")
    assert "stepfun-ai/Step-Audio-2-mini-Think" in local
    assert canonical_id("other/Step-Audio2-mini") == "other/Step-Audio2-mini"
