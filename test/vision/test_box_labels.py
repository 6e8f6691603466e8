"""Labels of boxes: none covers another as long as there is room."""

import time

import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.vision.labels import place_labels

HEIGHT, WIDTH = 480, 640


def covered_px(labels: NDArray[np.intp]) -> int:
    """Return how many pixels pairs of labels share."""
    low = np.maximum(labels[:, None, :2], labels[None, :, :2])
    high = np.minimum(labels[:, None, 2:], labels[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    return int((shared - np.diag(np.diag(shared))).sum())


def random_boxes(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    rng = np.random.default_rng(seed)
    begin = rng.uniform((-20, -20), (WIDTH, HEIGHT), (count, 2))
    boxes = np.concatenate([begin, begin + rng.uniform(2, 200, (count, 2))], axis=1)
    sizes = np.stack([rng.integers(40, 110, count), np.full(count, 15)], axis=1)
    return boxes.astype(np.float32), sizes


@pytest.mark.parametrize('count', [1, 2, 10, 40, 100])
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_labels_cover_no_other_and_lie_in_the_image(count: int, seed: int) -> None:
    boxes, sizes = random_boxes(count, seed)
    labels = place_labels(boxes, sizes, HEIGHT, WIDTH)
    assert covered_px(labels) == 0
    assert np.array_equal(labels[:, 2:] - labels[:, :2], sizes)
    assert (labels >= 0).all() and (labels[:, 2:] <= (WIDTH, HEIGHT)).all()
    assert np.array_equal(labels, place_labels(boxes, sizes, HEIGHT, WIDTH))


def test_thirty_objects_at_one_place_have_their_labels_around_it() -> None:
    boxes = np.tile(np.array([[300, 200, 340, 240]], np.float32), (30, 1))
    labels = place_labels(boxes, np.tile([70, 15], (30, 1)), HEIGHT, WIDTH)
    assert covered_px(labels) == 0
    centres = (labels[:, :2] + labels[:, 2:]) / 2
    assert np.abs(centres - (320, 220)).max() < 200


def test_a_label_stands_above_its_box_below_at_the_top_border_and_in_it_where_all_is_box() -> None:
    boxes = np.array([[50, 100, 150, 200], [300, 0, 400, 60], [0, 0, 640, 480]], np.float32)
    sizes = np.tile([60, 15], (3, 1))
    assert place_labels(boxes[:1], sizes[:1], HEIGHT, WIDTH).tolist() == [[50, 85, 110, 100]]
    assert place_labels(boxes[1:2], sizes[:1], HEIGHT, WIDTH).tolist() == [[300, 0, 360, 15]]
    assert place_labels(boxes[2:], sizes[:1], HEIGHT, WIDTH).tolist() == [[0, 0, 60, 15]]
    neighbours = np.array([[50, 100, 150, 200], [60, 100, 160, 200]], np.float32)
    places = place_labels(neighbours, np.tile([100, 15], (2, 1)), HEIGHT, WIDTH)
    assert places[:, 1].tolist() == [85, 200]


def test_where_there_is_no_room_all_are_placed_and_those_before_keep_the_best() -> None:
    boxes = np.tile(np.array([[0, 0, 40, 30]], np.float32), (5, 1))
    labels = place_labels(boxes, np.tile([40, 15], (5, 1)), 30, 40)
    assert covered_px(labels[:2]) == 0
    assert (labels >= 0).all() and (labels[:, 2:] <= (40, 30)).all()


def test_a_label_larger_than_the_image_begins_at_its_border() -> None:
    labels = place_labels(np.array([[5, 5, 20, 20]], np.float32), np.array([[90, 40]]), 30, 40)
    assert labels.tolist() == [[0, 0, 90, 40]]


def test_no_boxes_have_no_labels() -> None:
    empty = place_labels(np.empty((0, 4), np.float32), np.empty((0, 2), int), HEIGHT, WIDTH)
    assert empty.shape == (0, 4)


def test_a_crowd_is_labelled_while_the_next_image_comes() -> None:
    boxes, sizes = random_boxes(200, 3)
    boxes[:] = (300, 200, 340, 240)
    start_s = time.perf_counter()
    assert covered_px(place_labels(boxes, sizes, HEIGHT, WIDTH)) == 0
    assert time.perf_counter() - start_s < 5.0  # 0.3 s where nothing else runs
