"""`mnv2 bag compare`: equal runs pass, worse ones fail with the worst frames named."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.bags.messages import (
    classification_cdr,
    detections_cdr,
    grid_cdr,
    header,
    label_info_cdr,
    mask_cdr,
    text_cdr,
)
from mnv2_perception.bags.read import BagReader
from mnv2_perception.bags.results import CLASSIFICATION, DETECTIONS, GRID, IMAGE, LABEL_INFO
from mnv2_perception.bags.write import BagWriter, compressed_image_cdr
from mnv2_perception.cli.main import main
from mnv2_perception.errors import BagError, DataError
from mnv2_perception.evaluation.compare import Check, compare_runs
from mnv2_perception.replay.run import RUN, STRING
from mnv2_perception.report.figures import measure
from mnv2_perception.report.results import read_results
from mnv2_perception.vision.costmap import Grid

FRAMES = 5
CLASSES = ('road', 'car', 'sky')
LABEL = '/camera/label/compressed'


def truth(number: int) -> NDArray[np.uint8]:
    ids = np.zeros((20, 30), np.uint8)
    ids[:10] = 2
    ids[8:14, number : number + 6] = 1
    return ids


def write_run(
    path: Path, wrong: dict[int, int] | None = None, frames: int = FRAMES,
    classes: tuple[str, ...] = CLASSES, labels: bool = False, cells: int = 0,
    boxes: int = 2, first: str = 'grass', first_frame: int = 0,
    names: tuple[str, ...] = (), named: bool = True, other: str = 'road', thing: str = 'car',
) -> Path:
    """Write masks that are right, but for so many rows of some frames; boxes, classes, grids."""
    order = np.array([classes.index(name) for name in CLASSES], np.uint8)
    with BagWriter(path) as bag:
        bag.add_topic('/segmentation/label_info', LABEL_INFO)
        bag.add_topic('/segmentation/mask', IMAGE)
        bag.add_topic('/detections', DETECTIONS)
        bag.add_topic('/classification', CLASSIFICATION)
        bag.add_topic('/grid', GRID)
        if labels:
            bag.add_topic(LABEL, 'sensor_msgs/msg/CompressedImage')
        if named:
            info = label_info_cdr(names or classes, header(1, ''), 0.0)
            bag.write('/segmentation/label_info', 1, info)
        for number in range(first_frame, first_frame + frames):
            stamp_ns = 10**9 + number
            of = header(stamp_ns, 'camera')
            ids = truth(number)
            ids[: (wrong or {}).get(number, 0)] = 0
            bag.write('/segmentation/mask', stamp_ns, mask_cdr(order[ids], of))
            corners = np.array([[1, 1, 9, 9], [10, 2, 20, 12]], np.float32)[:boxes]
            bag.write('/detections', stamp_ns, detections_cdr(
                corners, np.ones(boxes, np.float32), np.zeros(boxes, int), [thing], of))
            likeliest = [first, other]
            bag.write('/classification', stamp_ns, classification_cdr(
                np.array([0, 1]), np.array([0.9, 0.1], np.float32), likeliest, of))
            grid = np.full((4, 5), -1, np.int8)
            grid[:2] = 0
            grid.reshape(-1)[:cells] = 100
            bag.write('/grid', stamp_ns, grid_cdr(Grid(grid, 0.0, 0.0, 0.5), of))
            if labels:
                png = cv2.imencode('.png', truth(number))[1].tobytes()
                bag.write(LABEL, stamp_ns, compressed_image_cdr(png, stamp_ns, 'camera', 'png'))
    return path


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_run(tmp_path / 'base', labels=True)


def test_equal_runs_agree_in_everything(base: Path, tmp_path: Path) -> None:
    checks = by_name(compare_runs(base, write_run(tmp_path / 'new')))
    assert all(check.passed for check in checks.values())
    assert checks['masks: agreement'].figures['agreement_per_class'] == dict.fromkeys(CLASSES, 1.0)
    assert checks['grid: changed cells'].figures == {'changed': 0, 'known': 50, 'share': 0.0}
    assert set(checks) >= {'boxes: agreement', 'classes: agreement', 'segmentation/mask: frames'}


def test_a_worse_run_fails_and_names_the_worst_frames(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, report = write_run(tmp_path / 'new', {1: 2, 3: 5}), tmp_path / 'report.xml'
    line = ['bag', 'compare', str(base), str(new), '--labels', LABEL, '--max-drop', '0.01']
    assert main([*line, '--junit', str(report)]) == 1
    shown = capsys.readouterr().out
    assert 'FAIL  accuracy: mIoU 1.0000 before, 0.9' in shown
    assert 'worst frames: 1.000000003 (-0.250), 1.000000001 (-0.100)' in shown
    root = ElementTree.parse(report).getroot()
    (suite,) = root
    assert suite.attrib['failures'] == '1' and int(suite.attrib['tests']) == len(suite)
    (failed,) = (case for case in suite if case.find('failure') is not None)
    assert failed.attrib['name'] == 'accuracy'
    assert '1.000000003' in str(failed.findtext('failure'))
    assert main([*line, '--max-drop', '0.9']) == 0
    assert main([*line, '--junit', str(report)]) == 1
    assert 'exists; choose another file' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('changes', 'name'),
    [
        ({'wrong': {2: 3}}, 'masks: agreement'),
        ({'frames': 4}, 'segmentation/mask: frames'),
        ({'boxes': 1}, 'boxes: agreement'),
        ({'first': 'gravel'}, 'classes: agreement'),
    ],
)
def test_without_labels_what_differs_from_the_base_fails(
    base: Path, tmp_path: Path, changes: dict[str, Any], name: str
) -> None:
    checks = by_name(compare_runs(base, write_run(tmp_path / 'new', **changes)))
    assert not checks[name].passed
    assert checks[name].worst


def test_a_better_run_passes_against_labels(base: Path, tmp_path: Path) -> None:
    bad = write_run(tmp_path / 'bad', {1: 5}, labels=True)
    checks = by_name(compare_runs(bad, base, LABEL))
    assert checks['accuracy'].passed and 'a gain' in checks['accuracy'].told
    assert checks['accuracy'].figures['miou_new'] == 1.0


def test_cells_that_changed_fail_where_a_limit_is_given(base: Path, tmp_path: Path) -> None:
    new = write_run(tmp_path / 'new', cells=3)
    checks = by_name(compare_runs(base, new))
    assert checks['grid: changed cells'].passed
    assert checks['grid: changed cells'].figures['share'] == pytest.approx(0.3)
    checks = by_name(compare_runs(base, new, max_changed_cells=0.2))
    assert not checks['grid: changed cells'].passed


def test_classes_in_another_order_are_compared_by_their_names(base: Path, tmp_path: Path) -> None:
    new = write_run(tmp_path / 'new', classes=('sky', 'road', 'car'))
    assert by_name(compare_runs(base, new, LABEL))['accuracy'].figures['miou_new'] == 1.0
    assert by_name(compare_runs(base, new))['masks: agreement'].passed


@pytest.mark.parametrize(
    ('changes', 'name', 'told'),
    [
        ({'names': ('floor', 'person', 'wall')}, 'masks: agreement', 'no name in common'),
        ({'first_frame': FRAMES}, 'segmentation/mask: frames', 'missing'),
    ],
)
def test_with_labels_masks_that_cannot_be_compared_fail_and_say_why(
    base: Path, tmp_path: Path, changes: dict[str, Any], name: str, told: str
) -> None:
    new = write_run(tmp_path / 'new', **changes)
    check = by_name(compare_runs(base, new, LABEL))[name]
    assert not check.passed and told in check.told


def test_a_run_whose_classes_nobody_names_is_refused(base: Path, tmp_path: Path) -> None:
    nameless = write_run(tmp_path / 'nameless', named=False)
    for pair in ((base, nameless), (nameless, base)):
        with pytest.raises(BagError, match='nameless: the class names of'):
            compare_runs(*pair)


def test_labels_of_other_classes_give_no_figure_by_their_numbers(
    base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / 'labels'
    folder.mkdir()
    for number in range(FRAMES):
        cv2.imwrite(str(folder / f'{number}.png'), truth(number) + 2)  # 2, 3 and 4
    with pytest.raises(DataError, match=r'labels: has ids up to 4, the model has 3 classes; exp'):
        compare_runs(base, base, str(folder))
    with pytest.raises(DataError, match=r'has ids up to 4'):
        measure(read_results(base), str(folder))


def test_classes_that_differ_are_told(base: Path, tmp_path: Path) -> None:
    new = write_run(
        tmp_path / 'new', names=('road', 'van', 'sky'), first='gravel', other='mud', thing='van'
    )
    checks = by_name(compare_runs(base, new))
    told = checks['masks: agreement'].told
    assert told.endswith("; their classes differ: compared by name, without 'van'")
    apart = "; they have no class in common, 'car' and 'van': are the models for the same classes?"
    assert checks['boxes: agreement'].told.endswith(apart)
    assert "in common, 'grass, road' and 'gravel, mud'" in checks['classes: agreement'].told
    assert 'classes differ' not in by_name(compare_runs(base, base))['masks: agreement'].told


def test_labels_from_a_folder_or_another_bag(base: Path, tmp_path: Path) -> None:
    plain, folder = write_run(tmp_path / 'plain'), tmp_path / 'labels'
    folder.mkdir()
    for number in range(FRAMES):
        cv2.imwrite(str(folder / f'{number}.png'), truth(number))
    for labels in (folder, base):
        checks = by_name(compare_runs(plain, plain, str(labels)))
        assert checks['accuracy'].figures['labels'] == FRAMES
    (folder / '0.png').unlink()
    line = ['bag', 'compare', str(plain), str(plain), '--labels']
    assert main([*line, str(folder)]) == 1
    for wrong in ('/absent', str(tmp_path / 'nowhere')):
        assert main([*line, wrong]) == 1


def test_json_has_all_figures(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['bag', 'compare', str(base), str(base), '--json']) == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged['passed'] and {'name', 'told', 'worst', 'figures', 'passed'} == set(
        judged['checks'][0])


def test_bags_without_results_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic('/count', 'std_msgs/msg/UInt32')
        bag.write('/count', 1, bytes([0, 1, 0, 0, 1, 0, 0, 0]))
    assert main(['bag', 'compare', str(tmp_path / 'bag'), str(tmp_path / 'bag')]) == 1
    assert 'has no masks, boxes, classes or grids' in capsys.readouterr().err


def test_runs_of_other_engines_are_told(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for engine in ('onnx_runtime', 'openvino'):
        paths.append(tmp_path / engine)
        facts = json.dumps({'models': [{'engine': engine, 'precision': 'fp32'}]})
        with BagWriter(paths[-1]) as bag, BagReader(base) as reader:
            bag.add_topic(RUN, STRING)
            bag.write(RUN, 1, text_cdr(facts))
            for topic in reader.topics:
                bag.add_topic(topic.name, topic.type_name)
            for message in reader.messages():
                bag.write(message.topic, message.stamp_ns, message.cdr)
    assert main(['bag', 'compare', *map(str, paths)]) == 0
    assert 'was made with onnx_runtime fp32, ' in (told := capsys.readouterr().err)
    assert 'with openvino fp32, which may cause part of the differences' in told
    assert main(['bag', 'compare', str(paths[0]), str(base)]) == 0
    assert capsys.readouterr().err == ''
