"""Which voice a request means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from cadence.errors import InvalidRequest
from cadence.server.schema import conflict
from cadence.server.schema_speech import VoiceRef
from cadence.types import ModelInfo
from cadence.voices.library import folded

__all__ = [
    "DEFAULT",
    "choose_voice",
    "find_voice",
    "is_reserved",
    "no_such_voice",
    "voice_aliases",
    "voice_names",
]

DEFAULT = "default"
_MAX_LISTED = 40
# Clients of the OpenAI API can often name only its voices; they get the checkpoint's own, women's names
# women's voices as far as names tell.
_FEMALE = ("default_female", "alloy", "coral", "fable", "marin", "nova", "sage", "shimmer")
_MALE = ("default_male", "ash", "ballad", "cedar", "echo", "onyx", "verse")


def voice_names(info: ModelInfo) -> list[str]:
    """Every name a request may use."""
    known = (DEFAULT, *info.voices, *info.uploaded_voices, *voice_aliases(info.voices))
    return list(dict.fromkeys(known))


def choose_voice(info: ModelInfo, **fields: str | VoiceRef | None) -> str:
    """The engine's name of the voice that a request asks for.

    Args:
        fields: the places where it may be given, by their names in the body (`audio__voice` for
            `audio.voice`); nothing means the default voice. Case does not matter.

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
        found = find_voice(info, name)
        if found is None:
            raise no_such_voice(info, name, field)
        return found
    return DEFAULT


def find_voice(info: ModelInfo, name: str) -> str | None:
    """The engine's name of a voice; None when there is none. The checkpoint's own voices come first."""
    if name in info.voices:
        return name
    aliases = voice_aliases(info.voices)
    wanted = folded(name.strip())
    for known in (DEFAULT, *info.voices, *aliases, *info.uploaded_voices):
        if folded(known) == wanted:
            return aliases.get(known, known)
    return None


def is_reserved(info: ModelInfo, name: str) -> bool:
    """Whether a name cannot be given to an uploaded voice: the checkpoint's, an alias, or default-like."""
    wanted = folded(name)
    own = (*info.voices, *voice_aliases(info.voices))
    return wanted.startswith(DEFAULT) or wanted in map(folded, own)


def no_such_voice(info: ModelInfo, name: str, field: str) -> InvalidRequest:
    """The error for a name that is no voice's; it lists those there are."""
    return InvalidRequest(
        f"There is no voice {name[:100]!r}.",
        param=field,
        code="voice_not_found",
        hint=f"Voices: {', '.join(_listed([*info.voices, *info.uploaded_voices]))}.",
    )


@lru_cache(maxsize=64)
def voice_aliases(voices: tuple[str, ...]) -> Mapping[str, str]:
    """Names that stand for a voice of the checkpoint: OpenAI's, and `default_female` and `default_male`
    where the checkpoint has others. Where it has several that fit, they are spread over them."""
    own = [voice for voice in voices if voice != DEFAULT]
    female = [voice for voice in own if "female" in voice.lower()]
    male = [voice for voice in own if "male" in voice.lower() and voice not in female]
    aliases: dict[str, str] = {}
    for names, pool in ((_FEMALE, female), (_MALE, male)):
        for i, name in enumerate(name for name in names if name not in own):
            fitting = pool or own or [DEFAULT]
            aliases[name] = fitting[i % len(fitting)]
    return aliases


def _listed(names: list[str]) -> Iterator[str]:
    yield from names[:_MAX_LISTED]
    if len(names) > _MAX_LISTED:
        yield f"and {len(names) - _MAX_LISTED} more"
