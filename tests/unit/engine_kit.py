"""An engine over fake stages, and scripts for them. Shared by the engine's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cadence.config import EngineConfig
from cadence.engine import Engine
from cadence.prompt import PromptBuilder
from cadence.runtime.fake_stages import FakeThinker, FakeToken2Wav
from cadence.text import Tokenizer
from cadence.types import (
    AudioChunk,
    Event,
    Message,
    ModelInfo,
    Request,
    SamplingParams,
    TextDelta,
    TextPart,
    ThinkerRequest,
)

Script = Callable[[ThinkerRequest], Sequence[int]]


class Kit:
    """Builds ids, requests and engines for one tokenizer."""

    def __init__(self, root: Path) -> None:
        self.tokenizer = Tokenizer.open(root)
        self.special = self.tokenizer.special

    def text(self, text: str) -> list[int]:
        """A written answer."""
        return [*self.tokenizer.encode(text), self.special.eot]

    def speech(self, text: str, num_codes: int) -> list[int]:
        """A spoken answer: groups of one text id and four codes, padded at either end."""
        text_ids = self.tokenizer.encode(text)
        ids: list[int] = []
        num_groups = max(len(text_ids), -(-num_codes // 4))
        for group in range(num_groups):
            ids.append(text_ids[group] if group < len(text_ids) else self.special.tts_pad)
            for code in range(4 * group, 4 * group + 4):
                ids.append(
                    self.special.id_of(code % 6561) if code < num_codes else self.special.audio_padding
                )
        return [*ids, self.special.tts_end, self.special.eot]

    def engine(
        self,
        script: Script | Sequence[int],
        *,
        thinker: dict[str, Any] | None = None,
        token2wav: dict[str, Any] | None = None,
        max_model_len: int = 4096,
        default_sampling: dict[str, SamplingParams] | None = None,
        single_sentences: bool = False,
        **config: Any,
    ) -> tuple[Engine, FakeThinker, FakeToken2Wav]:
        """An engine and its two fakes."""
        write = script if callable(script) else lambda request: script
        brain, voice = FakeThinker(write, **(thinker or {})), FakeToken2Wav(**(token2wav or {}))
        engine = Engine(
            brain,
            voice,
            tokenizer=self.tokenizer,
            prompt_builder=PromptBuilder(self.tokenizer),
            info=ModelInfo(model_id="fake", max_model_len=max_model_len, voices=("default", "default_male")),
            config=EngineConfig(**config),
            default_sampling=default_sampling or {"text": SamplingParams(), "speech": SamplingParams()},
            single_sentences=single_sentences,
        )
        return engine, brain, voice


def ask(request_id: str = "r", text: str = "hi", **fields: Any) -> Request:
    """A request with one user message."""
    return Request(request_id=request_id, messages=(Message("user", (TextPart(text),)),), **fields)


async def collect(engine: Engine, request: Request) -> list[Event]:
    """All events of an answer."""
    return [event async for event in engine.generate(request)]


def text_of(events: Sequence[Event]) -> str:
    """The visible text."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def sound_of(events: Sequence[Event]) -> np.ndarray:
    """All samples, joined."""
    chunks = [event.samples for event in events if isinstance(event, AudioChunk)]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)


async def assert_idle(engine: Engine, thinker: FakeThinker, token2wav: FakeToken2Wav) -> None:
    """Nothing is held anywhere."""
    stats = await engine.stats()
    held = {key: value for key, value in stats.items() if value and not key.endswith("_total")}
    assert not held, held
    assert thinker.num_held == 0 and token2wav.num_held == 0
