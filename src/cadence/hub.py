"""Where a checkpoint is: a local folder, or a Hugging Face id that is downloaded once.

The folder is checked for every file before anything loads, so a half-copied checkpoint is one clear
error instead of a traceback minutes later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from cadence.errors import CheckpointError, ConfigError
from cadence.prompt import detect_variant

__all__ = ["canonical_id", "missing_files", "model_aliases", "resolve_checkpoint"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_OWNER = "stepfun-ai"
_SUFFIXES = {"chat": "", "base": "-Base", "think": "-Think"}
_TOKEN2WAV_FILES = ("flow.yaml", "flow.pt", "hift.pt", "campplus.onnx", "speech_tokenizer_v2_25hz.onnx")
_WANTED = ["*.json", "*.safetensors", "merges.txt", "token2wav/*", "assets/*.wav"]
_POINTER = b"version https://git-lfs"


def canonical_id(model: str) -> str:
    """A hub id as the hub spells it: the family is also known as `Step-Audio2-...`, which the hub is not."""
    return re.sub(rf"^({_OWNER}/)?Step-Audio-?2-", f"{_OWNER}/Step-Audio-2-", model)


def model_aliases(model: str) -> tuple[str, ...]:
    """Every name a request may use for a served model, its own first.

    Besides the id or path itself: the last part of it, and the public ids of the same variant in both
    spellings, with and without owner, since existing clients send those whatever is being served.
    """
    suffix = _SUFFIXES[detect_variant(model)]
    family = [f"{name}{suffix}" for name in ("Step-Audio-2-mini", "Step-Audio2-mini")]
    last = model.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    names = (model, last, *(f"{_OWNER}/{name}" for name in family), *family)
    return tuple(name for name in dict.fromkeys(names) if name)


def resolve_checkpoint(
    model: str,
    *,
    revision: str | None = None,
    thinker_only: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Path:
    """The folder of a complete checkpoint.

    Args:
        model: a folder, or a Hugging Face id; both spellings of the family's ids work.
        revision: branch, tag or commit of a Hugging Face id; refused for a folder.
        thinker_only: Token2Wav's files are not needed.
        progress: called with a sentence and a fraction 0..1 around a download.

    Raises:
        ConfigError: no such folder or id, or the hub cannot be reached and nothing is cached.
        CheckpointError: files are missing (all are named) or are git-lfs pointers.
    """
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        if revision is not None:
            raise ConfigError(
                f"{folder} is a folder; a revision belongs to a Hugging Face id.", param="revision"
            )
        root = folder.resolve()
    else:
        hub_id = canonical_id(model)
        if not _HUB_ID.fullmatch(hub_id) or folder.exists():
            raise ConfigError(
                f"{model!r} is neither a folder nor a Hugging Face id.",
                param="model",
                hint="Expected a checkpoint folder, or an id such as stepfun-ai/Step-Audio-2-mini.",
            )
        root = _download(hub_id, revision, progress or (lambda text, fraction: None))
    _check(root, thinker_only)
    return root


def missing_files(root: Path, *, thinker_only: bool = False) -> list[str]:
    """Files that a checkpoint folder lacks, as paths inside it; empty = complete."""
    wanted = ["config.json"] + ([] if thinker_only else [f"token2wav/{name}" for name in _TOKEN2WAV_FILES])
    lacking = [name for name in wanted if not (root / name).is_file()]
    if not (root / "tokenizer.json").is_file():
        pair = [name for name in ("vocab.json", "merges.txt") if not (root / name).is_file()]
        lacking += ["tokenizer.json"] if len(pair) == 2 else pair
    return lacking + _missing_weights(root)


def _missing_weights(root: Path) -> list[str]:
    """`model.safetensors`, or the shards that an index names."""
    if (root / "model.safetensors").is_file():
        return []
    index = root / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    try:
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index.name} is no index of weights.", param=index.name) from error
    return sorted(str(name) for name in shards if not (root / str(name)).is_file())


def _check(root: Path, thinker_only: bool) -> None:
    lacking = missing_files(root, thinker_only=thinker_only)
    if lacking:
        raise CheckpointError(
            f"{root} is no complete checkpoint; missing: {', '.join(lacking)}.",
            param="model",
            hint="Text answers alone need no token2wav folder."
            if all(name.startswith("token2wav/") for name in lacking)
            else None,
        )
    patterns = ("*.safetensors", "*.json", "token2wav/*")
    pointers = [path for pattern in patterns for path in sorted(root.glob(pattern)) if _is_pointer(path)]
    if pointers:
        names = ", ".join(str(path.relative_to(root)) for path in pointers)
        raise CheckpointError(
            f"{root} holds git-lfs pointers instead of files: {names}.",
            param="model",
            hint="Run `git lfs pull` in that folder.",
        )


def _is_pointer(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size > 1024:
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _download(hub_id: str, revision: str | None, progress: Callable[[str, float], None]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    progress(f"Fetching {hub_id}", 0.0)
    try:
        folder = snapshot_download(hub_id, revision=revision, allow_patterns=_WANTED)
    except GatedRepoError as error:
        raise ConfigError(
            f"{hub_id} asks its readers to sign in.",
            param="model",
            hint="Accept its terms, then set HF_TOKEN.",
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigError(f"There is no model {hub_id!r} on the hub.", param="model") from error
    except RevisionNotFoundError as error:
        raise ConfigError(f"{hub_id} has no revision {revision!r}.", param="revision") from error
    except (OSError, ValueError) as error:  # every failure of hub and network is one of these
        raise ConfigError(
            f"{hub_id} could not be fetched from the hub ({type(error).__name__}); no copy is cached.",
            param="model",
            hint="Check the network, or pass the path of a folder that holds the checkpoint.",
        ) from error
    progress(f"Fetched {hub_id}", 1.0)
    return Path(folder)
