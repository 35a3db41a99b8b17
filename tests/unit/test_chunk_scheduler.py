"""When a stream's codes make a chunk, and whose chunk goes first."""

from __future__ import annotations

import random

import pytest

from cadence.errors import ConfigError
from cadence.token2wav.scheduler import (
    DRY_S,
    PATIENCE_S,
    Candidate,
    ChunkCutter,
    check_schedule,
    choose,
)
from cadence.types import ChunkSchedule


def cut(num_codes: int, schedule: ChunkSchedule, pushes: list[int]) -> list[tuple[int, int, bool]]:
    cutter, pending, chunks = ChunkCutter(schedule), 0, []
    for index, push in enumerate([*pushes, num_codes - sum(pushes)]):
        pending += push
        ended = index == len(pushes)
        while (chunk := cutter.next(pending, ended=ended)) is not None:
            assert chunk.num_codes + chunk.num_ahead <= pending
            pending -= chunk.num_codes
            cutter.advance()
            chunks.append((chunk.num_codes, chunk.num_ahead, chunk.last))
            if chunk.last:
                break
    assert pending == 0
    return chunks


def test_chunks_grow_from_first_to_steady_once_the_first_is_heard() -> None:
    chunks = cut(109, ChunkSchedule(), [109])
    assert [size for size, _, _ in chunks] == [5, 5, 9, 16, 25, 25, 24]
    assert [ahead for _, ahead, _ in chunks] == [3, 3, 3, 3, 3, 3, 0]
    assert [last for _, _, last in chunks] == [False] * 6 + [True]
    calmer = ChunkSchedule(first=9, growth=2.0)
    assert [size for size, _, _ in cut(87, calmer, [87])] == [9, 9, 18, 25, 26]


def test_the_reference_s_schedule() -> None:
    fixed = ChunkSchedule(first=25, steady=25, growth=1.0)
    assert [size for size, _, _ in cut(100, fixed, [100])] == [25, 25, 25, 25]
    assert [size for size, _, _ in cut(28, fixed, [28])] == [25, 3]  # at 28 codes the end is not known yet


@pytest.mark.parametrize("num_codes", [0, 1, 2, 3, 4, 7, 8, 9, 24, 25, 26, 27, 28, 29, 200])
def test_every_code_is_rendered_once_however_they_come(num_codes: int) -> None:
    rng = random.Random(num_codes)
    schedule = ChunkSchedule(first=rng.randint(1, 9), steady=25, growth=rng.choice([1.0, 1.1, 2.0, 9.0]))
    for _ in range(20):
        left, pushes = num_codes, []
        while left:
            pushes.append(rng.randint(1, left))
            left -= pushes[-1]
        chunks = cut(num_codes, schedule, pushes)
        assert sum(size for size, _, _ in chunks) == num_codes
        assert all(size for size, _, _ in chunks)
        assert [last for _, _, last in chunks].count(True) == (1 if num_codes else 0)


@pytest.mark.parametrize("num_codes", [1, 11, 12, 13, 21, 24, 40, 77])
def test_chunks_do_not_depend_on_whether_the_end_is_known_yet(num_codes: int) -> None:
    one_by_one = cut(num_codes, ChunkSchedule(), [1] * num_codes)
    assert cut(num_codes, ChunkSchedule(), [num_codes]) == one_by_one
    assert cut(num_codes, ChunkSchedule(), []) == one_by_one  # codes and end at once


def test_whose_listener_runs_dry_first_goes_first_and_newcomers_have_some_patience() -> None:
    new = Candidate("new", True, 0.0)
    calm, low, lower = (
        Candidate(name, False, s) for name, s in (("calm", 0.9), ("low", 0.2), ("lower", 0.05))
    )
    assert choose([calm, new, low, lower], max_batch=4) == ["lower", "new", "low", "calm"]
    assert choose([calm, new, low, lower], max_batch=1) == ["lower"]
    waited = Candidate("new", True, -PATIENCE_S)  # since its first chunk could be rendered
    assert choose([waited, lower], max_batch=2) == ["new", "lower"]
    assert choose([], max_batch=2) == []


def test_newcomers_do_not_wait_for_streams_that_are_late_anyway_nor_take_all_of_a_batch() -> None:
    new = [Candidate(f"n{i}", True, -1.0 + 0.1 * i) for i in range(5)]
    late = [Candidate("late", False, -0.2), Candidate("later", False, -9.0)]
    low = Candidate("low", False, 0.1)
    assert choose([low, *late, *new], max_batch=4) == ["n0", "n1", "later", "late"]
    assert choose([low, *late, *new], max_batch=1) == ["n0"]
    assert choose(new, max_batch=4) == ["n0", "n1", "n2", "n3"]
    assert choose([low, *late, *new], max_batch=8) == [*(c.request_id for c in new), "later", "late", "low"]


def test_where_batches_gain_little_who_can_be_served_in_time_goes_alone() -> None:
    new, low, full = Candidate("new", True, 0.0), Candidate("low", False, 0.05), Candidate("full", False, 3.0)
    assert choose([full, new, low], max_batch=8, one_by_one=True) == ["low"]
    late = [Candidate(f"late{i}", False, -1.0 - i) for i in range(3)]
    assert choose([new, low, *late], max_batch=8, one_by_one=True) == ["late2", "late1", "late0"]
    assert choose([full, Candidate("half", False, 2.0)], max_batch=8, one_by_one=True) == ["half", "full"]


def test_who_has_enough_to_play_waits_for_a_listener_who_will_soon_run_dry() -> None:
    full, low = Candidate("full", False, DRY_S), Candidate("low", False, 0.9)
    assert choose([full], max_batch=8, spare=True) == []
    assert choose([full, low], max_batch=8, spare=True) == ["low"]
    assert choose([full], max_batch=8) == ["full"]


def test_listeners_with_enough_to_play_wait_while_others_do_not_have_it() -> None:
    new, low = Candidate("new", True, 0.0), Candidate("low", False, DRY_S - 0.01)
    full, fuller = Candidate("full", False, DRY_S), Candidate("fuller", False, 3.0)
    assert choose([full, low, new], max_batch=8) == ["new", "low"]
    assert choose([full, new], max_batch=8) == ["new"]
    assert choose([full, low], max_batch=8) == ["low"]
    assert choose([fuller, full], max_batch=8) == ["full", "fuller"]  # nobody is in need: throughput


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        (ChunkSchedule(lookahead=2), "lookahead"),
        (ChunkSchedule(first=0), "first"),
        (ChunkSchedule(first=30), "steady"),
        (ChunkSchedule(growth=0.5), "growth"),
    ],
)
def test_impossible_schedules_are_refused(schedule: ChunkSchedule, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        check_schedule(schedule, lookahead=3)


def test_the_default_schedule_is_fine() -> None:
    check_schedule(ChunkSchedule(), lookahead=3)
