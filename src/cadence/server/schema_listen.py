"""The forms of POST /v1/audio/transcriptions and /v1/audio/translations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from cadence.errors import InvalidRequest
from cadence.server.body import parse_json
from cadence.server.schema import Body, Sampling, Text

__all__ = ["ListenForm", "ServerVad", "TranscriptionForm", "TranslationForm"]


def _as_list(value: Any) -> Any:
    """`name=x` means the same as `name[]=x`."""
    return [value] if isinstance(value, str) else value


def _as_object(value: Any) -> Any:
    """An object may come as JSON in one field."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return parse_json(value.encode())
        except InvalidRequest as error:
            raise ValueError(error.message) from None
    return value


def _as_words(value: Any) -> Any:
    """vLLM's hotwords are one text with commas between them."""
    return (
        [word for word in re.split("[,，、;\n]+", value) if word.strip()] if isinstance(value, str) else value
    )


def _with_file(schema: dict[str, Any]) -> None:
    """The file is read apart from the fields; the document shows it among them."""
    file = {"type": "string", "format": "binary", "description": "Sound in any common container."}
    schema["properties"] = {"file": file, **schema["properties"]}
    schema["required"] = ["file"]


Word = Annotated[Text, Field(min_length=1, max_length=128)]
Words = Annotated[list[Word], Field(max_length=256)]
LanguageName = Annotated[str, Field(max_length=40)]


class ServerVad(Body):
    """Where to cut: after a pause, with so much of it kept, by this sensitivity."""

    model_config = ConfigDict(strict=False)

    type: Literal["server_vad"]
    threshold: float | None = Field(None, ge=0, le=1, description="Default 0.3.")
    silence_duration_ms: float | None = Field(None, ge=100, le=10_000)
    prefix_padding_ms: float | None = Field(None, ge=0, le=2_000, description="Default 400.")


class ListenForm(Sampling):
    """What both forms share. The file stands beside it."""

    model_config = ConfigDict(strict=False, json_schema_extra=_with_file)

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "known_speaker_names": (),
        "known_speaker_references": (),
        "n": ("1",),
        "best_of": ("1",),
        "use_beam_search": ("false", "False", "0"),
        "length_penalty": ("1", "1.0"),
        "stream_continuous_usage_stats": ("false", "False", "0"),
        "vllm_xargs": ("{}",),
    }

    model: str | None = Field(None, description="A name listed by /v1/models; none: the one served.")
    language: LanguageName | None = Field(
        None, description="The language spoken, as an ISO 639-1 code; helps, but need not be given."
    )
    prompt: Annotated[Text, Field(max_length=8_000)] | None = Field(
        None, description="What was said before, or words as they are to be written."
    )
    keywords: Annotated[Words, BeforeValidator(_as_list)] | None = Field(
        None, description="Names and terms that may occur."
    )
    hotwords: Annotated[Words, BeforeValidator(_as_words)] | None = Field(
        None, description="The same as `keywords`, in one text with commas."
    )
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"] | None = Field(
        None,
        description="Default: json.",
        json_schema_extra={"enum": ["json", "text", "srt", "verbose_json", "vtt"]},
    )
    timestamp_granularities: (
        Annotated[list[Literal["segment", "word"]], Field(max_length=2), BeforeValidator(_as_list)] | None
    ) = Field(None, description="`segment`, with `verbose_json`; times of words cannot be told.")
    chunking_strategy: Annotated[Literal["auto"] | ServerVad, BeforeValidator(_as_object)] | None = Field(
        None, description="Where long recordings are cut; by itself: in pauses, at the latest after 25 s."
    )
    stream: bool | None = Field(None, description="Answer with server-sent events.")
    stream_include_usage: bool | None = Field(None, description="Usage in the last event (default).")
    max_completion_tokens: int | None = Field(
        None, ge=1, le=1_000_000, description="At most this many for each piece of at most 25 s."
    )


class TranscriptionForm(ListenForm):
    """Sound to write down."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {**ListenForm.unsupported, "to_language": ()}

    languages: Annotated[list[LanguageName], Field(max_length=16), BeforeValidator(_as_list)] | None = Field(
        None, description="Languages that may be spoken."
    )
    include: Annotated[list[Literal["logprobs"]], Field(max_length=1), BeforeValidator(_as_list)] | None = (
        Field(None, description="`logprobs`: log-probabilities of the tokens, with `json`.")
    )


class TranslationForm(ListenForm):
    """Sound to write down in English."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **ListenForm.unsupported,
        "include": (),
        "languages": (),
    }

    to_language: LanguageName | None = Field(None, description="Default: English.")
