"""What every route of one server shares."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cadence.audio.pieces import Detector
from cadence.audio.vad import SpeechDetector
from cadence.config import ServerConfig
from cadence.engine_base import EngineClient
from cadence.errors import NotFound
from cadence.server.outcomes import Outcomes
from cadence.server.spoken import SpokenAnswers
from cadence.server.voiced_engine import VoicedEngine
from cadence.types import ModelInfo
from cadence.voices.consents import ConsentLibrary
from cadence.voices.library import VoiceLibrary

MAX_DECODERS = 4  # at once: bounds memory, and leaves cores to the model

__all__ = ["Context", "new_id"]


@dataclass(slots=True)
class Context:
    """The engine, the configuration and the server's own state.

    `draining`: shutting down, new work is refused. `num_inflight`: requests being read or answered.
    `num_body_bytes`: what their bodies hold together. `num_sockets`: WebSockets that are open.
    `drain_started`: set when draining begins, for those who wait for it.
    `outcomes`: how recent speech requests ended. `decoders`: places for decoding audio.
    `make_detector`: makes what tells speech in a recording.
    `voices`, `consents`: what users uploaded; None = this server keeps nothing. With `voices`, `engine`
    speaks with them too.
    `spoken`: answers that a later turn may refer to.
    """

    engine: EngineClient
    config: ServerConfig
    draining: bool = False
    num_inflight: int = 0
    num_body_bytes: int = 0
    num_sockets: int = 0
    drain_started: asyncio.Event = field(default_factory=asyncio.Event)
    outcomes: Outcomes = field(default_factory=Outcomes)
    decoders: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_DECODERS))
    make_detector: Callable[[], Detector] = SpeechDetector
    spoken: SpokenAnswers = field(init=False)
    voices: VoiceLibrary | None = field(init=False, default=None)
    consents: ConsentLibrary | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        config = self.config
        self.spoken = SpokenAnswers(
            max_count=config.max_spoken_answers,
            max_bytes=config.max_spoken_bytes,
            keep_s=config.spoken_keep_s,
        )
        if config.voices_dir is None:
            return
        root = Path(config.voices_dir).expanduser()
        self.voices = VoiceLibrary(
            root,
            max_voices=config.max_voices,
            max_bytes=config.max_voices_bytes,
            replace=config.voice_policy == "overwrite",
        )
        self.consents = ConsentLibrary(
            root / "consents", max_consents=config.max_voices, max_bytes=config.max_voices_bytes
        )
        self.engine = VoicedEngine(self.engine, self.voices)

    def model_names(self) -> tuple[str, ...]:
        """Names a request may use, the model's own first."""
        info: ModelInfo = self.engine.info
        return (info.model_id, *(name for name in info.aliases if name != info.model_id))

    def check_model(self, name: str | None) -> str:
        """The name to answer with; None asks for the one model there is.

        Raises:
            NotFound: another model.
        """
        if name is None:
            return self.engine.info.model_id
        if name not in self.model_names():
            raise NotFound(
                f"The model {name[:200]!r} is not served here.",
                param="model",
                code="model_not_found",
                hint=f"This server has: {', '.join(self.model_names())}.",
            )
        return name


def new_id() -> str:
    """16 random hexadecimal digits."""
    return secrets.token_hex(8)
