"""`mnv2 camera-pose`: calibration files in, parameters of costmap_node and a picture out."""

from dataclasses import fields
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from mnv2_perception.cli import main as cli

K = [500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0]
P = [500.0, 0.0, 320.0, 0.0, 0.0, 500.0, 240.0, 0.0, 0.0, 0.0, 1.0, 0.0]
R = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
FILES = {
    'camera_calibration': {
        'image_width': 640, 'image_height': 480, 'camera_name': 'front',
        'camera_matrix': {'rows': 3, 'cols': 3, 'data': K}, 'distortion_model': 'plumb_bob',
        'distortion_coefficients': {'rows': 1, 'cols': 5, 'data': [0.0] * 5},
        'rectification_matrix': {'rows': 3, 'cols': 3, 'data': R},
        'projection_matrix': {'rows': 3, 'cols': 4, 'data': P},
    },
    'ros2 topic echo': {
        'header': {'stamp': {'sec': 1, 'nanosec': 2}, 'frame_id': 'camera'}, 'height': 480,
        'width': 640, 'distortion_model': 'plumb_bob', 'd': [0.0] * 5, 'k': K, 'r': R, 'p': P,
        'binning_x': 0, 'binning_y': 0,
        'roi': {'x_offset': 0, 'y_offset': 0, 'height': 0, 'width': 0, 'do_rectify': False},
    },
}


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / 'floor.png'
    cv2.imwrite(str(path), np.full((480, 640, 3), 90, np.uint8))
    return str(path)


@pytest.mark.parametrize('content', FILES.values(), ids=FILES)
def test_a_calibration_file_and_two_lines_give_the_pose(
    content: dict[str, object], picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / 'camera.yaml'
    file.write_text(f'{yaml.safe_dump(content)}---\n')
    # A level camera half a metre up: a line 1 m away is seen 500 · 0.5 / 1 pixels below the axis.
    lines = ['--floor-line', '490', '1', '--floor-line', '323.33', '3']
    line = ['camera-pose', picture, '--camera-info', str(file), *lines]
    assert cli.main([*line, '--json']) == 1
    assert 'row 490 is not in the picture' in capsys.readouterr().err
    line[line.index('490'):line.index('490') + 2] = ['365', '2']
    assert cli.main([*line, '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['height_m'] == pytest.approx(0.5, rel=0.01)
    assert found['pitch_rad'] == pytest.approx(0.0, abs=0.005)


def test_what_is_printed_are_parameters_and_the_picture_is_drawn_on(
    picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters = pytest.importorskip(
        'mnv2_perception.nodes.parameters', reason='no rclpy: run make setup, or source a distro'
    )
    out = tmp_path / 'overlay.png'
    line = ['camera-pose', picture, '--camera-fov', '1.2', '--floor-line', '300', '2',
            '--camera-height', '0.5', '--out', str(out)]
    assert cli.main(line) == 0
    printed = capsys.readouterr().out.replace(str(out), '')
    values = yaml.safe_load(printed)
    assert set(values) <= {item.name for item in fields(parameters.CostmapParameters)}
    assert values['camera_z_m'] == 0.5
    assert values['camera_pitch_rad'] == pytest.approx(0.117, abs=0.005)
    assert (cv2.imread(str(out)) != cv2.imread(picture)).any()


@pytest.mark.parametrize('text', ['', '[1, 2]', 'height: 480', 'k: {', 'image_width: x\ncamera_'
                                  'matrix: 3', '\x00'])
def test_a_file_that_is_no_calibration_is_told(
    text: str, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / 'camera.yaml'
    file.write_text(text)
    line = ['camera-pose', picture, '--camera-info', str(file), '--board', '8x6']
    assert cli.main(line) == 1
    assert 'is not a calibration' in capsys.readouterr().err


def test_a_calibration_that_would_grow_is_refused_at_once(
    picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / 'camera.yaml'
    file.write_text('a: &a {b: 1}\nheight: {<<: *a}\n')
    line = ['camera-pose', picture, '--camera-info', str(file), '--board', '8x6']
    assert cli.main(line) == 1
    assert f'{file}: has an alias' in capsys.readouterr().err


def test_a_calibration_of_another_size_is_told(
    picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / 'camera.yaml'
    file.write_text(yaml.safe_dump({**FILES['ros2 topic echo'], 'width': 320}))
    assert cli.main(['camera-pose', picture, '--camera-info', str(file), '--board', '8x6']) == 1
    assert 'got one of 480 × 640' in capsys.readouterr().err


def test_a_calibration_whose_matrix_is_of_another_size_is_told_and_used(
    picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / 'camera.yaml'
    k = [1000.0, 0.0, 640.0, 0.0, 1000.0, 480.0, 0.0, 0.0, 1.0]
    file.write_text(yaml.safe_dump({**FILES['ros2 topic echo'], 'k': k}))
    lines = ['--floor-line', '365', '2', '--floor-line', '323.33', '3']
    assert cli.main(['camera-pose', picture, '--camera-info', str(file), *lines, '--json']) == 0
    told = capsys.readouterr()
    assert told.err.startswith(f'{file}: the principal point is (640, 480) in an image of 480 ×')
    assert set(json.loads(told.out)) >= {'height_m', 'pitch_rad'}


def test_a_picture_that_was_cut_short_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'cut.jpg'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # the lower half was gray
    line = ['camera-pose', str(path), '--camera-fov', '1.2', '--floor-line', '300', '2',
            '--camera-height', '0.5']
    assert cli.main(line) == 1
    assert 'cut.jpg: was cut short' in capsys.readouterr().err
