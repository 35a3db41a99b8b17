"""Bytes of any common audio file to float32 samples, with limits that hold while decoding.

The bytes come from strangers. They are read from memory only: formats that point elsewhere
(playlists, concat lists) are not on the list, and no protocol may be opened. What headers claim is
never believed: seconds and bytes are counted on samples as they come out.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

from cadence.audio.resample import StreamResampler
from cadence.audio.riff import is_riff, plain_wav
from cadence.errors import InvalidAudio, PayloadTooLarge
from cadence.types import INPUT_RATE_HZ

__all__ = ["MAX_DECODED_BYTES", "MAX_DECODED_S", "decode_audio", "decode_native", "stream_audio"]

MAX_DECODED_S = 600.0
MAX_DECODED_BYTES = 256 << 20

_FORMATS = "aac,ac3,aiff,amr,asf,au,caf,eac3,flac,matroska,mov,mp3,mpeg,mpegts,ogg,w64,wav,webm"
_CODECS = (
    "aac,aac_fixed,aac_latm,ac3,ac3_fixed,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,alac,amrnb,amrwb,eac3,flac,"
    "gsm,gsm_ms,libopus,libspeex,libvorbis,mp2,mp2float,mp3,mp3float,opus,speex,vorbis,wmav1,wmav2,"
    "pcm_s8,pcm_u8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,"
    "pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,pcm_alaw,pcm_mulaw"
)
_CODEC_NAMES = frozenset(_CODECS.split(","))
_OPEN_OPTIONS = {
    "format_whitelist": _FORMATS,
    "codec_whitelist": _CODECS,
    "protocol_whitelist": "none",
    "max_streams": "32",
}
_MIN_RATE_HZ, _MAX_RATE_HZ = 4_000, 384_000
_MAX_CHANNELS = 8
_MAX_BAD_PACKETS = 500
# Work is bounded too. Samples decoded, over all channels, may take this many times `max_bytes`; and after
# the first seconds of computing, decoding must be this many times faster than the sound plays (real files
# are hundreds of times faster; a file of one-sample packets is not).
_WORK_FACTOR = 16
_FREE_CPU_S = 5.0
_MIN_SPEED = 20.0
_FULL_SCALE = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63}


@dataclass(slots=True)
class _Limits:
    """Counts what was decoded and kept, and stops at a limit."""

    max_seconds: float
    max_bytes: int
    param: str | None
    num_frames: int = 0
    work_bytes: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    resumed_s: float = field(default_factory=time.thread_time)

    def count(self, block: NDArray[np.float32], rate_hz: int) -> None:
        """Add one block [C, S] as it was decoded."""
        self.num_frames += block.shape[1]
        self.work_bytes += 4 * block.size
        self.seconds = self.num_frames / rate_hz
        if self.num_frames > self.max_seconds * rate_hz:
            raise PayloadTooLarge(
                f"The audio is longer than the {self.max_seconds:g} seconds allowed.",
                param=self.param,
                code="audio_too_long",
            )
        if self.work_bytes > _WORK_FACTOR * self.max_bytes:
            self.too_large()

    def check_time(self) -> None:
        """Stop when the computing so far is out of proportion to the sound it gave."""
        if self.cpu_s + time.thread_time() - self.resumed_s > _FREE_CPU_S + self.seconds / _MIN_SPEED:
            raise InvalidAudio("The audio takes too much computing to decode.", param=self.param)

    def pause(self) -> None:
        """The reader has its turn: neither its time nor that of another thread counts."""
        self.cpu_s += time.thread_time() - self.resumed_s

    def resume(self) -> None:
        """Decoding goes on, maybe in another thread than before."""
        self.resumed_s = time.thread_time()

    def keep(self, num_bytes: int) -> None:
        """Check how much is held."""
        if num_bytes > self.max_bytes:
            self.too_large()

    def too_large(self) -> None:
        """Refuse for size."""
        raise PayloadTooLarge(
            f"The audio decodes to more than the {self.max_bytes} bytes allowed.",
            param=self.param,
            code="audio_too_large",
        )


def decode_audio(
    data: bytes,
    *,
    rate_hz: int = INPUT_RATE_HZ,
    max_seconds: float = MAX_DECODED_S,
    max_bytes: int = MAX_DECODED_BYTES,
    channel: Literal["first", "mean"] = "first",
    param: str | None = None,
) -> NDArray[np.float32]:
    """Decode to one channel at `rate_hz`.

    Args:
        data: a whole file in any common container (wav, mp3, ogg, flac, m4a, webm, ...).
        max_seconds, max_bytes: limits on the sound as decoded; bytes are those of the result.
        channel: take the first channel (what the model's 16 kHz input expects) or the mean.
        param: the request field to name in errors.

    Returns:
        float32 [T], T >= 1, within ±1.0 but for what the resampling filter overshoots.

    Raises:
        InvalidAudio: not decodable, no audio stream, no samples, or absurd parameters.
        PayloadTooLarge: past a limit.
    """
    pieces: list[NDArray[np.float32]] = []
    kept = 0
    limits = _Limits(max_seconds, max_bytes, param)
    for piece in _mono(data, limits, rate_hz, channel):
        pieces.append(piece)
        kept += piece.nbytes
        limits.keep(kept)
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if samples.size == 0:
        raise InvalidAudio("The audio holds no samples.", param=param)
    return samples


def stream_audio(
    data: bytes,
    *,
    rate_hz: int = INPUT_RATE_HZ,
    max_seconds: float = MAX_DECODED_S,
    channel: Literal["first", "mean"] = "first",
    param: str | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Decode like `decode_audio`, block by block as it is read: memory does not grow with the sound.

    The blocks join to what `decode_audio` gives, float32 [S] each; errors come where they occur. Any
    thread may read on, one at a time.
    """
    # What is decoded may be large; that it is not kept is the point. The bound is on work alone.
    limits = _Limits(max_seconds, max(MAX_DECODED_BYTES, int(max_seconds * rate_hz * 4)), param)
    num_samples = 0
    for piece in _mono(data, limits, rate_hz, channel):
        num_samples += piece.size
        yield piece
    if num_samples == 0:
        raise InvalidAudio("The audio holds no samples.", param=param)


def decode_native(
    data: bytes,
    *,
    max_seconds: float = MAX_DECODED_S,
    max_bytes: int = MAX_DECODED_BYTES,
    param: str | None = None,
) -> tuple[NDArray[np.float32], int]:
    """Decode at the file's own rate with all its channels; limits and errors as `decode_audio`.

    Returns:
        float32 [C, T] with T >= 1, and the rate in Hz.
    """
    limits = _Limits(max_seconds, max_bytes, param)
    blocks: list[NDArray[np.float32]] = []
    rate_hz = kept = 0
    for block, rate_hz in _blocks(data, limits):  # noqa: B007 - the rate is one for the whole file
        if blocks and block.shape[0] != blocks[0].shape[0]:
            raise InvalidAudio("The audio changes its number of channels on the way.", param=param)
        blocks.append(block)
        kept += block.nbytes
        limits.keep(kept)
    if not blocks:
        raise InvalidAudio("The audio holds no samples.", param=param)
    return np.concatenate(blocks, axis=1), rate_hz


def _mono(
    data: bytes, limits: _Limits, rate_hz: int, channel: Literal["first", "mean"]
) -> Iterator[NDArray[np.float32]]:
    """Yield one channel at `rate_hz`, float32 [S]; a block may be empty while the filter fills."""
    resampler: StreamResampler | None = None
    for block, from_hz in _blocks(data, limits):
        resampler = resampler or StreamResampler(from_hz, rate_hz)
        yield resampler.push(block[0] if channel == "first" else block.mean(axis=0, dtype=np.float32))
    if resampler is not None:
        yield resampler.flush()


def _blocks(data: bytes, limits: _Limits) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Yield decoded blocks, float32 [C, S] with S >= 1, and their rate; one rate for the whole file."""
    if not data:
        raise InvalidAudio("The audio is empty.", param=limits.param)
    if is_riff(data):
        data = plain_wav(data, param=limits.param)
    broken = InvalidAudio("The audio cannot be decoded.", param=limits.param)
    try:
        container = av.open(io.BytesIO(data), options=_OPEN_OPTIONS, metadata_errors="replace")
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise broken from error
    with container:
        stream = next((s for s in container.streams.audio if s.codec_context is not None), None)
        if stream is None:
            raise InvalidAudio("The file holds no audio stream.", param=limits.param)
        if stream.codec_context.name not in _CODEC_NAMES:
            raise InvalidAudio(
                f"Audio coded as {stream.codec_context.name!r} is not supported.", param=limits.param
            )
        stream.codec_context.thread_count = 1
        rate_hz = 0
        try:
            for frame in _frames(container, stream, limits, broken):
                rate_hz = _checked_rate(frame, rate_hz, limits.param)
                block = _to_float(frame)
                limits.count(block, rate_hz)
                if block.shape[1]:
                    limits.pause()
                    yield block, rate_hz
                    limits.resume()
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise broken from error


def _frames(container: Any, stream: Any, limits: _Limits, broken: InvalidAudio) -> Iterator[Any]:
    """Decoded frames. Packets that do not decode are skipped, as players do, unless they are most."""
    num_good = num_bad = 0
    for packet in container.demux(stream):
        limits.check_time()
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            num_bad += 1
            if num_bad > _MAX_BAD_PACKETS:
                raise broken from error
            continue
        num_good += bool(frames)
        yield from frames
    if num_bad > num_good:
        raise broken


def _checked_rate(frame: Any, rate_hz: int, param: str | None) -> int:
    """The frame's rate, checked for sanity and against the frames before (0 = the first)."""
    num_channels = len(frame.layout.channels)
    if not _MIN_RATE_HZ <= frame.sample_rate <= _MAX_RATE_HZ:
        raise InvalidAudio(
            f"A sample rate of {frame.sample_rate} Hz is not in {_MIN_RATE_HZ}..{_MAX_RATE_HZ} Hz.",
            param=param,
        )
    if not 1 <= num_channels <= _MAX_CHANNELS:
        raise InvalidAudio(f"{num_channels} channels are not in 1..{_MAX_CHANNELS}.", param=param)
    if rate_hz not in (0, frame.sample_rate):
        raise InvalidAudio("The audio changes its sample rate on the way.", param=param)
    return int(frame.sample_rate)


def _to_float(frame: Any) -> NDArray[np.float32]:
    """One frame as float32 [C, S], ±1.0; ValueError for samples that are not numbers."""
    raw: NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:  # [1, S * C], channels interleaved
        raw = raw.reshape(-1, len(frame.layout.channels)).T
    kind = frame.format.name.removesuffix("p")
    if kind in _FULL_SCALE:
        offset = 128.0 if kind == "u8" else 0.0
        scaled: NDArray[np.float32] = ((raw - offset) / _FULL_SCALE[kind]).astype(np.float32)
        return scaled
    if not np.isfinite(raw).all():
        raise ValueError("samples that are not finite")
    clipped: NDArray[np.float32] = np.clip(raw, -1.0, 1.0).astype(np.float32)
    return clipped
