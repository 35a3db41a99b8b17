"""Verbatim speech: the model decides when to speak, the request decides what. Pure policy.

Speech comes in groups of one text slot and four audio slots. With the text known in advance, a text
slot takes its next id; audio slots keep what the model samples. Until the text is used up the speech
cannot end; from then on text slots hold padding and the model's own end ends it, or, at the latest, a
bound set by the length of the text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

__all__ = ["Choice", "Slot", "VerbatimSpeech"]

# A spoken token takes two groups (0.32 s) or so; eight leave room for slow voices and for ids that
# are read as several words ("%", "www"). The margin is for silence around the text.
MAX_GROUPS_PER_TEXT_ID = 8
MARGIN_GROUPS = 25


class Slot(Enum):
    """What a position of a group holds."""

    TEXT = "text"
    AUDIO = "audio"


GROUP = (Slot.TEXT, Slot.AUDIO, Slot.AUDIO, Slot.AUDIO, Slot.AUDIO)


@dataclass(frozen=True, slots=True)
class Choice:
    """Among which ids the model may choose: those of the slot's class, and the end ids if `may_end`.

    A text slot's class is text and `<tts_pad>`, an audio slot's is the speech codes and their padding.
    """

    slot: Slot
    may_end: bool


class VerbatimSpeech:
    """Where one answer stands in its groups and its text.

    Args:
        text_ids: what must be said, in order.
        tts_pad: the id that fills a text slot without text.
        end_ids: ids that end the speech (`<tts_end>` and the stop ids); empty = it never ends by itself.
        max_wait: groups in a row that the model may let pass before the next text id (0: text runs ahead).
    """

    def __init__(
        self, text_ids: Sequence[int], *, tts_pad: int, end_ids: Collection[int], max_wait: int = 0
    ) -> None:
        self._text_ids = tuple(text_ids)
        self._tts_pad = tts_pad
        self._end_ids = frozenset(end_ids)
        self._max_wait = max_wait
        per_id = max(MAX_GROUPS_PER_TEXT_ID, max_wait + 1)
        self.max_groups = per_id * len(self._text_ids) + MARGIN_GROUPS
        self.ended = False
        self._num_said = 0
        self._num_waits = 0
        self._num_groups = 0
        self._position = 0

    @property
    def text_left(self) -> int:
        """Text ids not written yet."""
        return len(self._text_ids) - self._num_said

    @property
    def exhausted(self) -> bool:
        """Whether the bound is reached: speech that the model does not end is cut there."""
        return bool(self._end_ids) and self._num_groups >= self.max_groups

    def forced(self) -> int | None:
        """The id of the next slot when the model has no say in it, else None."""
        if self._slot is Slot.TEXT and self.text_left and self._num_waits >= self._max_wait:
            return self._text_ids[self._num_said]
        return None

    def choice(self) -> Choice:
        """Among what to sample for the next slot."""
        return Choice(self._slot, may_end=not self.text_left and bool(self._end_ids))

    def resolve(self, sampled: int) -> int:
        """The id to write where `sampled` was chosen."""
        if self._slot is Slot.AUDIO:
            return sampled
        if self.text_left:
            return self._tts_pad if sampled == self._tts_pad else self._text_ids[self._num_said]
        return sampled if sampled in self._end_ids else self._tts_pad

    def push(self, written: int) -> None:
        """Advance past the id that was written."""
        if not self.text_left and written in self._end_ids:
            self.ended = True
            return
        if self._slot is Slot.TEXT:
            if self.text_left and written != self._tts_pad:
                self._num_said += 1
                self._num_waits = 0
            elif self.text_left:
                self._num_waits += 1
        self._position = (self._position + 1) % len(GROUP)
        self._num_groups += self._position == 0

    @property
    def _slot(self) -> Slot:
        return GROUP[self._position]
