"""Chat messages from the wire to the engine: roles named, sound fetched and decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cadence.audio.decode import decode_audio
from cadence.errors import InvalidRequest
from cadence.server.context import Context
from cadence.server.fetch import decode_base64, read_url
from cadence.server.schema_chat import AudioUrlPart, ChatMessage, InputAudioPart, TextContent
from cadence.types import INPUT_RATE_HZ, AudioPart, Message, Part, TextPart

__all__ = ["check_length", "read_messages"]

_ROLES = {"developer": "system", "human": "user"}


def check_length(messages: Sequence[ChatMessage], limit: int) -> None:
    """Refuse more than `limit` characters of text; raises InvalidRequest."""
    num_chars = 0
    for message in messages:
        if isinstance(message.content, str):
            num_chars += len(message.content)
        else:
            num_chars += sum(len(part.text) for part in message.content if isinstance(part, TextContent))
    if num_chars > limit:
        raise InvalidRequest(
            f"The messages have {num_chars} characters, the limit is {limit}.",
            param="messages",
            code="input_too_long",
        )


async def read_messages(messages: Sequence[ChatMessage], context: Context) -> tuple[Message, ...]:
    """All messages with their sound as float32 [T], mono, 16 kHz.

    Raises:
        InvalidRequest, Forbidden: audio that cannot or may not be read.
        InvalidAudio, PayloadTooLarge: audio that cannot be decoded, or past a limit; the limit of
            `max_audio_s` holds for all sound of a request together.
    """
    room_s = context.config.max_audio_s
    found = []
    for i, message in enumerate(messages):
        content: list[Part] = []
        if isinstance(message.content, str):
            content.append(TextPart(message.content))
        else:
            for j, part in enumerate(message.content):
                if isinstance(part, TextContent):
                    content.append(TextPart(part.text))
                    continue
                sound = await _read_audio(part, context, room_s, f"messages.{i}.content.{j}")
                room_s -= sound.samples.size / INPUT_RATE_HZ
                content.append(sound)
        found.append(Message(_ROLES.get(message.role, message.role), tuple(content)))
    return tuple(found)


async def _read_audio(
    part: InputAudioPart | AudioUrlPart, context: Context, room_s: float, where: str
) -> AudioPart:
    config = context.config
    if isinstance(part, InputAudioPart):
        param = f"{where}.input_audio.data"
        data = await asyncio.to_thread(decode_base64, part.input_audio.data, param)
    else:
        url = part.audio_url if isinstance(part.audio_url, str) else part.audio_url.url
        param = f"{where}.audio_url"
        data = await read_url(url, config, param)
    async with context.decoders:
        samples = await asyncio.to_thread(
            decode_audio,
            data,
            max_seconds=max(room_s, 0.0),
            max_bytes=config.max_audio_bytes,
            param=param,
        )
    return AudioPart(samples)
