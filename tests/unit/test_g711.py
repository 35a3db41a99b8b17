"""G.711 as libav reads it, and back."""

from __future__ import annotations

from typing import get_args

import av
import numpy as np
import pytest

from cadence.audio.g711 import Law, decode_g711, encode_g711
from cadence.audio.int16 import from_int16, to_int16

CODECS = {"pcmu": "pcm_mulaw", "pcma": "pcm_alaw"}


@pytest.mark.parametrize("law", get_args(Law))
def test_every_byte_means_what_libav_says(law: Law) -> None:
    codec = av.CodecContext.create(CODECS[law], "r")
    codec.sample_rate, codec.layout = 8000, "mono"
    data = bytes(range(256))
    levels = codec.decode(av.Packet(data))[0].to_ndarray().reshape(-1)
    np.testing.assert_array_equal(to_int16(decode_g711(data, law)), levels)


@pytest.mark.parametrize("law", get_args(Law))
def test_a_sample_becomes_its_nearest_level(law: Law) -> None:
    levels = to_int16(decode_g711(bytes(range(256)), law)).astype(int)
    samples = np.arange(-32768, 32768, 7)
    written = to_int16(decode_g711(encode_g711(from_int16(samples.astype(np.int16)), law), law))
    nearest = np.abs(samples[:, None] - levels[None]).min(axis=1)
    np.testing.assert_array_equal(np.abs(written - samples), nearest)
    assert encode_g711(np.array([2.0], np.float32), law) == encode_g711(np.array([1.0], np.float32), law)
