"""`mnv2 evaluate`: figures that can be worked out by hand, and those of the shipped model."""

from pathlib import Path

import cv2
from identity_network import identity_spec, MakeModel, write_fake
import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.errors import DataError
from mnv2_perception.evaluate import evaluate_segmentation
from mnv2_perception.pipeline import Segmenter

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
        'model': 'identity', 'engine': engine, 'images': 2,
        'miou': pytest.approx((2 / 3 + 2 / 3 + 0.0) / 3),
        'per_class': {
            'road': pytest.approx(2 / 3), 'sky': pytest.approx(2 / 3), 'car': 0.0, 'tram': None,
        },
        'pixel_accuracy': pytest.approx(4 / 6),
    }


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


def test_the_shipped_model_finds_the_classes_of_camvid(mnv2_data: Path) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    segmenter = Segmenter.open('unet_mobilenetv2_camvid')
    result = evaluate_segmentation(segmenter, mnv2_data / 'camvid/val')
    assert result['images'] == 101
    assert result['miou'] >= 0.55, result
    assert result['per_class']['road'] > 0.85
    assert result['pixel_accuracy'] > 0.8
