"""The nano recipe's pure parts: codes that can be read back, and text placed where it is spoken."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from training.nano import blend, fit, interleave, joined, phones, restore, teacher
from training.nano import flow as flow_stage
from training.nano.generate import edit_distance, phone_error_rate
from training.nano.speech import Utterance
from training.nano.thinker_model import NanoThinker, ThinkerSizes


def spans_of(names: list[str], starts: list[float], f0_hz: float = 200.0) -> list[phones.PhoneSpan]:
    ids = {phones.symbol(i): i for i in range(phones.NUM_PHONES)}
    return [phones.PhoneSpan(ids[n], s, f0_hz) for n, s in zip(names, starts, strict=True)]


def test_every_code_splits_and_joins() -> None:
    codes = np.arange(phones.NUM_CODES)
    assert (phones.join_code(*phones.split_code(codes)) == codes).all()


def test_codes_say_the_phones_they_were_made_of() -> None:
    names = ["<sil>", "h", "ə", "l", "ˈO", "<sil>"]
    codes = phones.codes_of_spans(spans_of(names, [0.0, 0.12, 0.2, 0.25, 0.34, 0.6]), 20, 200.0)
    assert phones.phones_of_codes(codes) == names[1:-1]


def test_phones_shorter_than_a_frame_keep_a_frame_each() -> None:
    names = ["<sil>", "s", "t", "ɹ", "ˈi", "t", "<sil>"]
    starts = [0.0, 0.10, 0.115, 0.13, 0.145, 0.3, 0.34]
    codes = phones.codes_of_spans(spans_of(names, starts), 16, 200.0)
    assert phones.phones_of_codes(codes) == names[1:-1]


def test_same_phone_twice_is_heard_twice() -> None:
    codes = phones.codes_of_spans(spans_of(["<sil>", "s", "s", "<sil>"], [0.0, 0.08, 0.2, 0.32]), 12, 200.0)
    assert phones.phones_of_codes(codes) == ["s", "s"]


@pytest.mark.parametrize(("f0_hz", "step"), [(0.0, 4), (200.0, 4), (400.0, 8), (100.0, 0), (225.0, 5)])
def test_pitch_is_relative_to_the_speaker(f0_hz: float, step: int) -> None:
    assert phones.pitch_step(f0_hz, 200.0) == step


def test_phonemes_merge_stress_into_the_vowel() -> None:
    found = phones.phone_ids("həlˈO wˌɜɹld.")
    assert [phones.symbol(p) for p, _ in found] == ["h", "ə", "l", "ˈO", "w", "ɜ", "ɹ", "l", "d"]


def test_one_voice_keeps_another_voices_time() -> None:
    natural = np.array([2, 1, 4, 2, 3, 3, 5], np.float32)
    owner = [-1, -1, 0, 0, 2, 2, 3]  # phoneme 1 has no sign in this voice, 3 is the end
    starts = np.array([0.1, 0.3, 0.4, 0.72], np.float32)
    frames = teacher.frames_in_time(natural, owner, starts)
    begins = np.concatenate([[0.0], np.cumsum(frames)])[[2, 4, 6]] * 256 / 22_050
    assert np.abs(begins - starts[[0, 2, 3]]).max() < 256 / 22_050
    assert (frames >= 0).all() and frames[2] > frames[3]


def test_the_flow_begins_as_its_encoders_guess_whatever_the_chunks() -> None:
    flow = flow_stage.build()
    torch.manual_seed(0)
    codes = [torch.randint(phones.NUM_CODES, (n,)) for n in (9, 14)]
    noise = [torch.randn(2 * len(c), flow_stage.MEL_DIM) for c in codes]
    conditions = [torch.randn_like(z) for z in noise]
    for chunk in (None, 5):
        with torch.no_grad():
            velocities, mus = flow(
                codes, noise, torch.zeros(1), torch.randn(2, 192), conditions, chunk_codes=chunk
            )
        for z, velocity, mu in zip(noise, velocities, mus, strict=True):
            assert (z + velocity - mu).abs().mean() < 0.02


def test_a_blend_lies_between_and_keeps_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CADENCE_NANO_WORK", str(tmp_path))
    folder = tmp_path / "stages" / "some"
    folder.mkdir(parents=True)
    torch.save({"a": torch.zeros(3)}, folder / "start.pt")
    became = {"a": torch.ones(3), "head": torch.full((2,), 7.0)}
    torch.save({"module": became, "average": {}, "step": 4, "sizes": {}}, folder / "last.pt")
    blend.run("some", 0.25)
    found, state = fit.trained("some", averaged=True)[0], torch.load(folder / "last.pt")
    assert found["a"].tolist() == [0.25] * 3 and found["head"].tolist() == [7.0] * 2
    assert state["module"]["a"].tolist() == [1.0] * 3 and state["step"] == 4
    with pytest.raises(ValueError, match="blend already"):
        blend.run("some", 0.25)


def test_tokens_are_written_before_their_word_one_a_group() -> None:
    groups = interleave.groups_of_tokens([0, 1, 1, 2], [0.1, 1.0, 2.0])
    assert groups == sorted(set(groups))
    for token, word in ((2, 1), (3, 2)):
        lead = [0.1, 1.0, 2.0][word] - groups[token] * interleave.GROUP_S
        assert interleave.LEAD_S - 1e-9 <= lead < interleave.LEAD_S + interleave.GROUP_S


def test_crowded_tokens_follow_each_other() -> None:
    assert interleave.groups_of_tokens([0, 0, 0, 1], [0.0, 0.1]) == [0, 1, 2, 3]


def test_edit_distance_and_phone_errors() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert phone_error_rate([["ˈA", "b"]], [["A", "c"]]) == 0.5


def test_factored_tables_are_found_again_in_their_rows() -> None:
    import torch
    from training.nano.restore import factors

    torch.manual_seed(0)
    counts = (phones.NUM_PHONES, phones.NUM_POSITIONS, phones.NUM_BOUNDARIES, phones.NUM_PITCHES)
    tables = [torch.randn(n, 5) for n in counts]
    parts = phones.split_code(np.arange(phones.NUM_CODES))
    rows = sum(table[part] for table, part in zip(tables, parts, strict=True))
    found = factors(rows)
    assert [len(t) for t in found] == list(counts)
    again = sum(table[part] for table, part in zip(found, parts, strict=True))
    torch.testing.assert_close(again, rows, rtol=0, atol=1e-4)


def utterance_of(name: str, num_codes: int, offset: int = 0) -> Utterance:
    codes = phones.codes_of_spans(spans_of(["<sil>", name, "<sil>"], [0.0, 0.12, 0.2]), num_codes, 200.0)
    return Utterance(name, "open", False, "female", offset, codes.tolist(), [0.12])


def test_joined_sentences_keep_their_codes_and_say_when_each_word_starts() -> None:
    first, second = utterance_of("h", 12), utterance_of("l", 8)
    found = joined.join([first, second], [2], offset=7)
    pause = 2 * interleave.CODES_PER_GROUP
    assert (found.text, found.voice, found.offset) == ("h l", "female-joined", 7)
    assert len(found.codes) == 12 + pause + 8
    assert found.codes[:12] == first.codes
    assert phones.phones_of_codes(np.array(found.codes)) == ["h", "l"]
    assert found.word_starts_s == [0.12, pytest.approx(0.12 + (12 + pause) * phones.FRAME_S)]
    phone, position, _, _ = phones.split_code(np.array(found.codes))
    begins = (phone == phones.SILENCE) & (position == 0)
    assert begins.sum() == 3  # before, between (the pause and what lies on either side are one) and after


def test_joined_sentences_fit_the_longest_recording_and_come_once() -> None:
    lines = [utterance_of("h", 110, offset) for offset in range(30)]  # 4.4 s each
    groups = list(joined.groups_of(lines, np.random.default_rng(0)))
    offsets = [u.offset for group in groups for u in group]
    assert {len(group) for group in groups} == {2}  # three would be longer than the longest
    assert len(set(offsets)) == len(offsets) > 12
    longest = 2 * (110 * phones.FRAME_S + joined.MAX_PAUSE_GROUPS * interleave.GROUP_S)
    assert longest <= joined.MAX_S


def test_layers_that_a_smaller_checkpoint_lacks_begin_by_changing_nothing() -> None:
    torch.manual_seed(0)
    small, large = (NanoThinker(ThinkerSizes(num_text=20, hidden=32, layers=n, units=48)) for n in (2, 3))
    state = {name: value for name, value in small.state_dict().items() if not name.startswith("spelling")}
    silent = restore.silent_layers(state, large.sizes)
    assert set(silent) == {f"model.layers.2.{name}.weight" for name in ("self_attn.o_proj", "mlp.down_proj")}
    large.load_state_dict(state | silent, strict=False)
    embeds = torch.randn(1, 9, 32)
    torch.testing.assert_close(large.hidden(embeds)[0], small.hidden(embeds)[0])


def test_small_talk_is_plain_text_with_one_answer_each() -> None:
    from training.nano import corpus, dialogue

    said = [question for exchange in dialogue.exchanges() for question in exchange.questions]
    assert len(said) == len(set(said)) > 150
    answers = {dialogue.NO_ANSWER, *(exchange.answer for exchange in dialogue.exchanges())}
    assert len(answers) == len(dialogue.exchanges()) + 1
    for line in (*said, *answers):
        assert corpus.words_of(line) and line == line.strip() and not any(c.isdigit() for c in line)
    assert answers <= set(dialogue.lines("female")) and not answers & set(dialogue.lines("male"))


def write_store(folder: Path, voice: str, texts: list[str], rng: np.random.Generator) -> None:
    """A store and features of made-up sound: five codes and a bit for each word."""
    lines, index, offset, rows = [], [], 0, 0
    for text in texts:
        words = text.split()
        codes = rng.integers(phones.NUM_CODES, size=12 + 8 * len(words)).tolist()
        starts = [0.6 + 0.3 * i for i in range(len(words))]
        lines.append(
            {
                "text": text,
                "domain": "chat",
                "held_out": False,
                "voice": voice,
                "offset": offset,
                "codes": codes,
                "word_starts_s": starts,
            }
        )
        index.append([offset, 2 * len(codes)])
        offset, rows = offset + 960 * len(codes), rows + 2 * len(codes)
    store = folder / "speech" / voice
    store.mkdir(parents=True)
    (store / "utterances.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.zeros(offset, "<i2").tofile(store / "wav.i16")
    np.zeros(offset // 480, "<f2").tofile(store / "f0.f16")
    hearing = folder / "hearing"
    hearing.mkdir(exist_ok=True)
    np.zeros((rows, 384), "<f2").tofile(hearing / f"{voice}.f16")
    (hearing / f"{voice}.json").write_text(json.dumps(index))


def test_conversations_have_their_sounds_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.nano import dialogue
    from training.nano.chat_data import ChatExamples
    from training.nano.speech import Store

    from cadence.text import Tokenizer

    monkeypatch.setenv("CADENCE_NANO_WORK", str(tmp_path))
    rng = np.random.default_rng(3)
    for voice in dialogue.VOICES:
        write_store(tmp_path, f"{voice}-chat", dialogue.lines(voice), rng)
    write_store(tmp_path, "female", ["The boat was late today.", "Nobody saw the small bird."], rng)
    tokenizer = Tokenizer.open(Path(__file__).parents[2] / "src" / "cadence" / "nano")
    make = ChatExamples(tokenizer, Store("female").utterances)
    answers = {dialogue.NO_ANSWER, *(exchange.answer for exchange in dialogue.exchanges())}
    kinds = set()
    for _ in range(60):
        heard = make(rng)
        patches = np.flatnonzero(heard.ids == tokenizer.special.audio_patch)
        wanted = [np.arange(sound.start, sound.start + sound.count) for sound in heard.sounds]
        assert patches.tolist() == [int(place) for part in wanted for place in part]
        assert all(sound.phones.shape == (sound.count, 2) for sound in heard.sounds)
        answer = [int(i) for i in heard.ids[heard.answer :] if i < tokenizer.special.text_limit]
        assert tokenizer.decode(answer).strip() in answers
        assert int(heard.ids[-1]) == tokenizer.special.eot
        kinds.add((len(heard.sounds), bool((heard.ids[heard.answer :] >= tokenizer.special.audio_0).any())))
    assert len(kinds) >= 4  # heard and read, spoken and written
