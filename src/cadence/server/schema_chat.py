"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict, StringConstraints

from cadence.audio.encode import ENCODERS
from cadence.server.schema import Body, Sampling, StopStrings, Text
from cadence.server.schema_messages import ChatMessage, ToolName
from cadence.server.schema_speech import VoiceName, VoiceRef

__all__ = [
    "AudioOptions",
    "ChatBody",
    "NamedTool",
    "StageSampling",
    "Tool",
]

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
StopIds = Annotated[list[TokenId], Field(max_length=64)]
Bias = Annotated[
    dict[
        Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]
    ],
    Field(max_length=1024, description="Token id to what is added to its logit."),
]
AUDIO_FORMATS = (*sorted(ENCODERS), "pcm16")
Short = Annotated[str, Field(max_length=512)]


class Function(Body):
    """A function that the model may call."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {"strict": (False,)}

    name: ToolName
    description: Text | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON schema of the arguments.")


class Tool(Body):
    """Something that the model may use."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """One of the functions, by name."""

    name: ToolName


class NamedTool(Body):
    """The function that must be called."""

    type: Literal["function"]
    function: NamedFunction


class AudioOptions(Body):
    """How a spoken answer is to sound and to be written."""

    voice: VoiceName | VoiceRef | None = None
    format: str | None = Field(
        None,
        description="Default: wav, and pcm16 when streaming.",
        json_schema_extra={"enum": [*AUDIO_FORMATS, None]},
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

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "include_obfuscation": (False,),
        "continuous_usage_stats": (False,),
    }

    include_usage: bool | None = None


class TextFormat(Body):
    """The only form of text there is."""

    type: Literal["text"]


class ChatBody(Sampling):
    """Messages to answer, in text or in speech.

    The answer is spoken when `modalities` has "audio", when `audio` or `tts_output` is given, or when the
    last message ends with a literal `<tts_start>`; otherwise it is text alone.
    """

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "functions": ([],),
        "function_call": ("none", "auto"),
        "prediction": (),
        "web_search_options": (),
        "reasoning_effort": (),
        "verbosity": (),
        "echo": (False,),
        "best_of": (1,),
        "use_beam_search": (False,),
        "include_stop_str_in_output": (False,),
        "prompt_logprobs": (),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "documents": ([],),
        "guided_json": (),
        "guided_regex": (),
        "guided_choice": (),
        "guided_grammar": (),
        "structured_outputs": (),
    }

    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    model: str | None = Field(None, description="A name listed by /v1/models; none: the one served.")
    modalities: Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=2)] | None = None
    audio: AudioOptions | None = None
    voice: VoiceName | VoiceRef | None = Field(None, description="The same as `audio.voice`.")
    speaker: VoiceName | None = Field(None, description="The same as `audio.voice`.")
    tts_output: bool | None = Field(None, description="True: the answer is spoken.")
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = Field(None, description="False: one call at most.")
    add_generation_prompt: bool | None = Field(
        None, description="False: the prompt ends behind the last message, no answer is opened."
    )
    continue_final_message: bool | None = Field(
        None, description="True: the answer goes on with the last message, which is the assistant's."
    )
    separate_reasoning: bool | None = Field(
        None, description="False: what a model that thinks reasons stays in the content."
    )
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
    skip_special_tokens: bool | None = Field(None, description="False: control tokens are shown by name.")
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
