"""Ids sorted into text and speech codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadence.router import TokenRouter
from cadence.text import Tokenizer
from cadence.tokens import SpecialIds


@pytest.fixture(scope="module")
def special(tiny_checkpoint: Path) -> SpecialIds:
    return Tokenizer.open(tiny_checkpoint).special


def test_a_speech_answer_is_sorted(special: SpecialIds) -> None:
    group = [special.id_of(code) for code in (1, 2, 3, 6560)]
    ids = [
        special.tts_start,
        65,
        *group,
        special.tts_pad,
        *[special.audio_padding] * 4,
        special.tts_end,
        special.eot,
    ]
    routed = TokenRouter(special).push(ids)
    assert routed.text_ids == (65,)
    assert routed.codes == (1, 2, 3, 6560)
    assert routed.ended


def test_every_stop_id_ends_and_ids_without_a_token_are_dropped(special: SpecialIds) -> None:
    for stop in special.stop_ids:
        assert TokenRouter(special).push([stop]).ended
    routed = TokenRouter(special).push([special.num_ids, special.num_ids + 7])
    assert (routed.text_ids, routed.codes, routed.ended) == ((), (), False)


@settings(deadline=None)
@given(data=st.data())
def test_the_split_does_not_matter(special: SpecialIds, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, special.num_ids + 3), max_size=60))
    cut = data.draw(st.integers(0, len(ids)))
    whole = TokenRouter(special).push(ids)
    router = TokenRouter(special)
    first, second = router.push(ids[:cut]), router.push(ids[cut:])
    assert first.text_ids + second.text_ids == whole.text_ids
    assert first.codes + second.codes == whole.codes
    assert second.ended == whole.ended
