"""Consents: recordings in which a speaker allows a voice of theirs to be made, as OpenAI's API keeps them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadence.types import VoiceSample
from cadence.voices.folder import Entry, RecordingFolder

__all__ = ["CONSENT_PREFIX", "Consent", "ConsentLibrary"]

CONSENT_PREFIX = "cons_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """One consent; `language` is a BCP 47 tag, `name` a label."""

    id: str
    name: str
    language: str
    created_at: int


class ConsentLibrary:
    """Consents in a folder shared by processes. Thread-safe."""

    def __init__(self, root: Path, *, max_consents: int, max_bytes: int) -> None:
        self._folder = RecordingFolder(
            root, noun="consent", max_entries=max_consents, max_bytes=max_bytes, is_valid=_is_valid
        )

    def consents(self) -> list[Consent]:
        """All consents, the oldest first."""
        found = map(_consent, self._folder.entries().values())
        return sorted(found, key=lambda consent: (consent.created_at, consent.id))

    def find(self, consent_id: str) -> Consent | None:
        """One consent as it is now; None when there is none of this id."""
        entry = self._folder.entry(consent_id)
        return None if entry is None else _consent(entry)

    def add(self, name: str, language: str, sample: VoiceSample) -> Consent:
        """Keep a recording. Raises InvalidRequest (quota) or StorageFailed."""
        stem = f"{CONSENT_PREFIX}{secrets.token_hex(12)}"
        return _consent(self._folder.put(stem, sample, {"name": name, "language": language}))

    def rename(self, consent_id: str, name: str) -> Consent | None:
        """Change the label; None when there is no such consent. Raises StorageFailed."""
        if self.find(consent_id) is None:
            return None
        entry = self._folder.update(consent_id, name=name)
        return None if entry is None else _consent(entry)

    def remove(self, consent_id: str) -> bool:
        """Forget a consent; False when there was none. Raises StorageFailed."""
        return self._folder.remove(consent_id)


def _is_valid(meta: Mapping[str, Any]) -> bool:
    return isinstance(meta.get("name"), str) and isinstance(meta.get("language"), str)


def _consent(entry: Entry) -> Consent:
    meta = entry.meta
    return Consent(id=entry.stem, name=meta["name"], language=meta["language"], created_at=meta["created_at"])
