"""The messages of a chat request, by role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from cadence.server.schema import Body, Text

__all__ = [
    "AssistantMessage",
    "AudioUrlPart",
    "ChatMessage",
    "InputAudioPart",
    "TextContent",
    "TextMessage",
    "TextOnly",
    "ToolMessage",
    "ToolName",
    "UserMessage",
]

ToolName = Annotated[str, Field(pattern=r"^[^\s<]{1,128}$")]


class TextContent(Body):
    """A piece of text."""

    type: Literal["text"]
    text: Text


class InputAudio(Body):
    """A file in base64. Its bytes tell the format; `format` is checked for being one we read."""

    data: str = Field(min_length=1)
    format: Literal["wav", "mp3", "flac", "ogg", "opus", "m4a", "mp4", "aac", "webm"] | None = None


class InputAudioPart(Body):
    """Sound in the request itself."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class AudioUrl(Body):
    """Where sound is: `data:`, `http(s):` or `file:`, as far as the server is configured to read them."""

    url: str = Field(min_length=1)


class AudioUrlPart(Body):
    """Sound by URL; the URL may be given directly."""

    type: Literal["audio_url"]
    audio_url: Annotated[str, Field(min_length=1)] | AudioUrl


ContentPart = Annotated[TextContent | InputAudioPart | AudioUrlPart, Field(discriminator="type")]
TextOnly = Text | Annotated[list[TextContent], Field(min_length=1, max_length=256)]


class _Turn(Body):
    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "name": (),
        "audio": (),
        "tool_calls": ([],),
        "tool_call_id": (),
        "function_call": (),
        "refusal": (),
        "annotations": ([],),
        "reasoning": (),
        "reasoning_content": (),
        "tts_content": (),
        "eot": (True,),
    }


class UserMessage(_Turn):
    """What the user said or played; `human` is another name of the role."""

    role: Literal["user", "human"]
    content: Text | Annotated[list[ContentPart], Field(min_length=1, max_length=256)]


class TextMessage(_Turn):
    """A turn of text alone. `developer` is another name of `system`; the last three are roles that the model
    knows, for clients that write its prompt themselves."""

    role: Literal["system", "developer", "tool_json_schemas", "function_output", "input"]
    content: TextOnly


class AudioRef(Body):
    """An earlier spoken answer; what else its `audio` held may come back with it and counts for nothing."""

    id: str = Field(min_length=1, max_length=128)
    data: str | None = None
    transcript: str | None = None
    expires_at: int | None = None


class TtsContent(Body):
    """Speech as text and codes, as StepFun's server writes it."""

    tts_text: Text
    tts_audio: str = Field(
        pattern=r"^(<audio_[0-9]{1,4}>)*$", description="Codes in order: `<audio_12><audio_7>...`."
    )


class FunctionCall(Body):
    """Which function, and its arguments as JSON text."""

    name: ToolName
    arguments: Text


class ToolCall(Body):
    """A call that the model made."""

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = Field(None, description="As streams have it; the order in the list counts.")


class AssistantMessage(Body):
    """An earlier answer: text, speech (by id, or as `tts_content`), calls, in any combination."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "name": (),
        "tool_call_id": (),
        "function_call": (),
        "refusal": (),
        "annotations": ([],),
        "reasoning": (),
    }

    role: Literal["assistant"]
    content: TextOnly | None = None
    audio: AudioRef | None = None
    tts_content: TtsContent | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    reasoning_content: Text | None = Field(None, description="For a model that thinks; others refuse it.")
    eot: bool | None = Field(None, description="False, on the last message: the answer goes on with it.")


class ToolMessage(Body):
    """What a called function gave."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        name: neutral for name, neutral in _Turn.unsupported.items() if name not in ("name", "tool_call_id")
    }

    role: Literal["tool"]
    content: TextOnly
    tool_call_id: str = Field(min_length=1, max_length=256)
    name: ToolName | None = Field(None, description="The function's name, where no earlier call tells it.")


ChatMessage = Annotated[
    UserMessage | TextMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
