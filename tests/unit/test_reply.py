"""Reasoning, text and tool calls told apart, wherever the text is cut; spoken answers kept within bounds."""

from __future__ import annotations

import random

import pytest

from cadence.server.reply import Reasoning, Reply, ReplyPlan
from cadence.server.spoken import SpokenAnswers
from cadence.server.tool_calls import CallArguments, CallStart

Seen = tuple[str, str, list[tuple[str, str]]]
CALL = '<tool_call>function\nlook_up\n{"q": "a<b"}</tool_call>'


def read(plan: ReplyPlan, *pieces: str) -> Seen:
    """Reasoning, text, and (name, arguments) of every call."""
    reply = Reply(plan)
    reasoning, text = "", ""
    calls: list[list[str]] = []
    for piece in [p for part in pieces for p in reply.push(part)] + reply.flush():
        if isinstance(piece, Reasoning):
            reasoning += piece.text
        elif isinstance(piece, CallStart):
            assert piece.index == len(calls)
            calls.append([piece.name, ""])
        elif isinstance(piece, CallArguments):
            assert piece.index == len(calls) - 1
            calls[-1][1] += piece.text
        else:
            text += piece
    assert reply.num_calls == len(calls)
    return reasoning, text, [(name, arguments) for name, arguments in calls]


TOOLS = ReplyPlan(tools=True)
THINKS = ReplyPlan(thinks=True)
CASES = [
    (TOOLS, "Hello.", ("", "Hello.", [])),
    (TOOLS, " Hello. ", ("", " Hello. ", [])),
    (TOOLS, CALL, ("", "", [("look_up", '{"q": "a<b"}')])),
    (TOOLS, f"One moment.\n{CALL}\n{CALL}\n", ("", "One moment.", [("look_up", '{"q": "a<b"}')] * 2)),
    (TOOLS, f"{CALL} And this.", ("", " And this.", [("look_up", '{"q": "a<b"}')])),
    (TOOLS, "<tool_call>\nfunction\nf\n{}\n</tool_call>", ("", "", [("f", "{}")])),
    (TOOLS, "<tool_call>function\nf\n</tool_call>", ("", "", [("f", "")])),
    (TOOLS, '<tool_call>function\nf\n{"a": 1', ("", "", [("f", '{"a": 1')])),
    (TOOLS, '<tool_call>function\nf\n{"a": 1}</tool_', ("", "", [("f", '{"a": 1}</tool_')])),
    (TOOLS, "<tool_call>search\nf\n{}</tool_call>", ("", "<tool_call>search\nf\n{}</tool_call>", [])),
    (TOOLS, "<tool_call>function\nno name\n{}", ("", "<tool_call>function\nno name\n{}", [])),
    (TOOLS, f"<tool_call>{CALL}", ("", "<tool_call>", [("look_up", '{"q": "a<b"}')])),
    (TOOLS, "<tool_call>function\nf", ("", "<tool_call>function\nf", [])),
    (TOOLS, "a < b <tool", ("", "a < b <tool", [])),
    (ReplyPlan(), f"x {CALL}", ("", f"x {CALL}", [])),
    (ReplyPlan(tools=True, call="f"), '{"a": 1}</tool_call>', ("", "", [("f", '{"a": 1}')])),
    (ReplyPlan(tools=True, call=""), "g\n{}</tool_call>", ("", "", [("g", "{}")])),
    (ReplyPlan(tools=True, call=""), "not a name at all", ("", "not a name at all", [])),
    (THINKS, "Hm.\nSo.\n</think>\n\nYes. \n", ("Hm.\nSo.", "Yes. \n", [])),
    (THINKS, "\nHm. ", ("Hm.", "", [])),
    (THINKS, "</think>Yes.", ("", "Yes.", [])),
    (THINKS, "a </thin b</think></think>", ("a </thin b", "</think>", [])),
    (ReplyPlan(thinks=True, tools=True), f"{CALL}</think>{CALL}", (CALL, "", [("look_up", '{"q": "a<b"}')])),
]


@pytest.mark.parametrize(("plan", "text", "expected"), CASES)
def test_the_result_does_not_depend_on_the_pieces(plan: ReplyPlan, text: str, expected: Seen) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    assert read(plan, text) == expected
    assert read(plan, *text) == expected
    for _ in range(20):
        cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randint(1, 5)))
        assert (
            read(plan, *(text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))) == expected
        )


def test_a_call_is_told_as_soon_as_it_is_named_and_arguments_as_they_come() -> None:
    reply = Reply(TOOLS)
    assert reply.push("Wait.") == ["Wait."]
    assert reply.push("<tool_call>function\nlook_up\n") == [CallStart(0, "look_up")]
    assert reply.push('{"q": ') == [CallArguments(0, '{"q":')]
    assert reply.push('"x"}') == [CallArguments(0, ' "x"}')]
    assert reply.push("</tool_call>") == [] and reply.flush() == []


# ------------------------------------------------------------------ spoken answers
class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_answers_expire() -> None:
    clock = Clock()
    kept = SpokenAnswers(max_count=4, max_bytes=1 << 20, keep_s=60, clock=clock)
    assert kept.put("a", [1, 2, 3], "Hi") == 1060
    found = kept.get("a")
    assert found is not None and (list(found.ids), found.text) == ([1, 2, 3], "Hi")
    clock.now = 1059.0
    assert kept.get("a") is not None
    clock.now = 1060.0
    assert kept.get("a") is None and len(kept) == 0 and kept.num_bytes == 0


def test_the_longest_unused_makes_room() -> None:
    kept = SpokenAnswers(max_count=2, max_bytes=1 << 20, keep_s=60)
    for name in "ab":
        kept.put(name, [1], name)
    assert kept.get("a")
    kept.put("c", [1], "c")
    assert [bool(kept.get(name)) for name in "abc"] == [True, False, True]


def test_bytes_are_bounded() -> None:
    clock = Clock()
    kept = SpokenAnswers(max_count=100, max_bytes=10_000, keep_s=60, clock=clock)
    for number in range(20):
        kept.put(str(number), range(300), "")
        assert kept.num_bytes <= 10_000
    assert 1 <= len(kept) <= 5 and kept.get("19") and not kept.get("0")
    assert kept.put("big", range(10_000), "") == 1000, "it is not kept at all, and says so"
    assert kept.get("big") is None and kept.get("19")
    clock.now += 61
    kept.put("new", [1], "")
    assert len(kept) == 1
