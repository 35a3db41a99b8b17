"""Items that a client writes itself, from the wire to the conversation."""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray

from cadence.audio.int16 import to_int16
from cadence.audio.resample import resample
from cadence.errors import InvalidRequest, PayloadTooLarge
from cadence.prompt import MIN_AUDIO_S
from cadence.server.context import Context, new_id
from cadence.server.fetch import decode_base64
from cadence.server.realtime.conversation import AnyItem, CallItem, Item, OutputItem, Part
from cadence.server.realtime.input_buffer import decode_sound
from cadence.server.realtime.schema import ContentBody, ItemBody
from cadence.server.realtime.settings import AudioFormat
from cadence.types import INPUT_RATE_HZ

__all__ = ["read_item"]

_KINDS = {
    "user": ("input_text", "input_audio"),
    "system": ("input_text",),
    "assistant": ("output_text", "output_audio"),
}


async def read_item(body: ItemBody, how: AudioFormat, context: Context, param: str) -> AnyItem:
    """An item from its description.

    Args:
        how: the format of sound in it, which is the session's.
        param: where it stands in the event, for errors.

    Raises:
        InvalidRequest, InvalidAudio, PayloadTooLarge: names the field at fault.
    """
    item_id = body.id or f"item_{new_id()}"
    if body.type == "function_call":
        name, arguments = _field(body, "name", param), _field(body, "arguments", param)
        return CallItem(item_id, name, body.call_id or f"call_{new_id()}", arguments)
    if body.type == "function_call_output":
        return OutputItem(item_id, _field(body, "call_id", param), _field(body, "output", param))
    if body.role is None or body.content is None:
        missing = "role" if body.role is None else "content"
        raise InvalidRequest(
            f"A message needs '{missing}'.", param=f"{param}.{missing}", code="missing_field"
        )
    parts = []
    for i, content in enumerate(body.content):
        where = f"{param}.content.{i}"
        if content.type not in _KINDS[body.role]:
            raise InvalidRequest(
                f"A message of the {body.role} holds {' or '.join(_KINDS[body.role])}.",
                param=f"{where}.type",
                code="invalid_value",
            )
        parts.append(await _read_part(content, how, context, where))
    return Item(item_id, body.role, parts, "incomplete" if body.status == "incomplete" else "completed")


async def _read_part(content: ContentBody, how: AudioFormat, context: Context, where: str) -> Part:
    if content.type in ("input_text", "output_text"):
        return Part(content.type, text=_required(content, "text", where))
    if content.type == "output_audio":  # an earlier answer: its words are what can be given back
        return Part(content.type, transcript=_required(content, "transcript", where))
    data = decode_base64(_required(content, "audio", where), f"{where}.audio")
    sound = decode_sound(data, how)
    seconds = sound.size / how.rate_hz
    if seconds < MIN_AUDIO_S:
        raise InvalidRequest(
            f"At least {MIN_AUDIO_S} s of sound are needed.", param=f"{where}.audio", code="audio_too_short"
        )
    if seconds > context.config.max_turn_s:
        raise PayloadTooLarge(
            f"A turn lasts {context.config.max_turn_s:g} s at most.", param=f"{where}.audio"
        )
    samples = await asyncio.to_thread(_at_input_rate, sound, how.rate_hz)
    return Part(content.type, transcript=content.transcript, samples=samples)


def _at_input_rate(sound: NDArray[np.float32], rate_hz: int) -> NDArray[np.int16]:
    return to_int16(resample(sound, rate_hz, INPUT_RATE_HZ))


def _field(body: ItemBody, name: str, param: str) -> str:
    value: str | None = getattr(body, name)
    if value is None:
        raise InvalidRequest(
            f"An item of type {body.type} needs '{name}'.", param=f"{param}.{name}", code="missing_field"
        )
    return value


def _required(content: ContentBody, name: str, where: str) -> str:
    value: str | None = getattr(content, name)
    if value is None:
        raise InvalidRequest(
            f"A part of type {content.type} needs '{name}'.", param=f"{where}.{name}", code="missing_field"
        )
    return value
