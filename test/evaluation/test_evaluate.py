"""`mnv2 evaluate`: figures that can be worked out by hand, and those of the shipped model."""

from pathlib import Path

import cv2
from fixed_detector import write_detector
from identity_network import identity_spec, MakeModel, write_fake
import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.data.coco import BoxSample, write_coco
from mnv2_perception.errors import DataError
from mnv2_perception.evaluation.evaluate import (
    evaluate_components,
    evaluate_detection,
    evaluate_segmentation,
)
from mnv2_perception.tasks.detector import Detector
from mnv2_perception.tasks.segmenter import Segmenter

CLASSES = ['road', 'sky', 'car', 'tram']
TRUTH = np.array([[0, 0, 0, 1], [1, 2, 4, 255]], np.uint8)
PREDICTED = np.array([[0, 0, 1, 1], [1, 255, 0, 1]], np.uint8)


def write_pair(folder: Path, name: str, predicted: NDArray[np.uint8], truth: object) -> None:
    """Write an image that the identity network turns into `predicted`, and its label."""
    for sub in ('images', 'labels'):
        (folder / sub).mkdir(exist_ok=True)
    image = np.zeros((*predicted.shape, 3), np.uint8)
    image[..., 2] = predicted  # OpenCV writes BGR
    cv2.imwrite(str(folder / f'images/{name}.png'), image)
    cv2.imwrite(str(folder / f'labels/{name}.png'), np.asarray(truth))


def test_figures_are_those_worked_out_by_hand(make_model: MakeModel, tmp_path: Path) -> None:
    write_pair(tmp_path, 'a', PREDICTED, TRUTH)
    write_pair(tmp_path, 'b', np.zeros((2, 4), np.uint8), np.full((2, 4), 255, np.uint8))
    model, engine = make_model(2, 4, classes=CLASSES)
    result = evaluate_segmentation(Segmenter.open(model, engine), tmp_path)
    assert result.pop('ms_per_image') > 0.0
    assert result == {
        'model': 'identity', 'engine': engine, 'precision': 'fp32', 'images': 2,
        'miou': pytest.approx((2 / 3 + 2 / 3 + 0.0) / 3),
        'per_class': {
            'road': pytest.approx(2 / 3), 'sky': pytest.approx(2 / 3), 'car': 0.0, 'tram': None,
        },
        'false_alarms': {},
        'pixel_accuracy': pytest.approx(4 / 6),
        # All pixels are within one of an edge, so these are as the IoU.
        'boundary_iou': pytest.approx((2 / 3 + 2 / 3 + 0.0) / 3),
        'boundary_per_class': {
            'road': pytest.approx(2 / 3), 'sky': pytest.approx(2 / 3), 'car': 0.0, 'tram': None,
        },
        # Of the five labelled pixels that were given a class four are right, by 1 of 255 sure.
        'ece': pytest.approx(4 / 5 - 1 / 255),
        'calibration': [{
            'to': pytest.approx(1 / 15), 'share': 1.0, 'confidence': pytest.approx(1 / 255),
            'accuracy': pytest.approx(4 / 5),
        }],
        'worst': [{
            'image': str(tmp_path / 'images/a.png'), 'label': str(tmp_path / 'labels/a.png'),
            'miou': pytest.approx((2 / 3 + 2 / 3 + 0.0) / 3),
        }],
        'unlabelled': 10 / 16,
        'absent': ['tram'],
        'confusion': {
            'road': {'road': 2, 'sky': 1}, 'sky': {'sky': 2}, 'car': {'no class': 1},
        },
    }


def test_each_prefix_is_measured_apart_over_the_classes_that_it_has(tmp_path: Path) -> None:
    truth = np.array([[0, 0], [1, 1]], np.uint8)
    write_pair(tmp_path, 'hall_1', truth, truth)
    write_pair(tmp_path, 'hall_2', truth, truth)
    write_pair(tmp_path, 'yard_1', np.array([[2, 2], [0, 3]], np.uint8), truth * 0 + 2)
    model = write_fake(tmp_path / 'm.yaml', identity_spec(2, 2, classes=CLASSES))
    result = evaluate_segmentation(Segmenter.open(model, 'fake'), tmp_path, by_prefix='_')
    hall, yard = result['by_prefix']['hall'], result['by_prefix']['yard']
    assert (hall['images'], hall['miou'], hall['pixel_accuracy']) == (2, 1.0, 1.0)
    assert hall['per_class'] == {'road': 1.0, 'sky': 1.0, 'car': None, 'tram': None}
    assert (yard['images'], yard['miou']) == (1, 0.5)
    assert yard['false_alarms'] == {'road': 0.25, 'tram': 0.25}
    assert result['false_alarms'] == {'tram': pytest.approx(1 / 12)}
    assert result['miou'] == pytest.approx((4 / 5 + 1.0 + 0.5) / 3)


def test_masks_are_compared_at_the_images_size(tmp_path: Path) -> None:
    truth = np.zeros((40, 60), np.uint8)
    truth[:, 30:] = 1
    write_pair(tmp_path, 'a', truth * 100, truth * 100)
    model = write_fake(tmp_path / 'm.yaml', identity_spec(16, 16))
    result = evaluate_segmentation(Segmenter.open(model, 'fake'), tmp_path)
    assert result['pixel_accuracy'] == 1.0


def test_labels_of_other_classes_alone_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, 'a', PREDICTED, np.full((2, 4), 9, np.uint8))
    model = write_fake(tmp_path / 'm.yaml', identity_spec(2, 4, classes=CLASSES))
    with pytest.raises(DataError, match='no pixel has an id below 4'):
        evaluate_segmentation(Segmenter.open(model, 'fake'), tmp_path)


@pytest.mark.parametrize(
    ('model', 'miou'), [('unet_mobilenetv2_camvid', 0.70), ('unet_mobilenetv2_camvid_fast', 0.69)]
)
def test_the_shipped_models_find_the_classes_of_camvid(
    model: str, miou: float, mnv2_data: Path
) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    segmenter = Segmenter.open(model)
    result = evaluate_segmentation(segmenter, mnv2_data / 'camvid/val')
    assert result['images'] == 101
    assert result['miou'] >= miou, result
    assert result['per_class']['road'] > 0.85
    assert result['pixel_accuracy'] > 0.8


@pytest.mark.parametrize(
    ('model', 'mious'),
    [
        ('unet_mobilenetv2_ground', {'hall': 0.92, 'library': 0.75, 'campus': 0.80}),
        ('unet_mobilenetv2_ground_fast', {'hall': 0.915, 'library': 0.75, 'campus': 0.79}),
    ],
)
def test_the_ground_models_find_floor_and_obstacles_in_each_place(
    model: str, mious: dict[str, float], mnv2_data: Path
) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    segmenter = Segmenter.open(model, precision='fp32')  # as its card was measured
    result = evaluate_segmentation(segmenter, mnv2_data / 'ground/val', '_')
    assert result['images'] == 113
    for place, miou in mious.items():
        figures = result['by_prefix'][place]
        assert figures['miou'] >= miou, result
        assert figures['per_class']['floor'] > (0.99 if place == 'hall' else 0.925)


def write_boxes(
    folder: Path, classes: list[str], boxes: list[list[float]], ids: list[int]
) -> Path:
    """Write an image of 40×80 pixels and a COCO file of its boxes."""
    cv2.imwrite(str(folder / 'a.png'), np.zeros((40, 80, 3), np.uint8))
    sample = BoxSample(
        folder / 'a.png', np.array(boxes, np.float32), np.array(ids, np.int64),
        np.empty((0, 4), np.float32), np.empty(0, np.int64),
    )
    write_coco(folder / 'coco.json', classes, [sample])
    return folder / 'coco.json'


def test_a_detectors_classes_are_found_by_name(tmp_path: Path) -> None:
    pytest.importorskip('pycocotools', reason='no pycocotools: run make setup-train')
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    detector = Detector.open(
        write_detector(tmp_path / 'm.onnx', 32, 64), 'onnx_runtime', min_score=0.0
    )
    # The detector's car and dog are 0 and 1, the file's 1 and 0.
    boxes = [[40.0, 10.0, 80.0, 20.0], [0.0, 20.0, 20.0, 40.0], [40.0, 10.0, 80.0, 20.0]]
    path = write_boxes(tmp_path, ['dog', 'car'], boxes, [1, 1, 0])
    result = evaluate_detection(detector, path)
    assert result.pop('ms_per_image') > 0.0
    assert result == {
        'model': 'identity', 'engine': 'onnx_runtime', 'precision': 'fp32', 'images': 1,
        'ap': pytest.approx(1.0), 'ap50': pytest.approx(1.0),
        'ap50_per_class': {'dog': pytest.approx(1.0), 'car': pytest.approx(1.0)},
        # Boxes of 0.9 and 0.6 or so are right; the object that only 0.2 was found for is missed.
        'confusion': {'dog': {'dog': 1}, 'car': {'car': 1, 'missed': 1}},
        'ece': pytest.approx((0.1 + 0.4) / 2),
        'calibration': [
            {'to': pytest.approx(10 / 15), 'share': 0.5, 'confidence': pytest.approx(0.6),
             'accuracy': 1.0},
            {'to': pytest.approx(14 / 15), 'share': 0.5, 'confidence': pytest.approx(0.9),
             'accuracy': 1.0},
        ],
        'worst': [{'image': str(tmp_path / 'a.png'), 'wrong': 1}],
    }


def test_a_detectors_prefixes_are_measured_apart(tmp_path: Path) -> None:
    pytest.importorskip('pycocotools', reason='no pycocotools: run make setup-train')
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    detector = Detector.open(
        write_detector(tmp_path / 'm.onnx', 32, 64), 'onnx_runtime', min_score=0.0
    )
    samples = []
    for name, box in (('hall_1', [40.0, 10.0, 80.0, 20.0]), ('yard_1', [0.0, 0.0, 5.0, 5.0])):
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.zeros((40, 80, 3), np.uint8))
        samples.append(BoxSample(
            tmp_path / f'{name}.png', np.array([box], np.float32), np.array([0]),
            np.empty((0, 4), np.float32), np.empty(0, np.int64),
        ))
    write_coco(tmp_path / 'coco.json', ['car'], samples)
    result = evaluate_detection(detector, tmp_path / 'coco.json', by_prefix='_')
    hall, yard = result['by_prefix']['hall'], result['by_prefix']['yard']
    assert (hall['images'], yard['images'], result['images']) == (1, 1, 2)
    assert hall['ap50'] > 0.4 and yard['ap50'] == 0.0


def test_a_class_that_the_detector_lacks_is_named(tmp_path: Path) -> None:
    pytest.importorskip('pycocotools', reason='no pycocotools: run make setup-train')
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    detector = Detector.open(write_detector(tmp_path / 'm.onnx', 32, 64))
    path = write_boxes(tmp_path, ['car', 'tram'], [[0.0, 0.0, 9.0, 9.0]], [0])
    with pytest.raises(DataError, match='has no class tram; it has car, dog'):
        evaluate_detection(detector, path)


def test_components_of_a_mask_are_measured_as_boxes(tmp_path: Path) -> None:
    pytest.importorskip('pycocotools', reason='no pycocotools: run make setup-train')
    ids = np.zeros((40, 80), np.uint8)
    ids[10:20, 40:80] = 2
    ids[30:40, 0:20] = 2  # smaller than min_area below
    ids[0:3, 0:80] = 1  # sky, which the file does not have
    path = write_boxes(tmp_path, ['tram', 'car'], [[40.0, 10.0, 80.0, 20.0]], [1])
    write_pair(tmp_path, 'a', ids, ids)
    (tmp_path / 'images/a.png').replace(tmp_path / 'a.png')
    model = write_fake(tmp_path / 'm.yaml', identity_spec(40, 80, classes=CLASSES))
    result = evaluate_components(Segmenter.open(model, 'fake'), path, min_area=300)
    assert result['ap50_per_class'] == {'tram': None, 'car': pytest.approx(1.0)}
    worse = evaluate_components(Segmenter.open(model, 'fake'), path, min_area=100)
    assert worse['ap'] <= result['ap'] == pytest.approx(1.0)
