"""Every format, rate and speed: files that others open, as long as the sound, and alike however it came."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_files import tone
from cadence.audio.encode import CODECS, ENCODERS, MEDIA_TYPES
from cadence.audio.tempo import StreamTempo, stretched_length
from cadence.audio.writer import SoundShape, SoundWriter
from cadence.errors import InvalidRequest
from cadence.types import CODE_SAMPLES, OUTPUT_RATE_HZ

FRAME = {"mp3": 1152, "aac": 1024, "opus": 0, "flac": 0, "wav": 0}
RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000)
NUM_CODES = 33


def speech(num_codes: int = NUM_CODES) -> np.ndarray:
    """A tone that fades in and out, as speech does."""
    samples = tone(num_codes * CODE_SAMPLES / OUTPUT_RATE_HZ, OUTPUT_RATE_HZ)
    return (samples * np.hanning(samples.size)).astype(np.float32)


def stream(shape: SoundShape, samples: np.ndarray, num_pieces: int = 7) -> bytes:
    writer = SoundWriter(shape)
    pieces = [writer.write(piece) for piece in np.array_split(samples, num_pieces)]
    return b"".join([*pieces, writer.close()])


def decode(data: bytes) -> tuple[np.ndarray, int]:
    """float32 [S] and the rate, as libav hears it."""
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(audio=0))
    to_float = av.AudioResampler(format="flt", layout="mono", rate=frames[0].sample_rate)
    pieces = [out.to_ndarray().reshape(-1) for frame in frames for out in to_float.resample(frame)]
    return np.concatenate(pieces), frames[0].sample_rate


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "stream"])
@pytest.mark.parametrize("rate_hz", RATES)
@pytest.mark.parametrize("name", sorted(FRAME))
def test_a_file_is_as_long_as_its_sound(name: str, rate_hz: int, whole: bool) -> None:
    shape = SoundShape(format=name, rate_hz=rate_hz)
    data = SoundWriter(shape).whole(speech()) if whole else stream(shape, speech())
    samples, found_hz = decode(data)
    assert found_hz == (48_000 if name == "opus" else rate_hz)
    wanted = NUM_CODES * CODE_SAMPLES / OUTPUT_RATE_HZ * found_hz
    frame = 0 if whole and name == "mp3" else FRAME[name]
    assert -1 <= samples.size - wanted <= frame + 1
    # and the sound is there: as loud, and where it was
    reference = np.interp(
        np.arange(round(wanted)) / found_hz, np.arange(speech().size) / OUTPUT_RATE_HZ, speech()
    )
    size = min(samples.size, reference.size)
    error = samples[:size] - reference[:size]
    if rate_hz >= 16_000:
        assert np.sqrt(np.mean(error**2)) < 0.1 * np.sqrt(np.mean(reference**2))


SOUNDFILE = [(name, whole) for name in ("wav", "flac", "mp3", "opus") for whole in (True, False)]


@pytest.mark.parametrize(("name", "whole"), SOUNDFILE)
def test_soundfile_opens_it(name: str, whole: bool) -> None:
    shape = SoundShape(format=name)
    data = SoundWriter(shape).whole(speech()) if whole else stream(shape, speech())
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert (file.samplerate, file.channels) == (OUTPUT_RATE_HZ, 1)
        if name == "flac" and not whole:
            return  # libsndfile opens FLAC of unknown length but cannot tell where it ends
        read = np.concatenate(list(file.blocks(4096, dtype="float32")))
    assert abs(read.size - speech().size) <= FRAME[name]
    if whole:
        assert soundfile.info(io.BytesIO(data)).frames == speech().size


@pytest.mark.parametrize("speed", [1.0, 0.7, 1.9])
@pytest.mark.parametrize("rate_hz", [24_000, 16_000, 44_100])
@pytest.mark.parametrize("name", ["wav", "pcm", "flac"])
def test_streamed_samples_are_the_whole_files(name: str, rate_hz: int, speed: float) -> None:
    shape = SoundShape(format=name, rate_hz=rate_hz, speed=speed)
    whole = SoundWriter(shape).whole(speech())
    for num_pieces in (1, 5, 40):
        streamed = stream(shape, speech(), num_pieces)
        if name == "pcm":
            assert streamed == whole
        else:
            assert np.array_equal(decode(streamed)[0], decode(whole)[0])


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_bytes_leave_before_the_end(name: str) -> None:
    writer = SoundWriter(SoundShape(format=name))
    half_s = speech(13)
    early = writer.write(half_s)
    if name == "opus":  # two header pages come first; the sound is behind them
        assert len(early) > 1000
    assert early
    assert len(early) > 0.5 * len(writer.write(half_s))


def test_nothing_at_all_is_still_a_file() -> None:
    for name in ("wav", "flac", "mp3", "opus", "aac", "pcm"):
        assert isinstance(SoundWriter(SoundShape(format=name)).close(), bytes)


def test_media_types() -> None:
    assert MEDIA_TYPES == {
        "wav": "audio/wav",
        "pcm": "audio/pcm",
        "mp3": "audio/mpeg",
        "opus": "audio/ogg",
        "aac": "audio/aac",
        "flac": "audio/flac",
    }


def test_rates_that_a_format_lacks() -> None:
    assert SoundShape(format="opus", rate_hz=22_050).written_rate_hz == 24_000
    assert SoundShape(format="flac", rate_hz=10_007).written_rate_hz == 10_007
    for name in ("mp3", "aac"):
        with pytest.raises(InvalidRequest, match="44100") as caught:
            SoundWriter(SoundShape(format=name, rate_hz=40_000))
        assert (caught.value.param, caught.value.code) == ("sample_rate", "unsupported_sample_rate")
    assert set(CODECS) < set(ENCODERS)


# ------------------------------------------------------------------ speed
@settings(max_examples=30, deadline=None)
@given(
    speed=st.floats(0.25, 4.0),
    num_samples=st.integers(1, 60_000),
    sizes=st.lists(st.integers(1, 9_000), max_size=8),
)
def test_speed_gives_the_exact_length_however_it_is_cut(
    speed: float, num_samples: int, sizes: list[int]
) -> None:
    samples = tone(num_samples / OUTPUT_RATE_HZ, OUTPUT_RATE_HZ)[:num_samples]
    cut, whole, pieces, start = StreamTempo(24_000, speed), StreamTempo(24_000, speed), [], 0
    for size in (*sizes, samples.size):
        pieces.append(cut.push(samples[start : start + size]))
        start += size
    joined = np.concatenate([*pieces, cut.flush()])
    assert joined.size == stretched_length(samples.size, speed)
    assert np.array_equal(joined, np.concatenate([whole.push(samples), whole.flush()]))


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.8, 1.25, 2.0, 3.0, 4.0])
def test_speed_keeps_pitch_loudness_and_the_last_sound(speed: float) -> None:
    samples = tone(4.0, OUTPUT_RATE_HZ, 440.0)
    tempo = StreamTempo(OUTPUT_RATE_HZ, speed)
    out = np.concatenate([tempo.push(samples), tempo.flush()])
    spectrum = np.abs(np.fft.rfft(out * np.hanning(out.size)))
    assert np.argmax(spectrum) * OUTPUT_RATE_HZ / out.size == pytest.approx(440.0, rel=0.01)
    loudness = np.sqrt(np.mean(out**2)) / np.sqrt(np.mean(samples**2))
    assert loudness == pytest.approx(1.0, abs=0.1)
    assert np.abs(out[-480:]).max() > 0.3 * np.abs(samples).max()
