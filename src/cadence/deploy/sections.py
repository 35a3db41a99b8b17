"""Configuration files as mappings that must be used up: every key is read, set aside by name, or an error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cadence.errors import ConfigError

__all__ = ["Notes", "Section", "read_yaml"]

_MAX_FILE_BYTES = 1 << 20


@dataclass(slots=True)
class Notes:
    """What a reader should tell the user once: keys set aside (by name) and sentences."""

    ignored: dict[str, None] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)

    def lines(self, file: Path) -> list[str]:
        """One line for all keys set aside, then the sentences."""
        if not self.ignored:
            return list(self.sentences)
        return [
            f"{file.name}: keys that do not apply to Cadence: {', '.join(self.ignored)}.",
            *self.sentences,
        ]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping, read as plain data.

    Raises:
        ConfigError: it cannot be read, is no YAML, or holds something else.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigError(f"{path}: a configuration of more than {_MAX_FILE_BYTES} bytes is refused.")
        data = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise ConfigError(f"{path} is not valid YAML{where}.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping, found {_kind(data)}.")
    return data


class Section:
    """One mapping of a file. Take its keys one by one, then call `end`.

    A key that is absent or null gives None. Errors name the file, the key's path, what was expected
    and what was found.
    """

    def __init__(self, data: Mapping[str, Any], file: Path, notes: Notes, where: str = "") -> None:
        """Args: `where` is the path of this mapping in the file, "" for the top."""
        self._left = {str(key): value for key, value in data.items()}
        self._seen: list[str] = []
        self._file, self._notes, self._where = file, notes, where

    def path(self, key: str) -> str:
        """The key's path in the file."""
        return f"{self._where}.{key}" if self._where else key

    def error(self, key: str, expected: str, found: object) -> ConfigError:
        """The error for a bad value."""
        path = self.path(key)
        return ConfigError(f"{self._file}: {path}: expected {expected}, found {found!r}.", param=path)

    def take(self, key: str) -> Any:
        """The raw value, now used."""
        self._seen.append(key)
        return self._left.pop(key, None)

    def boolean(self, key: str) -> bool | None:
        """true or false."""
        value = self.take(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, "true or false", value)
        return value

    def integer(self, key: str, *, minimum: int | None = None) -> int | None:
        """A whole number, at least `minimum`."""
        value = self.take(key)
        if value is None:
            return None
        fits = isinstance(value, int) and not isinstance(value, bool)
        if fits and minimum is not None:
            fits = value >= minimum
        if not fits:
            raise self.error(key, "an integer" if minimum is None else f"an integer from {minimum}", value)
        return int(value)

    def number(self, key: str, *, minimum: float, maximum: float) -> float | None:
        """A number within bounds, both included."""
        value = self.take(key)
        if value is None:
            return None
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if not fits or not minimum <= value <= maximum:
            raise self.error(key, f"a number from {minimum:g} to {maximum:g}", value)
        return float(value)

    def choice(self, key: str, options: Iterable[str]) -> str | None:
        """One of the given strings."""
        value = self.take(key)
        allowed = tuple(options)
        if value is not None and value not in allowed:
            raise self.error(key, f"one of {', '.join(allowed)}", value)
        return None if value is None else str(value)

    def section(self, key: str) -> Section:
        """A mapping inside; empty when absent."""
        value = self.take(key)
        if value is not None and not isinstance(value, dict):
            raise self.error(key, "a mapping", value)
        return Section(value or {}, self._file, self._notes, self.path(key))

    def sections(self, key: str) -> list[Section]:
        """A list of mappings inside; empty when absent."""
        value = self.take(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(v, dict) for v in value)):
            raise self.error(key, "a list of mappings", value)
        return [
            Section(item, self._file, self._notes, f"{self.path(key)}.{index}")
            for index, item in enumerate(value or [])
        ]

    def set_aside(self, keys: Iterable[str], *, of: str = "") -> None:
        """Note keys that are known but do not apply, whatever they hold; `of` says more in the note."""
        for key in keys:
            self._seen.append(key)
            if self._left.pop(key, None) is not None:
                self._notes.ignored[f"{key} of {of}" if of else key] = None

    def end(self) -> None:
        """Refuse what nobody took."""
        for key in self._left:
            close = difflib.get_close_matches(key, self._seen, n=1)
            path = self.path(key)
            raise ConfigError(
                f"{self._file}: {path}: unknown key.",
                param=path,
                hint=f"Did you mean {close[0]!r}?" if close else None,
            )


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
