"""`fit: letterbox`: what comes back lies exactly on the image, and the padding never answers."""

from dataclasses import replace
from fractions import Fraction
import json
from pathlib import Path
from typing import Any

from fixed_detector import write_detector
from identity_network import identity_spec, MakeModel, write_fake
import numpy as np
from numpy.typing import NDArray
from onnx_graphs import write_mean_colour
import pytest
import yaml

from mnv2_perception.model_spec import METADATA_KEY, ModelSpec
from mnv2_perception.tasks.classifier import Classifier
from mnv2_perception.tasks.detector import Detector
from mnv2_perception.tasks.segmenter import Segmenter
from mnv2_perception.vision.decode import ids_on_image, resize_ids
from mnv2_perception.vision.preprocess import fit_image, place_image, Placement, rotate_image

SIZES = [(61, 83), (97, 41), (20, 151), (21, 31), (64, 64), (7, 9), (480, 640), (1, 200)]
LETTERBOX = {'fit': 'letterbox', 'pad': (250, 250, 250)}


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 200, (height, width, 3), np.uint8)


def decoded(frame: NDArray[np.uint8], height: int, width: int, placed: Placement) -> Any:
    """Return what each pixel's centre lies on in a network's output, by exact arithmetic."""
    def cell(index: int, size: int, first: int, side: int, whole: int, cells: int) -> int:
        at = first + (index + Fraction(1, 2)) * side / size  # in the frame
        return int(at * cells / whole)

    rows = [
        cell(y, height, placed.top, placed.height, placed.frame_height, frame.shape[0])
        for y in range(height)
    ]
    columns = [
        cell(x, width, placed.left, placed.width, placed.frame_width, frame.shape[1])
        for x in range(width)
    ]
    return frame[np.ix_(rows, columns)]


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('stride', [4, 8, 32])
def test_each_pixel_takes_the_cell_that_its_centre_lies_in(
    size: tuple[int, int], stride: int
) -> None:
    placed = place_image(size, 64, 96, 'letterbox')
    frame = np.random.default_rng(1).integers(0, 255, (64 // stride, 96 // stride), np.uint8)
    ids = ids_on_image(frame, *size, placed)
    assert ids.flags.c_contiguous
    if all(edge % stride for edge in (placed.top, placed.left)):
        assert np.array_equal(ids, decoded(frame, *size, placed))
    else:  # OpenCV rounds its own way where a centre lies between two cells
        assert (ids != decoded(frame, *size, placed)).mean() < 0.15


@pytest.mark.parametrize('size', SIZES)
def test_at_full_resolution_the_padding_is_cut_off_and_the_rest_resized(
    size: tuple[int, int]
) -> None:
    placed = place_image(size, 64, 96, 'letterbox')
    frame = np.random.default_rng(1).integers(0, 255, (64, 96), np.uint8)
    cut = frame[placed.top :, placed.left :][: placed.height, : placed.width]
    assert np.array_equal(ids_on_image(frame, *size, placed), resize_ids(cut.copy(), *size))


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('rotate', [0, 90, 180, 270])
def test_a_mask_lies_on_its_image_and_has_nothing_of_the_padding(
    make_model: MakeModel, size: tuple[int, int], rotate: int
) -> None:
    model, engine = make_model(64, 96, **LETTERBOX)
    image = noise(*size)
    upright = rotate_image(image, rotate)
    frame = fit_image(upright, 64, 96, 'letterbox', pad=(250, 250, 250))
    placed = place_image(upright.shape, 64, 96, 'letterbox')
    cut = frame[placed.top :, placed.left :][: placed.height, : placed.width, 0]
    expected = resize_ids(cut.copy(), *upright.shape[:2])
    with_it = Segmenter.open(model, engine, rotate=rotate)(image)
    assert np.array_equal(with_it.class_ids, rotate_image(expected, -rotate))
    assert with_it.class_ids.max() < 200 and with_it.confidence.shape == size


def test_without_scaling_a_mask_is_pixel_exact(make_model: MakeModel) -> None:
    for size in ((41, 96), (64, 57), (64, 96)):
        model, engine = make_model(64, 96, **LETTERBOX)
        image = noise(*size)
        assert np.array_equal(Segmenter.open(model, engine)(image).class_ids, image[..., 0])


@pytest.mark.parametrize('rotate', [0, 90, 180, 270])
def test_boxes_come_back_to_where_the_image_has_them(tmp_path: Path, rotate: int) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    upright = (40, 80)  # in a frame of 64 × 64: 32 × 64, 16 rows of padding above and below
    rows = [
        (0.25, 0.375, 0.5, 0.625, 0.9, 0),  # x 16 to 32, y 24 to 40 of the frame
        (0.0, 0.0, 1.0, 0.24, 0.8, 1),  # in the padding alone
        (0.75, 0.0, 1.0, 0.5, 0.7, 1),  # half in the padding
    ]
    model = write_detector(tmp_path / 'm.onnx', 64, 64, rows, fit='letterbox')
    shape = upright if rotate in (0, 180) else upright[::-1]
    found = Detector.open(model, rotate=rotate)(np.zeros((*shape, 3), np.uint8))
    expected = [[20, 10, 40, 30], [60, 0, 80, 20]]
    turned = {
        0: lambda x1, y1, x2, y2: [x1, y1, x2, y2],
        90: lambda x1, y1, x2, y2: [y1, 80 - x2, y2, 80 - x1],
        180: lambda x1, y1, x2, y2: [80 - x2, 40 - y2, 80 - x1, 40 - y1],
        270: lambda x1, y1, x2, y2: [40 - y2, x1, 40 - y1, x2],
    }[rotate]
    assert found.class_ids.tolist() == [0, 1]
    np.testing.assert_allclose(found.boxes, [turned(*box) for box in expected], atol=1e-4)


def test_a_classifier_sees_the_padding_and_the_middle_of_its_crop(tmp_path: Path) -> None:
    image = np.zeros((8, 40, 3), np.uint8)
    image[:, :, 0] = 255
    image[:, 16:24] = (0, 0, 255)
    fits: dict[str, dict[str, Any]] = {
        'padded': {'fit': 'letterbox', 'pad': [0, 255, 0]},
        'cropped': {'fit': 'crop'},  # 8 × 12, of which 8 columns are blue
        'middle': {'fit': 'crop', 'crop_ratio': 0.6},
    }
    first = {}
    for name, changes in fits.items():
        result = Classifier.open(write_mean_colour(tmp_path / f'{name}.onnx', **changes))(image)
        first[name] = (int(result.class_ids[0]), float(result.scores[0]))
    assert first['padded'] == (1, pytest.approx(0.75, abs=0.01))  # one row of four is image
    assert first['cropped'][0] == 2 and 0.6 < first['cropped'][1] < 0.75
    assert first['middle'] == (2, pytest.approx(1.0, abs=0.01))


def test_the_fields_travel_and_models_without_them_mean_what_they_meant(tmp_path: Path) -> None:
    spec = identity_spec(64, 96, **LETTERBOX)
    assert ModelSpec.from_metadata(spec.to_metadata(), tmp_path / 'm.onnx') == spec
    values = json.loads(spec.to_metadata()[METADATA_KEY])
    (tmp_path / 'm.yaml').write_text(yaml.safe_dump({**values, 'pad': 250}))
    assert ModelSpec.from_metadata({}, tmp_path / 'm.onnx') == spec
    for name in ('fit', 'crop_ratio', 'pad'):
        values.pop(name)
    old = ModelSpec.from_dict(values, 'the test')
    assert old == replace(spec, fit='stretch', pad=(114, 114, 114)) and old.crop_ratio == 1.0
    stretched = Segmenter.open(write_fake(tmp_path / 'old.yaml', old), 'fake')
    assert np.array_equal(
        stretched(noise(30, 30)).class_ids,
        resize_ids(fit_image(noise(30, 30), 64, 96)[..., 0].copy(), 30, 30),
    )
