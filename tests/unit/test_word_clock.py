"""Word times follow the text slots: exactly where the model waits, in proportion where text runs ahead."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from engine_kit import Kit, collect

from cadence.answers.word_clock import WordClock
from cadence.types import Done, Request, TextDelta, WordTiming


def words(timings: tuple[WordTiming, ...]) -> list[tuple[str, float, float]]:
    return [(w.word, round(w.start_s, 3), round(w.end_s, 3)) for w in timings]


def test_a_model_that_waits_places_its_words() -> None:
    clock = WordClock()
    assert clock.push("Hello", 0) == ()
    assert clock.push(",", 4) == ()
    assert words(clock.push(" you", 16)) == [("Hello,", 0.0, 0.64)]  # it waited: times are certain now
    assert words(clock.push(" there", 25)) == [("you", 0.64, 1.0)]
    assert words(clock.end_piece(50)) == [("there", 1.0, 2.0)]


def test_text_that_runs_ahead_is_spread_over_the_sound() -> None:
    clock = WordClock()
    for number, text in enumerate(["One", " two", " three", " four"]):
        assert clock.push(text, 4 * number) == ()
    assert words(clock.end_piece(100)) == [
        ("One", 0.0, 1.0),
        ("two", 1.0, 2.0),
        ("three", 2.0, 3.0),
        ("four", 3.0, 4.0),
    ]
    clock.push("Five", 100)  # the next piece starts where the last one ended
    assert words(clock.end_piece(125)) == [("Five", 4.0, 5.0)]


def test_chinese_words_are_characters_with_their_marks() -> None:
    clock = WordClock()
    for number, text in enumerate(["你", "好，", "GPT", "4", "吧", "。"]):
        clock.push(text, 4 * number)
    assert [w.word for w in clock.end_piece(24)] == ["你", "好，", "GPT4", "吧。"]


@pytest.mark.parametrize("num_codes", [16, 60])
async def test_the_engine_tells_the_words_of_an_answer(tiny_checkpoint: Path, num_codes: int) -> None:
    kit = Kit(tiny_checkpoint)
    text = "Read this, please."
    engine, *_ = kit.engine(kit.speech(text, num_codes))
    request = Request(request_id="w", messages=(), output="speech", verbatim=text, word_timestamps=True)
    events = await collect(engine, request)
    found = [word for event in events if isinstance(event, TextDelta) for word in event.words]
    assert [word.word for word in found] == text.split()
    assert all(a.end_s == b.start_s for a, b in itertools.pairwise(found))
    done = events[-1]
    assert isinstance(done, Done)
    assert (found[0].start_s, found[-1].end_s) == (0, pytest.approx(done.timings.audio_s))
    request = Request(request_id="w", messages=(), output="speech", verbatim=text)
    assert not any(event.words for event in await collect(engine, request) if isinstance(event, TextDelta))
