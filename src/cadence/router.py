"""What each generated id is for: text to show, speech codes to render, or the end. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cadence.tokens import SpecialIds

__all__ = ["Routed", "TokenRouter"]


@dataclass(frozen=True, slots=True)
class Routed:
    """One push sorted: `text_ids` and `codes` keep their order; `ended` = a stop id has been seen."""

    text_ids: tuple[int, ...]
    codes: tuple[int, ...]
    ended: bool


class TokenRouter:
    """Sorts the ids of one answer as they come. A speech answer repeats 1 text id and 4 audio ids.

    Dropped: the markers of sound (`<tts_start>`, `<tts_pad>`, ...), the padding of audio slots, ids
    without a token, and stop ids. Text after a stop id is still routed: whether generation goes on
    there (`ignore_eos`) is the thinker's business.
    """

    def __init__(self, special: SpecialIds) -> None:
        """Args: the vocabulary's layout."""
        self._special = special
        self._stop_ids = frozenset(special.stop_ids)
        self._ended = False

    def push(self, ids: Sequence[int]) -> Routed:
        """Sort new ids; the sum over pushes does not depend on how the ids were split."""
        special = self._special
        text_ids: list[int] = []
        codes: list[int] = []
        for token_id in ids:
            if token_id in self._stop_ids:
                self._ended = True
            elif special.is_text(token_id):
                text_ids.append(token_id)
            elif special.is_code(token_id):
                codes.append(special.code_of(token_id))
        return Routed(tuple(text_ids), tuple(codes), self._ended)
