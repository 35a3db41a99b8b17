"""Golden data: a folder of .npz files that the reference implementation computed on the same checkpoint.

    rand_noise.npy          [1, 80, N] the flow's start noise; beside the files or in a sibling folder
    thinker_<case>.npz      prompt, features, encoder, adapter, logits, greedy decoding
    prompt_<voice>.npz      what is computed once of a voice prompt
    flow_offline_<voice>    whole utterance: encoder, estimator, mel, vocoder
    flow_stream_<voice>     the same in chunks

Arrays that neither serve as input nor were compared are reported as misses, so nothing can pass by
being left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cadence.doctor.checkpoint import Parts
from cadence.doctor.report import Report

__all__ = ["GoldenFile", "check_golden"]

NOISE_FILE = "rand_noise.npy"


class GoldenFile(Mapping[str, NDArray[np.generic]]):
    """One .npz file that remembers which of its arrays were read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with np.load(path, allow_pickle=False) as data:
            self._arrays: dict[str, NDArray[np.generic]] = {name: data[name] for name in data.files}
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        self._read.add(name)
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    @property
    def unread(self) -> list[str]:
        """Arrays nobody asked for."""
        return sorted(self._arrays.keys() - self._read)


def check_golden(parts: Parts, folder: Path, report: Report) -> None:
    """Compare every case of `folder` with what this code computes; a foreign file is a miss."""
    from cadence.doctor.golden_flow import check_offline, check_stream
    from cadence.doctor.golden_thinker import check_thinker
    from cadence.doctor.golden_voice import check_voice

    kinds = {
        "thinker_": (check_thinker, ("tokenizer", "thinker")),
        "prompt_": (check_voice, ("speech_tokenizer", "speaker_encoder")),
        "flow_offline_": (check_offline, ("flow", "hift")),
        "flow_stream_": (check_stream, ("flow", "hift")),
    }
    files = sorted(folder.glob("*.npz"))
    if not files:
        report.miss("golden", folder.name, "the folder holds no .npz file")
    parts.noise = _find_noise(folder)
    for path in files:
        prefix = next((p for p in kinds if path.stem.startswith(p)), None)
        if prefix is None:
            report.miss("golden", path.name, f"the name starts with none of {', '.join(kinds)}")
            continue
        check, needed = kinds[prefix]
        if lacking := [name for name in needed if getattr(parts, name) is None]:
            report.miss("golden", path.stem, f"not compared: {', '.join(lacking)} did not load")
            continue
        golden = GoldenFile(path)
        try:
            check(parts, golden, path.stem.removeprefix(prefix), report)
        except KeyError as error:
            report.miss(path.stem, str(error.args[0]), "absent from the golden file")
        for name in golden.unread:
            report.miss(path.stem, name, "not compared: this version knows no such array")


def _find_noise(folder: Path) -> NDArray[np.float32] | None:
    """The flow's start noise, of this folder or of a sibling: it is the same for all checkpoints."""
    for path in (folder / NOISE_FILE, *sorted(folder.parent.glob(f"*/{NOISE_FILE}"))):
        if path.is_file():
            return np.asarray(np.load(path, allow_pickle=False), np.float32)
    return None
