"""Stages `rendered-female`, `rendered-male`: what the flow makes of true codes, for the vocoder to learn.

The encoder's guess is smoother than the mel of speech; a vocoder that only knows speech sounds muffled on it.
As codes tell what is said when, the guess lies frame by frame under the sound. While the DiT renders the
encoder's guess (`flow.aim_at_mu`), the encoder alone makes the same mel in a hundredth of the time.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cadence.models.conformer import NoMemory
from training.nano import settings
from training.nano.evaluate import load_flow
from training.nano.flow import MEL_DIM
from training.nano.progress import track
from training.nano.speech import Store, Utterance

NUM_RENDERED = {"female": 2_500, "male": 2_000}
CHUNKS = (None, 25, 10)  # codes: whole utterances as well as streams


def rendered_file(voice: str) -> Path:
    """Mels [rows, 80] in half precision, with an index (offset of the utterance, rows) beside it."""
    folder = settings.work_dir() / "rendered"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{voice}.f16"


def run(voice: str) -> dict[str, float]:
    """Render the held-out utterances, then every n-th of the others; takes minutes, begins anew each time."""
    torch.set_num_threads(1)
    store, flow = Store(voice), load_flow()
    train = store.split(held_out=False)
    chosen = [*store.split(held_out=True), *train[:: max(1, len(train) // NUM_RENDERED[voice])]]
    index: list[list[int]] = []
    with open(rendered_file(voice), "wb") as file, torch.inference_mode():
        for i, utterance in enumerate(track(chosen, f"rendered-{voice}")):
            memory = NoMemory(CHUNKS[i % len(CHUNKS)])
            mel = flow.encode([torch.tensor(utterance.codes)], [memory], [True])[0]
            mel.numpy().astype("<f2").tofile(file)
            index.append([utterance.offset, len(mel)])
    rendered_file(voice).with_suffix(".json").write_text(json.dumps(index))
    return {"utterances": len(index)}


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
