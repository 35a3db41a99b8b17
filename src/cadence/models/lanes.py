"""Independent parts of one computation side by side, each in a thread with kernels of its own.

Two threads inside every kernel meet at its end, thousands of times a second, and wake or wait for each
other each time. Two lanes meet once for many kernels. So a product of a few rows gains what it cannot
gain from a second thread, and a core that another process takes for a moment is waited for once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

__all__ = ["Lanes"]

T = TypeVar("T")


class Lanes:
    """Lanes that share out a number of threads. Safe to use from several threads at once."""

    def __init__(self, num_threads: int, max_lanes: int = 2) -> None:
        """Two lanes by default: the guided and the unguided rows of a stream."""
        self.count = min(max_lanes, num_threads)
        self.threads_each = num_threads // self.count
        self._pool: ThreadPoolExecutor | None = None
        if self.count > 1:
            self._pool = ThreadPoolExecutor(
                self.count - 1, "lane", initializer=torch.set_num_threads, initargs=(self.threads_each,)
            )

    def run(self, parts: Sequence[Callable[[], T]]) -> list[T]:
        """Call `parts`, the first one here; their results in order. All have ended when this returns or
        raises what the first of them raised."""
        if self._pool is None or len(parts) == 1:
            return [part() for part in parts]
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads_each)
        try:
            others = [self._pool.submit(_inferring, part) for part in parts[1:]]
            try:
                first = parts[0]()
            finally:
                wait(others)
        finally:
            torch.set_num_threads(before)
        return [first, *(other.result() for other in others)]


def _inferring(part: Callable[[], T]) -> T:
    with torch.inference_mode():  # which every thread has for itself
        return part()
