"""Compressed sound through libav: MP3, Ogg Opus, AAC (ADTS) and FLAC, frame by frame. Mono.

A codec that overlaps its frames begins with frames of nothing (its delay). How they are hidden depends:
Opus says it in its header, a whole MP3 in the header that can be written once the length is known. A
stream of MP3 or AAC has no place for it, so there the frames before the first sample are left out, and
those after the last one: what is decoded is as long as the sound, up to a frame. The price is a soft
start of the first frame, where speech is silent.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from cadence.audio.blocks import Blocks
from cadence.audio.pcm import pcm16

__all__ = ["CODECS", "Codec", "CodecEncoder"]

_MPEG_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How one format is written.

    `rates_hz`: what it can carry, None = any. `any_rate`: it has no rate of its own to a listener, so a
    rate it cannot carry is written at the next higher one. `bits_per_s`: by the rate it begins at.
    `delay`: samples that a decoder gives before the first one, where no header says so. `lead`: silence that
    brings them to whole frames, `trim_options` what lets those be left out. `header_tells`: the header of a
    whole file does say so.
    """

    media_type: str
    container: str
    name: str
    layout: str = "fltp"
    rates_hz: tuple[int, ...] | None = None
    any_rate: bool = False
    bits_per_s: Mapping[int, int] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)
    trim_options: Mapping[str, str] = field(default_factory=dict)
    delay: int = 0
    lead: int = 0
    header_tells: bool = False

    def rate_for(self, rate_hz: int) -> int | None:
        """The rate at which sound of this rate is written; None = it cannot be."""
        if self.rates_hz is None or rate_hz in self.rates_hz:
            return rate_hz
        if not self.any_rate:
            return None
        return min((rate for rate in self.rates_hz if rate > rate_hz), default=None)


CODECS: Mapping[str, Codec] = {
    "mp3": Codec(
        media_type="audio/mpeg",
        container="mp3",
        name="libmp3lame",
        rates_hz=_MPEG_RATES,
        bits_per_s={0: 48_000, 16_000: 96_000, 32_000: 128_000},
        # Without a reservoir no frame needs an earlier one's bits, so the first ones can be left out.
        trim_options={"reservoir": "0"},
        delay=1105,  # 576 of the encoder, 529 of any decoder
        lead=47,  # 1105 + 47 = 1152: one frame, or two of the low rates
        header_tells=True,
    ),
    "opus": Codec(
        media_type="audio/ogg",
        container="ogg",
        name="libopus",
        layout="flt",
        rates_hz=_OPUS_RATES,
        any_rate=True,
        bits_per_s={0: 64_000},
        container_options={"page_duration": "20000"},  # µs: a page a frame, else a page holds a second back
    ),
    "aac": Codec(
        media_type="audio/aac",
        container="adts",
        name="aac",
        rates_hz=_MPEG_RATES,
        bits_per_s={0: 48_000, 16_000: 80_000, 32_000: 128_000},
        delay=1024,  # a frame
    ),
    "flac": Codec(media_type="audio/flac", container="flac", name="flac", layout="s16"),
}


class CodecEncoder:
    """One stream being written.

    Args:
        codec: one of `CODECS`.
        rate_hz: of the samples; one that the codec can carry.
        whole: the length is written into the header at the end, which needs all bytes to be kept until
            then: `encode` gives nothing, `flush` the file. False = a stream.
    """

    def __init__(self, codec: Codec, rate_hz: int, *, whole: bool = False) -> None:
        self._codec, self._rate_hz = codec, rate_hz
        self._trims = codec.delay > 0 and not (whole and codec.header_tells)
        self._sink = io.BytesIO() if whole else _Sink()
        self._container, self._stream = _open(codec, rate_hz, self._sink, trims=self._trims)
        self._blocks = Blocks(self._stream.codec_context.frame_size)
        self._num_in = 0  # samples handed to the codec, the lead included
        self._num_decoded = 0  # what a decoder makes of the packets so far, those left out included
        self._push(np.zeros(codec.lead if self._trims else 0, np.float32))

    def encode(self, samples: NDArray[np.float32]) -> bytes:
        """Bytes for float32 [S], ±1.0 (beyond is clipped); may be empty while a frame fills."""
        self._push(samples)
        return self._take()

    def flush(self) -> bytes:
        """The last bytes; nothing may be encoded afterwards."""
        rest = self._blocks.flush()
        if rest.size:
            self._send(rest)
        self._mux(self._stream.encode(None))
        self._container.close()
        if isinstance(self._sink, io.BytesIO):
            return self._sink.getvalue()
        return self._take()

    def _push(self, samples: NDArray[np.float32]) -> None:
        for block in self._blocks.push(samples):
            self._send(block)

    def _send(self, block: NDArray[np.float32]) -> None:
        if self._codec.layout == "s16":
            planes = np.frombuffer(pcm16(block), "<i2")[None]
        else:
            planes = np.ascontiguousarray(np.clip(block, -1.0, 1.0)[None])
        frame = av.AudioFrame.from_ndarray(planes, format=self._codec.layout, layout="mono")
        frame.sample_rate = self._rate_hz
        frame.time_base = Fraction(1, self._rate_hz)
        frame.pts = self._num_in
        self._num_in += block.size
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            if not self._trims or self._is_sound():
                self._container.mux(packet)

    def _is_sound(self) -> bool:
        """Whether the next packet decodes to more than delay or what follows the last sample."""
        start = self._num_decoded
        self._num_decoded += self._blocks.size
        first = self._codec.delay + self._codec.lead
        return first <= start < self._codec.delay + self._num_in

    def _take(self) -> bytes:
        return self._sink.take() if isinstance(self._sink, _Sink) else b""


def _open(codec: Codec, rate_hz: int, sink: Any, *, trims: bool) -> tuple[Any, Any]:
    """libav's container and stream, ready to take frames."""
    options = {"flush_packets": "1", **codec.container_options}
    container: Any = av.open(sink, "w", format=codec.container, options=options)
    settings = dict(codec.trim_options) if trims else {}
    stream: Any = container.add_stream(codec.name, rate=rate_hz, options=settings)
    stream.codec_context.layout, stream.codec_context.format = "mono", codec.layout
    if codec.bits_per_s:
        starts = [start for start in codec.bits_per_s if start <= rate_hz]
        stream.codec_context.bit_rate = codec.bits_per_s[max(starts)]
    stream.codec_context.open()
    return container, stream


class _Sink(io.RawIOBase):
    """What libav writes, to be taken away at once; it cannot go back."""

    def __init__(self) -> None:
        self._data = bytearray()

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Keep bytes."""
        self._data += data
        return len(data)

    def take(self) -> bytes:
        """What was written since the last call."""
        data = bytes(self._data)
        self._data.clear()
        return data
