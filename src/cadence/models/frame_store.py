"""Memory for frames: stores that grow, and a window that one stream leaves to the next."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["SpareWindow", "grown"]

_FIRST_CAPACITY = 64  # frames


def grown(store: Tensor, axis: int, needed: int, limit: int, growth: float) -> Tensor:
    """`store` with room for `needed` frames on its `axis`; grows by a factor, so that copies stay rare."""
    capacity = store.shape[axis]
    if needed <= capacity:
        return store
    wider = max(needed, min(max(int(growth * capacity), _FIRST_CAPACITY), limit))
    shape = list(store.shape)
    shape[axis] = wider
    grown = store.new_empty(shape)
    grown.narrow(axis, 0, capacity).copy_(store)
    return grown


class SpareWindow:
    """The window of a stream that ended, for the next one: memory that the system has given already.

    A window of the public size is 72,000 pages, and on a virtual machine each of them may cost up to 9 µs
    when it is first written. One is kept, and in main memory alone: CUDA's allocator keeps its own.
    """

    def __init__(self, axis: int) -> None:
        """`axis` is that of a window's frames."""
        self._axis = axis
        self._kept: list[Tensor] = []  # by any thread, also one that collects garbage: no lock

    def take(self, empty: Tensor, num_frames: int) -> Tensor:
        """A window like `empty` with room for `num_frames`, whatever was in it, or `empty` itself."""
        try:
            kept = self._kept.pop()
        except IndexError:
            return empty
        fits = num_frames <= kept.shape[self._axis] <= 2 * num_frames
        return kept if fits and kept.dtype == empty.dtype else empty

    def keep(self, windows: Sequence[Tensor]) -> None:
        """Take over what a stream leaves behind."""
        self._kept[:] = [store for store in windows if store.device.type == "cpu" and store.shape[self._axis]]
