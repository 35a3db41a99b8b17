"""Small talk: what people say first to a voice (dialogue.txt), and short answers.

A model this small cannot converse. It learns to answer a few dozen greetings and questions, and to say what
it can do where it does not know an answer, instead of inventing words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

SMALL_TALK = Path(__file__).with_name("dialogue.txt")
NO_ANSWER = "I am too small to answer that. But I can read aloud, write down and repeat what you say."
VOICES = ("female", "male")
ANSWERING = "female"


@dataclass(frozen=True, slots=True)
class Exchange:
    """Ways to say one thing, and the answer to all of them."""

    questions: tuple[str, ...]
    answer: str


@lru_cache(maxsize=1)
def exchanges() -> tuple[Exchange, ...]:
    """What dialogue.txt holds."""
    lines = SMALL_TALK.read_text().splitlines()
    asked = [tuple(part.strip() for part in line[2:].split("|")) for line in lines if line.startswith("? ")]
    answers = [line[2:].strip() for line in lines if line.startswith("! ")]
    return tuple(Exchange(*pair) for pair in zip(asked, answers, strict=True))


def lines(voice: str) -> list[str]:
    """What a teacher has to say: the questions, and the answers in the voice that answers."""
    said = [question for exchange in exchanges() for question in exchange.questions]
    if voice == ANSWERING:
        said += [*(exchange.answer for exchange in exchanges()), NO_ANSWER]
    return list(dict.fromkeys(said))
