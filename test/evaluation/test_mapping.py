"""Which class of the labels is which of the model."""

from pathlib import Path
from typing import Any

from identity_network import identity_spec, write_fake
import numpy as np
import pytest
from test_evaluate import write_pair

from mnv2_perception.errors import DataError
from mnv2_perception.evaluation.evaluate import evaluate_model, evaluate_segmentation
from mnv2_perception.evaluation.mapping import map_classes
from mnv2_perception.tasks.models import opening
from mnv2_perception.tasks.segmenter import Segmenter

LABELS = ('floor', 'stairs', 'obstacle', 'sky')
MODEL = ('road', 'pavement', 'car', 'sky')


def test_equal_classes_are_compared_one_by_one_and_nothing_is_told() -> None:
    classes = map_classes(MODEL, MODEL)
    assert (classes.names, classes.rows, classes.facts()) == (MODEL, MODEL, {})
    assert classes.of_label == classes.of_model == (0, 1, 2, 3)


def test_a_class_of_the_labels_may_be_several_of_the_model() -> None:
    classes = map_classes(LABELS, MODEL, ['floor=road,pavement', 'obstacle=car'])
    assert classes.names == ('floor', 'obstacle', 'sky')  # sky is sky
    assert classes.of_label == (0, 3, 1, 2) and classes.of_model == (0, 0, 1, 2)
    assert classes.facts() == {
        'map': {'floor': ['road', 'pavement'], 'obstacle': ['car'], 'sky': ['sky']},
        'left_out': {'labels': ['stairs'], 'model': []},
    }


def test_classes_of_the_labels_may_be_joined() -> None:
    classes = map_classes(LABELS, MODEL, ['floor,stairs = road, pavement'])
    assert classes.names == ('floor+stairs', 'sky')
    assert classes.of_label == (0, 0, 2, 1)
    same = map_classes(MODEL, MODEL, ['road,pavement=road,pavement'])
    assert same.facts()['map']['road+pavement'] == ['road', 'pavement']


@pytest.mark.parametrize(
    ('labels', 'texts', 'told'),
    [
        (LABELS, ['floor'], '--map floor: expected a class of the labels, =,'),
        (LABELS, ['floor='], 'expected a class of the labels'),
        (LABELS, ['ground=road'], 'ground is not a class of the labels, which has floor, stairs'),
        (MODEL, ['ground=road'], 'not a class of the labels.*name their file with --spec'),
        (LABELS, ['floor=roof'], 'roof is not a class of the model, which has road'),
        (LABELS, ['floor=road', 'floor=car'], 'floor of the labels is named twice'),
        (LABELS, ['floor=road', 'stairs=road'], 'road of the model is named twice'),
        (('a', 'b'), [], 'no class in common: a, b; and road, .*--map a=road'),
    ],
)
def test_what_is_no_map_is_refused(labels: tuple[str, ...], texts: list[str], told: str) -> None:
    with pytest.raises(DataError, match=told):
        map_classes(labels, MODEL, texts)


def evaluate(folder: Path, predicted: Any, truth: Any, *maps: str) -> dict[str, Any]:
    write_pair(folder, 'a', np.array(predicted, np.uint8), np.array(truth, np.uint8))
    model = write_fake(
        folder / 'm.yaml', identity_spec(*np.shape(predicted), classes=list(MODEL))
    )
    classes = map_classes(LABELS, MODEL, maps)
    return evaluate_segmentation(Segmenter.open(model, 'fake'), folder, classes=classes)


def test_masks_are_compared_by_the_map(tmp_path: Path) -> None:
    predicted = [[0, 1, 2, 3], [0, 0, 2, 3]]  # road, pavement, car, sky; …
    truth = [[0, 0, 0, 3], [1, 2, 2, 255]]  # floor, floor, floor, sky; stairs, obstacle, obstacle
    result = evaluate(tmp_path, predicted, truth, 'floor=road,pavement', 'obstacle=car')
    # Road on the stairs, which are left out, is a mistake for floor.
    assert result['per_class'] == {
        'floor': pytest.approx(2 / 5), 'obstacle': pytest.approx(1 / 3), 'sky': 1.0,
    }
    assert result['miou'] == pytest.approx((2 / 5 + 1 / 3 + 1) / 3)
    assert result['left_out']['labels'] == ['stairs']
    assert result['confusion'] == {
        'floor': {'floor': 2, 'obstacle': 1}, 'obstacle': {'floor': 1, 'obstacle': 1},
        'sky': {'sky': 1}, 'left out': {'floor': 1},
    }
    assert result['absent'] == [] and result['unlabelled'] == 1 / 8


def test_labels_of_left_out_classes_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='no pixel has one of the compared classes'):
        evaluate(tmp_path, [[0, 0]], [[1, 1]], 'floor=road')


def test_a_coco_file_names_its_own_classes(tmp_path: Path) -> None:
    model = write_fake(tmp_path / 'm.yaml', identity_spec(2, 4, classes=list(MODEL)))
    with opening(model, 'fake') as (engine, spec), pytest.raises(DataError, match='leave out'):
        evaluate_model(engine, spec, tmp_path / 'boxes.json', labels=LABELS)
