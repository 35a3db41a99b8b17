"""A supervised stage's state, as health checks see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["StageState", "StageStatus"]

StageState = Literal["starting", "ready", "unresponsive", "restarting", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class StageStatus:
    """`retry_after_s`: when to ask again while the stage is down."""

    state: StageState
    detail: str = ""
    retry_after_s: float = 2.0

    @property
    def down(self) -> bool:
        """Whether requests for the stage must be refused now."""
        return self.state != "ready"
