"""Which voice a request means."""

from __future__ import annotations

from cadence.errors import InvalidRequest
from cadence.server.schema import conflict
from cadence.server.schema_speech import VoiceRef
from cadence.types import ModelInfo

__all__ = ["choose_voice", "voice_names"]

DEFAULT = "default"
# Clients of the OpenAI API can often name only its voices. They get the built-in voice nearest to them.
_OPENAI_VOICES = {
    **dict.fromkeys(("alloy", "coral", "fable", "marin", "nova", "sage", "shimmer"), "default_female"),
    **dict.fromkeys(("ash", "ballad", "cedar", "echo", "onyx", "verse"), "default_male"),
}


def voice_names(info: ModelInfo) -> list[str]:
    """Every name a request may use."""
    return list(dict.fromkeys((DEFAULT, *info.voices, *_OPENAI_VOICES)))


def choose_voice(info: ModelInfo, **fields: str | VoiceRef | None) -> str:
    """The engine's name of the voice that a request asks for.

    Args:
        fields: the places where it may be given, by their names in the body (`audio__voice` for
            `audio.voice`); nothing, or "default" in any case, means the default voice.

    Raises:
        InvalidRequest: two places differ, or there is no such voice.
    """
    given = {
        field.replace("__", "."): value.id if isinstance(value, VoiceRef) else value
        for field, value in fields.items()
        if value is not None
    }
    if len(set(given.values())) > 1:
        raise conflict(given)
    for field, name in given.items():
        return _known(name, field, info)
    return DEFAULT


def _known(name: str, field: str, info: ModelInfo) -> str:
    if name in info.voices:
        return name
    if name.lower() == DEFAULT:
        return DEFAULT
    if name in _OPENAI_VOICES:
        return _OPENAI_VOICES[name] if _OPENAI_VOICES[name] in info.voices else DEFAULT
    raise InvalidRequest(
        f"There is no voice {name[:100]!r}.",
        param=field,
        code="voice_not_found",
        hint=f"Voices: {', '.join(info.voices)}.",
    )
