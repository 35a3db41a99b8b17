"""Sentences that nothing trained on, read by the teachers on the spot: what every figure is measured with.

Needs no training data: the same lines come out on any machine.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr

from training.nano import corpus, settings, speech, teacher, templates
from training.nano.everyday import EVERYDAY

Wave = npt.NDArray[np.float32]
DOMAINS = ("template", "common", "everyday")
VOICES = ("female", "male")
HEARING_RATE_HZ = 16_000


@dataclass(frozen=True, slots=True)
class Reading:
    """A held-out line and a teacher's reading of it at 24 kHz."""

    text: str
    samples: Wave

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / settings.SAMPLE_RATE_HZ

    def heard(self) -> Wave:
        """The reading at 16 kHz, as a client would post it."""
        return soxr.resample(self.samples, settings.SAMPLE_RATE_HZ, HEARING_RATE_HZ).astype(np.float32)


def lines(domain: str) -> list[str]:
    """Held-out lines of a domain. `common` needs WordNet's files (see `corpus`), the others nothing."""
    if domain == "everyday":
        return list(EVERYDAY)
    if domain == "template":  # the corpus' own first step, without the dictionary
        drawn = templates.sentences(corpus.NUM_TEMPLATES, settings.SEED)
        random.Random(settings.SEED).shuffle(drawn)
        return drawn[: corpus.NUM_HELD_OUT]
    return [s.text for s in corpus.build() if s.held_out and s.domain == domain]


class Readers:
    """Both teachers, opened when first asked."""

    def __init__(self) -> None:
        self._phonemizer = teacher.Phonemizer()
        self._voices: dict[str, teacher.Teacher] = {}

    def read(self, voice: str, domain: str, count: int) -> list[Reading]:
        """The first `count` lines of a domain that the teacher can say."""
        found: list[Reading] = []
        for text in lines(domain):
            if len(found) == count:
                break
            if voice not in self._voices:
                self._voices[voice] = speech.open_voice(voice)
            said = speech.say(self._phonemizer, self._voices[voice], text)
            if said:
                found.append(Reading(text, said[0].samples))
        return found
