"""Turns from the probability of speech in each frame."""

from __future__ import annotations

from cadence.audio.turns import ONSET_FRAMES, TurnDetector, TurnEdge


def edges(pattern: str, *, silence: int = 4, longest: int = 100) -> list[tuple[str, int]]:
    """`#` is speech, `.` is silence, `~` is doubtful: enough to go on, not to begin."""
    detector = TurnDetector(0.5, silence, longest)
    values = {"#": 0.9, "~": 0.4, ".": 0.0}
    found = [edge for char in pattern for edge in detector.push([values[char]])]
    assert found == TurnDetector(0.5, silence, longest).push(values[char] for char in pattern)
    return [(edge.kind, edge.frame) for edge in found]


def test_a_turn() -> None:
    assert edges("...#####.......") == [("start", 3), ("end", 12)]


def test_a_click_is_no_turn() -> None:
    assert edges("..##...##...#.") == [] and ONSET_FRAMES == 3


def test_a_pause_is_no_end() -> None:
    assert edges("####...###....") == [("start", 0), ("end", 14)]
    assert edges("####...~...~....") == [("start", 0), ("end", 16)]
    assert edges("~~~~~~~~") == []


def test_a_long_turn_is_cut_and_goes_on() -> None:
    assert edges("#" * 25, longest=10) == [
        ("start", 0),
        ("end", 10),
        ("start", 10),
        ("end", 20),
        ("start", 20),
    ]


def test_reset_forgets_the_turn_but_not_the_time() -> None:
    detector = TurnDetector(0.5, 2, 100)
    detector.push([1.0] * 5)
    assert detector.speaking
    detector.reset()
    assert not detector.speaking
    assert detector.push([0.0, 0.0, 1.0, 1.0, 1.0]) == [TurnEdge("start", 7)]
