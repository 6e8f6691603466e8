"""Classifier: the likeliest classes of an image, best first; and their accuracy."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
from identity_network import identity_spec, write_fake
import numpy as np
from numpy.typing import NDArray
from onnx_graphs import node, write_graph, write_mean_colour
import pytest

from mnv2_perception.errors import DataError, ImageError, ModelError
from mnv2_perception.evaluation.evaluate import evaluate_classification
from mnv2_perception.tasks.classifier import Classifier
from mnv2_perception.tasks.segmenter import Segmenter


def plain(red: int, green: int, blue: int, size: tuple[int, int] = (4, 6)) -> NDArray[np.uint8]:
    return np.full((*size, 3), (red, green, blue), np.uint8)


@pytest.mark.parametrize('shape', [(1, 3), (1, 3, 1, 1), ('n', 3), ('n', 'c', 'h', 'w')])
def test_classes_come_best_first(tmp_path: Path, shape: tuple[Any, ...]) -> None:
    result = Classifier.open(write_mean_colour(tmp_path / 'm.onnx', shape))(plain(51, 153, 102))
    assert result.class_ids.tolist() == [1, 2, 0]
    assert result.scores.tolist() == pytest.approx([0.6, 0.4, 0.2])
    assert (result.class_ids.dtype, result.scores.dtype) == (np.int64, np.float32)


def test_logits_become_probabilities(tmp_path: Path) -> None:
    model = write_mean_colour(tmp_path / 'm.onnx', output='logits', std=[1.0] * 3)
    result = Classifier.open(model)(plain(1, 3, 2))
    expected = np.exp([3.0, 2.0, 1.0]) / np.exp([1.0, 2.0, 3.0]).sum()
    assert result.class_ids.tolist() == [1, 2, 0]
    assert result.scores.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_equal_scores_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    result = Classifier.open(write_mean_colour(tmp_path / 'm.onnx'))(plain(7, 7, 7))
    assert result.class_ids.tolist() == [0, 1, 2]


def test_top_k_and_min_confidence_limit_what_is_given_and_may_change(tmp_path: Path) -> None:
    classifier = Classifier.open(write_mean_colour(tmp_path / 'm.onnx'), top_k=2)
    image = plain(51, 153, 102)
    assert classifier(image).class_ids.tolist() == [1, 2]
    classifier.min_confidence = 0.5
    assert classifier(image).class_ids.tolist() == [1]
    classifier.min_confidence = 0.9
    assert classifier(image).class_ids.tolist() == classifier(image).scores.tolist() == []


@pytest.mark.parametrize(
    ('settings', 'told'),
    [({'top_k': 0}, 'top_k is 0'), ({'min_confidence': 1.5}, 'min_confidence is 1.5')],
)
def test_settings_that_cannot_be_are_refused(
    tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(ImageError, match=told):
        Classifier.open(write_mean_colour(tmp_path / 'm.onnx'), **settings)


def test_the_background_is_left_out_and_keeps_its_share(tmp_path: Path) -> None:
    model = write_mean_colour(
        tmp_path / 'm.onnx', classes=['green', 'blue'], background=True, output='logits',
        std=[1.0] * 3,
    )
    result = Classifier.open(model)(plain(3, 1, 2))
    assert result.class_ids.tolist() == [1, 0]
    expected = np.exp([2.0, 1.0]) / np.exp([1.0, 2.0, 3.0]).sum()
    assert result.scores.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_one_channel_tells_two_classes(tmp_path: Path) -> None:
    model = write_graph(
        tmp_path / 'm.onnx',
        [node('ReduceMean', 'image', 'score', axes=[1, 2, 3], keepdims=0),
         node('Flatten', 'score', 'scores')],
        ('float32', (1, 3, 4, 6)), {'scores': ('float32', (1, 1))}, task='classification',
        height=4, width=6, classes=['no', 'yes'], input='float_nchw', output='sigmoid',
        std=[255.0] * 3,
    )
    result = Classifier.open(model)(plain(51, 51, 51))
    assert (result.class_ids.tolist(), result.scores.tolist()) == ([0, 1], pytest.approx([.8, .2]))


def test_ids_exceed_a_byte(tmp_path: Path) -> None:
    model = write_graph(
        tmp_path / 'm.onnx', [node('Flatten', 'image', 'scores')],
        ('float32', (1, 1, 334, 3)), {'scores': ('float32', (1, 1002))}, task='classification',
        height=1, width=334, classes=[f'class_{index}' for index in range(1002)],
        input='float_nhwc', output='logits',
    )
    image = np.zeros((1, 334, 3), np.uint8)
    image[0, 333, 1] = 200
    assert Classifier.open(model)(image).class_ids[0] == 1000


def test_crop_looks_at_the_middle_and_stretch_at_all(tmp_path: Path) -> None:
    image = plain(200, 0, 0, (40, 120))
    image[:, 30:90] = (0, 100, 0)
    crop = Classifier.open(write_mean_colour(tmp_path / 'crop.onnx', fit='crop'))
    stretch = Classifier.open(write_mean_colour(tmp_path / 'stretch.onnx'))
    assert crop(image).class_ids[0] == 1 and stretch(image).class_ids[0] == 0


@pytest.mark.parametrize(
    ('shape', 'changes', 'told'),
    [
        ((1, 3), {'classes': ['a', 'b']}, r"'scores' \(1, 3\).*2 classes is \(1, 2\) float"),
        ((1, 3), {'background': True}, r'3 classes and a background is \(1, 4\)'),
        ((1, 3), {'output': 'sigmoid', 'classes': ['a', 'b']}, r'is \(1, 1\)'),
        ((1, 3), {'task': 'segmentation'}, r'is \(1, 3, H, W\)'),
    ],
)
def test_a_spec_that_contradicts_the_graph_is_refused(
    tmp_path: Path, shape: tuple[int, ...], changes: dict[str, Any], told: str
) -> None:
    model = write_mean_colour(tmp_path / 'm.onnx', shape, **changes)
    with pytest.raises(ModelError, match=told):
        (Segmenter if 'task' in changes else Classifier).open(model)


@pytest.mark.parametrize('output', ['logits', 'probabilities'])
@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_scores_that_are_not_finite_reject_the_image(
    tmp_path: Path, output: str, bad: float
) -> None:
    classifier = Classifier.open(write_mean_colour(tmp_path / 'm.onnx', output=output))
    with pytest.raises(ModelError, match='NaN or infinite'):
        classifier.finish(plain(1, 2, 3), [np.array([[1.0, bad, 0.0]], np.float32)])


@pytest.mark.parametrize('scores', [[0.0, 3.0, 7.0], [-2.0, 0.5, 0.9]])
def test_logits_that_the_spec_takes_for_probabilities_reject_the_image(
    tmp_path: Path, scores: list[float]
) -> None:
    classifier = Classifier.open(write_mean_colour(tmp_path / 'm.onnx', output='probabilities'))
    with pytest.raises(ModelError, match=r'scores .* go from .*, expected 0 to 1.*logits\?'):
        classifier.finish(plain(1, 2, 3), [np.array([scores], np.float32)])  # all were 1.0


@pytest.mark.parametrize(('classes', 'told'), [(16, True), (3, False)])  # 3 may by chance
def test_probabilities_that_the_spec_takes_for_logits_reject_the_image(
    tmp_path: Path, classes: int, told: bool
) -> None:
    classifier = Classifier.open(write_mean_colour(tmp_path / 'm.onnx', output='logits'))
    scores = np.full((1, classes), 1.0 / classes, np.float16)
    with pytest.raises(ModelError, match='the spec says logits') if told else nullcontext():
        classifier.finish(plain(1, 2, 3), [scores])


def test_a_model_for_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='is for classification; choose a model for segmentation'):
        Segmenter.open(write_mean_colour(tmp_path / 'm.onnx'))
    with pytest.raises(ModelError, match='is for segmentation; choose a model for classification'):
        Classifier.open(write_fake(tmp_path / 'f.yaml', identity_spec(4, 4)), 'fake')


def test_what_is_no_rgb_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r'expected \(H, W, 3\) uint8 RGB'):
        Classifier.open(write_mean_colour(tmp_path / 'm.onnx'))(np.zeros((4, 6), np.uint8))


# Accuracy


def write_images(folder: Path, **colours: list[tuple[int, int, int]]) -> Path:
    for name, images in colours.items():
        (folder / name).mkdir()
        for index, colour in enumerate(images):
            cv2.imwrite(str(folder / f'{name}/{index}.png'), plain(*colour)[..., ::-1])
    return folder


def test_figures_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    model = write_mean_colour(tmp_path / 'm.onnx')
    folder = tmp_path / 'data'
    folder.mkdir()
    write_images(folder, red=[(9, 0, 0), (9, 1, 0), (0, 9, 0)], green=[(0, 9, 1)])
    result = evaluate_classification(Classifier.open(model, 'onnx_runtime'), folder)
    assert result.pop('ms_per_image') > 0.0
    assert result == {
        'model': 'foreign', 'engine': 'onnx_runtime', 'precision': 'fp32', 'images': 4,
        'top1': 0.75,
        'per_class': {'red': pytest.approx(2 / 3), 'green': 1.0, 'blue': None},
        'confusion': {'red': {'red': 2, 'green': 1}, 'green': {'green': 1}},
        # Of all four the likeliest has 9 of 255, and three are right.
        'ece': pytest.approx(0.75 - 9 / 255),
        'calibration': [{
            'to': pytest.approx(1 / 15), 'share': 1.0, 'confidence': pytest.approx(9 / 255),
            'accuracy': 0.75,
        }],
        'worst': [{
            'image': str(folder / 'red/2.png'), 'label': 'red', 'said': 'green',
            'confidence': pytest.approx(9 / 255),
        }],
    }
    apart = evaluate_classification(Classifier.open(model, 'onnx_runtime'), folder, '_')
    assert apart['by_prefix']['0'] == {
        'images': 2, 'top1': 1.0, 'per_class': {'red': 1.0, 'green': 1.0, 'blue': None},
        'ece': pytest.approx(1.0 - 9 / 255),
    }


def test_the_five_likeliest_count_where_there_are_more(tmp_path: Path) -> None:
    classes = [f'class_{index}' for index in range(6)]
    model = write_graph(
        tmp_path / 'm.onnx', [node('Flatten', 'image', 'scores')],
        ('float32', (1, 1, 2, 3)), {'scores': ('float32', (1, 6))}, task='classification',
        height=1, width=2, classes=classes, input='float_nhwc', output='logits',
    )
    image = np.array([[[60, 50, 40], [30, 20, 10]]], np.uint8)  # class 0 first, class 5 last
    for label in (0, 3, 5, 5):
        cv2.imwrite(str(tmp_path / f'{label}.png'), image[..., ::-1])
    table = tmp_path / 'labels.tsv'
    table.write_text('0.png\t0\n3.png\t3\n5.png\t5\n5.png\t5\n')
    result = evaluate_classification(Classifier.open(model), table)
    assert (result['top1'], result['top5']) == (0.25, 0.5)
    assert 'top5' not in evaluate_classification(Classifier.open(model, top_k=1), table)
    unsure = evaluate_classification(Classifier.open(model, min_confidence=1.0), table)  # none is
    assert unsure['top1'] == unsure['top5'] == 0.0


def test_an_image_that_does_not_decode_is_named(tmp_path: Path) -> None:
    model = write_mean_colour(tmp_path / 'm.onnx')
    (tmp_path / 'red').mkdir()
    (tmp_path / 'red/a.jpg').write_text('no picture')
    with pytest.raises(DataError, match=r'red/a\.jpg: is not a readable image'):
        evaluate_classification(Classifier.open(model), tmp_path)
