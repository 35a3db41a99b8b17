"""Strangers' audio: what decodes, what is refused, and that limits hold while decoding."""

from __future__ import annotations

import random
import resource
import socket
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from audio_files import FORMATS, audio_file, tone, video_file
from cadence.audio.decode import decode_audio, decode_native, stream_audio
from cadence.audio.encode import encode_wav, wav_header
from cadence.errors import CadenceError, InvalidAudio, PayloadTooLarge

WAV = encode_wav(tone(0.5, 16_000), 16_000)


@pytest.mark.parametrize(("container", "codec", "rate_hz", "layout", "tolerance"), FORMATS)
def test_common_formats(container: str, codec: str, rate_hz: int, layout: str, tolerance: float) -> None:
    data = audio_file(tone(1.0, rate_hz), rate_hz, container=container, codec=codec, layout=layout)
    samples = decode_audio(data)
    assert samples.dtype == np.float32 and samples.shape == (16_000,)
    inner = slice(800, -1600)  # filters and codecs ring at the ends
    assert np.abs(samples - tone(1.0, 16_000))[inner].max() < tolerance
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(data))), samples)
    native, native_hz = decode_native(data)
    assert native_hz == rate_hz and native.shape[1] == rate_hz


def test_aac_in_mp4_decodes() -> None:
    data = audio_file(tone(1.0, 44_100), 44_100, container="mp4", codec="aac", layout="stereo")
    assert abs(decode_audio(data).size - 16_000) < 1_600  # whole frames of 1024


def test_the_first_channel_or_the_mean() -> None:
    both = np.stack([tone(0.2, 16_000), np.zeros(3200, np.float32)])
    data = audio_file(both, 16_000, layout="stereo")
    first = decode_audio(data)
    np.testing.assert_allclose(first, both[0], atol=1e-4)
    np.testing.assert_allclose(decode_audio(data, channel="mean"), first / 2, atol=1e-6)
    np.testing.assert_allclose(decode_native(data)[0], both, atol=1e-4)


def test_sixteen_bit_values_are_exact() -> None:
    values = np.array([-32768, -1, 0, 1, 32767], "<i2")
    data = wav_header(16_000, values.size) + values.tobytes()
    np.testing.assert_array_equal(decode_audio(data), values / np.float32(32768))


def test_a_streamed_wav_of_unknown_length_decodes() -> None:
    for riff_size, data_size in ((0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (36, 0), (0xFFFFFFFF, 0)):
        head = WAV[:4] + struct.pack("<I", riff_size) + WAV[8:40] + struct.pack("<I", data_size)
        np.testing.assert_array_equal(decode_audio(head + WAV[44:]), decode_audio(WAV))


def test_a_wav_cut_short_gives_what_is_there() -> None:
    assert decode_audio(WAV[:4044]).size == 2000


# ------------------------------------------------------------------ refused
REFUSED = {
    "empty": b"",
    "text": b"hello world " * 100,
    "zeros": bytes(50_000),
    "noise": random.Random(0).randbytes(50_000),
    "header alone": WAV[:44],
    "half a header": WAV[:20],
    "no channels": WAV[:22] + struct.pack("<H", 0) + WAV[24:],
    "65535 channels": WAV[:22] + struct.pack("<H", 65535) + WAV[24:],
    "1 Hz": WAV[:24] + struct.pack("<I", 1) + WAV[28:],
    "2 GHz": WAV[:24] + struct.pack("<I", 2**31 - 1) + WAV[28:],
    "big-endian RIFF": b"RIFX" + WAV[4:],
    "AVI": WAV[:8] + b"AVI " + WAV[12:],
    "huge fmt": WAV[:16] + struct.pack("<I", 0x7FFFFFF0) + WAV[20:],
    "id3 of 256 MB": b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(1000),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(1000),
    "not finite": audio_file(np.full(1600, np.nan, np.float32), 16_000, codec="pcm_f32le"),
    "video": video_file(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_field_named(name: str) -> None:
    with pytest.raises(InvalidAudio) as info:
        decode_audio(REFUSED[name], param="file")
    assert info.value.param == "file"
    assert "Errno" not in info.value.message  # nothing of the library's


@pytest.fixture
def canary() -> socket.socket:
    """A listening socket that nobody should call."""
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    yield server
    server.close()


def test_nothing_outside_the_bytes_is_read(canary: socket.socket, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(WAV)
    url = f"http://127.0.0.1:{canary.getsockname()[1]}/x.wav"
    for target in (url, f"file://{secret}", str(secret)):
        for text in (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{target}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile '{target}'\n",
            f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
            f'<AdaptationSet mimeType="audio/mp4"><Representation id="1" bandwidth="1">'
            f"<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        ):
            with pytest.raises(InvalidAudio):
                decode_audio(text.encode())
    with pytest.raises(BlockingIOError):
        canary.accept()


# ------------------------------------------------------------------ limits
def test_seconds_are_counted_on_samples_not_on_headers() -> None:
    with pytest.raises(PayloadTooLarge, match="longer than") as info:
        decode_audio(WAV, max_seconds=0.25, param="file")
    assert info.value.param == "file" and info.value.http_status == 413
    assert decode_audio(WAV, max_seconds=0.5).size == 8000
    claims_little = WAV[:4] + struct.pack("<I", 100) + WAV[8:]
    assert decode_audio(claims_little).size == 8000


def test_a_small_file_of_much_sound_stops_at_the_limit() -> None:
    bomb = audio_file(np.zeros(60 * 8_000, np.float32), 8_000, container="flac", codec="flac")
    assert len(bomb) < 20_000
    with pytest.raises(PayloadTooLarge):
        decode_audio(bomb, max_seconds=10.0)
    with pytest.raises(PayloadTooLarge, match="bytes"):
        decode_audio(bomb, max_bytes=1 << 20)
    with pytest.raises(PayloadTooLarge, match="bytes"):
        decode_native(bomb, max_bytes=1 << 20)


def test_work_is_bounded_where_little_is_kept() -> None:
    # eight channels at 384 kHz cost 192 times what the result holds
    wide = wav_header(384_000)[:22] + struct.pack("<HIIHH", 8, 384_000, 8 * 768_000, 16, 16)
    data = wide + b"data" + struct.pack("<I", 0xFFFFFFFF) + bytes(16 * 100_000)
    assert decode_audio(data, max_bytes=1 << 20).size == round(100_000 / 24)
    with pytest.raises(PayloadTooLarge, match="bytes"):
        decode_audio(data, max_bytes=100_000)


def test_computing_is_bounded_by_the_sound_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    # a file of one-sample packets would do this; here the clock runs fast instead
    clock = iter(range(1_000_000))
    monkeypatch.setattr("time.thread_time", lambda: float(next(clock)))
    with pytest.raises(InvalidAudio, match="too much computing"):
        decode_audio(encode_wav(tone(5.0, 16_000), 16_000))


def test_a_stream_is_decoded_as_it_is_read() -> None:
    hour = audio_file(np.zeros(3600 * 8_000, np.float32), 8_000, container="flac", codec="flac")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(block.size for block in stream_audio(hour, max_seconds=3600.0)) == 3600 * 16_000
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 50 << 20  # whole, it takes 230 MB
    with pytest.raises(PayloadTooLarge, match="longer than"):
        list(stream_audio(hour, max_seconds=10.0))
    with pytest.raises(InvalidAudio, match="no samples"):
        list(stream_audio(WAV[:44]))


def test_the_time_of_who_reads_a_stream_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.thread_time", lambda: now)
    for _ in stream_audio(encode_wav(tone(5.0, 16_000), 16_000)):
        now += 100.0


def test_lying_text_chunks_cost_no_memory() -> None:
    lie = b"LIST" + struct.pack("<I", 0x70000000) + b"INFOISFT" + struct.pack("<I", 0x6FFFFF00)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidAudio):
        decode_audio(WAV[:36] + lie + WAV[36:])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 100 << 20


def test_mutated_files_decode_or_are_refused() -> None:
    seed = 20
    print("seed", seed)
    rng = random.Random(seed)
    files = [
        audio_file(tone(0.1, rate), rate, container=container, codec=codec, layout=layout)
        for container, codec, rate, layout, _ in FORMATS
    ]
    refused = 0
    for _ in range(400):
        data = bytearray(rng.choice(files))
        for _ in range(rng.randrange(1, 12)):
            data[rng.randrange(min(len(data), rng.choice([64, 512, 1 << 20])))] = rng.choice(
                [0, 127, 255, 48]
            )
        if rng.random() < 0.2:
            del data[rng.randrange(1, len(data)) :]
        try:
            samples = decode_audio(bytes(data), max_seconds=5.0, max_bytes=4 << 20)
        except CadenceError as error:
            refused += 1
            assert error.http_status in (400, 413)
        else:
            assert samples.size and np.isfinite(samples).all()
    assert refused
