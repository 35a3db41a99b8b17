"""Any audio file to the one form in which a voice's recording is kept and handed on."""

from __future__ import annotations

import hashlib

import numpy as np

from cadence.audio.decode import decode_audio
from cadence.audio.encode import wav_header
from cadence.errors import InvalidAudio, InvalidRequest
from cadence.types import OUTPUT_RATE_HZ, VoiceSample

__all__ = ["MAX_SAMPLE_S", "MIN_SAMPLE_S", "make_sample", "sample_key", "sample_seconds"]

MIN_SAMPLE_S = 1.0
MAX_SAMPLE_S = 30.0  # what the speech tokenizer takes in one piece

_MAX_DECODED_BYTES = (
    16 << 20
)  # 30 s at 24 kHz in float32 is 3 MB; the decoder allows the work of 16 times this
_SILENCE = 10 ** (-50 / 20)  # a peak below -50 dB of full scale holds no voice
_MAX_CHARS_PER_S = 40  # fast talkers reach 25
_HEADER_BYTES = 44


def make_sample(
    data: bytes, *, text: str | None = None, param: str | None = None, text_param: str = "ref_text"
) -> VoiceSample:
    """Decode a recording, check it, and write it anew: 24 kHz, mono (mean of the channels), 16 bit.

    Equal sound gives equal samples, whatever the container held beside it.

    Args:
        data: a whole file in any common format.
        text: what the recording says. The model takes a voice from the sound alone; a text that cannot
            be said in the recording's time belongs to another one and is refused.
        param, text_param: the request fields to name in errors.

    Raises:
        InvalidAudio: not decodable, shorter than 1 s, or silent.
        PayloadTooLarge: longer than 30 s.
        InvalidRequest: the text does not fit.
    """
    samples = decode_audio(
        data,
        rate_hz=OUTPUT_RATE_HZ,
        channel="mean",
        max_seconds=MAX_SAMPLE_S,
        max_bytes=_MAX_DECODED_BYTES,
        param=param,
    )
    seconds = samples.size / OUTPUT_RATE_HZ
    if seconds < MIN_SAMPLE_S:
        raise InvalidAudio(
            f"A voice needs {MIN_SAMPLE_S:g} to {MAX_SAMPLE_S:g} s of sound, found {seconds:.2f} s.",
            param=param,
            code="audio_too_short",
        )
    if np.abs(samples).max() < _SILENCE:
        raise InvalidAudio("The recording is silent.", param=param, code="audio_silent")
    if text is not None and len(text) > _MAX_CHARS_PER_S * seconds:
        raise InvalidRequest(
            f"{len(text)} characters cannot be said in the {seconds:.1f} s of the recording.",
            param=text_param,
            code="text_mismatch",
        )
    # 16-bit files keep their very samples: decoding divides by 32768.
    pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2")
    wav = wav_header(OUTPUT_RATE_HZ, pcm.size) + pcm.tobytes()
    return VoiceSample(sample_key(wav), wav)


def sample_key(wav: bytes) -> str:
    """128 bits of the SHA-256, in hexadecimal."""
    return hashlib.sha256(wav).hexdigest()[:32]


def sample_seconds(sample: VoiceSample) -> float:
    """Length of a recording that `make_sample` wrote."""
    return (len(sample.wav) - _HEADER_BYTES) / (2 * OUTPUT_RATE_HZ)
