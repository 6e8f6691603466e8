"""Hard light for training: what may change, and what must not."""

import numpy as np
import pytest

pytest.importorskip('torch', reason='no torch: run make setup-train')

from mnv2_perception.training.light import reflect, relight, tint

pytestmark = pytest.mark.train


def test_the_image_is_only_read_and_a_seed_is_one_light() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    before = image.copy()
    first, second = (relight(image, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(image, before) and np.array_equal(first, second)
    assert first.shape == image.shape and first.dtype == np.uint8


def test_more_than_a_sixth_of_the_images_come_out_dark_and_few_are_lost() -> None:
    image = np.random.default_rng(0).integers(60, 200, (40, 56, 3), np.uint8)
    means = np.array([
        relight(image, np.random.default_rng(seed)).mean() for seed in range(300)
    ])
    assert (means < 0.5 * image.mean()).mean() > 1 / 6
    assert (means < 4).mean() < 0.05 and (means > 250).mean() < 0.05


def test_the_floor_alone_mirrors_what_stands_above_the_horizon() -> None:
    image = np.full((60, 40, 3), 0.5, np.float32)
    image[:30] = (1.0, 0.0, 0.0)  # a red wall
    floor = np.zeros((60, 40), bool)
    floor[30:] = True
    seen = reflect(image, floor, np.random.default_rng(1))
    assert np.array_equal(seen[:30], image[:30])
    redder = seen[30:, :, 0] - seen[30:, :, 1]
    assert redder.max() > 0.05


def test_each_class_has_a_light_of_its_own() -> None:
    image = np.full((60, 40, 3), 100, np.uint8)
    label = np.zeros((60, 40), np.uint8)
    label[30:] = 4
    seen = tint(image, label, np.random.default_rng(1))
    wall, floor = seen[:26].reshape(-1, 3), seen[34:].reshape(-1, 3)  # but for the soft edge
    assert (wall == wall[0]).all() and (floor == floor[0]).all()
    assert (wall[0] != floor[0]).all() and (image == 100).all()
