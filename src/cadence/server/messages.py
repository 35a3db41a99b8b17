"""Chat messages from the wire to the engine: roles named, sound fetched and decoded, earlier speech found."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence

from cadence.audio.decode import decode_audio
from cadence.errors import InvalidRequest, NotFound
from cadence.server.context import Context
from cadence.server.fetch import decode_base64, read_url
from cadence.server.schema import conflict
from cadence.server.schema_messages import (
    AssistantMessage,
    AudioUrlPart,
    ChatMessage,
    InputAudioPart,
    TextContent,
    TextOnly,
    ToolMessage,
)
from cadence.tokens import PADDING_CODE
from cadence.types import (
    INPUT_RATE_HZ,
    AudioPart,
    Message,
    Part,
    ReasoningPart,
    RepeatPart,
    SpeechPart,
    TextPart,
    ToolCallPart,
)

__all__ = ["check_length", "read_messages"]

_ROLES = {"developer": "system", "human": "user", "function_output": "input"}
_CODE = re.compile(r"<audio_(\d+)>")


def check_length(messages: Sequence[ChatMessage], limit: int, num_more: int = 0) -> None:
    """Refuse more than `limit` characters of text (`num_more` come on top); raises InvalidRequest."""
    num_chars = num_more + sum(_num_chars(message) for message in messages)
    if num_chars > limit:
        raise InvalidRequest(
            f"The messages have {num_chars} characters, the limit is {limit}.",
            param="messages",
            code="input_too_long",
        )


def _num_chars(message: ChatMessage) -> int:
    num_chars = sum(len(text) for text in _texts(message.content))
    if isinstance(message, AssistantMessage):
        num_chars += len(message.reasoning_content or "")
        num_chars += len(message.tts_content.tts_text) if message.tts_content else 0
        for call in message.tool_calls or ():
            num_chars += len(call.function.name) + len(call.function.arguments)
    return num_chars


def _texts(
    content: str | Sequence[TextContent | InputAudioPart | AudioUrlPart] | Sequence[TextContent] | None,
) -> list[str]:
    """The pieces of text in a content."""
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    return [part.text for part in content if isinstance(part, TextContent)]


async def read_messages(messages: Sequence[ChatMessage], context: Context) -> tuple[Message, ...]:
    """All messages as the engine takes them, sound as float32 [T], mono, 16 kHz.

    Raises:
        InvalidRequest, Forbidden: audio that cannot or may not be read, or a message that does not fit
            those before it.
        NotFound: a spoken answer that is not kept.
        InvalidAudio, PayloadTooLarge: audio that cannot be decoded, or past a limit; the limit of
            `max_audio_s` holds for all sound of a request together.
    """
    room_s = context.config.max_audio_s
    functions: dict[str, str] = {}  # the function of each call so far
    found = []
    for i, message in enumerate(messages):
        where = f"messages.{i}"
        content: list[Part] = []
        if isinstance(message, AssistantMessage):
            content = _read_answer(message, context, where)
            functions |= {call.id: call.function.name for call in message.tool_calls or ()}
        elif isinstance(message, ToolMessage):
            found.append(_read_output(message, functions, where))
            continue
        elif isinstance(message.content, str):
            content.append(TextPart(message.content))
        else:
            for j, part in enumerate(message.content):
                if isinstance(part, TextContent):
                    content.append(TextPart(part.text))
                    continue
                sound = await _read_audio(part, context, room_s, f"{where}.content.{j}")
                room_s -= sound.samples.size / INPUT_RATE_HZ
                content.append(sound)
        found.append(Message(_ROLES.get(message.role, message.role), tuple(content)))
    return tuple(found)


# ------------------------------------------------------------------ answers
def _read_answer(message: AssistantMessage, context: Context, where: str) -> list[Part]:
    """An earlier answer in the order that the model writes one."""
    parts: list[Part] = []
    if message.reasoning_content:
        if not context.engine.info.thinks:
            raise InvalidRequest(
                "'reasoning_content' belongs to a model that thinks, and this one does not.",
                param=f"{where}.reasoning_content",
                code="unsupported_field",
            )
        parts.append(ReasoningPart(message.reasoning_content))
    repeated = _find_spoken(message, context, where)
    if repeated is not None:
        return [*parts, repeated]  # calls that followed the speech are in it, as they were written
    texts = _texts(message.content)
    if message.tts_content is not None:
        codes = _read_codes(message.tts_content.tts_audio, f"{where}.tts_content.tts_audio")
        parts.append(SpeechPart(message.tts_content.tts_text, codes))
        if _same("".join(texts), message.tts_content.tts_text):
            texts = []  # an answer whose content repeats what was said, as some clients want it
    parts += [TextPart(text) for text in texts]
    parts += [ToolCallPart(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    if not parts:
        raise InvalidRequest(
            "An assistant's message needs content, audio, tts_content or tool_calls.",
            param=f"{where}.content",
            code="missing_field",
        )
    return parts


def _find_spoken(message: AssistantMessage, context: Context, where: str) -> RepeatPart | None:
    """The answer that `audio.id` refers to; `tts_content` beside it stands in when it is kept no longer."""
    if message.audio is None:
        return None
    answer = context.spoken.get(message.audio.id)
    if answer is None and message.tts_content is None:
        raise NotFound(
            f"There is no spoken answer {message.audio.id!r} here: it is unknown, or kept no longer.",
            param=f"{where}.audio.id",
            code="audio_not_found",
            hint=f"They are kept for {context.config.spoken_keep_s:g} s. An answer's `tts_content` can be "
            "sent back at any time.",
        )
    if answer is None:
        return None
    text = "".join(_texts(message.content))
    if text and not _same(text, answer.text):
        raise conflict((f"{where}.content", f"{where}.audio.id"))
    return RepeatPart(tuple(answer.ids))


def _same(content: str, spoken: str) -> bool:
    return content.split() == spoken.split()


def _read_codes(text: str, param: str) -> tuple[int, ...]:
    """Codes by name; those that pad audio slots are dropped, prompts are padded anew."""
    codes = [int(code) for code in _CODE.findall(text)]
    if codes and max(codes) > PADDING_CODE:
        raise InvalidRequest(
            f"Codes go up to {PADDING_CODE}, found {max(codes)}.", param=param, code="invalid_value"
        )
    return tuple(code for code in codes if code != PADDING_CODE)


def _read_output(message: ToolMessage, functions: Mapping[str, str], where: str) -> Message:
    """A function's output, under the name of the function whose call it answers."""
    called = functions.get(message.tool_call_id)
    if called is None and message.name is None:
        raise InvalidRequest(
            f"No earlier message has a tool call {message.tool_call_id[:100]!r}.",
            param=f"{where}.tool_call_id",
            code="invalid_value",
        )
    if called is not None and message.name not in (None, called):
        raise conflict((f"{where}.name", f"{where}.tool_call_id"))
    return Message("function_output", (TextPart(f"{called or message.name}\n{_joined(message.content)}"),))


def _joined(content: TextOnly) -> str:
    return "".join(_texts(content))


# ------------------------------------------------------------------ sound
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
