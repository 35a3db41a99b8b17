"""Sound that came in and is not yet part of the conversation, and the turns that are heard in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cadence.audio.g711 import decode_g711
from cadence.audio.int16 import from_int16, to_int16
from cadence.audio.resample import StreamResampler
from cadence.audio.turns import ONSET_FRAMES, TurnDetector
from cadence.audio.vad import FRAME_S, FRAME_SAMPLES, SpeechDetector
from cadence.errors import InvalidAudio, InvalidRequest, PayloadTooLarge
from cadence.server.realtime.settings import AudioFormat, ServerVad
from cadence.types import INPUT_RATE_HZ

__all__ = ["MIN_TURN_S", "Edge", "InputBuffer", "SpeechStarted", "SpeechStopped", "decode_sound"]

MIN_TURN_S = 0.1
_MS = INPUT_RATE_HZ // 1000


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Somebody began to speak. Milliseconds of all the sound of the session, padding included."""

    start_ms: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The turn is over: what was said, int16 [T], 16 kHz."""

    end_ms: int
    samples: NDArray[np.int16]


Edge: TypeAlias = SpeechStarted | SpeechStopped


def decode_sound(data: bytes, how: AudioFormat) -> NDArray[np.float32]:
    """Bytes of a format to float32 [T] at the format's own rate; raises InvalidAudio."""
    if how.type != "audio/pcm":
        return decode_g711(data, "pcmu" if how.type == "audio/pcmu" else "pcma")
    if len(data) % 2:
        raise InvalidAudio("16-bit samples have two bytes each; the number of bytes is odd.", param="audio")
    return from_int16(np.frombuffer(data, "<i2"))


class InputBuffer:
    """Sound of one session, in order. Without turn detection it grows until it is committed or cleared.

    Between turns only what may become padding is kept.

    Args:
        max_turn_s: without turn detection more is refused; with it, a turn ends there.
        make_detector: what hears speech; by default Silero's model.
    """

    def __init__(
        self, max_turn_s: float, make_detector: Callable[[], SpeechDetector] = SpeechDetector
    ) -> None:
        self._max_turn_s = max_turn_s
        self._make_detector = make_detector
        self._format = AudioFormat(type="audio/pcm")
        self._resampler = StreamResampler(self._format.rate_hz, INPUT_RATE_HZ)
        self._vad: ServerVad | None = None
        self._detector: SpeechDetector | None = None
        self._turns: TurnDetector | None = None
        self._zero = 0  # where the detector's first frame lies in the session's sound
        self._start = 0  # where the held sound begins
        self._held: list[NDArray[np.int16]] = []
        self._num_held = 0

    @property
    def end_ms(self) -> int:
        """All the sound of the session so far."""
        return (self._start + self._num_held) // _MS

    @property
    def speaking(self) -> bool:
        """Whether a turn has begun and not ended."""
        return self._turns is not None and self._turns.speaking

    @property
    def ready(self) -> bool:
        """Whether what hears turns is loaded, if it is needed."""
        return self._vad is None or self._detector is not None

    def configure(self, how: AudioFormat, vad: ServerVad | None) -> None:
        """Take new settings; what is held stays. A new way of hearing turns starts afresh."""
        if how != self._format:
            self._format = how
            self._resampler = StreamResampler(how.rate_hz, INPUT_RATE_HZ)
        if vad != self._vad:
            self._vad = vad
            self._detector = self._turns = None

    def append(self, data: bytes) -> list[Edge]:
        """Take more sound; returns the turns that begin and end in it. Costs 1 % of the sound's length.

        Raises:
            InvalidAudio: not samples of the format.
            PayloadTooLarge: no room; nothing of this sound was taken.
        """
        sound = decode_sound(data, self._format)
        seconds = sound.size / self._format.rate_hz
        if self._vad is None and self._num_held / INPUT_RATE_HZ + seconds > self._max_turn_s:
            raise PayloadTooLarge(
                f"The buffer holds {self._max_turn_s:g} s at most; commit or clear it.",
                param="audio",
                code="input_audio_buffer_full",
            )
        samples = self._resampler.push(sound)
        self._held.append(to_int16(samples))
        self._num_held += samples.size
        return [] if self._vad is None else self._listen(samples, self._vad)

    def commit(self) -> NDArray[np.int16]:
        """Take all that is held, int16 [T], 16 kHz.

        Raises:
            InvalidRequest: there is less than `MIN_TURN_S`.
        """
        if self._vad is None:
            rest = self._resampler.flush()
            self._resampler = StreamResampler(self._format.rate_hz, INPUT_RATE_HZ)
            self._held.append(to_int16(rest))
            self._num_held += rest.size
        if self._num_held < MIN_TURN_S * INPUT_RATE_HZ:
            raise InvalidRequest(
                f"The buffer holds {self._num_held / _MS:.0f} ms of sound; "
                f"at least {MIN_TURN_S * 1000:.0f} ms are needed.",
                code="input_audio_buffer_commit_empty",
            )
        return self._take(self._start + self._num_held)

    def clear(self) -> None:
        """Drop all that is held, also what the resampler holds."""
        self._resampler = StreamResampler(self._format.rate_hz, INPUT_RATE_HZ)
        self._take(self._start + self._num_held)

    # ------------------------------------------------------------------ inside
    def _listen(self, samples: NDArray[np.float32], vad: ServerVad) -> list[Edge]:
        if self._detector is None or self._turns is None:
            self._detector = self._make_detector()
            self._zero = self._start + self._num_held - samples.size
            silence = round(vad.silence_duration_ms / 1000 / FRAME_S)
            self._turns = TurnDetector(vad.threshold, silence, int(self._max_turn_s / FRAME_S))
        padding = vad.prefix_padding_ms * _MS
        edges: list[Edge] = []
        for edge in self._turns.push(self._detector.push(samples).tolist()):
            at = self._zero + edge.frame * FRAME_SAMPLES
            if edge.kind == "start":
                self._drop(at - padding)
                edges.append(SpeechStarted(self._start // _MS))
            else:
                edges.append(SpeechStopped(at // _MS, self._take(at, reset=False)))
        if not self._turns.speaking:
            self._drop(self._start + self._num_held - padding - (ONSET_FRAMES + 1) * FRAME_SAMPLES)
        return edges

    def _take(self, end: int, *, reset: bool = True) -> NDArray[np.int16]:
        """Cut off and return what lies before position `end`."""
        if reset and self._turns is not None:
            self._turns.reset()
        whole = np.concatenate(self._held) if self._held else np.zeros(0, np.int16)
        count = min(max(end - self._start, 0), whole.size)
        taken, rest = whole[:count], whole[count:].copy()
        self._held, self._num_held = [rest], rest.size
        self._start += count
        return taken

    def _drop(self, end: int) -> None:
        if end > self._start:
            self._take(end, reset=False)
