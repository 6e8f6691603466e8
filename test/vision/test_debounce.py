"""Debounce: flicker is held back, a lasting change is followed."""

import pytest

from mnv2_perception.vision.debounce import Debounce

ROAD, GRASS, WALL = 0, 1, 2


def test_of_one_frame_it_is_off() -> None:
    debounce = Debounce()
    assert [debounce(frame) for frame in ([ROAD, GRASS], [GRASS, ROAD], [])] == [0, 0, 0]


def test_nothing_is_believed_before_it_won_often_enough() -> None:
    debounce = Debounce(3)
    assert [debounce([ROAD, GRASS]) for _ in range(4)] == [2, 2, 0, 0]


def test_a_single_flicker_leaves_the_believed_class_where_it_stands() -> None:
    debounce = Debounce(2)
    for _ in range(2):
        debounce([ROAD, GRASS])
    assert debounce([GRASS, WALL, ROAD]) == 2
    assert debounce([ROAD, GRASS]) == 0


def test_wins_count_only_in_a_row() -> None:
    debounce = Debounce(2)
    debounce([ROAD])
    debounce([ROAD])
    for frame in ([GRASS, ROAD], [WALL, ROAD]) * 3:
        assert debounce(frame) == 1


def test_a_lasting_change_is_followed() -> None:
    debounce = Debounce(3)
    for _ in range(5):
        debounce([ROAD, GRASS])
    assert [debounce([GRASS, ROAD]) for _ in range(4)] == [1, 1, 0, 0]


def test_a_frame_without_a_class_ends_the_row_but_not_the_belief() -> None:
    debounce = Debounce(2)
    debounce([ROAD])
    debounce([])
    assert debounce([ROAD]) == 1  # two wins, but not in a row
    assert debounce([ROAD]) == 0
    assert debounce([]) == 0
    assert debounce([ROAD]) == 0


@pytest.mark.parametrize('frames', [2, 3])
def test_as_many_frames_without_a_class_end_the_belief(frames: int) -> None:
    debounce = Debounce(frames)
    for _ in range(frames):
        debounce([ROAD])
    for _ in range(frames):
        debounce([])
    assert debounce([ROAD]) == 1


def test_the_number_of_frames_may_change_between_calls() -> None:
    debounce = Debounce(5)
    debounce([ROAD])
    debounce([ROAD])
    debounce.frames = 2
    assert debounce([ROAD]) == 0
