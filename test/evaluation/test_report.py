"""An evaluation as files, and what the pictures show."""

import json
from pathlib import Path

import cv2
from fixed_detector import write_detector
from identity_network import identity_spec, write_fake
import numpy as np
from onnx_graphs import write_mean_colour
import pytest
from test_evaluate import write_boxes, write_pair

from mnv2_perception.cli.main import main
from mnv2_perception.cli.options import classes_of
from mnv2_perception.evaluation.pictures import (
    ALL,
    CELL_PX,
    draw_confusion,
    draw_masks,
    MOST_ROWS,
    NONE,
    WRONG,
)

COLOURS = [(200, 0, 0), (0, 0, 200)]


def has(picture: np.ndarray, colour: object) -> bool:
    return bool((picture == np.asarray(colour, np.uint8)).all(axis=2).any())


def cells(picture: np.ndarray, colour: object) -> int:
    """Return how many cells have a colour: at a place where no figure is written."""
    inside = (picture == np.asarray(colour, np.uint8)).all(axis=2).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=4)
    return int((stats[1:, cv2.CC_STAT_AREA] > CELL_PX**2 // 2).sum())


def test_a_confusion_matrix_is_dark_where_much_is_and_says_how_much() -> None:
    picture = draw_confusion({'car': {'car': 10}, 'tram': {'car': 10}}, 'ours')
    assert (cells(picture, ALL), cells(picture, NONE)) == (2, 2)
    assert has(picture, (255, 255, 255)) and has(picture, (0, 0, 0))
    shares = [
        draw_confusion({'car': {'car': n, 'tram': 100 - n}}, 'ours').mean() for n in (100, 50)
    ]
    assert shares[0] != shares[1]


def test_a_class_that_is_never_true_has_a_column() -> None:
    narrow = draw_confusion({'car': {'car': 9}}, '')
    wide = draw_confusion({'car': {'car': 9, 'no class': 1}}, '')
    assert cells(narrow, ALL) == 1 and cells(wide, NONE) == 0
    assert wide.shape[0] >= narrow.shape[0]


def test_of_many_classes_those_that_go_wrong_are_drawn() -> None:
    names = [f'class_{index}' for index in range(300)]
    table = {name: {name: 10, names[0]: index} for index, name in enumerate(names, start=1)}
    picture = draw_confusion(table, 'many')
    assert max(picture.shape) < CELL_PX * (MOST_ROWS + 8)


def test_masks_stand_beside_their_labels_and_differences_are_told() -> None:
    image = np.full((40, 60, 3), 90, np.uint8)
    truth = np.zeros((40, 60), np.uint8)
    truth[:, 30:] = 255
    found = np.ones((40, 60), np.uint8)
    picture = draw_masks(image, truth, found, ('road', 'sky'), COLOURS, 'a')
    body = picture[24:64]
    label, mask, differences = body[:, :60], body[:, 64:124], body[:, 128:188]
    assert label[5, 5, 0] > label[5, 5, 2] and mask[5, 5, 2] > mask[5, 5, 0]
    assert (label[:, 30:] == 90).all()  # unlabelled
    assert (differences[:, :30] == WRONG).all() and (differences[:, 30:] == 45).all()


def test_a_wide_picture_is_drawn_small() -> None:
    ids = np.zeros((1000, 4000), np.uint8)
    picture = draw_masks(np.zeros((1000, 4000, 3), np.uint8), ids, ids, ('a', 'b'), COLOURS, 'a')
    assert picture.shape[1] < 1500


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def test_a_segmentation_is_reported_with_its_worst_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = np.zeros((8, 12), np.uint8)
    for name, wrong in (('good', 0), ('bad', 6), ('worse', 9)):
        predicted = truth.copy()
        predicted[:, :wrong] = 1
        write_pair(tmp_path, name, predicted, truth)
    model = write_fake(
        tmp_path / 'm.yaml', identity_spec(8, 12, classes=['road', 'sky'], colours=COLOURS)
    )
    out = tmp_path / 'report'
    command = ['evaluate', str(model), str(tmp_path), '--engine', 'fake', '--out', str(out)]
    assert main(command) == 0
    assert written(out) == [
        'confusion.png', 'results.json', 'worst/01_worse.png', 'worst/02_bad.png',
    ]
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    result = json.loads((out / 'results.json').read_text())
    assert [each['miou'] for each in result['worst']] == [0.25, 0.5]
    worst = cv2.cvtColor(cv2.imread(str(out / 'worst/01_worse.png')), cv2.COLOR_BGR2RGB)
    assert has(worst, WRONG)
    assert main(command) == 1  # there is one
    assert 'results.json: exists' in capsys.readouterr().err
    (tmp_path / 'images/worse.png').unlink()
    assert main([*command, '--force']) == 0
    assert written(out) == ['confusion.png', 'results.json', 'worst/01_bad.png']


def test_labels_of_other_classes_are_drawn_by_the_map(tmp_path: Path) -> None:
    write_pair(tmp_path, 'a', np.array([[0, 1]], np.uint8), np.array([[1, 1]], np.uint8))
    model = write_fake(
        tmp_path / 'm.yaml', identity_spec(1, 2, classes=['road', 'sky'], colours=COLOURS)
    )
    (tmp_path / 'labels.yaml').write_text(
        '{name: l, task: segmentation, height: 1, width: 2, classes: [wall, floor],'
        ' mean: [0, 0, 0], std: [1, 1, 1]}'
    )
    out = tmp_path / 'report'
    assert main([
        'evaluate', str(model), str(tmp_path), '--engine', 'fake', '--out', str(out),
        '--map', 'floor=sky', '--spec', str(tmp_path / 'labels.yaml'),
    ]) == 0
    result = json.loads((out / 'results.json').read_text())
    assert result['miou'] == 0.5 and result['left_out'] == {'labels': ['wall'], 'model': ['road']}
    assert written(out)[-1] == 'worst/01_a.png'


def test_the_labels_classes_may_be_those_of_a_model() -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    assert classes_of('unet_mobilenetv2_ground')[:2] == ('floor', 'sidewalk')


def test_a_classification_is_reported_with_its_surest_mistakes(tmp_path: Path) -> None:
    model = write_mean_colour(tmp_path / 'm.onnx')
    for name, colour in (('dim', (0, 90, 0)), ('bright', (0, 200, 0)), ('right', (0, 0, 90))):
        (tmp_path / 'data/red').mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f'data/red/{name}.png'), np.full((4, 6, 3), colour, np.uint8))
    out = tmp_path / 'report'
    assert main(['evaluate', str(model), str(tmp_path / 'data'), '--out', str(out)]) == 0
    assert written(out)[2:] == ['worst/01_bright.png', 'worst/02_dim.png']
    picture = cv2.imread(str(out / 'worst/01_bright.png'))
    assert picture.shape[1] >= 320 and has(picture, (0, 200, 0))


def test_a_detection_is_reported_with_its_worst_pictures(tmp_path: Path) -> None:
    pytest.importorskip('pycocotools', reason='no pycocotools: run make setup-train')
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    model = write_detector(tmp_path / 'm.onnx', 32, 64, colours=COLOURS)
    path = write_boxes(tmp_path, ['car'], [[0.0, 0.0, 20.0, 20.0]], [0])
    out = tmp_path / 'report'
    command = ['evaluate', str(model), str(path), '--out', str(out)]
    assert main(command) == 0
    assert written(out) == ['confusion.png', 'results.json', 'worst/01_a.png']
    result = json.loads((out / 'results.json').read_text())
    assert result['confusion'] == {'car': {'missed': 1}, 'nothing': {'car': 1}}
    picture = cv2.cvtColor(cv2.imread(str(out / 'worst/01_a.png')), cv2.COLOR_BGR2RGB)
    half = picture.shape[1] // 2
    assert has(picture[:, :half], COLOURS[0]) and has(picture[:, half:], COLOURS[0])


def test_a_folder_that_cannot_be_made_is_named_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'file').write_text('')
    assert main(['evaluate', 'absent', str(tmp_path), '--out', str(tmp_path / 'file/out')]) == 1
    assert 'file/out: cannot be created' in capsys.readouterr().err
