"""How the Thinker's steps are shared out in time. Pure policy: numbers in, names and numbers out.

Speech is written faster than it is played. A step takes longer the more sequences share it, so one that is
far ahead of its listener can give its place to one whose listener is about to run dry, or has heard nothing
yet. And a long prompt is read in parts that are short enough for those who are being spoken to meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

__all__ = ["CODE_S", "DRY_S", "PrefillBudget", "lead_s", "resting"]

CODE_S = 0.04  # speech codes come at 25 Hz
DRY_S = 1.0  # a listener with less than this ahead is helped

_K = TypeVar("_K", bound=Hashable)


def lead_s(num_codes: int, since_s: float | None, now_s: float) -> float | None:
    """Seconds of speech that are written but not played yet; None = there is no speech so far.

    Taken as if the first code (`since_s`) had been heard at once; it is heard later, so a listener has at
    least this much left.
    """
    return None if since_s is None else num_codes * CODE_S - (now_s - since_s)


def resting(leads: Mapping[_K, float | None], far_s: float) -> set[_K]:
    """Of the spoken answers under way, those that rest this step.

    Args:
        leads: seconds ahead of its listener, per answer; None = nothing to hear yet.
        far_s: nobody rests with less ahead.
    """
    if not any(lead is None or lead < DRY_S for lead in leads.values()):
        return set()
    return {name for name, lead in leads.items() if lead is not None and lead > max(far_s, DRY_S)}


class PrefillBudget:
    """How many tokens of prompts may join a step in which answers are written, learned from past steps.

    Args:
        max_s: what such a step should take at most; inf = it may be as long as it likes.
    """

    MIN_TOKENS = 16  # a prompt must get on
    UNKNOWN_TOKENS = 128  # before anything was measured
    MIN_MEASURED = 32  # the time of smaller steps says little about prompts

    def __init__(self, max_s: float) -> None:
        self._max_s = max_s
        self._tokens_per_s: float | None = None

    @property
    def tokens(self) -> int | None:
        """The number now; None = no limit."""
        if math.isinf(self._max_s):
            return None
        if self._tokens_per_s is None:
            return self.UNKNOWN_TOKENS
        return max(self.MIN_TOKENS, int(self._tokens_per_s * self._max_s))

    def observe(self, num_tokens: int, took_s: float) -> None:
        """A step was computed."""
        if num_tokens < self.MIN_MEASURED or took_s <= 0:
            return
        rate = num_tokens / took_s
        self._tokens_per_s = rate if self._tokens_per_s is None else (self._tokens_per_s + rate) / 2
