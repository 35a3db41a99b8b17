"""Whose next chunk is worth waiting for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from cadence.models.flow_stream import VoiceState
from cadence.token2wav.scheduler import ChunkCutter
from cadence.token2wav.session import MAX_UNREAD_CHUNKS, STALLED_S, Session
from cadence.types import OUTPUT_RATE_HZ, ChunkSchedule, SpeechRequest

NOW_S = 100.0


def voice() -> VoiceState:
    empty = torch.zeros(0)
    return VoiceState(speaker=empty, keys_values=empty, conv=empty, encoder=(empty, empty), tails={})


def listening(*, left_s: float = 0.1, streaming: bool = True) -> Session:
    """A stream whose listener has `left_s` to play and whose newest code has just come."""
    session = Session(
        request=SpeechRequest(request_id="a", streaming=streaming),
        cutter=ChunkCutter(ChunkSchedule()),
        generator=torch.Generator(),
        deliver=lambda outcome: None,
        voice=voice(),
    )
    session.push([1], NOW_S)
    session.hand_over(np.zeros(round(left_s * OUTPUT_RATE_HZ), np.float32), NOW_S)
    return session


def test_a_nearly_dry_listener_whose_codes_are_coming_is_waited_for() -> None:
    assert listening().is_due_soon(NOW_S)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda s: setattr(s, "num_unread", MAX_UNREAD_CHUNKS), id="its reader sleeps"),
        pytest.param(lambda s: setattr(s, "ended", True), id="no more codes come"),
        pytest.param(lambda s: setattr(s, "fed_s", NOW_S - STALLED_S), id="its codes have stopped"),
        pytest.param(lambda s: setattr(s, "fed_s", None), id="no code has come"),
        pytest.param(lambda s: setattr(s, "voice", None), id="its voice is not prepared"),
    ],
)
def test_nobody_waits_for_one_who_cannot_be_served_soon(change: Callable[[Session], None]) -> None:
    session = listening()
    change(session)
    assert not session.is_due_soon(NOW_S)


def test_nobody_waits_for_one_who_has_enough_to_play_or_wants_it_whole() -> None:
    assert not listening(left_s=0.5).is_due_soon(NOW_S)
    assert listening(left_s=0.5).is_due_soon(NOW_S + 0.4)
    assert not listening(streaming=False).is_due_soon(NOW_S)
