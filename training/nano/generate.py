"""Speak text with a Thinker in training form, by the server's own rules for verbatim speech."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cadence.text import Tokenizer
from cadence.thinker.verbatim import Slot, VerbatimSpeech
from training.nano import phones
from training.nano.thinker_data import SpeechExamples
from training.nano.thinker_model import NanoThinker

MAX_WAIT = 8


def speak(
    model: NanoThinker, tokenizer: Tokenizer, texts: Sequence[str], *, max_ids: int = 400
) -> list[npt.NDArray[np.int64]]:
    """Codes of each text, greedy; every text is one row of a batch computed anew at each step."""
    special, make = tokenizer.special, SpeechExamples(tokenizer)
    rows = [make.prompt(text) for text in texts]
    prompts = [len(row) for row in rows]
    plans = [
        VerbatimSpeech(
            tokenizer.encode(text),
            tts_pad=special.tts_pad,
            end_ids={special.tts_end, special.eot},
            max_wait=MAX_WAIT,
        )
        for text in texts
    ]
    open_rows = list(range(len(texts)))
    while open_rows and max(len(rows[i]) - prompts[i] for i in open_rows) < max_ids:
        hidden = _last_hidden(model, [rows[i] for i in open_rows], special.tts_pad)
        logits = model.next_logits(hidden)
        for i, row in zip(open_rows, logits, strict=True):
            plan = plans[i]
            forced = plan.forced()
            written = forced if forced is not None else plan.resolve(_choose(row, plan, tokenizer))
            plan.push(written)
            rows[i].append(written)
        open_rows = [i for i in open_rows if not plans[i].ended and not plans[i].exhausted]
    first = special.audio_0
    return [
        np.array([x - first for x in row[start:] if first <= x < first + phones.NUM_CODES], np.int64)
        for row, start in zip(rows, prompts, strict=True)
    ]


def _last_hidden(model: NanoThinker, rows: Sequence[Sequence[int]], padding: int) -> Tensor:
    ids = torch.full((len(rows), max(map(len, rows))), padding)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = torch.tensor(row)
    hidden, _ = model.hidden(model.embed(ids))
    return hidden[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]


def _choose(logits: Tensor, plan: VerbatimSpeech, tokenizer: Tokenizer) -> int:
    """The likeliest id of the slot's class."""
    special, choice = tokenizer.special, plan.choice()
    allowed = torch.full_like(logits, float("-inf"))
    if choice.slot is Slot.TEXT:
        allowed[: special.text_limit] = 0
        allowed[special.tts_pad] = 0
        allowed[[special.bot, special.eot, special.endoftext]] = float("-inf")
    else:
        allowed[special.audio_0 : special.audio_0 + phones.NUM_CODES] = 0
    if choice.may_end:
        allowed[[special.tts_end, special.eot]] = 0
    return int((logits + allowed).argmax())


def edit_distance(wanted: Sequence[str], found: Sequence[str]) -> int:
    """Insertions, deletions and substitutions from one to the other."""
    previous = list(range(len(found) + 1))
    for i, symbol in enumerate(wanted, 1):
        row = [i]
        for j, other in enumerate(found, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (symbol != other)))
        previous = row
    return previous[-1]


def phone_error_rate(wanted: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """Edit distance over all phones, stress left out, divided by the wanted phones."""
    bare = [[[p.removeprefix("ˈ") for p in line] for line in lines] for lines in (wanted, found)]
    errors = sum(edit_distance(a, b) for a, b in zip(*bare, strict=True))
    return errors / max(1, sum(map(len, bare[0])))
