"""Drawn halls: seeded, exactly labelled, and different from one another."""

import numpy as np
import pytest

from mnv2_perception.scenes.hall import BACKGROUND, draw_hall, FLOOR, HALL_CLASSES, OBSTACLE

HALLS = [draw_hall(seed, 72, 96) for seed in range(24)]


def test_a_seed_is_one_hall_and_another_is_another() -> None:
    image, label = draw_hall(3, 72, 96)
    assert np.array_equal(image, HALLS[3][0]) and np.array_equal(label, HALLS[3][1])
    assert not np.array_equal(image, HALLS[4][0])
    assert image.shape == (72, 96, 3) and label.shape == (72, 96)
    assert image.dtype == label.dtype == np.uint8


def test_every_class_occurs_and_the_floor_lies_below() -> None:
    labels = np.stack([label for _, label in HALLS])
    shares = np.bincount(labels.ravel(), minlength=3) / labels.size
    assert len(shares) == len(HALL_CLASSES)
    assert shares[FLOOR] > 0.2 and shares[OBSTACLE] > 0.01 and shares[BACKGROUND] > 0.2
    assert (labels[:, -1] == FLOOR).mean() > 0.6 > 0.02 > (labels[:, 0] == FLOOR).mean()


@pytest.mark.parametrize(('image', 'label'), HALLS[:8])
def test_a_picture_is_neither_black_nor_white(image: np.ndarray, label: np.ndarray) -> None:
    assert 15 < image.mean() < 240 and image.std() > 5
