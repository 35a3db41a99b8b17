"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict, StringConstraints

from cadence.audio.encode import ENCODERS
from cadence.server.schema import Body, Sampling, StopStrings, Text
from cadence.server.schema_speech import VoiceName, VoiceRef

__all__ = [
    "AudioOptions",
    "AudioUrlPart",
    "ChatBody",
    "ChatMessage",
    "InputAudioPart",
    "StageSampling",
    "TextContent",
]

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
StopIds = Annotated[list[TokenId], Field(max_length=64)]
Bias = Annotated[
    dict[
        Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]
    ],
    Field(max_length=1024, description="Token id to what is added to its logit."),
]
Short = Annotated[str, Field(max_length=512)]


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
    """A turn of text alone; `developer` is another name of `system`."""

    role: Literal["system", "developer", "assistant"]
    content: Text | Annotated[list[TextContent], Field(min_length=1, max_length=256)]


ChatMessage = Annotated[UserMessage | TextMessage, Field(discriminator="role")]


class AudioOptions(Body):
    """How a spoken answer is to sound and to be written."""

    voice: VoiceName | VoiceRef | None = None
    format: str | None = Field(
        None,
        description="Default: wav, and pcm16 when streaming.",
        json_schema_extra={"enum": [*sorted(ENCODERS), "pcm16", None]},
    )


class StageSampling(Sampling):
    """One stage's entry of `sampling_params_list`."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "skip_special_tokens": (True,),
        "include_stop_str_in_output": (False,),
        "n": (1,),
        "best_of": (1,),
        "prompt_logprobs": (),
    }

    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    min_tokens: int | None = Field(None, ge=0, le=1_000_000)
    stop: StopStrings | None = None
    stop_token_ids: StopIds | None = None
    ignore_eos: bool | None = None
    logit_bias: Bias | None = None
    detokenize: bool | None = Field(None, description="Has no effect: this stage makes sound.")


class FirstStageSampling(StageSampling):
    """The language model's entry of `sampling_params_list`."""

    detokenize: Literal[True] | None = None


Stages = Annotated[
    Annotated[tuple[FirstStageSampling], Strict(False)]
    | Annotated[tuple[FirstStageSampling, StageSampling], Strict(False)],
    "one entry or two",
]


class StreamOptions(Body):
    """What a stream carries besides the answer."""

    include_usage: bool | None = None


class TextFormat(Body):
    """The only form of text there is."""

    type: Literal["text"]


class ChatBody(Sampling):
    """Messages to answer, in text or in speech.

    The answer is spoken when `modalities` has "audio", when `audio` is given, or when the last message
    ends with a literal `<tts_start>`; otherwise it is text alone.
    """

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "prediction": (),
        "web_search_options": (),
        "reasoning_effort": (),
        "verbosity": (),
        "echo": (False,),
        "best_of": (1,),
        "use_beam_search": (False,),
        "skip_special_tokens": (True,),
        "include_stop_str_in_output": (False,),
        "add_generation_prompt": (True,),
        "continue_final_message": (False,),
        "prompt_logprobs": (),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "documents": ([],),
        "guided_json": (),
        "guided_regex": (),
        "guided_choice": (),
        "guided_grammar": (),
        "structured_outputs": (),
        "tts_output": (False,),
        "separate_reasoning": (False,),
    }

    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    model: str | None = Field(None, description="A name listed by /v1/models; none: the one served.")
    modalities: Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=2)] | None = None
    audio: AudioOptions | None = None
    voice: VoiceName | VoiceRef | None = Field(None, description="The same as `audio.voice`.")
    speaker: VoiceName | None = Field(None, description="The same as `audio.voice`.")
    n: int | None = Field(None, ge=1, le=8)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000)
    min_tokens: int | None = Field(None, ge=0, le=1_000_000)
    stop: StopStrings | None = None
    stop_token_ids: StopIds | None = None
    ignore_eos: bool | None = None
    logit_bias: Bias | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    sampling_params_list: Stages | None = Field(
        None, description="Sampling of the language model, then of the vocoder (of which only `seed` counts)."
    )
    response_format: TextFormat | None = None

    user: Short | None = Field(None, description="Has no effect here.")
    safety_identifier: Short | None = Field(None, description="Has no effect here.")
    prompt_cache_key: Short | None = Field(None, description="Has no effect here.")
    service_tier: Literal["auto", "default"] | None = Field(None, description="Has no effect here.")
    store: bool | None = Field(None, description="Has no effect here: nothing is stored.")
    metadata: Annotated[dict[str, Short], Field(max_length=16)] | None = Field(
        None, description="Has no effect here."
    )
