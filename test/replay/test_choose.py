"""Which frames are chosen, of figures worked out by hand."""

import numpy as np
import pytest

from mnv2_perception.replay.choose import default_spacing, evenly, farthest_first, least_sure


def test_evenly_chosen_are_the_middles_of_equal_parts() -> None:
    assert [each.frame for each in evenly(12, 4)] == [1, 4, 7, 10]
    assert [each.frame for each in evenly(3, 50)] == [0, 1, 2]
    assert evenly(0, 4) == []


def test_the_least_sure_are_chosen_first_and_never_a_neighbour_within_the_spacing() -> None:
    confidence = [0.9, 0.2, 0.1, 0.3, 0.8, 0.4, 0.5]
    assert [each.frame for each in least_sure(confidence, 3, 2)] == [2, 5, 0]
    assert [each.frame for each in least_sure(confidence, 3, 1)] == [2, 1, 3]
    assert [each.frame for each in least_sure([0.5] * 4, 2, 1)] == [0, 1]
    assert 'confidence 0.1000' in least_sure(confidence, 1, 1)[0].why


@pytest.mark.parametrize(('frames', 'count'), [(60, 20), (59, 20), (7, 7), (101, 3), (5, 9)])
def test_at_the_default_spacing_all_that_were_asked_for_are_found(frames: int, count: int) -> None:
    for seed in range(20):
        confidence = np.random.default_rng(seed).random(frames).tolist()
        chosen = least_sure(confidence, count, default_spacing(frames, count))
        assert len(chosen) == min(frames, count)


def test_the_farthest_from_those_chosen_comes_next() -> None:
    features = np.array([[0, 0], [0.1, 0], [10, 0], [4, 0], [10, 1], [0, 9]], np.float32)
    assert [each.frame for each in farthest_first(features, 4)] == [3, 5, 4, 0]  # mean (4, 1.7)


def test_frames_that_equal_chosen_ones_are_left_out() -> None:
    features = np.array([[1, 2], [1, 2], [3, 4], [1, 2]], np.float32)
    assert len(farthest_first(features, 4)) == 2
    assert farthest_first(np.zeros((0, 3), np.float32), 4) == []
