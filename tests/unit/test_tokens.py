"""Special ids: found by name, checked against each other and against config.json."""

from __future__ import annotations

import pytest

from cadence.errors import CheckpointError
from cadence.tokens import PADDING_CODE, SpecialIds
from cadence.types import NUM_CODES

MARKERS = ["<audio_start>", "<audio_end>", "<audio_patch>", "<x>", "<tts_start>", "<tts_end>", "<tts_pad>"]


def vocab() -> dict[str, int]:
    """Ten letters, the message markers, the markers of sound, then every speech code."""
    names = [*"abcdefghij", "<|endoftext|>", "<|EOT|>", "<|BOT|>", *MARKERS]
    names += [f"<audio_{code}>" for code in range(PADDING_CODE + 1)]
    return {name: token_id for token_id, name in enumerate(names)}


def test_ids_are_looked_up_by_name_and_ranges_follow() -> None:
    special = SpecialIds.from_vocab(vocab())
    assert (special.endoftext, special.eot, special.bot) == (10, 11, 12)
    assert special.text_limit == special.audio_start == 13
    assert special.audio_0 == 20
    assert special.num_ids == 20 + 6562
    assert special.stop_ids == (11, 10)
    assert special.is_text(12) and not special.is_text(13) and not special.is_text(-1)
    assert special.is_code(20) and special.is_code(20 + NUM_CODES - 1)
    assert special.audio_padding == 20 + NUM_CODES and not special.is_code(special.audio_padding)
    assert special.code_of(special.id_of(6560)) == 6560


@pytest.mark.parametrize("code", [-1, NUM_CODES])
def test_codes_out_of_range_are_refused(code: int) -> None:
    special = SpecialIds.from_vocab(vocab())
    with pytest.raises(ValueError, match="speech code"):
        special.id_of(code)
    with pytest.raises(ValueError, match="no speech code"):
        special.code_of(special.audio_0 + code)


def test_every_missing_name_is_listed() -> None:
    names = vocab()
    del names["<tts_pad>"], names["<|BOT|>"]
    with pytest.raises(CheckpointError, match=r"<\|BOT\|>.*<tts_pad>"):
        SpecialIds.from_vocab(names)


def test_codes_must_be_in_one_run() -> None:
    names = vocab()
    names["<audio_100>"], names["<audio_101>"] = names["<audio_101>"], names["<audio_100>"]
    with pytest.raises(CheckpointError, match="<audio_100> has id 121, expected 120"):
        SpecialIds.from_vocab(names)


def test_markers_must_be_in_their_ranges() -> None:
    names = vocab()
    names["<tts_start>"] = 3
    with pytest.raises(CheckpointError, match="<tts_start> has id 3, expected between"):
        SpecialIds.from_vocab(names)
    names = vocab()
    names["<|EOT|>"] = 9000
    with pytest.raises(CheckpointError, match=r"<\|EOT\|> has id 9000, expected below"):
        SpecialIds.from_vocab(names)


@pytest.mark.parametrize(
    ("config", "both_values"),
    [
        ({"text_config": {"vocab_size": 6000}}, r"text_config.vocab_size is 6000.* 6581"),
        ({"audio_start_token_id": 14}, "audio_start_token_id is 14.* 13"),
        ({"eos_token_id": [11, 9999]}, "eos_token_id is 9999.* 6581"),
    ],
)
def test_a_config_that_disagrees_is_refused_with_both_values(config: dict, both_values: str) -> None:
    with pytest.raises(CheckpointError, match=both_values):
        SpecialIds.from_vocab(vocab(), config=config)


def test_a_config_that_agrees_is_accepted() -> None:
    config = {"vocab_size": 6592, "eos_token_id": 11, "tts_start_token_id": 17, "pad_token_id": 10}
    SpecialIds.from_vocab(vocab(), config=config)


def test_the_end_token_must_exist() -> None:
    with pytest.raises(CheckpointError, match="<nope>"):
        SpecialIds.from_vocab(vocab(), eos_token="<nope>")
