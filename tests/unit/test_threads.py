"""The cores are shared out between the stages."""

from __future__ import annotations

import pytest

from cadence.runtime.threads import num_cores, split_threads


@pytest.mark.parametrize(
    ("cores", "split"), [(1, (1, 1)), (2, (1, 1)), (4, (1, 3)), (8, (2, 6)), (64, (16, 48))]
)
def test_no_core_is_given_twice_where_there_are_two(cores: int, split: tuple[int, int]) -> None:
    assert split_threads(cores, None, None) == split


def test_what_is_given_stays() -> None:
    assert split_threads(8, 3, None) == (3, 5)
    assert split_threads(8, None, 7) == (1, 7)
    assert split_threads(8, 8, 8) == (8, 8)
    assert split_threads(2, 2, None) == (2, 1)


def test_a_text_only_server_has_all_cores() -> None:
    assert split_threads(8, None, None, can_speak=False)[0] == 8


def test_this_machine_has_cores() -> None:
    assert num_cores() >= 1
