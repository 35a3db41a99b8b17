"""Stages by kind: how each is loaded, in this process or in a child's.

The neural stages are imported only when one is loaded, so the engine's process needs no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cadence.config import ThinkerConfig, Token2WavConfig
from cadence.runtime.fake_stages import FakeThinker, FakeToken2Wav, StageFault
from cadence.thinker.base import Thinker
from cadence.token2wav.base import Token2Wav
from cadence.types import ChunkSchedule

__all__ = ["Progress", "Stage", "StageKind", "StageSpec", "load_stage"]

Progress = Callable[[str, float], None]
Stage = Thinker | Token2Wav
StageKind = Literal["thinker", "token2wav", "fake_thinker", "fake_token2wav"]


@dataclass(frozen=True, slots=True)
class StageSpec:
    """All that a process needs to load a stage: plain data."""

    kind: StageKind
    root: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Which of the two stages this is."""
        return self.kind.removeprefix("fake_")

    @classmethod
    def thinker(cls, root: Path, config: ThinkerConfig) -> StageSpec:
        """The language model of a checkpoint folder."""
        return cls("thinker", str(root), _plain(config))

    @classmethod
    def token2wav(cls, root: Path, config: Token2WavConfig) -> StageSpec:
        """The vocoder of a checkpoint folder."""
        return cls("token2wav", str(root), _plain(config))


def load_stage(spec: StageSpec, progress: Progress) -> Stage:
    """Load a stage; blocks until it is warm.

    Raises:
        ConfigError: the checkpoint or the configuration cannot be served.
    """
    root, fields = Path(spec.root), dict(spec.config)
    if spec.kind == "thinker":
        from cadence.thinker.local import LocalThinker

        return LocalThinker.load(root, ThinkerConfig(**fields), progress=progress)
    if spec.kind == "token2wav":
        from cadence.token2wav.local import LocalToken2Wav

        fields["schedule"] = ChunkSchedule(**fields["schedule"])
        return LocalToken2Wav.load(root, Token2WavConfig(**fields), progress=progress)
    return _load_fake(spec, progress)


def _load_fake(spec: StageSpec, progress: Progress) -> Stage:
    """A stage without a model: `script` (ids of every answer), `delay_s`, and one of `hang_after` and
    `fail_after` (outputs)."""
    fields = dict(spec.config)
    script = fields.pop("script", [])
    fault: StageFault | None = None
    if "hang_after" in fields:
        fault = StageFault(fields.pop("hang_after"))
    elif "fail_after" in fields:
        fault = StageFault(fields.pop("fail_after"), RuntimeError("as asked"))
    progress("Making a stage without a model", 0.5)
    if spec.kind == "fake_thinker":
        return FakeThinker(lambda request: script, fault=fault, **fields)
    return FakeToken2Wav(fault=fault, **fields)


def _plain(config: ThinkerConfig | Token2WavConfig) -> dict[str, Any]:
    fields = dataclasses.asdict(config)
    if isinstance(config, ThinkerConfig):
        fields["default_sampling"] = dict(config.default_sampling)
    return fields
