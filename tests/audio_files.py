"""Audio files made on the spot, for tests."""

from __future__ import annotations

import io

import av
import numpy as np
from numpy.typing import NDArray

FORMATS = [
    # container, codec, rate, layout, how far samples may be off after a round trip
    ("wav", "pcm_s16le", 44_100, "stereo", 0.001),
    ("wav", "pcm_s24le", 96_000, "5.1", 0.001),
    ("wav", "pcm_u8", 8_000, "mono", 0.01),
    ("wav", "pcm_f32le", 48_000, "mono", 0.001),
    ("wav", "pcm_mulaw", 8_000, "mono", 0.02),
    ("aiff", "pcm_s16be", 11_025, "mono", 0.001),
    ("flac", "flac", 22_050, "stereo", 0.001),
    ("mp3", "libmp3lame", 24_000, "mono", 0.05),
    ("mp3", "libmp3lame", 44_100, "stereo", 0.05),
    ("ogg", "libopus", 48_000, "mono", 0.05),
    ("webm", "libopus", 48_000, "stereo", 0.05),
    ("mov", "alac", 44_100, "mono", 0.001),
]


def tone(seconds: float, rate_hz: int, hz: float = 440.0) -> NDArray[np.float32]:
    """A sine of half scale, float32 [T]."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def audio_file(
    samples: NDArray[np.float32],
    rate_hz: int,
    *,
    container: str = "wav",
    codec: str = "pcm_s16le",
    layout: str = "mono",
) -> bytes:
    """Encode [T] (the same in each channel) or [C, T]."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate_hz, layout=layout)
        num_channels = stream.codec_context.layout.nb_channels
        planes = np.ascontiguousarray(np.broadcast_to(samples, (num_channels, samples.shape[-1])))
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
        frame.sample_rate = rate_hz
        fit = av.AudioResampler(
            format=stream.codec_context.format,
            layout=layout,
            rate=rate_hz,
            frame_size=stream.codec_context.frame_size or 1024,
        )
        for piece in (*fit.resample(frame), *fit.resample(None)):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def video_file() -> bytes:
    """Ten black pictures in an MP4, no sound."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            out.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24"))
            )
        out.mux(stream.encode(None))
    return buffer.getvalue()


def film(samples: NDArray[np.float32], rate_hz: int) -> bytes:
    """An MP4 with a second of black pictures first and AAC sound."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        picture = out.add_stream("mpeg4", rate=10)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        sound = out.add_stream("aac", rate=rate_hz, layout="mono")
        for _ in range(10):
            black = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            out.mux(picture.encode(black))
        out.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return buffer.getvalue()
