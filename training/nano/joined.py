"""Stages `joined-*`: speech of several sentences, joined from one teacher's single ones.

The corpus has single sentences. Recordings and answers of several need no new speech: utterances of one
voice follow each other after pauses, and their codes stay exact.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice

import numpy as np
import numpy.typing as npt

from training.nano import phones, settings
from training.nano.interleave import CODES_PER_GROUP, GROUP_S
from training.nano.progress import track
from training.nano.speech import Store, Utterance, store_dir

Ids = npt.NDArray[np.int64]
DOMAIN = "joined"
NUM_JOINED = {"female": 2_400, "male": 1_000}
NUM_HELD_OUT = 24
SENTENCES = (2, 2, 2, 3, 3, 4)  # how many, drawn at random
MAX_S = 14.0
MAX_PAUSE_GROUPS = 4  # on top of the silence that an utterance begins and ends with


def joined_name(voice: str) -> str:
    """The store of a voice's joined sentences."""
    return f"{voice}-joined"


def groups_of(utterances: Sequence[Utterance], rng: np.random.Generator) -> Iterator[list[Utterance]]:
    """Utterances in random order, two to four at a time, as many as fit the longest recording."""
    order, at = rng.permutation(len(utterances)), 0
    while at + 1 < len(order):
        group = [utterances[i] for i in order[at : at + rng.choice(SENTENCES)]]
        at += len(group)
        while sum(map(_seconds, group)) > MAX_S:
            group.pop()
        if len(group) > 1:
            yield group


def join(group: Sequence[Utterance], pauses: Sequence[int], *, offset: int) -> Utterance:
    """One utterance of several, with `pauses[i]` groups of silence behind the i-th (none behind the last)."""
    codes: list[int] = []
    starts: list[float] = []
    for utterance, pause in zip(group, (*pauses, 0), strict=True):
        begin = len(codes) * phones.FRAME_S
        starts += [round(begin + start, 3) for start in utterance.word_starts_s or ()]
        spoken = np.asarray(utterance.codes)
        codes += (_still_silent(spoken) if codes else spoken).tolist()
        codes += [_LASTING_SILENCE] * (pause * CODES_PER_GROUP)
    first = group[0]
    return Utterance(
        " ".join(u.text for u in group),
        DOMAIN,
        first.held_out,
        joined_name(first.voice),
        offset,
        codes,
        starts,
    )


def _seconds(utterance: Utterance) -> float:
    return utterance.num_samples / settings.SAMPLE_RATE_HZ + MAX_PAUSE_GROUPS * GROUP_S


def _silence(boundary: Ids) -> Ids:
    """Codes of silence that began more than a frame ago."""
    shape = boundary.shape
    return phones.join_code(
        np.full(shape, phones.SILENCE), np.full(shape, 2), boundary, np.full(shape, phones.NEUTRAL_PITCH)
    )


_LASTING_SILENCE = int(_silence(np.zeros(1, np.int64))[0])


def _still_silent(codes: Ids) -> Ids:
    """Codes whose leading silence goes on from the pause before it."""
    phone, _, boundary, _ = phones.split_code(codes)
    leading = np.cumprod(phone == phones.SILENCE).astype(bool)
    return np.where(leading, _silence(boundary), codes)


def run(voice: str) -> dict[str, float]:
    """Write the store anew; it takes seconds."""
    source, rng = Store(voice), np.random.default_rng(settings.SEED)
    folder, offset, lines = store_dir(joined_name(voice)), 0, 0
    wanted = ((True, NUM_HELD_OUT), (False, NUM_JOINED[voice]))
    with (
        open(folder / "wav.i16", "wb") as wav,
        open(folder / "f0.f16", "wb") as f0,
        open(folder / "utterances.jsonl", "w") as out,
    ):
        for held_out, count in wanted:
            single = [u for u in source.split(held_out) if u.word_starts_s is not None]
            for group in track(list(islice(groups_of(single, rng), count)), f"joined-{voice}"):
                pauses = rng.integers(MAX_PAUSE_GROUPS + 1, size=len(group) - 1).tolist()
                whole = join(group, pauses, offset=offset)
                for utterance, pause in zip(group, (*pauses, 0), strict=True):
                    silence = pause * CODES_PER_GROUP * settings.CODE_SAMPLES
                    sound = np.pad(source.samples(utterance), (0, silence))
                    pitch = np.pad(source.f0(utterance), (0, silence // settings.MEL_SAMPLES))
                    (sound * 32_767).astype("<i2").tofile(wav)
                    pitch.astype("<f2").tofile(f0)
                out.write(json.dumps(asdict(whole), ensure_ascii=False) + "\n")
                offset += whole.num_samples
                lines += 1
    return {"utterances": lines, "hours": round(offset / settings.SAMPLE_RATE_HZ / 3600, 2)}
