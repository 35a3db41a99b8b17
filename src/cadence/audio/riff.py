"""A WAV file cut down to what decoding needs, before any library sees it.

Text chunks of a WAV can claim gigabytes that a reader then allocates. Only `fmt ` and `data` are
passed on, with sizes taken from the bytes at hand; files whose header says "length unknown" (streams)
or lies about it come out right as well.
"""

from __future__ import annotations

import struct

from cadence.errors import InvalidAudio

__all__ = ["is_riff", "plain_wav"]

_MAX_FMT_BYTES = 4096  # 16 to 50 in real files
_CHUNK_HEADER_BYTES = 8


def is_riff(data: bytes) -> bool:
    """Whether bytes start like a file of the RIFF family (RIFF, RF64, big-endian RIFX)."""
    return data[:4] in (b"RIFF", b"RF64", b"RIFX")


def plain_wav(data: bytes, *, param: str | None = None) -> bytes:
    """The same WAV with `fmt ` and `data` alone and true sizes.

    Raises:
        InvalidAudio: not a little-endian WAV, or one of the two chunks is missing or absurd.
    """
    if data[:4] == b"RIFX" or data[8:12] != b"WAVE":
        raise InvalidAudio("The file is of the RIFF family but no WAV audio.", param=param)
    fmt: bytes | None = None
    position = 12
    while position + _CHUNK_HEADER_BYTES <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        position += _CHUNK_HEADER_BYTES
        if name == b"fmt " and fmt is None:
            if size > _MAX_FMT_BYTES or position + size > len(data):
                break
            fmt = data[position : position + size]
        elif name == b"data" and fmt is not None:
            # Writers that stream leave 0 in both size fields, or all ones: the sound goes on to the end.
            (claimed,) = struct.unpack_from("<I", data, 4)
            streamed = size == 0 and (claimed + _CHUNK_HEADER_BYTES <= position or claimed == 0xFFFFFFFF)
            end = len(data) if streamed else position + size
            return _join(fmt, memoryview(data)[position:end])
        position += size + size % 2  # chunks are padded to even length
    raise InvalidAudio("The WAV file has no readable format or no sound in it.", param=param)


def _join(fmt: bytes, body: memoryview) -> bytes:
    padded = fmt + b"\0" * (len(fmt) % 2)
    total = 4 + 2 * _CHUNK_HEADER_BYTES + len(padded) + len(body)
    head = struct.pack("<4sI4s4sI", b"RIFF", min(total, 0xFFFFFFFF), b"WAVE", b"fmt ", len(fmt))
    return b"".join((head, padded, struct.pack("<4sI", b"data", min(len(body), 0xFFFFFFFF)), body))
