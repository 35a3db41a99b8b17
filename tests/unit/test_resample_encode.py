"""Rate conversion in pieces equals the whole; WAV and PCM bytes are exact."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_files import tone
from cadence.audio.encode import encode_wav, make_encoder, pcm16, wav_header
from cadence.audio.resample import StreamResampler, resample, resampled_length
from cadence.errors import InvalidRequest

RATES = [(44_100, 16_000), (48_000, 16_000), (8_000, 16_000), (22_050, 24_000), (44_101, 16_000)]


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_a_tone_keeps_its_pitch_and_length(from_hz: int, to_hz: int) -> None:
    out = resample(tone(0.5, from_hz), from_hz, to_hz)
    assert out.dtype == np.float32
    assert out.size == resampled_length(round(0.5 * from_hz), from_hz, to_hz)
    assert np.abs(out - tone(0.5, to_hz)[: out.size])[500:-500].max() < 0.001


def test_channels_are_converted_alike() -> None:
    both = np.stack([tone(0.1, 48_000), tone(0.1, 48_000, 300.0)])
    out = resample(both, 48_000, 16_000)
    np.testing.assert_array_equal(out[1], resample(both[1], 48_000, 16_000))


def test_equal_rates_and_no_samples_pass_through() -> None:
    samples = tone(0.1, 16_000)
    assert resample(samples, 16_000, 16_000) is samples
    assert resample(np.zeros(0, np.float32), 8_000, 16_000).size == 0
    stream = StreamResampler(8_000, 16_000)
    assert stream.push(np.zeros(0, np.float32)).size + stream.flush().size == 0


@settings(max_examples=40, deadline=None)
@given(
    rates=st.sampled_from([*RATES, (16_000, 16_000)]),
    num_samples=st.integers(1, 5_000),
    sizes=st.lists(st.integers(1, 1_500), max_size=20),
)
def test_pieces_join_to_the_whole(rates: tuple[int, int], num_samples: int, sizes: list[int]) -> None:
    samples = tone(num_samples / rates[0], rates[0])
    stream, pieces, start = StreamResampler(*rates), [], 0
    for size in (*sizes, samples.size):
        pieces.append(stream.push(samples[start : start + size]))
        start += size
    joined = np.concatenate([*pieces, stream.flush()])
    whole = resample(samples, *rates)
    assert joined.size == whole.size == resampled_length(samples.size, *rates)
    np.testing.assert_allclose(joined, whole, atol=1e-4)


# ------------------------------------------------------------------ bytes out
def test_samples_become_sixteen_bits_cut_towards_zero() -> None:
    samples = np.array([0.0, 1.0, -1.0, 2.0, -2.0, 0.99999, 1.9 / 32767, -1.9 / 32767], np.float32)
    values = np.frombuffer(pcm16(samples), "<i2").tolist()
    assert values == [0, 32767, -32767, 32767, -32767, 32766, 1, -1]


def test_a_whole_wav_is_read_by_the_standard_library() -> None:
    samples = tone(0.1, 24_000)
    with wave.open(io.BytesIO(encode_wav(samples, 24_000))) as file:
        assert file.getparams()[:4] == (1, 2, 24_000, 2_400)
        assert file.readframes(2_400) == pcm16(samples)


@pytest.mark.parametrize("name", ["wav", "pcm", "flac", "mp3", "aac"])
def test_pieces_encode_to_the_same_bytes_as_one(name: str) -> None:
    samples = tone(0.2, 24_000)
    one, many = make_encoder(name, 24_000), make_encoder(name, 24_000)
    whole = one.encode(samples) + one.flush()
    pieces = [many.encode(piece) for piece in np.array_split(samples, 7)] + [many.flush()]
    assert b"".join(pieces) == whole


def test_a_streamed_wav_has_a_header_of_unknown_length() -> None:
    encoder = make_encoder("wav", 24_000)
    data = encoder.encode(tone(0.1, 24_000))
    assert data[:44] == wav_header(24_000)
    assert data[4:8] == data[40:44] == b"\xff" * 4
    assert make_encoder("wav", 24_000).flush() == wav_header(24_000)


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"'midi'.*pcm.*wav") as info:
        make_encoder("midi", 24_000)
    assert info.value.param == "response_format"
