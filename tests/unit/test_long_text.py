"""A long text is read in pieces, one voice session over all of them, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from engine_kit import Kit, assert_idle, collect, sound_of, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cadence.answers.pieces import MAX_PIECE_IDS
from cadence.answers.sentences import split_text
from cadence.config import EngineConfig, ServeConfig
from cadence.engine import start_engine
from cadence.errors import CheckpointError, DeadlineExceeded, StageFailed
from cadence.runtime.fake_stages import StageFault, tone
from cadence.types import CODE_SAMPLES, Done, Message, Request, SamplingParams, TextPart, ThinkerRequest

SENTENCE = "The river runs past the mill, and nobody counts the hours it takes. "
LONG = SENTENCE * 160  # more than 10,000 characters


@pytest.fixture(scope="session")
def kit(tiny_checkpoint: Path) -> Kit:
    return Kit(tiny_checkpoint)


def read(text: str, **fields: object) -> Request:
    return Request(request_id="long", messages=(), output="speech", verbatim=text, **fields)  # type: ignore[arg-type]


class Reader:
    """A script that speaks what it is told to, four codes for every text id, and notes the requests."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.requests: list[ThinkerRequest] = []

    def __call__(self, request: ThinkerRequest) -> list[int]:
        self.requests.append(request)
        text = self.kit.tokenizer.decode(request.forced_text_ids or ())
        return self.kit.speech(text, 4 * len(request.forced_text_ids or ()))


async def test_ten_thousand_characters_in_one_session(kit: Kit) -> None:
    script = Reader(kit)
    engine, *stages = kit.engine(script)
    events = await collect(engine, read(LONG, sampling=SamplingParams(seed=3)))
    done = events[-1]
    assert isinstance(done, Done)
    assert len(LONG) > 10_000 and text_of(events) == LONG
    assert (done.finish_reason, done.text_left) == ("stop", 0)
    # each piece is a verbatim request of its own, with the piece alone as its text
    pieces = [kit.tokenizer.decode(request.forced_text_ids or ()) for request in script.requests]
    assert len(pieces) > 10 and " ".join(pieces) == LONG.strip()
    assert all(piece.endswith("takes.") for piece in pieces)
    assert max(len(request.forced_text_ids or ()) for request in script.requests) <= MAX_PIECE_IDS
    prompt = kit.tokenizer.decode(script.requests[1].prompt.ids, skip_special=False)
    assert prompt.endswith(f"<|BOT|>human\n{pieces[1]}<|EOT|><|BOT|>assistant\n<tts_start>")
    # one vocoder session: the tone runs on over every joint
    num_codes = done.usage.completion_audio_tokens
    assert stages[1].num_started == 1
    assert np.array_equal(sound_of(events), tone("default", 3, 0, num_codes * CODE_SAMPLES))
    assert done.usage.prompt_tokens == sum(len(request.prompt.ids) for request in script.requests)
    await assert_idle(engine, *stages)


async def test_the_next_piece_is_begun_before_the_last_is_done(kit: Kit) -> None:
    events: list[str] = []
    script = Reader(kit)

    def noted(request: ThinkerRequest) -> list[int]:
        events.append(f"begin {len(events)}")
        return script(request)

    engine, thinker, token2wav = kit.engine(noted)
    most = 0
    async for _ in engine.generate(read(SENTENCE * 20)):
        most = max(most, thinker.num_held)
    assert most == 2, "the piece being read and the next one, no more"
    await assert_idle(engine, thinker, token2wav)


async def test_instructions_stand_before_every_piece(kit: Kit) -> None:
    script = Reader(kit)
    engine, *_ = kit.engine(script)
    system = Message("system", (TextPart("Whisper."),))
    await collect(
        engine, Request(request_id="r", messages=(system,), output="speech", verbatim=SENTENCE * 20)
    )
    prompts = [kit.tokenizer.decode(request.prompt.ids, skip_special=False) for request in script.requests]
    assert len(prompts) > 1
    assert all(prompt.startswith("<|BOT|>system\nWhisper.<|EOT|>") for prompt in prompts)
    assert len({request.request_id for request in script.requests}) == len(prompts)


async def test_a_limit_holds_over_all_pieces_and_is_told(kit: Kit) -> None:
    script = Reader(kit)
    engine, *stages = kit.engine(script)
    events = await collect(engine, read(LONG, sampling=SamplingParams(max_tokens=777)))
    done = events[-1]
    assert isinstance(done, Done) and done.finish_reason == "length"
    assert 770 < done.usage.completion_tokens <= 777
    assert done.text_left == sum(len(kit.tokenizer.encode(text)) for text in _pieces(kit, LONG)) - (
        sum(1 for _ in kit.tokenizer.encode(text_of(events).strip()))
    )
    await assert_idle(engine, *stages)


def _pieces(kit: Kit, text: str) -> list[str]:
    split = split_text(text, MAX_PIECE_IDS, lambda part: len(kit.tokenizer.encode(part)))
    return [piece.strip() for piece in split]


async def test_a_model_of_single_sentences_reads_one_at_a_time(kit: Kit) -> None:
    script = Reader(kit)
    engine, *stages = kit.engine(script, single_sentences=True)
    events = await collect(engine, read(SENTENCE * 3 + "Who?\nNobody."))
    said = [kit.tokenizer.decode(request.forced_text_ids or ()) for request in script.requests]
    assert said == [SENTENCE.strip()] * 3 + ["Who?", "Nobody."]
    assert text_of(events) == SENTENCE * 3 + "Who?\nNobody."
    assert stages[1].num_started == 1
    await assert_idle(engine, *stages)


@pytest.mark.parametrize("asked", [True, "yes"])
async def test_a_checkpoint_says_whether_it_reads_single_sentences(
    tiny_checkpoint: Path, tmp_path: Path, asked: object
) -> None:
    root = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, root)
    file = root / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tts_single_sentences": asked}))
    config = ServeConfig(model=str(root), engine=EngineConfig(in_process=True))
    if not isinstance(asked, bool):
        with pytest.raises(CheckpointError, match="tts_single_sentences"):
            await start_engine(config)
        return
    engine = await start_engine(config)
    assert engine._shop.single_sentences
    await engine.aclose()


async def test_a_small_context_makes_small_pieces(kit: Kit) -> None:
    script = Reader(kit)
    engine, *_ = kit.engine(script, max_model_len=320)
    events = await collect(engine, read(SENTENCE * 10))
    assert text_of(events) == SENTENCE * 10
    for request in script.requests:
        assert len(request.prompt.ids) + 12 * len(request.forced_text_ids or ()) < 320


@pytest.mark.parametrize("after", range(0, 400, 57))
async def test_a_broken_piece_ends_the_answer_with_its_error(kit: Kit, after: int) -> None:
    engine, thinker, token2wav = kit.engine(Reader(kit))
    count = itertools.count()
    generate = thinker.generate

    async def failing(request: ThinkerRequest):  # type: ignore[no-untyped-def]
        async for step in generate(request):
            if next(count) == after:
                raise StageFailed("The stage broke.")
            yield step

    thinker.generate = failing  # type: ignore[method-assign]
    with pytest.raises(StageFailed, match="The stage broke"):
        await collect(engine, read(SENTENCE * 20))
    await assert_idle(engine, thinker, token2wav)


async def test_leaving_and_lateness_free_everything(kit: Kit) -> None:
    engine, thinker, token2wav = kit.engine(Reader(kit))
    for num_events in (1, 3, 40, 160, 400):
        stream = engine.generate(read(LONG))
        for _ in range(num_events):
            await anext(stream)
        await stream.aclose()
        await assert_idle(engine, thinker, token2wav)
    thinker.fault = StageFault(600)
    with pytest.raises(DeadlineExceeded):
        await collect(engine, read(LONG, deadline_s=0.2))
    for _ in range(50):
        await asyncio.sleep(0.01)
    await assert_idle(engine, thinker, token2wav)


# ------------------------------------------------------------------ where a text is cut
def cut(text: str, limit: int) -> list[str]:
    return split_text(text, limit, len)


@pytest.mark.parametrize(
    ("text", "limit", "pieces"),
    [
        ("Short.", 20, ["Short."]),
        ("One here. Two there. Three.", 14, ["One here. ", "Two there. ", "Three."]),
        ("Mr. Smith paid $3.14. He left.", 24, ["Mr. Smith paid $3.14. ", "He left."]),
        ("See e.g. the J. R. file. Done now.", 26, ["See e.g. the J. R. file. ", "Done now."]),
        ('He said "No!" Then he went.', 16, ['He said "No!" ', "Then he went."]),
        ("今天天气很好。我们去公园吧！好。", 8, ["今天天气很好。", "我们去公园吧！", "好。"]),
        ("First line\nSecond line\n", 12, ["First line\n", "Second line\n"]),
        ("a long clause, another clause; end", 18, ["a long clause, ", "another clause; ", "end"]),
        ("words without any mark", 10, ["words ", "without ", "any mark"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
    ],
)
def test_cuts_are_where_a_reader_takes_breath(text: str, limit: int, pieces: list[str]) -> None:
    assert cut(text, limit) == pieces


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab. ,\n!?。，、“”A1é\u3000", max_size=200), st.integers(1, 40))
def test_pieces_join_to_the_text_within_the_limit(text: str, limit: int) -> None:
    for single_sentences in (False, True):
        pieces = split_text(text, limit, len, single_sentences=single_sentences)
        assert "".join(pieces) == text
        assert all(0 < len(piece) <= limit for piece in pieces) or text == ""


def test_single_sentences_are_not_joined_and_long_ones_are_still_cut() -> None:
    text = "One. Two.\nA long clause, another clause. End"
    pieces = split_text(text, 18, len, single_sentences=True)
    assert pieces == ["One. ", "Two.\n", "A long clause, ", "another clause. ", "End"]
