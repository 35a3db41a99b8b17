"""One stream's state in the Token2Wav stage."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from cadence.models.flow_stream import FlowStream, VoiceState
from cadence.models.hift import HiFTState
from cadence.token2wav.scheduler import Chunk, ChunkCutter
from cadence.token2wav.voices import VoicePrompt
from cadence.types import CODE_SAMPLES, NUM_CODES, OUTPUT_RATE_HZ, SpeechRequest

if TYPE_CHECKING:
    from cadence.types import Waveform

__all__ = ["MAX_UNREAD_CHUNKS", "SOON_S", "Outcome", "Session", "StreamState"]

Outcome: TypeAlias = "Waveform | Exception | None"  # a chunk, a failure, or the end

MAX_UNREAD_CHUNKS = 8  # a reader this far behind pauses its own stream only
SOON_S = 0.2  # a listener with less than this to play will want the next chunk the moment it can be rendered
STALLED_S = 0.5  # without codes for so long, nobody can say when that will be


@dataclass(frozen=True, slots=True, eq=False)
class StreamState:
    """What flow and vocoder remember of one stream. Only the rendering thread touches it."""

    flow: FlowStream
    vocoder: HiFTState

    @property
    def num_bytes(self) -> int:
        """Memory of this stream alone; the voice's is shared and counted elsewhere."""
        kept = (self.vocoder.mel, self.vocoder.source, self.vocoder.speech)
        return self.flow.num_bytes + sum(tensor.nbytes for tensor in kept)


@dataclass(eq=False, slots=True, kw_only=True)
class Session:
    """Codes that came, state of flow and vocoder, and where the sound goes.

    The stage's lock guards it. `deliver` is called under that lock, so it must not block.
    Streams wait for `voice`, whole utterances for `prompt`; `waits_for` brings it.
    """

    request: SpeechRequest
    cutter: ChunkCutter
    generator: torch.Generator
    deliver: Callable[[Outcome], None]
    pending: list[int] = field(default_factory=list)
    ended: bool = False
    voice: VoiceState | None = None
    prompt: VoicePrompt | None = None
    waits_for: Future[Any] | None = None
    state: StreamState | None = None
    num_rendered: int = 0
    num_samples: int = 0
    num_unread: int = 0
    fed_s: float | None = None  # when the newest codes came
    ready_s: float | None = None  # when the first chunk could be rendered
    first_sound_s: float | None = None

    def push(self, codes: list[int], now_s: float) -> None:
        """Add codes.

        Raises:
            ValueError: a code outside 0..6560; the router drops padding, so this is a caller's mistake.
        """
        if any(not 0 <= code < NUM_CODES for code in codes):
            raise ValueError(f"speech codes must be 0..{NUM_CODES - 1}")
        self.pending += codes
        self.fed_s = now_s
        if self.next_chunk() is not None:
            self.mark_ready(now_s)

    def next_chunk(self) -> Chunk | None:
        """The chunk to render now; None while codes, the voice or the reader are waited for."""
        if not self.request.streaming or self.voice is None or self.num_unread >= MAX_UNREAD_CHUNKS:
            return None
        return self.cutter.next(len(self.pending), ended=self.ended)

    @property
    def num_bytes(self) -> int:
        """Memory of this session's tensors, without the voice's."""
        return 0 if self.state is None else self.state.num_bytes

    @property
    def whole_is_ready(self) -> bool:
        """Whether this is a whole utterance with everything there."""
        ready = self.ended and self.prompt is not None and bool(self.pending)
        return ready and not self.request.streaming

    def mark_ready(self, now_s: float) -> None:
        """A chunk can be rendered."""
        if self.ready_s is None:
            self.ready_s = now_s

    @property
    def is_new(self) -> bool:
        """Whether its listener has heard nothing yet."""
        return self.first_sound_s is None

    def slack_s(self, now_s: float) -> float:
        """Seconds until the listener has played all that was sent; negative = it waits already, for its first
        sound since that could be rendered."""
        if self.first_sound_s is None:
            return 0.0 if self.ready_s is None else self.ready_s - now_s
        return self.num_samples / OUTPUT_RATE_HZ - (now_s - self.first_sound_s)

    def is_due_soon(self, now_s: float) -> bool:
        """Whether codes are coming in and the chunk that they make will be wanted at once."""
        if self.ended or self.voice is None or self.fed_s is None or self.num_unread >= MAX_UNREAD_CHUNKS:
            return False
        is_fed = now_s - self.fed_s < STALLED_S
        return self.request.streaming and is_fed and self.slack_s(now_s) < SOON_S

    @property
    def complete(self) -> bool:
        """Whether every code has become sound."""
        return self.ended and not self.pending

    def take(self, chunk: Chunk) -> None:
        """Forget the codes that a chunk has rendered."""
        del self.pending[: chunk.num_codes]
        self.num_rendered += chunk.num_codes
        self.cutter.advance()

    def hand_over(self, samples: Waveform, now_s: float) -> None:
        """Send sound to the reader; a chunk that only filled the vocoder's overlap has none."""
        if not len(samples):
            return
        if self.first_sound_s is None:
            self.first_sound_s = now_s
        self.num_samples += len(samples)
        self.num_unread += 1
        self.deliver(samples)

    @property
    def length_is_right(self) -> bool:
        """The law of the stage: 960 samples for every code."""
        return self.num_samples == self.num_rendered * CODE_SAMPLES
