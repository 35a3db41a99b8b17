"""The phone alphabet and the speech code: what one of the 6561 codes means.

A code is eight ternary digits, as in the public tokenizer, but the digits are supervised rather than
learned, so that a language model finds them easy to predict and a person can read them:

    digits 0-3  phone     81 symbols: silence, consonants, vowels, stressed vowels
    digit  4    position  0 first frame of its phone, 1 second, 2 later
    digit  5    boundary  where in this frame the next phone starts: 0 not here, 1 at 2/3, 2 at 1/3
    digits 6-7  pitch     9 steps of two semitones around the speaker's median, 4 where unvoiced

What a speaker sounds like is left out on purpose: the flow takes that from the voice prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "NUM_CODES",
    "NUM_PHONES",
    "NUM_PITCHES",
    "SILENCE",
    "PhoneSpan",
    "codes_of_spans",
    "join_code",
    "phone_ids",
    "phones_of_codes",
    "split_code",
]

NUM_PHONES, NUM_POSITIONS, NUM_BOUNDARIES, NUM_PITCHES = 81, 3, 3, 9
NUM_CODES = NUM_PHONES * NUM_POSITIONS * NUM_BOUNDARIES * NUM_PITCHES
SILENCE = 0
NEUTRAL_PITCH = 4
SEMITONES_PER_PITCH = 2.0
FRAME_S = 0.04

_CONSONANTS = "bdfhjklmnpstvwzɡŋɹʃʒðθʤʧTʔ"
_VOWELS = "AIOWYæɑɔəɜɛiuɪʊʌᵊᵻɐ"
_UNVOICED = set("fhkpstʃθʧʔ")
_ALIASES = {
    "ɚ": "ə",
    "g": "ɡ",
    "r": "ɹ",
    "ɾ": "T",
    "e": "A",
    "o": "O",
    "a": "ɑ",
    "ɒ": "ɑ",
    "x": "k",
    "ɬ": "l",
    "Q": "O",
}
_STRESS = "ˈ"
_SYMBOLS = ["<sil>", *_CONSONANTS, *_VOWELS, *(_STRESS + vowel for vowel in _VOWELS)]
_INDEX = {symbol: i for i, symbol in enumerate(_SYMBOLS)}
_VOICED = np.array(
    [s != "<sil>" and s not in _UNVOICED for s in _SYMBOLS] + [False] * (NUM_PHONES - len(_SYMBOLS))
)
assert len(_SYMBOLS) <= NUM_PHONES and NUM_CODES == 3**8


@dataclass(frozen=True, slots=True)
class PhoneSpan:
    """One spoken phone: its id, start in seconds from the utterance's start, and F0 in Hz (0 = unvoiced)."""

    phone: int
    start_s: float
    f0_hz: float


def symbol(phone: int) -> str:
    """The written form of a phone id."""
    return _SYMBOLS[phone] if phone < len(_SYMBOLS) else "?"


def phone_ids(phonemes: str) -> list[tuple[int, int]]:
    """Phones of a misaki phoneme string as (phone id, index of its character).

    Stress marks join the next vowel (secondary stress counts as none); spaces, punctuation and marks
    without a sound of their own are left out.
    """
    found: list[tuple[int, int]] = []
    stressed = False
    for i, char in enumerate(phonemes):
        name = _ALIASES.get(char, char)
        if char == _STRESS:
            stressed = True
        elif name in _INDEX:
            vowel = name in _VOWELS
            found.append((_INDEX[_STRESS + name] if vowel and stressed else _INDEX[name], i))
            stressed = stressed and not vowel
    return found


def is_voiced(phone: int) -> bool:
    """Whether the vocal folds swing in this phone."""
    return bool(_VOICED[phone])


def are_voiced(phone: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """`is_voiced`, elementwise."""
    found: npt.NDArray[np.bool_] = _VOICED[phone]
    return found


def join_code(
    phone: npt.NDArray[np.int64],
    position: npt.NDArray[np.int64],
    boundary: npt.NDArray[np.int64],
    pitch: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """The code of its four parts, elementwise."""
    return phone + NUM_PHONES * (position + NUM_POSITIONS * (boundary + NUM_BOUNDARIES * pitch))


def split_code(codes: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
    """(phone, position, boundary, pitch) of each code."""
    rest, phone = np.divmod(codes, NUM_PHONES)
    rest, position = np.divmod(rest, NUM_POSITIONS)
    pitch, boundary = np.divmod(rest, NUM_BOUNDARIES)
    return phone, position, boundary, pitch


def pitch_step(f0_hz: float, median_hz: float) -> int:
    """F0 as one of nine steps relative to the speaker's median."""
    if f0_hz <= 0:
        return NEUTRAL_PITCH
    semitones = 12.0 * float(np.log2(f0_hz / median_hz))
    return int(np.clip(round(semitones / SEMITONES_PER_PITCH) + NEUTRAL_PITCH, 0, NUM_PITCHES - 1))


def codes_of_spans(spans: Sequence[PhoneSpan], num_codes: int, median_hz: float) -> npt.NDArray[np.int64]:
    """Codes [num_codes] of an aligned utterance; the first span should start at 0 (silence).

    A phone owns the frames whose beginning it covers, at least one; its true start inside the frame
    before is kept as that frame's boundary, to a third of a frame.
    """
    thirds = [round(3.0 * span.start_s / FRAME_S) for span in spans]
    first_frames: list[int] = []
    boundary = np.zeros(num_codes, np.int64)
    for third in thirds:
        frame, part = -(-third // 3), third % 3
        if first_frames and frame <= first_frames[-1]:
            frame, part = first_frames[-1] + 1, 0
        first_frames.append(frame)
        if part and 0 < frame <= num_codes:
            boundary[frame - 1] = 3 - part
    phone, pitch, age = (np.zeros(num_codes, np.int64) for _ in range(3))
    pitch[:] = NEUTRAL_PITCH
    for k, span in enumerate(spans):
        begin = first_frames[k]
        end = first_frames[k + 1] if k + 1 < len(spans) else num_codes
        phone[begin:end] = span.phone
        age[begin:end] = np.minimum(np.arange(max(0, min(end, num_codes) - begin)), 2)
        if is_voiced(span.phone):
            pitch[begin:end] = pitch_step(span.f0_hz, median_hz)
    return join_code(phone, age, boundary, pitch)


def phones_of_codes(codes: npt.NDArray[np.int64]) -> list[str]:
    """The phones a code sequence says, silence left out: for phone error rates."""
    phone, position, _, _ = split_code(np.asarray(codes))
    said: list[str] = []
    for i, (now, age) in enumerate(zip(phone, position, strict=True)):
        if now != SILENCE and (i == 0 or phone[i - 1] != now or (age == 0 and position[i - 1] != 0)):
            said.append(symbol(int(now)))
    return said
