"""Verbatim speech: what is said is the text, when is the model's choice, and it always ends."""

from __future__ import annotations

import random

from cadence.thinker.verbatim import GROUP, MARGIN_GROUPS, Slot, VerbatimSpeech

TEXT, PAD, TTS_END, EOT, CODE = (11, 12, 13), 90, 91, 50, 100


def speech(
    text: tuple[int, ...] = TEXT, *, max_wait: int = 0, ends: tuple[int, ...] = (TTS_END, EOT)
) -> VerbatimSpeech:
    return VerbatimSpeech(text, tts_pad=PAD, end_ids=ends, max_wait=max_wait)


def say(policy: VerbatimSpeech, text_slot: list[int], audio_slot: list[int], steps: int = 400) -> list[int]:
    """Write ids, sampling the given ones in turn by slot."""
    written: list[int] = []
    texts, audios = iter(text_slot * steps), iter(audio_slot * steps)
    while not policy.ended and not policy.exhausted and len(written) < steps:
        token = policy.forced()
        if token is None:
            token = policy.resolve(next(texts if policy.choice().slot is Slot.TEXT else audios))
        policy.push(token)
        written.append(token)
    return written


def test_groups_are_one_text_and_four_audio_slots() -> None:
    assert GROUP == (Slot.TEXT,) + (Slot.AUDIO,) * 4


def test_text_runs_ahead_then_padding_then_the_models_own_end() -> None:
    policy = speech()
    written = say(policy, [77, 78, TTS_END], [CODE])
    assert written[0:15:5] == [11, 12, 13]
    assert written[15:] == [PAD, CODE, CODE, CODE, CODE, PAD, CODE, CODE, CODE, CODE, TTS_END]
    assert policy.ended and not policy.exhausted


def test_no_end_is_offered_or_taken_while_text_is_left() -> None:
    policy = speech(max_wait=3)
    assert not policy.choice().may_end
    assert policy.resolve(TTS_END) == 11 and policy.resolve(EOT) == 11
    policy.push(11)
    assert policy.choice().slot is Slot.AUDIO and not policy.choice().may_end


def test_an_end_in_an_audio_slot_is_the_models_choice_once_the_text_is_said() -> None:
    policy = speech((11,))
    policy.push(11)
    assert policy.choice().may_end
    policy.push(policy.resolve(EOT))
    assert policy.ended


def test_waiting_is_bounded() -> None:
    written = say(speech(max_wait=2), [PAD], [CODE], steps=60)
    assert written[::5][:10] == [PAD, PAD, 11, PAD, PAD, 12, PAD, PAD, 13, PAD]


def test_the_model_may_speak_before_its_wait_is_over() -> None:
    written = say(speech(max_wait=4), [PAD, 77, 77], [CODE], steps=40)
    assert written[::5] == [PAD, 11, 12, PAD, 13, PAD, PAD, PAD]


def test_it_always_ends() -> None:
    for text in ((), TEXT):
        policy = speech(text)
        written = say(policy, [77], [CODE], steps=10_000)
        assert policy.exhausted and len(written) == 5 * policy.max_groups
    assert speech(()).max_groups == MARGIN_GROUPS


def test_without_end_ids_nothing_but_the_caller_ends_it() -> None:
    policy = speech(ends=())
    assert len(say(policy, [TTS_END], [EOT], steps=1000)) == 1000


def test_whatever_is_sampled_the_text_comes_out_in_order() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(50):
        text = tuple(rng.randrange(10, 40) for _ in range(rng.randrange(12)))
        policy = speech(text, max_wait=rng.randrange(4))
        samples = [rng.choice((PAD, TTS_END, EOT, 30, 77)) for _ in range(300)]
        audio = [rng.choice((CODE, CODE + 1)) for _ in range(7)]
        written = say(policy, samples, audio, steps=10_000)
        assert tuple(token for token in written if 10 <= token < 40) == text
        assert policy.ended or policy.exhausted
