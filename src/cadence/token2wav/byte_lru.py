"""A mapping bounded in bytes; the least recently used go first, and what is to be kept never goes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

__all__ = ["ByteLru"]


class _Sized(Protocol):
    @property
    def num_bytes(self) -> int: ...


T = TypeVar("T", bound=_Sized)


class ByteLru(Generic[T]):
    """The newest value always stays, whatever its size. Not thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._values: OrderedDict[str, T] = OrderedDict()
        self._kept: set[str] = set()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> T | None:
        """The value, now the most recently used; None when it is not there."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: str, value: T, *, keep: bool = False) -> None:
        """Add or replace a value, and let go of others until the rest fits.

        `keep`: this key's value is never among those; its bytes count all the same.
        """
        self.drop(key)
        self._values[key] = value
        self.num_bytes += value.num_bytes
        if keep:
            self._kept.add(key)
        for other in list(self._values)[:-1]:
            if self.num_bytes <= self._max_bytes:
                break
            if other not in self._kept:
                self.drop(other)

    def drop(self, key: str) -> None:
        """Let go of a value; unknown keys are ignored."""
        value = self._values.pop(key, None)
        if value is not None:
            self.num_bytes -= value.num_bytes
