"""Forms and answers of /v1/audio/voices and /v1/audio/voice_consents.

Both OpenAI's shape and vLLM-Omni's are answered at once: their fields do not collide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from cadence.server.schema import Body, Text
from cadence.voices.consents import Consent
from cadence.voices.library import StoredVoice

__all__ = [
    "ConsentAnswer",
    "ConsentDeleted",
    "ConsentForm",
    "ConsentList",
    "ConsentRename",
    "UploadedVoice",
    "Voice",
    "VoiceCreated",
    "VoiceDeleted",
    "VoiceDetail",
    "VoiceForm",
    "VoiceList",
    "consent_answer",
    "uploaded_voice",
]

EMBEDDING_DIM = 192  # of CAM++, the speaker encoder


def _with_file(name: str) -> Callable[[dict[str, Any]], None]:
    """For the OpenAPI document: the file that a form brings beside its text fields."""

    def add(schema: dict[str, Any]) -> None:
        text = "1 to 30 s of sound, in any common format."
        schema["properties"][name] = {"type": "string", "format": "binary", "description": text}
        schema["required"] = [*schema.get("required", []), name]

    return add


# ------------------------------------------------------------------ forms
class VoiceForm(Body):
    """A voice to keep; the recording is the file `audio_sample`."""

    model_config = ConfigDict(json_schema_extra=_with_file("audio_sample"))
    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "speaker_embedding": (),
        "prompt": (),
        "model": (),
        "script_hint": (),
    }

    name: Text = Field(min_length=1, max_length=200, description="What requests call it.")
    consent: Text = Field(
        min_length=1,
        max_length=200,
        description="The id of a consent (/v1/audio/voice_consents), or a note of one that you keep.",
    )
    type: Literal["audio_sample", "prompt"] | None = None
    ref_text: Text | None = Field(None, max_length=2000, description="What the recording says.")
    speaker_description: Text | None = Field(None, max_length=2000)


class ConsentForm(Body):
    """A consent to keep; the recording is the file `recording`."""

    model_config = ConfigDict(json_schema_extra=_with_file("recording"))

    name: Text = Field(min_length=1, max_length=200)
    language: str = Field(
        max_length=35, pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$", description="A BCP 47 tag: en-US."
    )


class ConsentRename(Body):
    """A new label."""

    name: Text = Field(min_length=1, max_length=200)


# ------------------------------------------------------------------ answers
class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Voice(_Answer):
    """A voice; requests name its id, or one of the aliases, in any case."""

    id: str
    object: Literal["audio.voice"] = "audio.voice"
    name: str
    created_at: int
    type: Literal["built_in", "audio_sample"]
    aliases: list[str] = []


class UploadedVoice(_Answer):
    """An uploaded voice as vLLM-Omni describes it; size and type are those of the kept recording."""

    name: str
    consent: str
    created_at: int
    file_size: int
    mime_type: Literal["audio/wav"] = "audio/wav"
    embedding_source: Literal["audio"] = "audio"
    embedding_dim: int = EMBEDDING_DIM
    ref_text: str | None
    speaker_description: str | None
    duration_s: float


class VoiceList(_Answer):
    """All voices, the checkpoint's first; with `legacy=true` their names alone."""

    voices: list[Voice] | list[str]
    uploaded_voices: list[UploadedVoice]


class VoiceDetail(Voice):
    """One voice, and what is known of an uploaded one."""

    uploaded: UploadedVoice | None = None


class VoiceCreated(Voice):
    """The new voice in both shapes."""

    success: Literal[True] = True
    voice: UploadedVoice


class VoiceDeleted(_Answer):
    """The voice is gone."""

    id: str
    object: Literal["audio.voice.deleted"] = "audio.voice.deleted"
    deleted: Literal[True] = True
    success: Literal[True] = True
    message: str


class ConsentAnswer(_Answer):
    """One consent."""

    id: str
    object: Literal["audio.voice_consent"] = "audio.voice_consent"
    name: str
    language: str
    created_at: int


class ConsentList(_Answer):
    """A page of consents, the oldest first."""

    object: Literal["list"] = "list"
    data: list[ConsentAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ConsentDeleted(_Answer):
    """The consent is gone."""

    id: str
    object: Literal["audio.voice_consent"] = "audio.voice_consent"
    deleted: Literal[True] = True


def uploaded_voice(voice: StoredVoice) -> UploadedVoice:
    """An uploaded voice for an answer."""
    return UploadedVoice(
        name=voice.name,
        consent=voice.consent,
        created_at=voice.created_at,
        file_size=voice.num_bytes,
        ref_text=voice.ref_text,
        speaker_description=voice.speaker_description,
        duration_s=voice.seconds,
    )


def consent_answer(consent: Consent) -> ConsentAnswer:
    """A consent for an answer."""
    return ConsentAnswer(
        id=consent.id, name=consent.name, language=consent.language, created_at=consent.created_at
    )
