"""Conversations for the stage `hearing`: small talk in one to three turns, heard or read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from cadence.prompt import PromptBuilder
from cadence.text import Tokenizer
from cadence.types import AudioPart, Message, Part, RepeatPart, TextPart
from training.nano import settings, whisper
from training.nano.dialogue import NO_ANSWER, VOICES, exchanges
from training.nano.hearing_data import INPUT_RATE_HZ, Features, Heard, HeardExamples, Sound
from training.nano.speech import Store, Utterance

Item = TypeVar("Item")
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a friendly voice assistant. Answer briefly.",
    "You are Cadence, a small voice model.",
    "Talk with the user in English.",
)
_BARE_SHARE, _UNKNOWN_SHARE, _SOUND_SHARE, _SPEECH_SHARE = 0.4, 0.4, 0.7, 0.7
_EARLIER_TURNS = (0, 0, 0, 1, 1, 2)
_SLOPPY_SHARE = 0.4


def store_name(voice: str) -> str:
    """The store of a teacher's small talk."""
    return f"{voice}-chat"


class ChatExamples:
    """Draws a new conversation each time."""

    def __init__(self, tokenizer: Tokenizer, others: list[Utterance]) -> None:
        """`others`: utterances with features, which the model knows no answer to."""
        self.tokenizer, self.others = tokenizer, others
        self.features = {store_name(voice): Features(store_name(voice)) for voice in VOICES}
        self._builder = PromptBuilder(tokenizer, num_mels=whisper.MELS)
        self._make = HeardExamples(tokenizer)
        self._said: dict[str, list[Utterance]] = {}
        for voice in VOICES:
            for utterance in Store(store_name(voice)).utterances:
                self._said.setdefault(utterance.text, []).append(utterance)
        texts = {NO_ANSWER, *(exchange.answer for exchange in exchanges())}
        spoken = {t: self._make.speech(u) for t in texts for u in self._said.get(t, [])[:1]}
        self._spoken = {text: ids for text, ids in spoken.items() if ids is not None}

    def __call__(self, rng: np.random.Generator) -> Heard:
        """One conversation; the last turn's answer is what is learned."""
        messages: list[Message] = []
        sounds: list[Utterance] = []
        if rng.random() >= _BARE_SHARE:
            messages.append(Message("system", (TextPart(_any(rng, SYSTEM_PROMPTS)),)))
        for _ in range(_any(rng, _EARLIER_TURNS)):
            question, answer = self._turn(rng, sounds)
            ids = self._spoken.get(answer)
            spoken = ids is not None and rng.random() < _SPEECH_SHARE
            reply: Part = RepeatPart(tuple(ids[:-1])) if ids and spoken else TextPart(answer)
            messages += [question, Message("assistant", (reply,))]
        question, answer = self._turn(rng, sounds)
        spoken_ids = self._spoken.get(answer) if rng.random() < _SPEECH_SHARE else None
        prompt = self._builder.build((*messages, question), "text" if spoken_ids is None else "speech")
        answer_ids = spoken_ids or [*self.tokenizer.encode(answer), self.tokenizer.special.eot]
        places = zip(prompt.spans, sounds, strict=True)
        return Heard(
            np.array([*prompt.ids, *answer_ids], np.int64),
            len(prompt.ids),
            tuple(Sound(utterance, span.start, span.count) for span, utterance in places),
        )

    def _turn(self, rng: np.random.Generator, sounds: list[Utterance]) -> tuple[Message, str]:
        """What the user says, and the answer to it; a turn with sound is added to `sounds`."""
        if rng.random() < _UNKNOWN_SHARE:
            utterance = self.others[rng.integers(len(self.others))]
            text, answer = utterance.text, NO_ANSWER
        else:
            exchange = exchanges()[rng.integers(len(exchanges()))]
            text, answer = _any(rng, exchange.questions), exchange.answer
            utterance = _any(rng, self._said[text])
        if rng.random() < _SOUND_SHARE:
            sounds.append(utterance)
            length = utterance.num_samples * INPUT_RATE_HZ // settings.SAMPLE_RATE_HZ
            return Message("user", (AudioPart(np.zeros(length, np.float32)),)), answer
        if rng.random() < _SLOPPY_SHARE:
            text = text.lower().rstrip(".!?")
        return Message("user", (TextPart(text),)), answer


def _any(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    return items[rng.integers(len(items))]
