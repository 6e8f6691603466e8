"""Boxes: NMS against its definition, frames, connected components."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.vision.detections import box_iou, boxes_on_image, components, select_boxes
from mnv2_perception.vision.preprocess import rotate_image


def random_boxes(count: int, seed: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 80, (count, 2)), rng.uniform(1, 40, (count, 2))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    scores = rng.choice(np.linspace(0, 1, 21), count).astype(np.float32)  # with ties
    return boxes, scores, rng.integers(0, 3, count)


def iou(a: NDArray[Any], b: NDArray[Any]) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return float(w * h / union)


def naive_nms(boxes: Any, scores: Any, ids: Any, min_score: float, nms_iou: float) -> list[int]:
    """Greedy NMS as it is defined."""
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        rivals = [k for k in kept if ids[k] == ids[index]]
        if scores[index] >= min_score and all(
            iou(boxes[k], boxes[index]) <= nms_iou for k in rivals
        ):
            kept.append(index)
    return kept


def test_iou_is_that_of_its_definition() -> None:
    boxes, _, _ = random_boxes(30, 0)
    expected = [[iou(a, b) for b in boxes[:7]] for a in boxes]
    assert np.allclose(box_iou(boxes, boxes[:7]), expected, atol=1e-6)
    assert not box_iou(np.zeros((2, 4), np.float32), boxes).any()


@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize(('min_score', 'nms_iou'), [(0.0, 0.5), (0.3, 0.2), (0.5, 1.0)])
def test_nms_is_that_of_its_definition(seed: int, min_score: float, nms_iou: float) -> None:
    boxes, scores, ids = random_boxes(120, seed)
    expected = naive_nms(boxes, scores, ids, min_score, nms_iou)
    assert select_boxes(boxes, scores, ids, min_score, nms_iou).tolist() == expected
    assert 0 < len(expected) < 120


def test_of_equal_boxes_the_first_remains_in_each_class() -> None:
    boxes = np.tile(np.array([[0, 0, 10, 10]], np.float32), (5, 1))
    scores = np.full(5, 0.5, np.float32)
    ids = np.array([1, 0, 1, 0, 2])
    assert select_boxes(boxes, scores, ids, 0.5, 0.9).tolist() == [0, 1, 4]


def test_boxes_without_area_are_left_out() -> None:
    boxes = np.array([[5, 5, 5, 9], [5, 5, 9, 9], [9, 5, 5, 9]], np.float32)
    kept = select_boxes(boxes, np.ones(3, np.float32), np.zeros(3, int), 0.0, 0.5)
    assert kept.tolist() == [1]


def test_no_boxes_give_none() -> None:
    empty = np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, int)
    assert select_boxes(*empty, 0.5, 0.5).tolist() == []


def test_two_hundred_candidates_take_under_ten_milliseconds() -> None:
    boxes, scores, ids = random_boxes(200, 3)
    times_s = []
    for _ in range(20):
        start_s = time.perf_counter()
        select_boxes(boxes, scores, ids, 0.0, 1.0)  # the worst: nothing is suppressed
        times_s.append(time.perf_counter() - start_s)
    assert min(times_s) < 0.01


@pytest.mark.parametrize('rotate', [0, 90, 180, 270])
def test_a_box_comes_back_to_where_the_image_has_it(rotate: int) -> None:
    height, width = 40, 60
    image = np.zeros((height, width), np.uint8)
    image[5:12, 30:50] = 1
    upright = rotate_image(image, rotate)
    rows, columns = np.nonzero(upright)
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    box /= np.array([upright.shape[1], upright.shape[0]] * 2)
    assert np.allclose(boxes_on_image(box, height, width, rotate), [[30, 5, 50, 12]], atol=1e-4)


def test_a_box_is_cut_at_the_borders() -> None:
    boxes = np.array([[-0.5, 0.25, 0.5, 1.5], [1.2, 0.0, 1.5, 1.0]], np.float32)
    cut = boxes_on_image(boxes, 100, 200)
    assert cut.tolist() == [[0, 25, 100, 100], [200, 0, 200, 100]]
    assert cut.dtype == np.float32


def test_components_are_the_boxes_of_connected_pixels() -> None:
    ids = np.zeros((12, 20), np.uint8)
    ids[1:4, 2:6] = 1
    ids[4:6, 6:8] = 1  # touches the first at a corner
    ids[1:3, 12:15] = 1
    ids[8:12, 16:20] = 2
    ids[9, 0] = 3
    confidence = np.full((12, 20), 51, np.uint8)
    confidence[8:12, 16:18] = 255
    boxes, scores, class_ids, areas = components(ids, confidence, (1, 2), min_area=1)
    assert boxes.tolist() == [[2, 1, 8, 6], [12, 1, 15, 3], [16, 8, 20, 12]]
    assert np.allclose(scores, [0.2, 0.2, 0.6])
    assert class_ids.tolist() == [1, 1, 2]
    assert areas.tolist() == [16, 6, 16]
    assert components(ids, confidence, (1,), min_area=7)[0].tolist() == [[2, 1, 8, 6]]


def test_a_mask_without_the_class_has_no_components() -> None:
    ids = np.zeros((4, 4), np.uint8)
    boxes, scores, class_ids, _ = components(ids, ids, (1, 2))
    assert boxes.shape == (0, 4) and scores.shape == class_ids.shape == (0,)
    assert components(ids, ids, ())[0].shape == (0, 4)
