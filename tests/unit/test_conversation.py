"""What a realtime session remembers, and what of it the model reads."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from cadence.errors import InvalidRequest
from cadence.server.realtime.conversation import MAX_ITEMS, Conversation, Item, Part, engine_messages
from cadence.types import RepeatPart, SpeechPart, TextPart, WordTiming


def told(item_id: str, text: str = "x") -> Item:
    return Item(item_id, "user", [Part("input_text", text=text)])


def spoken(text: str, num_codes: int, words: list[WordTiming] | None = None) -> Part:
    codes = array("h", range(num_codes))
    return Part(
        "output_audio", transcript=text, spoken_ms=40 * num_codes, codes=codes, words=words or [],
        output_ids=array("i", [1, 2, 3]),
    )  # fmt: skip


def test_items_stand_where_they_were_put() -> None:
    conversation = Conversation(0)
    assert conversation.add(told("b")) is None
    assert conversation.add(told("a"), after="root") is None
    assert conversation.add(told("d")) == "b"
    assert conversation.add(told("c"), after="b") == "b"
    assert [item.id for item in conversation] == ["a", "b", "c", "d"]
    conversation.delete("b")
    assert [item.id for item in conversation] == ["a", "c", "d"]
    for bad in (lambda: conversation.add(told("a")), lambda: conversation.add(told("root"))):
        with pytest.raises(InvalidRequest) as caught:
            bad()
        assert caught.value.code == "item_exists"
    with pytest.raises(InvalidRequest) as caught:
        conversation.add(told("z"), after="b")
    assert (caught.value.param, caught.value.code) == ("previous_item_id", "item_not_found")


def test_the_oldest_make_room() -> None:
    conversation = Conversation(max_samples=25)
    for name in "abc":
        sound = np.zeros(10, np.int16)
        conversation.add(Item(name, "user", [Part("input_audio", samples=sound)]))
    assert conversation.make_room() == ["a"]
    assert conversation.make_room() == []
    for number in range(MAX_ITEMS):
        conversation.add(told(str(number)))
    assert conversation.make_room() == ["b", "c"]


def test_a_complete_answer_is_repeated_and_a_cut_one_is_put_together() -> None:
    part = spoken("one two three four", 100)
    assert part.content() == RepeatPart((1, 2, 3))
    part.cut(2000)
    assert part.content() == SpeechPart("one two", tuple(range(50)))
    part.cut(0)
    assert part.content() is None


def test_words_whose_times_are_known_are_cut_there() -> None:
    words = [WordTiming("one", 0.0, 0.1), WordTiming("two,", 0.1, 3.0), WordTiming("two", 3.0, 4.0)]
    part = spoken("one two, two", 100, words)
    part.cut(3500)
    assert part.transcript == "one two,"
    chinese = spoken(
        "\u4f60\u597d\u3002", 20, [WordTiming("\u4f60", 0, 0.3), WordTiming("\u597d\u3002", 0.3, 0.8)]
    )
    chinese.cut(400)
    assert chinese.transcript == "\u4f60"


def test_only_what_was_said_can_be_truncated() -> None:
    conversation = Conversation(0)
    conversation.add(told("user"))
    conversation.add(Item("text", "assistant", [Part("output_text", text="x")]))
    conversation.add(Item("speech", "assistant", [spoken("x", 10)]))
    for item_id, index, ms, param in (
        ("user", 0, 0, "item_id"),
        ("text", 0, 0, "content_index"),
        ("speech", 1, 0, "content_index"),
        ("speech", 0, 401, "audio_end_ms"),
        ("nope", 0, 0, "item_id"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            conversation.truncate(item_id, index, ms)
        assert caught.value.param == param
    conversation.truncate("speech", 0, 400)


def test_the_model_reads_the_newer_half_when_asked_to_forget() -> None:
    conversation = Conversation(0)
    for name in "abcd":
        conversation.add(told(name, name))
    conversation.forget_half()
    left = [item for item in conversation if not item.forgotten]
    messages = engine_messages("Be brief.", left)
    assert [m.content for m in messages] == [(TextPart(text),) for text in ("Be brief.", "c", "d")]
    assert engine_messages("", []) == ()
