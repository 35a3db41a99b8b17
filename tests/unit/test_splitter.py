"""Text to sentences and clauses, however it comes."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadence.server.speech_stream.splitter import MAX_UNIT_CHARS, Granularity, TextSplitter


def split(text: str, granularity: Granularity, cuts: list[int] | None = None) -> list[str]:
    splitter = TextSplitter(granularity)
    edges = [0, *sorted(cuts or []), len(text)]
    units = [unit for a, b in itertools.pairwise(edges) for unit in splitter.feed(text[a:b])]
    return [*units, *splitter.flush()]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Hello. How are you? Fine!", ["Hello.", "How are you?", "Fine!"]),
        ("Pi is 3.14. Yes.", ["Pi is 3.14.", "Yes."]),
        ("Dr. Smith met J. R. Reed, e.g. twice. Then left.", [
            "Dr. Smith met J. R. Reed, e.g. twice.", "Then left."]),
        ('She said "no." He left.', ['She said "no."', "He left."]),
        ("What?! Really... yes.", ["What?!", "Really...", "yes."]),
        ("你好。今天天气怎么样？很好！", ["你好。", "今天天气怎么样？", "很好！"]),
        ("他说：“走吧。”然后走了。", ["他说：“走吧。”", "然后走了。"]),
        ("one\ntwo\n\nthree", ["one", "two", "three"]),
        ("1. First thing. 2. Second.", ["1. First thing.", "2. Second."]),
        ("*** Hello. --- ", ["*** Hello."]),
        ("", []),
        ("...", []),
        ("no end", ["no end"]),
    ],
)  # fmt: skip
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split(text, "sentence") == sentences


def test_clauses() -> None:
    text = (
        "Well, if you really want to know, I will tell you; it is 1,000 miles. 好，如果你想知道，我就告诉你。"
    )
    assert split(text, "clause") == [
        "Well, if you really want to know,",
        "I will tell you;",
        "it is 1,000 miles.",
        "好，如果你想知道，",
        "我就告诉你。",
    ]


def test_without_splitting_all_waits_for_the_end() -> None:
    splitter = TextSplitter("none")
    assert splitter.feed("One. Two. ") == [] and splitter.num_held == 10
    assert splitter.flush() == ["One. Two."]
    assert splitter.flush() == []


def test_a_unit_comes_as_soon_as_its_end_is_certain() -> None:
    splitter = TextSplitter("sentence")
    assert splitter.feed("One.") == []  # may become 1.5
    assert splitter.feed(" ") == ["One."]


def test_a_sentence_without_an_end_is_cut() -> None:
    units = split("word " * 500, "sentence")
    assert max(map(len, units)) <= MAX_UNIT_CHARS
    assert " ".join(units).split() == ["word"] * 500
    assert [len(unit) for unit in split("x" * 1200, "sentence")] == [500, 500, 200]


TEXTS = st.text(st.sampled_from("ab1 .,!?;:\n\"'”)。！，…é-"), max_size=80)


@settings(deadline=None)
@given(TEXTS, st.lists(st.integers(0, 80), max_size=6), st.sampled_from(["none", "sentence", "clause"]))
def test_pieces_do_not_matter_and_nothing_is_lost(
    text: str, cuts: list[int], granularity: Granularity
) -> None:
    whole = split(text, granularity)
    assert split(text, granularity, [min(cut, len(text)) for cut in cuts]) == whole
    said, wanted = ("".join(re.findall(r"\w", t)) for t in ("".join(whole), text))
    assert said == wanted
