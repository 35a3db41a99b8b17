"""The body of POST /v1/audio/speech."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from cadence.audio.encode import ENCODERS
from cadence.server.schema import Body, Sampling, Text

__all__ = [
    "VOICES_HERE",
    "ExtraParams",
    "NormalizationOptions",
    "SpeechBatchBody",
    "SpeechBody",
    "VoiceName",
    "VoiceRef",
]

VOICES_HERE = "x-voices"
"""Marks where the OpenAPI document lists the voices of the running engine."""


VoiceName = Annotated[str, Field(json_schema_extra={VOICES_HERE: True})]
SpeechTokens = Annotated[
    int, Field(ge=5, le=1_000_000, description="At most this many: 5 for each 0.16 s of speech.")
]


class VoiceRef(Body):
    """A voice by id, as the OpenAI API writes it."""

    id: VoiceName


class ExtraParams(Sampling):
    """Sampling fields where vLLM-Omni's clients put them."""

    max_new_tokens: SpeechTokens | None = None


class ReferenceItem(Body):
    """A recording and its text, as SGLang-Omni's clients send them."""

    audio_path: Text = Field(min_length=1, description="The same as `ref_audio`.")
    text: Annotated[Text, Field(max_length=2000)] | None = None


class NormalizationOptions(Body):
    """What to clean from the text before it is read. Kokoro's switches for wordings are not here."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "unit_normalization": (False,),
        "url_normalization": (False,),
        "email_normalization": (False,),
        "optional_pluralization_normalization": (False,),
        "phone_normalization": (False,),
        "replace_remaining_symbols": (False,),
    }

    normalize: bool | None = Field(None, description="True: all of what follows, unless it says false.")
    markdown: bool | None = Field(None, description="Read Markdown as plain text, without code and HTML.")
    emoji: bool | None = Field(None, description="Leave emoji out.")


class SpeechOptions(Sampling):
    """How to read a text aloud."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "language": ("Auto", "auto"),
        "ref_audio_2": (),
        "speaker_embedding": (),
        "x_vector_only_mode": (False,),
        "initial_codec_chunk_frames": (),
        "non_streaming_mode": (False,),
        "stage_params": (),
        "token_count": (),
        "lang_code": (),
        "volume_multiplier": (1.0,),
        "download_format": (),
        "return_download_link": (False,),
        "ssml": (False,),
        "allow_voice_tags": (False,),
        "voice_aliases": (),
    }

    model: str | None = Field(None, description="A name listed by /v1/models; none: the one served.")
    voice: VoiceName | VoiceRef | None = Field(
        None, description="A voice of this server; none: the default one."
    )
    speaker: VoiceName | None = Field(None, description="Another name of `voice`.")
    ref_audio: Text | Annotated[list[Text], Field(min_length=1, max_length=1)] | None = Field(
        None, description="A recording to speak like: a URL (http, https, data, file) or base64; 1 to 30 s."
    )
    ref_text: Annotated[Text, Field(max_length=2000)] | None = Field(
        None, description="What `ref_audio` says; checked against its length."
    )
    references: Annotated[list[ReferenceItem], Field(max_length=1)] | None = Field(
        None, description="The same as `ref_audio` and `ref_text`."
    )
    task_type: Literal["CustomVoice", "VoiceDesign", "Base"] | None = Field(
        None, description="As vLLM-Omni's clients say it: CustomVoice names a voice, Base brings `ref_audio`."
    )
    instructions: Annotated[Text, Field(max_length=8_000)] | None = Field(
        None, description="How to say it: replaces the system prompt of reading aloud."
    )
    response_format: str | None = Field(
        None, description="Default: wav.", json_schema_extra={"enum": [*sorted(ENCODERS), None]}
    )
    sample_rate: int | None = Field(None, ge=8_000, le=48_000, description="In Hz. Default: 24000.")
    speed: float | None = Field(None, ge=0.25, le=4.0, description="The pitch stays. Default: 1.")
    stream: bool | None = None
    stream_format: Literal["audio", "sse"] | None = None
    max_new_tokens: SpeechTokens | None = None
    extra_params: ExtraParams | None = None
    async_chunk: bool | None = Field(
        None, description="Render while tokens are still being made; none: as the server is configured."
    )
    verbatim: bool | None = Field(
        None, description="Say exactly these words (default); false lets the model choose its words."
    )
    word_timestamps: bool | None = Field(
        None, description="Tell when each word is said: in a header of a whole body, or in events."
    )
    normalization_options: NormalizationOptions | None = None


class SpeechBody(SpeechOptions):
    """Text to read aloud.

    Without `stream` the sound is sent as it is made, chunked. `stream: false` asks for one whole body
    with its length and true sizes in the WAV header, `stream: true` or `stream_format: "sse"` for
    server-sent events.
    """

    input: str = Field(
        min_length=1,
        pattern=r"\S",
        description="What to say.",
        json_schema_extra={"pattern": "^[^\\u0000]*[^\\s\\u0000][^\\u0000]*$"},
    )


class SpeechBatchBody(SpeechOptions):
    """Texts to read aloud. Fields beside `items` are defaults, which an item may override."""

    items: Annotated[
        list[dict[str, Any]],
        Field(
            min_length=1,
            max_length=32,
            description="Speech requests; each is checked, and may fail, by itself.",
        ),
    ]
