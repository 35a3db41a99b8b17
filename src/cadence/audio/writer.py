"""From the model's sound to what a client asked for: speed, sample rate, format."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cadence.audio.blocks import Blocks
from cadence.audio.encode import (
    MEDIA_TYPES,
    AudioEncoder,
    check_format,
    encode_file,
    make_encoder,
    written_rate,
)
from cadence.audio.resample import StreamResampler
from cadence.audio.tempo import StreamTempo
from cadence.types import OUTPUT_RATE_HZ

__all__ = ["SoundShape", "SoundWriter"]

_BLOCK = 480  # 20 ms: one size for all, so that a stream and a whole file hold the same samples


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundShape:
    """How sound is to be written.

    Args:
        format: one of `encode.ENCODERS`.
        rate_hz: wanted sample rate.
        speed: 1 as spoken, 2 twice as fast.
    """

    format: str = "wav"
    rate_hz: int = OUTPUT_RATE_HZ
    speed: float = 1.0

    @property
    def media_type(self) -> str:
        """What goes into Content-Type."""
        return MEDIA_TYPES[self.format]

    @property
    def written_rate_hz(self) -> int:
        """The rate that is written; raises InvalidRequest when the format has none such."""
        return written_rate(self.format, self.rate_hz)

    @property
    def plain(self) -> bool:
        """Whether writing costs next to nothing: samples as they come."""
        return self.format in ("wav", "pcm") and self.rate_hz == OUTPUT_RATE_HZ and self.speed == 1


class SoundWriter:
    """Writes one stream, or one whole file.

    The samples do not depend on how the sound was cut into chunks: a stream in WAV, PCM or FLAC decodes to
    the very samples of the whole file.
    """

    def __init__(self, shape: SoundShape) -> None:
        """Raises InvalidRequest: there is no such format, or not at this rate."""
        check_format(shape.format)
        self._shape = shape
        self._rate_hz = shape.written_rate_hz
        self._encoder: AudioEncoder | None = None  # made when needed: some cost a millisecond
        self._tempo = StreamTempo(OUTPUT_RATE_HZ, shape.speed)
        self._blocks = Blocks(_BLOCK)
        self._resampler = StreamResampler(OUTPUT_RATE_HZ, self._rate_hz)

    def write(self, samples: NDArray[np.float32]) -> bytes:
        """Bytes for float32 [S], 24 kHz, ±1.0; may be empty."""
        return self._stream().encode(self._shaped(samples))

    def close(self) -> bytes:
        """The last bytes."""
        rest = self._stream().encode(self._rest())
        return rest + self._stream().flush()

    def whole(self, samples: NDArray[np.float32]) -> bytes:
        """A complete file of float32 [S], 24 kHz, ±1.0, its length in the header where the format has one."""
        shaped = self._shaped(samples)
        return encode_file(self._shape.format, np.concatenate((shaped, self._rest())), self._rate_hz)

    def _stream(self) -> AudioEncoder:
        if self._encoder is None:
            self._encoder = make_encoder(self._shape.format, self._rate_hz)
        return self._encoder

    def _shaped(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._shape.plain:
            return samples
        return self._resampled(self._tempo.push(samples))

    def _rest(self) -> NDArray[np.float32]:
        if self._shape.plain:
            return np.zeros(0, np.float32)
        last = self._resampled(self._tempo.flush())
        held = self._resampler.push(self._blocks.flush())
        return np.concatenate((last, held, self._resampler.flush()))

    def _resampled(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._rate_hz == OUTPUT_RATE_HZ:
            return samples
        out = [self._resampler.push(block) for block in self._blocks.push(samples)]
        return np.concatenate(out) if out else np.zeros(0, np.float32)
