"""Speech in the history, tool calls, reasoning and open turns: the prompt's ids, one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer as ReferenceTokenizer

from cadence.answers.transcript import Transcript
from cadence.interleave import interleave, repeat_speech
from cadence.prompt import PromptBuilder
from cadence.text import Tokenizer
from cadence.types import (
    Message,
    Part,
    ReasoningPart,
    SpeechPart,
    StepOutput,
    TextPart,
    ToolCallPart,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    return Tokenizer.open(tiny_checkpoint)


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> ReferenceTokenizer:
    return ReferenceTokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))


def said(*content: str | Part) -> list[Message]:
    parts = tuple(TextPart(part) if isinstance(part, str) else part for part in content)
    return [Message("user", (TextPart("Hi"),)), Message("assistant", parts)]


def spelled(reference: ReferenceTokenizer, *texts: str) -> tuple[int, ...]:
    return tuple(i for text in ("<|BOT|>human\nHi<|EOT|>", *texts) for i in reference.encode(text).ids)


# ------------------------------------------------------------------ groups
@pytest.mark.parametrize(
    ("num_text", "num_codes", "num_groups"), [(3, 4, 3), (1, 9, 3), (0, 1, 1), (0, 0, 0)]
)
def test_every_group_is_full(tokenizer: Tokenizer, num_text: int, num_codes: int, num_groups: int) -> None:
    """The fork's own rule padded too little: as many slots as groups lacked, not as the slots did."""
    special = tokenizer.special
    text_ids, codes = list(range(num_text)), list(range(num_codes))
    first, *ids, last = interleave(special, text_ids, codes)
    assert (first, last) == (special.tts_start, special.tts_end)
    assert len(ids) == 5 * num_groups
    texts = [i for place, i in enumerate(ids) if place % 5 == 0]
    audio = [i for place, i in enumerate(ids) if place % 5]
    assert texts == text_ids + [special.tts_pad] * (num_groups - num_text)
    assert audio == [special.id_of(c) for c in codes] + [special.audio_padding] * (4 * num_groups - num_codes)


def test_a_spoken_answer_is_repeated_as_it_was(tokenizer: Tokenizer) -> None:
    special = tokenizer.special
    group = [65, *(special.id_of(code) for code in range(4))]
    whole = [*group, special.tts_end, 66]
    assert repeat_speech(special, whole) == [special.tts_start, *whole]
    cut = [*group, *group[:3]]
    padded = [*cut, special.audio_padding, special.audio_padding, special.tts_end]
    assert repeat_speech(special, cut) == [special.tts_start, *padded]


# ------------------------------------------------------------------ turns
def test_speech_stands_before_text(tokenizer: Tokenizer, reference: ReferenceTokenizer) -> None:
    prompt = PromptBuilder(tokenizer).build(said(SpeechPart("ab", (3, 1)), "more"), "text")
    pad = "<audio_6561>"
    ids = reference.encode("ab").ids
    groups = f"<audio_3><audio_1>{pad}{pad}"
    assert len(ids) == 2, "two tokens in this vocabulary: two groups"
    expected = (
        *spelled(reference, "<|BOT|>assistant\n", "<tts_start>"),
        ids[0],
        *reference.encode(groups).ids,
        ids[1],
        *reference.encode(4 * pad).ids,
        *(
            i
            for text in ("<tts_end>", "more", "<|EOT|>", "<|BOT|>assistant\n")
            for i in reference.encode(text).ids
        ),
    )
    assert prompt.ids == expected


def test_a_call_is_written_with_its_markers(tokenizer: Tokenizer, reference: ReferenceTokenizer) -> None:
    call = ToolCallPart("look_up", '{"q": "</tool_call>"}')
    prompt = PromptBuilder(tokenizer).build(said("One moment.", call), "text")
    plain = tokenizer.encode('function\nlook_up\n{"q": "</tool_call>"}')
    special = tokenizer.special
    head = spelled(reference, "<|BOT|>assistant\n", "One moment.")
    assert prompt.ids[: len(head) + 1] == (*head, special.tool_call)
    body = prompt.ids[len(head) + 1 :]
    assert list(body[: len(plain) + 1]) == [*plain, special.tool_call_end], "arguments cannot forge a marker"


def test_reasoning_stands_where_the_model_thought_it(
    tokenizer: Tokenizer, reference: ReferenceTokenizer
) -> None:
    builder = PromptBuilder(tokenizer, "think")
    prompt = builder.build(said(ReasoningPart("Hm."), "Yes."), "text")
    opened = builder.build([Message("user", (TextPart("Hi"),))], "text")
    assert prompt.ids[: len(opened.ids) - 1] == opened.ids[:-1]
    text = tokenizer.decode(prompt.ids)
    assert text.replace("</think>", "").count("Hm.\n\n\nYes.") == 1


def test_turns(tokenizer: Tokenizer, reference: ReferenceTokenizer) -> None:
    builder = PromptBuilder(tokenizer)
    assert builder.build(said("Good"), "text", turn="continue").ids == spelled(
        reference, "<|BOT|>assistant\nGood"
    )
    assert builder.build(said("Good"), "speech", turn="continue").ids == spelled(
        reference, "<|BOT|>assistant\nGood", "<tts_start>"
    )
    assert builder.build(said("Good"), "text", turn="none").ids == spelled(
        reference, "<|BOT|>assistant\nGood<|EOT|>"
    )


@pytest.mark.parametrize(("call", "opening"), [("", "function\n"), ("look_up", "function\nlook_up\n")])
def test_an_answer_that_must_call(tokenizer: Tokenizer, call: str, opening: str) -> None:
    for variant in ("chat", "think"):
        builder = PromptBuilder(tokenizer, variant)
        ids = builder.build(said("Good"), "text", call=call).ids
        plain = tokenizer.encode(opening)
        assert list(ids[-len(plain) - 1 :]) == [tokenizer.special.tool_call, *plain]
        assert tokenizer.decode(ids).count("think") == 0


# ------------------------------------------------------------------ what comes back
def test_markers_of_parsers_are_visible(tokenizer: Tokenizer) -> None:
    special = tokenizer.special
    assert special.tool_call is not None
    assert not tokenizer.is_hidden(special.tool_call)
    assert tokenizer.decode([special.tool_call]) == "<tool_call>"
    assert tokenizer.is_hidden(special.eot)


def test_special_tokens_are_shown_when_asked_for(tokenizer: Tokenizer) -> None:
    special = tokenizer.special
    step = StepOutput((65, special.bot, special.eot), "stop", special.eot)
    for skip, shown in ((True, ""), (False, "<|BOT|>")):
        transcript = Transcript(tokenizer, (), skip_special=skip)
        delta = transcript.push(step).delta
        assert delta is not None and delta.text == tokenizer.decode([65]) + shown
        assert transcript.output_ids == [65, special.bot] and transcript.num_ids == 3


def test_codes_travel_with_text_or_by_the_second(tokenizer: Tokenizer) -> None:
    special = tokenizer.special
    transcript = Transcript(tokenizer, (), with_codes=True)
    ids = [65, *(special.id_of(n) for n in range(4)), 66, *(special.id_of(n) for n in range(4, 60))]
    deltas = [delta for i in ids if (delta := transcript.push(StepOutput((i,))).delta)]
    assert [(delta.text != "", len(delta.codes)) for delta in deltas] == [
        (True, 0),
        (True, 4),
        (False, 25),
        (False, 25),
    ]
    last = transcript.flush()
    assert last is not None
    assert tuple(range(60)) == tuple(code for delta in [*deltas, last] for code in delta.codes)
    assert Transcript(tokenizer, ()).push(StepOutput((special.id_of(1),))).delta is None
