"""Cadence serves Step-Audio 2 in real time over the OpenAI API.

The names below are the library's public surface. They load on first use, so `import cadence` is quick
and does not import torch.

    engine = await cadence.start_engine(cadence.ServeConfig(model="..."))
    async for event in engine.generate(cadence.Request(...)):
        ...
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cadence.config import EngineConfig as EngineConfig
    from cadence.config import ServeConfig as ServeConfig
    from cadence.config import ServerConfig as ServerConfig
    from cadence.config import ThinkerConfig as ThinkerConfig
    from cadence.config import Token2WavConfig as Token2WavConfig
    from cadence.engine import Engine as Engine
    from cadence.engine import start_engine as start_engine
    from cadence.engine_base import EngineClient as EngineClient
    from cadence.errors import CadenceError as CadenceError
    from cadence.types import AudioChunk as AudioChunk
    from cadence.types import AudioPart as AudioPart
    from cadence.types import ChunkSchedule as ChunkSchedule
    from cadence.types import Done as Done
    from cadence.types import Message as Message
    from cadence.types import Request as Request
    from cadence.types import SamplingParams as SamplingParams
    from cadence.types import TextDelta as TextDelta
    from cadence.types import TextPart as TextPart
    from cadence.types import Usage as Usage

_HOME = {
    "AudioChunk": "types",
    "AudioPart": "types",
    "CadenceError": "errors",
    "ChunkSchedule": "types",
    "Done": "types",
    "Engine": "engine",
    "EngineClient": "engine_base",
    "EngineConfig": "config",
    "Message": "types",
    "Request": "types",
    "SamplingParams": "types",
    "ServeConfig": "config",
    "ServerConfig": "config",
    "TextDelta": "types",
    "TextPart": "types",
    "ThinkerConfig": "config",
    "Token2WavConfig": "config",
    "Usage": "types",
    "start_engine": "engine",
}

__version__ = "0.1.0"
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'cadence' has no attribute {name!r}")
    value = getattr(import_module(f"cadence.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted(__all__)
