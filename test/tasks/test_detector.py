"""Detector: boxes in the image's own pixels, best first; settings do what they say."""

from pathlib import Path
from typing import Any

from fixed_detector import Row, ROWS, write_detector
import numpy as np
import pytest

pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')

from mnv2_perception.errors import ImageError, ModelError
from mnv2_perception.tasks.detector import Detector
from mnv2_perception.tasks.segmenter import Segmenter

IMAGE = np.zeros((40, 80, 3), np.uint8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_detector(tmp_path / 'model.onnx', 32, 64)


def test_boxes_come_in_the_images_pixels_best_first(model: Path) -> None:
    found = Detector.open(model)(IMAGE)
    assert found.boxes.tolist() == [[40, 10, 80, 20], [40, 10, 80, 20]]
    assert found.class_ids.tolist() == [1, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.6])
    assert (found.boxes.dtype, found.scores.dtype, found.class_ids.dtype) == (
        np.float32, np.float32, np.int32
    )


def test_thresholds_are_live(model: Path) -> None:
    detector = Detector.open(model)
    detector.min_score = 0.1
    assert detector(IMAGE).boxes[-1].tolist() == [0, 20, 20, 40]  # cut at the borders
    detector.nms_iou = 0.85
    assert detector(IMAGE).scores.tolist() == pytest.approx([0.9, 0.8, 0.6, 0.2])
    detector.min_score = 0.95
    found = detector(IMAGE)
    assert found.boxes.shape == (0, 4) and found.scores.shape == found.class_ids.shape == (0,)


def test_boxes_come_back_in_a_tilted_cameras_orientation(model: Path) -> None:
    # Turned 90 degrees clockwise it is 80 high and 40 wide: x 20..40 is y 20..0 of the image.
    found = Detector.open(model, rotate=90)(IMAGE)
    assert found.boxes[0].tolist() == [20, 0, 40, 20]


@pytest.mark.parametrize(
    ('settings', 'error', 'told'),
    [
        ({'min_score': 1.5}, ImageError, r'min_score is 1\.5'),
        ({'nms_iou': -0.1}, ImageError, r'nms_iou is -0\.1'),
        ({'rotate': 45}, ImageError, 'rotate is 45'),
    ],
)
def test_settings_out_of_range_are_refused(
    model: Path, settings: Any, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        Detector.open(model, **settings)


def test_an_image_that_is_none_is_refused(model: Path) -> None:
    with pytest.raises(ImageError, match=r'expected \(H, W, 3\) uint8'):
        Detector.open(model)(IMAGE[..., 0])


@pytest.mark.parametrize('row', [
    (0.1, 0.1, 0.2, 0.2, np.nan, 0), (0.1, np.nan, 0.2, 0.2, 0.01, 0),
    (0.1, 0.1, np.inf, 0.2, 0.9, 0),
])
def test_a_box_that_is_not_finite_rejects_the_image(tmp_path: Path, row: Row) -> None:
    detector = Detector.open(write_detector(tmp_path / 'm.onnx', 8, 8, [ROWS[0], row]))
    with pytest.raises(ModelError, match=r'50.0% of its output .* NaN or infinite'):
        detector(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(('row', 'told'), [
    ((0.1, 0.1, 0.2, 0.2, 0.9, 2), 'a box of class id 2, expected 0 to 1, .*begin at 1, put'),
    ((0.1, 0.1, 0.2, 0.2, 0.9, -1), 'a box of class id -1, expected 0 to 1'),
    ((0.1, 0.1, 0.2, 0.2, 3.0, 0), r'scores for this image go from 0\.9 to 3, expected 0 to 1'),
])
def test_a_box_of_no_class_or_no_score_rejects_the_image(
    tmp_path: Path, row: Row, told: str
) -> None:
    detector = Detector.open(write_detector(tmp_path / 'm.onnx', 8, 8, [ROWS[0], row]))
    with pytest.raises(ModelError, match=told):
        detector(np.zeros((8, 8, 3), np.uint8))


def test_boxes_in_pixels_reject_the_image_where_a_score_counts(tmp_path: Path) -> None:
    row: Row = (10.0, 10.0, 50.0, 50.0, 0.9, 0)  # all of them were left out, in silence
    model = write_detector(tmp_path / 'm.onnx', 64, 64, [row, (99.0, 0.0, 99.0, 0.0, 0.0, 0)])
    detector = Detector.open(model, min_score=0.95)
    assert not len(detector(np.zeros((8, 8, 3), np.uint8)).boxes)
    detector.min_score = 0.5
    with pytest.raises(ModelError, match=r'coordinate of 50, expected fractions .*pixels, divide'):
        detector(np.zeros((8, 8, 3), np.uint8))


def test_rows_that_hold_no_box_may_have_any_class(tmp_path: Path) -> None:
    empty: Row = (0.0, 0.0, 0.0, 0.0, -1.0, -1)
    detector = Detector.open(write_detector(tmp_path / 'm.onnx', 8, 8, [ROWS[0], empty]))
    assert detector(np.zeros((8, 8, 3), np.uint8)).class_ids.tolist() == [1]


def test_a_model_for_another_task_is_refused_both_ways(model: Path) -> None:
    with pytest.raises(ModelError, match='is for detection; choose a model for segmentation'):
        Segmenter.open(model)
    with pytest.raises(ModelError, match='is for segmentation; choose a model for detection'):
        Detector.open('unet_mobilenetv2_camvid')


def test_outputs_in_another_order_are_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    path = write_detector(tmp_path / 'model.onnx', 32, 64)
    proto = onnx.load(path)
    outputs = list(proto.graph.output)
    del proto.graph.output[:]
    proto.graph.output.extend(outputs[::-1])
    onnx.save(proto, path)
    with pytest.raises(
        ModelError, match=r"gives 'class_ids' .* but output boxes means \(1, K, 4\) float"
    ):
        Detector.open(path)


def test_a_score_for_each_box_is_needed(tmp_path: Path) -> None:
    onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    path = write_detector(tmp_path / 'model.onnx', 32, 64)
    proto = onnx.load(path)
    del proto.graph.output[2]
    onnx.save(proto, path)
    with pytest.raises(ModelError, match=r'gives 2 outputs.*boxes, which is 3'):
        Detector.open(path)
