"""The voices that users uploaded: names, rules, and what is known of each."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadence.errors import InvalidRequest
from cadence.types import VoiceSample
from cadence.voices.folder import Entry, RecordingFolder
from cadence.voices.sample import sample_seconds

__all__ = ["MAX_NAME_CHARS", "StoredVoice", "VoiceLibrary", "check_name", "folded"]

MAX_NAME_CHARS = 64
_BETWEEN = " ._'-"


def folded(name: str) -> str:
    """The form in which names are compared: case and compatibility forms (full width, ligatures) aside."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def check_name(name: str, *, param: str = "name") -> str:
    """A voice's name as it is kept: composed, without spaces around it.

    Raises:
        InvalidRequest: empty, too long, or with characters that names do not have.
    """
    name = unicodedata.normalize("NFC", name).strip()
    # Letters, marks and digits of any script: no slash, no control, no direction mark, no emoji.
    kinds = ["-" if char in _BETWEEN else unicodedata.category(char)[0] for char in name]
    if not 1 <= len(name) <= MAX_NAME_CHARS or kinds[0] not in "LN" or not set(kinds) <= set("LMN-"):
        raise InvalidRequest(
            f"A voice's name has 1 to {MAX_NAME_CHARS} letters, digits, spaces or any of . ' _ - "
            "and starts with a letter or digit.",
            param=param,
            code="invalid_name",
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVoice:
    """An uploaded voice. `key` and `num_bytes` are its recording's."""

    name: str
    key: str
    created_at: int
    num_bytes: int
    seconds: float
    consent: str
    ref_text: str | None = None
    speaker_description: str | None = None


class VoiceLibrary:
    """Voices in a folder shared by processes: what one adds, all can speak with at once. Thread-safe."""

    def __init__(self, root: Path, *, max_voices: int, max_bytes: int, replace: bool = True) -> None:
        """`replace`: a second voice of one name takes the place of the first; else it is refused."""
        self._replace = replace
        self._folder = RecordingFolder(
            root, noun="voice", max_entries=max_voices, max_bytes=max_bytes, is_valid=_is_valid
        )
        self._listed: tuple[Mapping[str, Entry], dict[str, StoredVoice]] = ({}, {})

    def voices(self) -> dict[str, StoredVoice]:
        """All voices by folded name, the oldest first."""
        entries = self._folder.entries()
        listed, voices = self._listed
        if entries is not listed:
            found = sorted(map(_voice, entries.values()), key=lambda voice: (voice.created_at, voice.name))
            voices = {folded(voice.name): voice for voice in found}
            self._listed = (entries, voices)
        return voices

    def find(self, name: str) -> StoredVoice | None:
        """The voice of a name, in any case, as it is now."""
        entry = self._folder.entry(_stem(name))
        return None if entry is None else _voice(entry)

    def sample(self, name: str) -> VoiceSample | None:
        """The recording of a voice; None when there is no such voice. Raises StorageFailed if damaged."""
        found = self._folder.read(_stem(name))
        return None if found is None else found[1]

    def check_room(self, name: str, sample: VoiceSample) -> None:
        """Raise early what `add` would raise for a name that is taken or a quota that is used up."""
        self._folder.check_room(_stem(name), len(sample.wav), replace=self._replace)

    def add(
        self,
        name: str,
        sample: VoiceSample,
        *,
        consent: str,
        ref_text: str | None = None,
        speaker_description: str | None = None,
    ) -> StoredVoice:
        """Keep a recording under a name.

        Raises:
            InvalidRequest: not a name, or over the quota.
            Conflict: the name is taken and voices are not replaced.
            StorageFailed: the disk refuses.
        """
        name = check_name(name)
        meta = {
            "name": name,
            "seconds": round(sample_seconds(sample), 3),
            "consent": consent,
            "ref_text": ref_text,
            "speaker_description": speaker_description,
        }
        return _voice(self._folder.put(_stem(name), sample, meta, replace=self._replace))

    def remove(self, name: str) -> bool:
        """Forget a voice; False when there was none. Raises StorageFailed."""
        return self._folder.remove(_stem(name))


def _stem(name: str) -> str:
    """The files' name: made from the voice's, but none of its characters are in it."""
    return f"voice_{hashlib.sha256(folded(name.strip()).encode('utf-8', 'replace')).hexdigest()[:32]}"


def _is_valid(meta: Mapping[str, Any]) -> bool:
    texts = ("ref_text", "speaker_description")
    return (
        isinstance(meta.get("name"), str)
        and isinstance(meta.get("consent"), str)
        and isinstance(meta.get("seconds"), int | float)
        and all(isinstance(meta.get(name), str | None) for name in texts)
    )


def _voice(entry: Entry) -> StoredVoice:
    meta = entry.meta
    return StoredVoice(
        name=meta["name"],
        key=meta["digest"],
        created_at=meta["created_at"],
        num_bytes=meta["num_bytes"],
        seconds=float(meta["seconds"]),
        consent=meta["consent"],
        ref_text=meta.get("ref_text"),
        speaker_description=meta.get("speaker_description"),
    )
