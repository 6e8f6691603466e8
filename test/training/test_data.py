"""Samples to train on: image and label stay together, whatever is done to them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mnv2_perception.data.coco import BoxSample
from mnv2_perception.model_spec import ModelSpec, UNLABELLED
from mnv2_perception.scenes.street import CLASSES as STREET
from mnv2_perception.scenes.street import draw_scene
from mnv2_perception.training.data import (
    augment,
    augment_boxes,
    can_draw,
    class_weights,
    draw_samples,
    padding,
    paste,
    recolour,
    whole_image,
)


def test_image_and_label_stay_aligned() -> None:
    # Blocks of 8 pixels, black or white; the label says which.
    rng = np.random.default_rng(0)
    label = np.kron(rng.integers(0, 2, (12, 16)), np.ones((8, 8))).astype(np.uint8)
    image = np.repeat(label[..., None] * 255, 3, axis=2)
    for seed in range(40):
        crop, ids = augment((image, label), (96, 128), 64, 96, np.random.default_rng(seed))
        brightness = crop.mean(axis=2)
        middle = (brightness.max() + brightness[ids != UNLABELLED].min()) / 2
        labelled = ids != UNLABELLED
        agrees = (brightness > middle) == (ids == 1)
        assert agrees[labelled].mean() > 0.9, seed  # all but the blurred borders of blocks


def test_a_label_that_is_shifted_would_be_seen() -> None:
    label = np.kron(np.random.default_rng(0).integers(0, 2, (12, 16)), np.ones((8, 8)))
    label = label.astype(np.uint8)
    image = np.repeat(np.roll(label, 3, axis=1)[..., None] * 255, 3, axis=2)
    crop, ids = augment((image, label), (96, 128), 64, 96, np.random.default_rng(0))
    brightness = crop.mean(axis=2)
    assert ((brightness > brightness.mean()) == (ids == 1))[ids != UNLABELLED].mean() < 0.9


@pytest.mark.parametrize(('height', 'width'), [(64, 96), (32, 32), (192, 288)])
def test_a_crop_has_the_size_asked_for_and_ids_of_its_label_only(height: int, width: int) -> None:
    sample = draw_scene(3, 1.0, 96, 128)
    known = {*np.unique(sample[1]).tolist(), UNLABELLED}
    for seed in range(20):
        image, label = augment(sample, (96, 128), height, width, np.random.default_rng(seed))
        assert image.shape == (height, width, 3) and label.shape == (height, width)
        assert image.dtype == label.dtype == np.uint8
        assert image.flags.c_contiguous and label.flags.c_contiguous
        assert set(np.unique(label).tolist()) <= known


def test_a_letterboxed_image_keeps_its_aspect_ratio_and_has_its_padding_around() -> None:
    spec = ModelSpec.from_dict(
        {'name': 'm', 'task': 'segmentation', 'height': 64, 'width': 64, 'classes': STREET,
         'mean': [0.0] * 3, 'std': [1.0] * 3, 'fit': 'letterbox', 'pad': 200}, 'the test',
    )
    sample = draw_scene(3, 1.0, 64, 128)
    assert whole_image(sample[0], spec) == (32, 64)
    image, label = augment(
        sample, (32, 64), 64, 64, np.random.default_rng(0), (1.0, 1.0), pad=padding(spec)
    )
    rows, columns = (np.flatnonzero((label != UNLABELLED).any(axis)) for axis in (1, 0))
    assert 0.85 < rows.size / 32 < 1.15 and rows[0] == 0
    bottom = image[rows.size :].reshape(-1, 3).astype(float)
    assert bottom.std(axis=0).max() < 4.0 and bottom.mean() > 90  # recoloured
    assert columns.size <= 64 and padding(replace(spec, fit='stretch', pad=(114,) * 3)) is None


def test_what_lies_outside_the_image_is_unlabelled() -> None:
    sample = draw_scene(3, 1.0, 64, 64)
    image, label = augment(sample, (64, 64), 256, 256, np.random.default_rng(0))
    outside = label == UNLABELLED
    assert outside[-1].all()  # at most 1.8 times 64 pixels, mirrored or not
    assert outside.mean() > 0.5
    assert not (label[~outside] == UNLABELLED).any() and image.any()


def test_scales_are_those_of_the_networks_input_whatever_the_cameras_resolution() -> None:
    image, label = draw_scene(3, 1.0, 96, 128)
    large = tuple(np.repeat(np.repeat(array, 4, 0), 4, 1) for array in (image, label))
    ids = [
        augment(sample, (96, 128), 64, 96, np.random.default_rng(3))[1]
        for sample in ((image, label), large)
    ]
    assert (ids[0] == ids[1]).mean() > 0.97


def test_the_sample_is_only_read_and_a_seed_is_one_crop() -> None:
    sample = draw_scene(3, 1.0, 96, 128)
    kept = [array.copy() for array in sample]
    first, second = (
        augment(sample, (96, 128), 64, 96, np.random.default_rng(5)) for _ in range(2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(sample, kept, strict=True))


def test_what_another_image_has_labelled_is_pasted_before_a_crop() -> None:
    below, above = (draw_scene(seed, 1.0, 64, 96) for seed in (3, 4))
    ids = np.where(above[1] == STREET.index('car'), above[1], np.uint8(UNLABELLED))
    image, label = paste((above[0], ids), *below)
    car = ids != UNLABELLED
    assert 0 < car.mean() < 0.5
    assert np.array_equal(label[car], ids[car]) and np.array_equal(label[~car], below[1][~car])
    assert np.array_equal(image[car], above[0][car])
    assert np.array_equal(image[~car], below[0][~car])


def test_crops_differ_and_some_are_mirrored() -> None:
    ramp = np.tile(np.arange(128, dtype=np.uint8), (96, 1))
    image = np.repeat(ramp[..., None], 3, axis=2)
    slopes = []
    for seed in range(40):
        _, label = augment((image, ramp), (96, 128), 64, 96, np.random.default_rng(seed))
        row = label[0].astype(int)
        slopes.append(row[40] > row[10])
    assert 10 <= sum(slopes) <= 30


def test_recolouring_varies_brightness_and_is_sometimes_gray() -> None:
    image = np.random.default_rng(0).integers(60, 200, (16, 16, 3), np.uint8)
    recoloured = [recolour(image, np.random.default_rng(seed)) for seed in range(60)]
    means = [picture.mean() for picture in recoloured]
    assert min(means) < 0.8 * image.mean() and max(means) > 1.2 * image.mean()
    gray = [np.ptp(picture.astype(int), axis=2).max() <= 1 for picture in recoloured]
    assert 1 <= sum(gray) <= 15


def test_rare_classes_weigh_more_and_weights_have_mean_one() -> None:
    weights = class_weights(np.array([80, 10, 0]))
    shares = np.array([80, 10, 0]) / 90
    expected = 1.0 / np.log(1.1 + shares)
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-6)
    assert weights[0] < weights[1] < weights[2] and weights.dtype == np.float32
    assert class_weights(np.array([80, 10, 0]), balance=0.0).tolist() == [1.0, 1.0, 1.0]


def test_drawn_samples_are_seeded_and_each_of_another_street() -> None:
    first, again = (draw_samples(3, 1, 64, 96, STREET) for _ in range(2))
    other = draw_samples(1, 2, 64, 96, STREET)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0][1], first[1][1])
    assert not np.array_equal(first[0][0], other[0][0])


def test_halls_are_drawn_for_classes_that_have_theirs_at_their_ids() -> None:
    classes = ('background', 'sidewalk', 'floor', 'obstacle')
    assert can_draw(classes) and can_draw(STREET) and not can_draw(('floor', 'wall'))
    assert draw_samples(0, 1, 64, 96, ('floor', 'wall')) == []
    labels = np.stack([label for _, label in draw_samples(4, 1, 64, 96, classes)])
    assert set(np.unique(labels)) == {0, 2, 3}
    assert np.isin(labels[:, -1], (2, 3)).mean() > 0.5


def box_sample(boxes: list[list[float]], ignored: int = 0) -> BoxSample:
    """Boxes of classes 0, 1, ...; the last `ignored` of them are to be ignored."""
    array, ids = np.array(boxes, np.float32).reshape(-1, 4), np.arange(len(boxes))
    count = len(boxes) - ignored
    return BoxSample(Path('none.png'), array[:count], ids[:count], array[count:], ids[count:])


def test_boxes_stay_on_their_objects() -> None:
    label = np.full((90, 120), 9, np.uint8)
    label[20:50, 10:40] = 0
    label[60:85, 70:110] = 1
    image = np.repeat(label[..., None], 3, axis=2)
    sample = box_sample([[10, 20, 40, 50], [70, 60, 110, 85]])
    seen = 0
    for seed in range(60):
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        # The same crop, for it is drawn first.
        _, ids = augment((image, label), (96, 128), 64, 96, rngs[0])
        _, found = augment_boxes(image, sample, (96, 128), 64, 96, rngs[1])
        for box, class_id in zip(found.boxes, found.class_ids, strict=True):
            rows, columns = np.nonzero(ids == class_id)
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(box - expected).max() <= 1.0, seed
            seen += 1
        whole = [np.sum(ids == class_id) for class_id in set(found.class_ids.tolist())]
        assert all(whole)
    assert seen > 40


def test_what_is_left_of_a_box_is_kept_ignored_or_gone() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    sample = box_sample([[0, 0, 100, 100], [40, 40, 41, 42], [48, 48, 60, 60]], ignored=1)
    fates = set()
    for seed in range(80):
        _, found = augment_boxes(
            image, sample, image.shape[:2], 64, 64, np.random.default_rng(seed), (1.0, 2.0)
        )
        for boxes in (found.boxes, found.ignored):
            assert (boxes >= 0).all() and (boxes <= 64).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert 2 not in found.class_ids and 1 not in found.class_ids  # ignored; below 3 pixels
        fates |= {(0, 'kept')} if 0 in found.class_ids else {(0, 'ignored')}
        fates |= {(2, 'ignored')} if 2 in found.ignored_ids else {(2, 'gone')}
    assert fates == {(0, 'kept'), (0, 'ignored'), (2, 'ignored'), (2, 'gone')}


def test_an_image_without_boxes_gives_a_crop_without_boxes() -> None:
    image = np.zeros((50, 70, 3), np.uint8)
    crop, found = augment_boxes(
        image, box_sample([]), (50, 70), 64, 96, np.random.default_rng(0)
    )
    assert crop.shape == (64, 96, 3)
    assert found.boxes.shape == found.ignored.shape == (0, 4)
