"""What `cadence serve` serves when no model is named."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from cadence import __version__
from cadence.errors import ConfigError

__all__ = ["cache_dir", "default_model"]

NANO = Path(__file__).parent.parent / "nano"
SAMPLE_PRESET: Literal["tiny"] = "tiny"


def cache_dir() -> Path:
    """The platform's folder for things that can be made again; `CADENCE_CACHE` overrides it."""
    if own := os.environ.get("CADENCE_CACHE"):
        return Path(own)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cadence"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "cadence"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cadence"


def default_model(say: Callable[[str], object]) -> tuple[Path, str]:
    """The checkpoint inside the package, or else a small one with random weights, written once.

    Returns:
        Its folder, and the name to serve it under.

    Raises:
        ConfigError: the cache folder cannot be written.
    """
    if (NANO / "config.json").is_file():
        return NANO, "cadence-nano"
    sample = cache_dir() / f"sample-{SAMPLE_PRESET}-{__version__}"
    if not (sample / "config.json").is_file():
        say(f"No built-in model in this installation: writing a sample checkpoint to {sample}")
        _write_sample(sample)
    say(
        "Serving a sample checkpoint with RANDOM WEIGHTS: it answers with noise. Name a model to hear speech."
    )
    return sample, "cadence-sample"


def _write_sample(out: Path) -> None:
    """Write beside `out` and move into place, so that a checkpoint is complete or absent."""
    from cadence.models.sample import write_sample_checkpoint

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise ConfigError(
            f"Cannot write the sample checkpoint to {out.parent}: {error.strerror}.",
            hint="Set CADENCE_CACHE to a folder that can be written, or name a model.",
        ) from error
    try:
        write_sample_checkpoint(work / "checkpoint", preset=SAMPLE_PRESET)
        try:
            (work / "checkpoint").replace(out)
        except OSError:
            if not (out / "config.json").is_file():  # not another process that was faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
