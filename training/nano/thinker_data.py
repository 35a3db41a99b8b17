"""Training sequences of the Thinker: prompt as the server builds it, spoken answer, phones of its words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cadence.prompt import PromptBuilder
from cadence.text import Tokenizer
from training.nano import interleave, phones, speech
from training.nano.joined import joined_name
from training.nano.thinker_model import SPELLED_PHONES

Ids = npt.NDArray[np.int64]
_OTHER_INSTRUCTIONS = (
    "Read this paragraph at a natural pace.\n",
    "Speak clearly.",
    "You are a friendly assistant.",
    "Read the text aloud in a calm voice.",
)


@dataclass(frozen=True, slots=True)
class SpeechSequence:
    """One example: ids [n], where the answer starts, and the phones [k, SPELLED_PHONES] at positions [k]."""

    ids: Ids
    answer: int
    spelled_at: Ids
    spelled: Ids


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded examples; `lengths` counts real ids, `answers` says where each answer starts."""

    ids: Tensor
    lengths: Tensor
    answers: Tensor
    spelled_row: Tensor
    spelled_at: Tensor
    spelled: Tensor


def word_phones(utterance: speech.Utterance) -> list[list[int]]:
    """The phones that each written word is spoken with."""
    assert utterance.word_starts_s is not None
    codes = np.asarray(utterance.codes)
    phone, position, _, _ = phones.split_code(codes)
    edges = [math.ceil(round(3 * start / phones.FRAME_S) / 3) for start in utterance.word_starts_s] + [
        len(codes)
    ]
    found = []
    for begin, end in pairwise(edges):
        onsets = (position[begin:end] == 0) & (phone[begin:end] != phones.SILENCE)
        found.append(phone[begin:end][onsets].tolist())
    return found


class SpeechExamples:
    """Makes training sequences of utterances, and knows where the text stands in them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._builder = PromptBuilder(tokenizer)

    def prompt(self, text: str, instructions: str | None = None) -> list[int]:
        """Ids up to `<tts_start>`."""
        return list(self._builder.build(self._builder.speech_messages(text, instructions), "speech").ids)

    def __call__(self, utterance: speech.Utterance, instructions: str | None = None) -> SpeechSequence | None:
        """The sequence, or None where words and sound do not match or the text does not fit."""
        if utterance.word_starts_s is None:
            return None
        text_ids = self.tokenizer.encode(utterance.text)
        words = interleave.words_of_tokens(self.tokenizer, text_ids)
        if words[-1] + 1 != len(utterance.word_starts_s):
            return None
        groups = interleave.groups_of_tokens(words, utterance.word_starts_s)
        try:
            answer = interleave.speech_ids(self.tokenizer, text_ids, groups, utterance.codes)
        except ValueError:
            return None
        prompt = self.prompt(utterance.text, instructions)
        said = word_phones(utterance)
        rows = np.array([_padded(said[word]) for word in words], np.int64).reshape(-1, SPELLED_PHONES)
        in_answer = [len(prompt) + group * (interleave.CODES_PER_GROUP + 1) for group in groups]
        in_prompt = self._text_in_prompt(prompt, text_ids)
        return SpeechSequence(
            np.array(prompt + answer, np.int64),
            len(prompt),
            np.array(in_answer + in_prompt, np.int64),
            np.concatenate([rows] * (1 + bool(in_prompt))),
        )

    def _text_in_prompt(self, prompt: list[int], text_ids: list[int]) -> list[int]:
        """Positions of the text's ids in the prompt: right before the human's `<|EOT|>`."""
        end = len(prompt) - 1 - prompt[::-1].index(self.tokenizer.special.eot)
        begin = end - len(text_ids)
        return list(range(begin, end)) if prompt[begin:end] == text_ids else []


def _padded(found: Sequence[int]) -> list[int]:
    """Phones, the end mark, then no target."""
    row = [*found[:SPELLED_PHONES], phones.NUM_PHONES]
    return (row + [-1] * SPELLED_PHONES)[:SPELLED_PHONES]


def load_sequences(
    tokenizer: Tokenizer, *, held_out: bool
) -> Iterator[tuple[speech.Utterance, SpeechSequence]]:
    """Every usable utterance of the female teacher with its sequence; several sentences in one come last."""
    make = SpeechExamples(tokenizer)
    for i, utterance in enumerate(chain(_utterances("female"), _utterances(joined_name("female")))):
        if utterance.held_out == held_out:
            other = _OTHER_INSTRUCTIONS[i // 10 % len(_OTHER_INSTRUCTIONS)] if i % 10 == 0 else None
            sequence = make(utterance, other)
            if sequence:
                yield utterance, sequence


def _utterances(store: str) -> Iterator[speech.Utterance]:
    """Lines of a store that may not be there yet, or that a teacher is just writing."""
    file = speech.store_dir(store) / "utterances.jsonl"
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            yield speech.Utterance(**json.loads(line))
        except json.JSONDecodeError:
            return


def collate(sequences: Sequence[SpeechSequence], padding: int) -> Batch:
    """Pad on the right with `padding`."""
    lengths = [len(s.ids) for s in sequences]
    ids = torch.full((len(sequences), max(lengths)), padding, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : lengths[row]] = torch.from_numpy(sequence.ids)
    return Batch(
        ids,
        torch.tensor(lengths),
        torch.tensor([s.answer for s in sequences]),
        torch.repeat_interleave(
            torch.arange(len(sequences)), torch.tensor([len(s.spelled_at) for s in sequences])
        ),
        torch.from_numpy(np.concatenate([s.spelled_at for s in sequences])),
        torch.from_numpy(np.concatenate([s.spelled for s in sequences])),
    )
