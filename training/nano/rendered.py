"""Stages `rendered-*`: what the flow makes of true codes, for the vocoder to learn.

The flow's mel is smoother than that of speech; a vocoder that only knows speech sounds muffled on it. As
codes tell what is said when, the mel lies frame by frame under the sound. It is rendered behind the voice's
prompt, whole or as a stream. The male teacher in the female one's timing is what an answer in his voice is:
the language model writes codes that go like hers.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cadence.audio.features import prompt_mel
from cadence.models.flow_sampler import FlowSampler
from cadence.models.flow_sampler import Utterance as FlowInput
from training.nano import settings
from training.nano.evaluate import load_flow
from training.nano.flow import MEL_DIM, SIZES, STEPS
from training.nano.progress import track
from training.nano.speaker_vectors import speaker_vector
from training.nano.speech import Store, Utterance, prompt_of

NUM_RENDERED = {"female": 2_500, "male": 4_000, "male-timed": 3_000}
CHUNKS = (None, 25, 10)  # codes: whole utterances as well as streams
LOOKAHEAD = SIZES.encoder.lookahead


def rendered_file(voice: str) -> Path:
    """Mels [rows, 80] in half precision, with an index (offset of the utterance, rows) beside it."""
    folder = settings.work_dir() / "rendered"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{voice}.f16"


def run(voice: str) -> dict[str, float]:
    """Render the held-out utterances, then every n-th of the others; takes minutes, begins anew each time."""
    torch.set_num_threads(1)
    store, renderer = Store(voice), Renderer(voice.removesuffix("-timed"))
    train = store.split(held_out=False)
    chosen = [*store.split(held_out=True), *train[:: max(1, len(train) // NUM_RENDERED[voice])]]
    index: list[list[int]] = []
    with open(rendered_file(voice), "wb") as file:
        for i, utterance in enumerate(track(chosen, f"rendered-{voice}")):
            mel = renderer(torch.tensor(utterance.codes), CHUNKS[i % len(CHUNKS)])
            mel.numpy().astype("<f2").tofile(file)
            index.append([utterance.offset, len(mel)])
    rendered_file(voice).with_suffix(".json").write_text(json.dumps(index))
    return {"utterances": len(index)}


class Renderer:
    """The trained flow in one voice."""

    def __init__(self, voice: str) -> None:
        store = Store(voice)
        prompt = prompt_of(store)
        self._codes, self._mel = (
            torch.tensor(prompt.codes),
            torch.from_numpy(prompt_mel(store.samples(prompt))),
        )
        self._speaker = speaker_vector(voice)
        self._sampler = FlowSampler(load_flow(), num_steps=STEPS)
        self._voice = self._sampler.prepare(self._codes, self._mel, self._speaker)

    def __call__(self, codes: Tensor, chunk: int | None) -> Tensor:
        """Codes [n] to mel [2 n, 80], whole or in chunks of so many codes."""
        if chunk is None:
            return self._sampler.generate([FlowInput(codes, self._codes, self._mel, self._speaker)])[0]
        stream, ahead, parts = self._sampler.open(self._voice), LOOKAHEAD, []
        for begin in range(0, len(codes), chunk):
            last = begin + chunk + ahead >= len(codes)
            part = codes[begin:] if last else codes[begin : begin + chunk + ahead]
            parts += self._sampler.step([stream], [part], [last])
            if last:
                break
        return torch.cat(parts)


class Rendered:
    """Read side: the flow's mel of an utterance."""

    def __init__(self, voice: str) -> None:
        index = json.loads(rendered_file(voice).with_suffix(".json").read_text())
        self._at: dict[int, tuple[int, int]] = {}
        row = 0
        for offset, count in index:
            self._at[offset] = (row, count)
            row += count
        self._rows = np.memmap(rendered_file(voice), dtype="<f2", mode="r").reshape(-1, MEL_DIM)

    def __contains__(self, utterance: Utterance) -> bool:
        return utterance.offset in self._at

    def __call__(self, utterance: Utterance, start: int, count: int) -> npt.NDArray[np.float32]:
        """Frames [count, 80] from `start` on."""
        row = self._at[utterance.offset][0] + start
        return np.asarray(self._rows[row : row + count], np.float32)
