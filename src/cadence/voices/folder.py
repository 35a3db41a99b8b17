"""A folder of recordings, each a WAV file and a JSON file beside it, shared by any number of processes.

    STEM.json               what is known of the recording; names the WAV by its digest
    STEM.DIGEST.wav         the recording
    .lock                   held by whoever writes

The JSON file is the entry: renaming it into place makes a recording appear or replaces it, removing it
makes it disappear. Readers take no lock; what they see is always whole. A crash at any moment leaves at
worst files that no entry names, which the next writer removes. Stems are ours, never a client's.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cadence.errors import Conflict, InvalidRequest, StorageFailed
from cadence.types import VoiceSample
from cadence.voices.sample import sample_key

__all__ = ["Entry", "RecordingFolder"]

_STEM = re.compile(r"[a-z]+_[0-9a-f]{8,64}")
_WAV = re.compile(rf"({_STEM.pattern})\.([0-9a-f]{{32}})\.wav")
_TMP = ".tmp-"
_MAX_META_BYTES = 64 << 10
_MAX_WAV_BYTES = 8 << 20
_LOCK_WAIT_S = 10.0
# A directory's time of change may have steps of this much: younger than that, it does not prove that
# nothing has changed since.
_CLOCK_STEP_NS = 2_000_000_000

_log = logging.getLogger("cadence.voices")


@dataclass(frozen=True, slots=True)
class Entry:
    """One recording: `meta` is the JSON file's, with what the folder needs itself:
    `digest` (of the WAV file), `num_bytes` (of it) and `created_at` (Unix time)."""

    stem: str
    meta: Mapping[str, Any]

    @property
    def num_bytes(self) -> int:
        """Size of the recording."""
        return int(self.meta["num_bytes"])


@dataclass(slots=True)
class _Listing:
    """The entries as last read, and by which state of the folder."""

    changed_ns: int = -1
    read_ns: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    signatures: dict[str, tuple[int, int, int]] = field(default_factory=dict)


class RecordingFolder:
    """Reads and writes one folder; made when the first recording comes. Thread-safe.

    Args:
        root: the folder.
        noun: what one recording is called in messages ("voice").
        max_entries, max_bytes: the quota.
        is_valid: whether a JSON file's content is one of ours, beyond the folder's own fields.
    """

    def __init__(
        self,
        root: Path,
        *,
        noun: str,
        max_entries: int,
        max_bytes: int,
        is_valid: Callable[[Mapping[str, Any]], bool],
    ) -> None:
        self._root, self._noun = root, noun
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._is_valid = is_valid
        self._listing = _Listing()

    # ------------------------------------------------------------------ reading
    def entries(self) -> dict[str, Entry]:
        """All entries by stem, in no order. A glance at the folder's time of change while nothing did."""
        known = self._listing
        try:
            changed_ns = self._root.stat().st_mtime_ns
        except OSError:
            return {}
        if changed_ns != known.changed_ns or known.read_ns - changed_ns < _CLOCK_STEP_NS:
            known = self._listing = self._read_listing(changed_ns, known)
        return known.entries

    def entry(self, stem: str) -> Entry | None:
        """One entry as it is now, whatever was listed before."""
        data = self._read_file(f"{stem}.json", _MAX_META_BYTES) if _STEM.fullmatch(stem) else None
        return None if data is None else self._parse(stem, data)

    def read(self, stem: str) -> tuple[Entry, VoiceSample] | None:
        """An entry and its recording; None when there is none.

        Raises:
            StorageFailed: the recording is missing, or is not what was written.
        """
        for _ in range(5):
            entry = self.entry(stem)
            if entry is None:
                return None
            digest = entry.meta["digest"]
            wav = self._read_file(f"{stem}.{digest}.wav", _MAX_WAV_BYTES)
            if wav is not None and sample_key(wav) == digest:
                return entry, VoiceSample(digest, wav)
            if wav is not None:
                break
            # Replaced or removed between the two reads, unless the entry still says the same.
            if (again := self.entry(stem)) is not None and again.meta["digest"] == digest:
                break
        raise StorageFailed(
            f"The stored {self._noun} is damaged.", code=f"{self._noun}_damaged", hint="Upload it again."
        )

    # ------------------------------------------------------------------ writing
    def put(self, stem: str, sample: VoiceSample, meta: Mapping[str, Any], *, replace: bool = False) -> Entry:
        """Add a recording, or replace the one of this stem.

        Raises:
            Conflict: there is one, and `replace` is false.
            InvalidRequest: over the quota.
            StorageFailed: the disk is full or cannot be written.
        """
        meta = {
            **meta,
            "digest": sample.key,
            "num_bytes": len(sample.wav),
            "created_at": int(time.time()),
        }
        with self._writing():
            before = self._sweep()
            self.check_room(stem, len(sample.wav), replace=replace, entries=before)
            self._write(f"{stem}.{sample.key}.wav", sample.wav)
            self._write(f"{stem}.json", _dumps(meta))
            old = before.get(stem)
            if old is not None and old.meta["digest"] != sample.key:
                self._unlink(f"{stem}.{old.meta['digest']}.wav")
            self._sync()
        return Entry(stem, meta)

    def update(self, stem: str, **changes: Any) -> Entry | None:
        """Change an entry's fields; None when there is none. Raises StorageFailed."""
        with self._writing():
            entry = self.entry(stem)
            if entry is None:
                return None
            meta = {**entry.meta, **changes}
            self._write(f"{stem}.json", _dumps(meta))
            self._sync()
        return Entry(stem, meta)

    def remove(self, stem: str) -> bool:
        """Remove a recording; False when there was none. Raises StorageFailed."""
        if not _STEM.fullmatch(stem) or not self._root.is_dir():
            return False
        with self._writing():
            found = self._unlink(f"{stem}.json")
            self._sweep()
            self._sync()
        return found

    def check_room(
        self, stem: str, num_bytes: int, *, replace: bool, entries: Mapping[str, Entry] | None = None
    ) -> None:
        """Raise what `put` would raise for want of room or because there is one already."""
        entries = self.entries() if entries is None else entries
        if stem in entries and not replace:
            raise Conflict(
                f"There is a {self._noun} of this name already.",
                param="name",
                code=f"{self._noun}_exists",
                hint="Delete it first, or choose another name.",
            )
        others = [entry for entry in entries.values() if entry.stem != stem]
        if len(others) >= self._max_entries:
            limit = f"{self._max_entries} {self._noun}s"
        elif sum(entry.num_bytes for entry in others) + num_bytes > self._max_bytes:
            limit = f"{self._max_bytes} bytes of {self._noun}s"
        else:
            return
        raise InvalidRequest(
            f"The server stores at most {limit}.",
            code=f"{self._noun}_quota_exceeded",
            hint="Delete one that is not needed any more.",
        )

    # ------------------------------------------------------------------ inside
    def _read_listing(self, changed_ns: int, old: _Listing) -> _Listing:
        """Read what is new; files that look the same as before are not opened again."""
        new = _Listing(changed_ns, time.time_ns())
        with contextlib.suppress(OSError), os.scandir(self._root) as files:
            for file in files:
                stem, _, suffix = file.name.partition(".")
                if suffix != "json" or not _STEM.fullmatch(stem):
                    continue
                try:
                    info = file.stat(follow_symlinks=False)
                except OSError:
                    continue  # removed meanwhile
                signature = (info.st_mtime_ns, info.st_ino, info.st_size)
                seen_before = old.signatures.get(stem) == signature
                entry = old.entries.get(stem) if seen_before else self.entry(stem)
                new.signatures[stem] = signature
                if entry is not None:
                    new.entries[stem] = entry
                elif not seen_before:
                    _log.warning("%s is not a %s's description; it is left alone", file.name, self._noun)
        if new.entries == old.entries:
            new.entries = old.entries  # the same object, so that others can tell
        return new

    def _parse(self, stem: str, data: bytes) -> Entry | None:
        try:
            meta = json.loads(data)
        except (ValueError, RecursionError):
            return None
        fine = (
            isinstance(meta, dict)
            and isinstance(meta.get("digest"), str)
            and re.fullmatch("[0-9a-f]{32}", meta["digest"])
            and all(isinstance(meta.get(name), int) for name in ("num_bytes", "created_at"))
            and self._is_valid(meta)
        )
        return Entry(stem, meta) if fine else None

    def _read_file(self, name: str, max_bytes: int) -> bytes | None:
        """A regular file of this folder; None when there is none."""
        try:
            handle = os.open(self._root / name, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return None
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            data = file.read(max_bytes + 1)
        return data if len(data) <= max_bytes else b""

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Alone among all processes; what the disk refuses becomes StorageFailed."""
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A lock of its own each time, so that it also holds between threads.
            with FileLock(self._root / ".lock", timeout=_LOCK_WAIT_S, thread_local=False):
                yield
        except Timeout:
            raise StorageFailed(f"The folder of {self._noun}s is busy; try again.") from None
        except OSError as error:
            _log.error("the folder of %ss cannot be written: %s", self._noun, error)
            raise StorageFailed(
                f"The {self._noun} could not be stored: {error.strerror or 'the disk refuses'}."
            ) from error

    def _sweep(self) -> dict[str, Entry]:
        """Remove what a writer that died left behind; the entries there are."""
        entries = self._read_listing(-1, self._listing).entries
        with os.scandir(self._root) as files:
            names = [file.name for file in files]
        for name in names:
            wav = _WAV.fullmatch(name)
            entry = entries.get(wav[1]) if wav else None
            is_orphan = wav is not None and (entry is None or entry.meta["digest"] != wav[2])
            if wav is not None and is_orphan and (self._root / f"{wav[1]}.json").exists() and entry is None:
                continue  # its description cannot be read: that is for a person to look at
            if is_orphan or name.startswith(_TMP):
                self._unlink(name)
        return entries

    def _write(self, name: str, data: bytes) -> None:
        """Write beside the place and move: the file is whole or absent, and on the disk."""
        handle, work = tempfile.mkstemp(prefix=_TMP, dir=self._root)
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(work, self._root / name)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(work)
            raise

    def _unlink(self, name: str) -> bool:
        try:
            os.unlink(self._root / name)
        except FileNotFoundError:
            return False
        return True

    def _sync(self) -> None:
        """Put the names on the disk as well, and forget what was listed."""
        self._listing = _Listing(entries=self._listing.entries, signatures=self._listing.signatures)
        if hasattr(os, "O_DIRECTORY"):
            handle = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _dumps(meta: Mapping[str, Any]) -> bytes:
    return json.dumps(meta, ensure_ascii=False, indent=1).encode()
