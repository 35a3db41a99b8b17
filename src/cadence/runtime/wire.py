"""What crosses the border between the engine and a stage's process.

A frame is a 4-byte big-endian length and a msgpack map; `t` says what it is. Arrays travel as raw bytes
with dtype and shape. No pickle: nothing received can run code.

    parent → child                                     child → parent
    load    kind, root, config                         progress text, fraction
    open    stream, request                            ready    voices
    codes   stream, codes (None = that was all)        failed   error         (loading)
    credit  stream, count                              out      stream, value
    cancel  stream                                     end      stream, error (None = complete)
    abort   request_id                                 beat     stats
    stop
"""

from __future__ import annotations

import asyncio
import dataclasses
import struct
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from cadence.errors import StageFailed
from cadence.types import (
    AudioChunk,
    AudioSpan,
    Prompt,
    SamplingParams,
    SpeechRequest,
    StepOutput,
    ThinkerRequest,
    VoiceSample,
)

__all__ = [
    "Frame",
    "FrameReader",
    "decode_output",
    "decode_request",
    "encode_output",
    "encode_request",
    "pack",
    "unpack",
]

Frame = dict[str, Any]

MAX_FRAME_BYTES = 1 << 30  # an hour of sound as log-mel is 184 MB
_LENGTH = struct.Struct(">I")
_ARRAY = 1  # msgpack extension type
_DTYPES = ("float32", "float64", "int16", "int32", "int64", "uint8")


# ------------------------------------------------------------------ frames
def pack(frame: Mapping[str, Any]) -> bytes:
    """One frame, ready to send. ValueError when it is over the limit."""
    body: bytes = msgpack.packb(dict(frame), default=_pack_array, use_bin_type=True)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


def unpack(body: bytes) -> Frame:
    """A frame's body as a map. Broken bytes raise whatever msgpack and numpy make of them."""
    frame = msgpack.unpackb(body, ext_hook=_unpack_array, raw=False, strict_map_key=False)
    if not isinstance(frame, dict) or "t" not in frame:
        raise ValueError("not a frame")
    return frame


class FrameReader:
    """Frames from a stream, one after the other."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def next(self) -> Frame | None:
        """The next frame; None when the other side is gone (cut frames count as gone).

        Raises:
            StageFailed: what came is no frame.
        """
        try:
            (size,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if size > MAX_FRAME_BYTES:
                raise StageFailed("A stage's process sent a broken frame.")
            body = await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        try:
            return unpack(body)
        except Exception as error:
            raise StageFailed("A stage's process sent a broken frame.") from error


def _pack_array(value: object) -> Any:
    if isinstance(value, np.ndarray) and str(value.dtype) in _DTYPES:
        head = msgpack.packb((str(value.dtype), list(value.shape)))
        return msgpack.ExtType(_ARRAY, head + np.ascontiguousarray(value).tobytes())
    if isinstance(value, np.integer | np.floating):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot cross the border between processes")


def _unpack_array(kind: int, data: bytes) -> Any:
    if kind != _ARRAY:
        raise ValueError(f"unknown extension type {kind}")
    unpacker = msgpack.Unpacker()
    unpacker.feed(data[:128])
    dtype, shape = unpacker.unpack()
    if dtype not in _DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}")
    # A copy, because memory of our own may be written to and outlives the frame.
    return np.frombuffer(data, dtype=dtype, offset=unpacker.tell()).reshape(shape).copy()


# ------------------------------------------------------------------ requests and outputs
def encode_request(request: ThinkerRequest | SpeechRequest) -> Frame:
    """Plain data for a request; `decode_request` is the inverse."""
    if isinstance(request, SpeechRequest):
        sample = request.voice_sample
        return {"speech": _fields(request) | {"voice_sample": None if sample is None else _fields(sample)}}
    prompt = request.prompt
    return {
        "thinker": {
            "request_id": request.request_id,
            "ids": np.asarray(prompt.ids, np.int32),
            "spans": [(span.start, span.count) for span in prompt.spans],
            "mels": list(prompt.mels),
            "sampling": _fields(request.sampling),
            "forced": None if request.forced_text_ids is None else list(request.forced_text_ids),
        }
    }


def decode_request(data: Frame) -> ThinkerRequest | SpeechRequest:
    """Inverse of `encode_request`."""
    if "speech" in data:
        speech = data["speech"]
        sample = speech["voice_sample"]
        return SpeechRequest(**speech | {"voice_sample": None if sample is None else VoiceSample(**sample)})
    fields = data["thinker"]
    prompt = Prompt(
        ids=tuple(fields["ids"].tolist()),
        spans=tuple(AudioSpan(start, count) for start, count in fields["spans"]),
        mels=tuple(fields["mels"]),
    )
    sampling = fields["sampling"]
    sampling["stop"] = tuple(sampling["stop"])
    sampling["stop_token_ids"] = tuple(sampling["stop_token_ids"])
    forced = fields["forced"]
    return ThinkerRequest(
        request_id=fields["request_id"],
        prompt=prompt,
        sampling=SamplingParams(**sampling),
        forced_text_ids=None if forced is None else tuple(forced),
    )


def encode_output(output: StepOutput | AudioChunk) -> Frame:
    """Plain data for what a stage yields; `decode_output` is the inverse."""
    return {"samples": output.samples} if isinstance(output, AudioChunk) else _fields(output)


def decode_output(data: Frame) -> StepOutput | AudioChunk:
    """Inverse of `encode_output`."""
    if "samples" in data:
        return AudioChunk(data["samples"])
    return StepOutput(
        ids=tuple(data["ids"]),
        finish_reason=data["finish_reason"],
        stop_match=data["stop_match"],
        logprobs=tuple(
            (chosen, tuple((token_id, value) for token_id, value in top)) for chosen, top in data["logprobs"]
        ),
        num_cached=data["num_cached"],
    )


def _fields(value: SpeechRequest | SamplingParams | StepOutput | VoiceSample) -> Frame:
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {name: dict(item) if isinstance(item, Mapping) else item for name, item in fields.items()}
