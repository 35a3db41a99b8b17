"""How the cores of a machine are shared out between the stages. Pure policy, and one look at the machine.

Both stages compute at the same time, so a core that both want is lost twice: threads of one operation wait
for each other. The language model at a few rows is bound by reading its weights, which a second thread
hardly speeds up; the vocoder's products grow with every core. docs/performance.md has the figures.
"""

from __future__ import annotations

import os

__all__ = ["num_cores", "split_threads"]

_THINKER_SHARE = 4  # one core of so many


def num_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def split_threads(
    cores: int, thinker: int | None, token2wav: int | None, *, can_speak: bool = True
) -> tuple[int, int]:
    """Threads of (thinker, token2wav); what is given stays, the other stage gets the rest, at least one."""
    if not can_speak:
        return thinker or cores, token2wav or 1
    if thinker is None:
        thinker = max(1, cores - token2wav) if token2wav else max(1, cores // _THINKER_SHARE)
    return thinker, token2wav or max(1, cores - thinker)
