"""ConfusionMatrix against numbers worked out by hand."""

import math

import numpy as np
import pytest

from mnv2_perception.errors import DataError
from mnv2_perception.metrics import ConfusionMatrix


def ids(*values: int) -> np.ndarray:
    return np.array([values], np.uint8)


def test_iou_and_accuracy_of_a_worked_example() -> None:
    matrix = ConfusionMatrix(3)
    matrix.add(ids(0, 0, 0, 1, 1, 2), ids(0, 0, 1, 1, 2, 2))
    # class 0: 2 of 3; class 1: 1 hit, union {3rd, 4th, 5th}; class 2: 1 hit, union {5th, 6th}
    assert matrix.iou().tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 2])
    assert matrix.miou() == pytest.approx(0.5)
    assert matrix.accuracy() == pytest.approx(4 / 6)
    assert matrix.recall().tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    assert matrix.counts.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]]


def test_images_add_up() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(ids(0, 1), ids(0, 1))
    matrix.add(ids(0, 0), ids(0, 1))
    assert matrix.iou().tolist() == pytest.approx([2 / 3, 1 / 2])


def test_truth_at_or_above_the_class_count_is_ignored() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(ids(0, 2, 255, 1), ids(0, 0, 1, 1))
    assert matrix.iou().tolist() == [1.0, 1.0]
    assert matrix.counts.sum() == 2


def test_a_prediction_without_a_class_is_an_error_where_the_truth_has_one() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(ids(0, 0, 1, 255), ids(0, 255, 1, 255))
    assert matrix.iou().tolist() == [0.5, 1.0]
    assert matrix.accuracy() == pytest.approx(2 / 3)
    assert matrix.recall().tolist() == [0.5, 1.0]


def test_a_class_that_never_occurs_does_not_count() -> None:
    matrix = ConfusionMatrix(3)
    matrix.add(ids(0, 1), ids(0, 1))
    assert math.isnan(matrix.iou()[2])
    assert matrix.miou() == 1.0


def test_a_class_that_is_only_predicted_counts_as_missed() -> None:
    matrix = ConfusionMatrix(3)
    matrix.add(ids(0, 0), ids(0, 2))
    assert matrix.miou() == pytest.approx((0.5 + 0.0) / 2)


def test_without_a_labelled_pixel_there_is_no_figure() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(ids(255), ids(0))
    assert math.isnan(matrix.miou()) and math.isnan(matrix.accuracy())


def test_255_classes_are_counted() -> None:
    matrix = ConfusionMatrix(255)
    matrix.add(ids(254, 254, 0), ids(254, 255, 0))
    assert matrix.counts[254, 254] == matrix.counts[254, 255] == matrix.counts[0, 0] == 1


def test_a_thousand_classes_of_whole_images_are_counted() -> None:
    matrix = ConfusionMatrix(1000)
    matrix.add(np.array([999, 999, 300]), np.array([999, 255, 300]))
    assert matrix.recall()[[300, 999]].tolist() == [1.0, 0.5]


def test_two_sizes_are_refused() -> None:
    with pytest.raises(DataError, match=r'\(1, 2\).*\(1, 3\)'):
        ConfusionMatrix(2).add(ids(0, 0), ids(0, 0, 0))
