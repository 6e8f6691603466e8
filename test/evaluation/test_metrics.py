"""Metrics against numbers worked out by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnv2_perception.data.coco import BoxSample
from mnv2_perception.errors import DataError
from mnv2_perception.evaluation.metrics import (
    average_precision,
    AveragePrecision,
    boundary_overlap,
    calibration,
    ConfusionMatrix,
)


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


def test_a_class_that_is_only_predicted_is_a_false_alarm_and_takes_no_share_of_the_mean() -> None:
    matrix = ConfusionMatrix(3)
    matrix.add(ids(0, 0, 0, 1), ids(0, 0, 2, 1))
    assert matrix.miou() == pytest.approx((2 / 3 + 1) / 2)
    assert math.isnan(matrix.iou()[2])
    assert matrix.false_alarms()[2] == 1 / 4 and np.isnan(matrix.false_alarms()[:2]).all()


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


def truth(boxes: Any, class_ids: Any, crowds: int = 0) -> BoxSample:
    """The objects of one image; the last `crowds` are to be ignored."""
    array, ids = np.array(boxes, np.float32).reshape(-1, 4), np.array(class_ids, np.int64)
    count = len(ids) - crowds
    return BoxSample(Path('none'), array[:count], ids[:count], array[count:], ids[count:])


def found(boxes: Any, scores: Any, class_ids: Any) -> tuple[Any, Any, Any]:
    return (
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32),
        np.array(class_ids, int),
    )


A, B, C = [10, 10, 50, 40], [60, 20, 90, 70], [5, 50, 25, 95]
NOTHING = found([], [], [])


@pytest.fixture
def pycocotools() -> None:
    pytest.importorskip('pycocotools', reason='no pycocotools: run make setup-train')


@pytest.mark.usefixtures('pycocotools')
def test_perfect_boxes_have_an_average_precision_of_1() -> None:
    images = [truth([A, B], [0, 1]), truth([C], [1]), truth([], [])]
    perfect = [(s.boxes, np.full(len(s.boxes), 0.5, np.float32), s.class_ids) for s in images]
    result = average_precision(images, perfect, 2)
    assert [result.ap, result.ap50, *result.ap50_per_class] == pytest.approx([1.0] * 4)


@pytest.mark.usefixtures('pycocotools')
def test_no_boxes_have_an_average_precision_of_0() -> None:
    assert average_precision([truth([A], [0])], [NOTHING], 1) == AveragePrecision(0.0, 0.0, (0.0,))


@pytest.mark.usefixtures('pycocotools')
def test_half_of_the_objects_before_the_first_mistake_is_an_average_precision_of_a_half() -> None:
    result = average_precision(
        [truth([A, B], [0, 0])], [found([A, C], [0.9, 0.8], [0, 0])], 1
    )
    assert result.ap50 == pytest.approx(51 / 101)  # recall 0.00 to 0.50 in steps of 0.01


@pytest.mark.usefixtures('pycocotools')
def test_a_box_that_overlaps_by_three_fifths_counts_for_three_of_ten_thresholds() -> None:
    cut = found([[10, 10, 50, 28.2]], [0.9], [0])  # 18.2 of 30 rows: IoU 0.607
    result = average_precision([truth([A], [0])], [cut], 1)
    assert result.ap50 == pytest.approx(1.0)
    assert result.ap == pytest.approx(0.3)  # 0.50, 0.55, 0.60


@pytest.mark.usefixtures('pycocotools')
def test_another_class_in_the_right_place_is_wrong() -> None:
    result = average_precision([truth([A, B], [0, 1])], [found([A, B], [0.9, 0.9], [1, 1])], 2)
    assert result.ap50_per_class[0] == 0.0


@pytest.mark.usefixtures('pycocotools')
def test_what_is_found_in_an_ignored_region_does_not_count() -> None:
    objects = truth([A, B], [0, 0], crowds=1)
    result = average_precision([objects], [found([B, A], [0.9, 0.5], [0, 0])], 1)
    assert result.ap50 == pytest.approx(1.0)
    wrong = average_precision([truth([A], [0])], [found([B, A], [0.9, 0.5], [0, 0])], 1)
    assert wrong.ap50 == pytest.approx(0.5)


@pytest.mark.usefixtures('pycocotools')
def test_a_class_that_never_occurs_is_nan_and_counts_for_nothing() -> None:
    result = average_precision([truth([A], [1])], [found([A], [0.9], [1])], 3)
    assert math.isnan(result.ap50_per_class[0]) and math.isnan(result.ap50_per_class[2])
    assert (result.ap, result.ap50) == pytest.approx((1.0, 1.0))
    assert math.isnan(average_precision([truth([], [])], [NOTHING], 1).ap)


@pytest.mark.usefixtures('pycocotools')
def test_average_precision_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    average_precision([truth([A], [0])], [NOTHING], 1)
    assert capsys.readouterr().out == ''


# Edges


def test_boundary_iou_of_a_worked_example() -> None:
    truth = np.ones((10, 10), np.uint8)
    truth[2:8, 2:8] = 0  # a square of 6 × 6 ...
    found = np.ones((10, 10), np.uint8)
    found[2:8, 3:9] = 0  # ... taken for one a column to the right
    # 0.1 of the diagonal of 14.1 is a distance of 1. The squares' rims have 36 - 16 = 20 pixels
    # each. Common are of rows 2 and 7 the columns 3 to 7; column 3 of the one lies within the
    # other's rim only there, and so does column 7 of the other.
    overlap = boundary_overlap(truth, found, 2, ratio=0.1)
    assert overlap[0].tolist() == [10, 30]
    # Around: what is within 1 of the square or of the image's border. In the truth that is the
    # border (36) and the ring 8 × 8 less 6 × 6 (28); in the prediction the ring's right side
    # lies on the border (28 less the 8 that are the border's), so 36 + 20.
    # Common: the border, and of the ring's rows 1 and 8 the columns 2 to 8 (14) and no column.
    assert overlap[1].tolist() == [50, 36 + 28 + 36 + 20 - 50]


def test_without_a_mistake_edges_are_whole_and_a_shift_costs_them_more_than_areas() -> None:
    truth = np.zeros((100, 100), np.uint8)
    truth[:, 50:] = 1
    shifted = np.roll(truth, 2, axis=1)
    shifted[:, :2] = 0
    same = boundary_overlap(truth, truth, 2)
    assert (same[:, 0] == same[:, 1]).all() and same.any()
    matrix = ConfusionMatrix(2)
    matrix.add(truth, shifted)
    overlap = boundary_overlap(truth, shifted, 2)
    assert (overlap[:, 0] / overlap[:, 1] < matrix.iou() - 0.1).all()


def test_the_distance_of_edges_is_a_share_of_the_diagonal_and_a_pixel_at_least() -> None:
    for size, distance in (((30, 40), 1), ((300, 400), 10)):  # 0.02 of 50 and 500
        overlap = boundary_overlap(np.zeros(size, np.uint8), np.zeros(size, np.uint8), 1)
        inner = (size[0] - 2 * distance) * (size[1] - 2 * distance)
        assert overlap[0].tolist() == [size[0] * size[1] - inner] * 2


def test_what_is_unlabelled_has_no_edges_of_its_own() -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[20:] = 255
    found = np.zeros((40, 40), np.uint8)
    found[20:, ::2] = 1
    overlap = boundary_overlap(truth, found, 2)
    assert overlap[0, 0] == overlap[0, 1] > 0 and not overlap[1].any()


# Calibration


def test_calibration_of_a_worked_example() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([1, 1, 1, 0, 0, 1])
    result = calibration(confidence, right)
    # |0.95 - 3/4| in 4 of 6, |0.55 - 1/2| in 2 of 6
    assert result['ece'] == pytest.approx(4 / 6 * 0.2 + 2 / 6 * 0.05)
    assert [each['to'] for each in result['bins']] == pytest.approx([9 / 15, 1.0])
    assert [each['share'] for each in result['bins']] == pytest.approx([1 / 3, 2 / 3])


def test_calibration_counts_pixels_of_one_confidence_together() -> None:
    levels, right, count = np.array([0.95, 0.55]), np.array([3, 1]), np.array([4, 2])
    assert calibration(levels, right, count)['ece'] == pytest.approx(4 / 6 * 0.2 + 2 / 6 * 0.05)
    assert calibration(np.empty(0), np.empty(0)) == {'ece': None, 'bins': []}


def test_confidences_at_the_ends_have_a_bin() -> None:
    bins = calibration(np.array([0.0, 1.0]), np.array([0, 1]))['bins']
    assert [each['to'] for each in bins] == pytest.approx([1 / 15, 1.0])
