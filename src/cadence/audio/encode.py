"""Sound to bytes, a piece at a time: one `encode(samples)` / `flush()` pair per format.

`ENCODERS` lists what this build can write; a format is offered to clients when it is in there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cadence.audio.codecs import CODECS, CodecEncoder
from cadence.audio.pcm import PcmEncoder, WavEncoder, encode_wav, pcm16, wav_header
from cadence.errors import InvalidRequest

__all__ = [
    "ENCODERS",
    "MEDIA_TYPES",
    "AudioEncoder",
    "check_format",
    "encode_file",
    "encode_wav",
    "make_encoder",
    "pcm16",
    "wav_header",
    "written_rate",
]


class AudioEncoder(Protocol):
    """State of one stream being written. Mono only."""

    def encode(self, samples: NDArray[np.float32]) -> bytes:
        """Bytes for float32 [S], ±1.0 (beyond is clipped); may be empty while a frame fills."""
        ...

    def flush(self) -> bytes:
        """The last bytes; nothing may be encoded afterwards."""
        ...


ENCODERS: Mapping[str, Callable[[int], AudioEncoder]] = {
    "wav": WavEncoder,
    "pcm": PcmEncoder,
    **{name: partial(CodecEncoder, codec) for name, codec in CODECS.items()},
}
MEDIA_TYPES: Mapping[str, str] = {
    "wav": "audio/wav",
    "pcm": "audio/pcm",
    **{name: codec.media_type for name, codec in CODECS.items()},
}


def make_encoder(name: str, rate_hz: int, *, param: str = "response_format") -> AudioEncoder:
    """An encoder for a response format, at a rate that `written_rate` gave.

    Raises:
        InvalidRequest: this build cannot write it (`param` names the field at fault).
    """
    check_format(name, param=param)
    return ENCODERS[name](rate_hz)


def check_format(name: str, *, param: str = "response_format") -> None:
    """Raise InvalidRequest unless this build can write the format (`param` names the field at fault)."""
    if name not in ENCODERS:
        raise InvalidRequest(
            f"Audio format {name[:40]!r} is not supported; use one of: {', '.join(sorted(ENCODERS))}.",
            param=param,
            code="unsupported_format",
        )


def written_rate(name: str, rate_hz: int, *, param: str = "sample_rate") -> int:
    """The rate at which a format is written where `rate_hz` is wanted.

    Opus has a few rates and is played at 48 kHz whatever they are: the next higher one is taken.

    Raises:
        InvalidRequest: the format has no such rate (`param` names the field at fault).
    """
    codec = CODECS.get(name)
    rate = rate_hz if codec is None else codec.rate_for(rate_hz)
    if rate is None:
        known = ", ".join(map(str, codec.rates_hz or ())) if codec else ""
        raise InvalidRequest(
            f"{name} has no sample rate of {rate_hz} Hz.",
            param=param,
            code="unsupported_sample_rate",
            hint=f"Its rates are {known}.",
        )
    return rate


def encode_file(name: str, samples: NDArray[np.float32], rate_hz: int) -> bytes:
    """A whole file from float32 [S], ±1.0: the header tells its true length where the format can."""
    if name == "wav":
        return encode_wav(samples, rate_hz)
    encoder = CodecEncoder(CODECS[name], rate_hz, whole=True) if name in CODECS else ENCODERS[name](rate_hz)
    return encoder.encode(samples) + encoder.flush()
