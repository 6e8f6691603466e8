"""Boxes against objects, one by one: confusion and calibration of detectors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnv2_perception.data.coco import BoxSample
from mnv2_perception.errors import DataError
from mnv2_perception.evaluation.boxes import compared, match_boxes, relabelled
from mnv2_perception.tasks.detector import Detections

A, B, C = [10, 10, 50, 40], [60, 20, 90, 70], [5, 50, 25, 95]


def objects(boxes: Any, ids: Any, ignored: Any = (), ignored_ids: Any = ()) -> BoxSample:
    return BoxSample(
        Path('none'), np.array(boxes, np.float32).reshape(-1, 4), np.array(ids, np.int64),
        np.array(ignored, np.float32).reshape(-1, 4), np.array(ignored_ids, np.int64),
    )


def found(boxes: Any, scores: Any, ids: Any) -> Any:
    return (
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32),
        np.array(ids, np.int64),
    )


def test_objects_are_found_confused_missed_and_made_up() -> None:
    matches = match_boxes(
        objects([A, B, C], [0, 1, 1]), found([A, B, [0, 0, 5, 5]], [0.9, 0.8, 0.7], [0, 0, 1]), 2
    )
    assert matches.counts.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert matches.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert matches.right.tolist() == [True, False, False]
    assert matches.wrong == 3


def test_an_object_takes_one_box_and_a_box_an_object_of_its_class_first() -> None:
    near = [12, 10, 52, 40]
    twice = match_boxes(objects([A], [0]), found([near, A], [0.9, 0.8], [0, 0]), 1)
    assert twice.counts.tolist() == [[1, 0], [1, 0]]
    crossed = match_boxes(objects([A, near], [1, 0]), found([A], [0.9], [0]), 2)
    assert crossed.counts.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_what_is_not_shown_or_lies_in_an_ignored_region_is_not_judged() -> None:
    matches = match_boxes(
        objects([], [], [A, B], [0, 1]), found([A, B, C], [0.9, 0.9, 0.2], [0, 0, 0]), 2
    )
    assert matches.counts.tolist() == [[0] * 3, [0] * 3, [1, 0, 0]]  # B is ignored for class 1


def test_nothing_found_and_nothing_to_find_is_no_mistake() -> None:
    assert match_boxes(objects([], []), found([], [], []), 3).wrong == 0


def test_boxes_are_compared_by_the_map() -> None:
    with pytest.raises(DataError, match=r'has no class van, tree; it has car, bus; .*--map'):
        compared(('van', 'tree'), ('car', 'bus'), Path('b.json'), ())
    classes = compared(('van', 'tree'), ('car', 'bus'), Path('b.json'), ['van=bus'])
    boxes, scores, ids = found([A, B], [0.9, 0.8], [0, 1])
    sample, (left, _, known) = relabelled(
        objects([A, B], [1, 0], [C], [1]), Detections(boxes, scores, ids), classes
    )
    assert (sample.boxes.tolist(), sample.class_ids.tolist()) == ([B], [0])
    assert (left.tolist(), known.tolist(), len(sample.ignored)) == ([B], [0], 0)
