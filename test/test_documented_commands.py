"""Every command of the documents is run: here on small data, or by what ELSEWHERE names."""

from collections.abc import Callable
import json
from pathlib import Path
import shlex
import shutil

import cv2
import numpy as np
import pytest
from test_documentation import blocks, commands, PAGES
import yaml

from mnv2_perception.cli.main import main
from mnv2_perception.data.folders import read_label
from mnv2_perception.data.images import write_image
from mnv2_perception.scenes.bag import draw_bag
from mnv2_perception.tasks.models import find_model

ROOT = Path(__file__).parents[1]

# How a line begins, and what runs it: a file below test/, CI, or whose machine it is for.
ELSEWHERE = {
    'make ': '.ci/run', 'BAG=': 'demo/test_demo.py',
    'mnv2 demo --foxglove': 'demo/test_demo_viewer.py', 'mnv2 demo': 'demo/test_demo.py',
    'mnv2 bag run drive --ray': 'replay/test_fleet.py', 'ray start': 'replay/test_fleet.py',
    'mnv2 build': 'engines/test_rtx.py', 'mnv2 verify': 'engines/test_int8_file.py',
    'mnv2 quantize mnv2_perception/models': 'engines/test_int8_file.py',
    'mnv2 bag play': 'nodes/test_bag_nodes.py', 'mnv2 bag record': 'nodes/test_bag_nodes.py',
    'tail -n +2 imagenet': 'tasks/test_foreign_models.py',
    'mnv2 run photograph.jpg': 'tasks/test_foreign_models.py',
    'mnv2 evaluate mobilenetv2_1.0_224_imagenet.onnx': 'tasks/test_foreign_models.py',
    'ros2 launch mnv2_perception replay': 'launch/test_replay_launch.py',
    'ros2 launch mnv2_perception perception': 'launch/test_perception_launch.py',
    'ros2 pkg prefix': 'a robot', 'ros2 topic': 'a robot', 'ros2 run': 'a robot',
    'mkdir -p ~/ws': 'a robot', 'rosdep ': 'a robot', 'export PIP_': 'a robot',
    'colcon build': '.ci/run', 'sudo ': 'a robot', 'pip ': 'a robot', 'docker ': 'a robot',
}
# What makes a command's work small; an option that is given twice counts as given last.
SMALL = {
    'bag draw': '--seconds 0.2 --height 64 --width 64',
    'train': '--epochs 1 --batch 2 --evaluate-every 1',
    'quantize': '--images 1 --tolerance 1000 --force',
    'benchmark': '--runs 1',
}


def write_pairs(folder: Path, classes: int, count: int = 4) -> None:
    """Write images, their masks, and the table of a classifier."""
    rng = np.random.default_rng(len(folder.name))
    rows = []
    for kind in ('images', 'labels'):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        image = rng.integers(0, 256, (96, 128, 3), np.uint8)
        label = np.repeat(np.arange(128)[None] * classes // 128, 96, axis=0).astype(np.uint8)
        name = f'hall_{folder.name}{number}.png'
        cv2.imwrite(str(folder / 'images' / name), image)
        cv2.imwrite(str(folder / 'labels' / name), label)
        rows.append(f'images/{name}\t{("free", "blocked")[number % 2]}\n')
    (folder / 'labels.tsv').write_text(''.join(rows))


def prepare_bags(folder: Path) -> None:
    draw_bag(folder / 'drive', duration_s=0.3, height=96, width=128)
    (folder / 'pictures').mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f'pictures/{number}.png'), np.full((96, 128, 3), 90, np.uint8))
    run = 'bag run drive --out base.mcap --engine onnx_runtime'
    assert main(run.split()) == 0


def prepare_performance(folder: Path) -> None:
    model = find_model('unet_mobilenetv2_ground_fast')
    for name in ('MODEL', 'MODEL_int8.onnx', 'mine.onnx'):
        shutil.copy(model, folder / name)
    write_pairs(folder / 'DATA', 6, 1)
    shutil.copytree(folder / 'DATA/images', folder / 'IMAGES')


def prepare_labelling(folder: Path) -> None:
    for seed, name in enumerate(('drive', 'other_day', 'other_drive')):
        draw_bag(folder / name, seed, duration_s=0.3, height=96, width=128)


def prepare_training(folder: Path) -> None:
    import torch

    from mnv2_perception.nets.backbones import make_backbone

    (spec,) = (text for text in blocks('docs/training.md', 'yaml') if 'task: ' in text)
    values = yaml.safe_load(spec)
    specs = {
        'warehouse': values,
        'free': {**values, 'task': 'classification', 'output': 'logits',
                 'classes': ['free', 'blocked'], 'height': 64, 'width': 96},
        'boxes': {**values, 'task': 'detection', 'output': 'boxes', 'classes': ['person']},
    }
    for name, each in specs.items():
        (folder / f'{name}.yaml').write_text(yaml.safe_dump(each))
    for name in ('DATA', 'VAL', 'WINDOWS'):
        write_pairs(folder / name, 4)
    for name, file in (('DATA', 'boxes.json'), ('VAL', 'val.json')):
        assert main(['boxes', name, '--spec', 'warehouse.yaml', '--classes', 'person', '--out',
                     file]) == 0
    shutil.copy(folder / 'VAL/images/hall_VAL0.png', folder / 'PICTURE')
    torch.save(make_backbone('mobilenet_v2').state_dict(), folder / 'mobilenet_v2')


def prepare_tuning(folder: Path) -> None:
    from cli.test_camera_pose_command import FILES
    from vision.test_camera_pose import draw_board

    from mnv2_perception.vision.camera import Camera
    from mnv2_perception.vision.camera_pose import FloorPose

    camera = Camera(480, 640, 500.0, 500.0, 320.0, 240.0)
    picture = draw_board(camera, FloorPose(0.5, 0.4, 0.0, 0.0), 0.06, 0.9, 0.1)
    cv2.imwrite(str(folder / 'floor.png'), picture)
    (folder / 'camera_info.yaml').write_text(yaml.safe_dump(FILES['ros2 topic echo']))


PREPARED: dict[str, Callable[[Path], None]] = {
    'docs/bags.md': prepare_bags,
    'docs/labelling.md': prepare_labelling,
    'docs/performance.md': prepare_performance,
    'docs/training.md': prepare_training,
    'docs/tuning.md': prepare_tuning,
}


def runs_here(line: str) -> bool:
    return line.startswith('mnv2 ') and not any(line.startswith(start) for start in ELSEWHERE)


@pytest.mark.parametrize('page', PAGES)
def test_a_command_is_run_here_or_it_is_said_by_what(page: str) -> None:
    lines = [line for line in commands(page) if line]
    unplaced = [
        line for line in lines
        if not any(line.startswith(start) for start in ELSEWHERE)
        and not (runs_here(line) and page in PREPARED)
    ]
    assert unplaced == []


def test_what_runs_the_others_exists() -> None:
    places = set(ELSEWHERE.values()) - {'a robot', '.ci/run'}
    assert [place for place in places if not (ROOT / 'test' / place).is_file()] == []


@pytest.mark.train
@pytest.mark.parametrize('page', PREPARED)
def test_the_commands_of_a_page_do_their_work(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ('onnx', 'openvino', 'pycocotools', 'torch'):
        pytest.importorskip(module, reason=f'no {module}: run make setup-train')
    monkeypatch.chdir(tmp_path)
    PREPARED[page](tmp_path)
    lines = [line for line in commands(page) if runs_here(line)]
    assert lines
    for line in lines:
        words = shlex.split(line)[1:]
        small = next((more for start, more in SMALL.items() if f'{line} '.startswith(
            f'mnv2 {start} ')), '')
        if '--out' in words:  # a page may tell the same command twice, with more options
            out = Path(words[words.index('--out') + 1])
            if out.is_file():
                out.unlink()
        done = main([*words, *small.split()])
        assert done == 0, (line, capsys.readouterr().err)


def test_the_code_of_a_page_makes_labels_of_polygons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('pycocotools', reason='no pycocotools: run make setup-train')
    monkeypatch.chdir(tmp_path)
    for folder in ('round1/labels', 'cvat/SegmentationClass', 'labelme'):
        (tmp_path / folder).mkdir(parents=True)
    classes = ['floor', 'obstacle', 'background']
    Path('round1/spec.yaml').write_text(yaml.safe_dump({'classes': classes}))
    floor, box, run = [2, 20, 58, 20, 58, 38, 2, 38], [10, 15, 20, 15, 20, 30, 10, 30], (3, 2)
    colours = {'background': (0, 0, 0), 'floor': (128, 0, 0), 'obstacle': (0, 128, 64)}
    named = ''.join(f'{name}:{r},{g},{b}::\n' for name, (r, g, b) in colours.items())
    Path('cvat/labelmap.txt').write_text(f'# label:color_rgb:parts:actions\n{named}')
    painted = np.zeros((40, 60, 3), np.uint8)
    painted[20:39, 2:59], painted[15:31, 10:21] = colours['floor'], colours['obstacle']
    write_image(Path('cvat/SegmentationClass/a.png'), painted)
    Path('instances.json').write_text(json.dumps({
        'images': [{'id': 7, 'file_name': 'images/b.jpg', 'height': 40, 'width': 60}],
        'categories': [{'id': 4, 'name': 'obstacle'}, {'id': 9, 'name': 'floor'}],
        'annotations': [
            {'id': 1, 'image_id': 7, 'category_id': 4, 'segmentation': [box], 'area': 150.0},
            {'id': 2, 'image_id': 7, 'category_id': 9, 'segmentation': [floor], 'area': 1008.0},
            {'id': 3, 'image_id': 7, 'category_id': 4, 'area': run[1], 'segmentation': {
                'size': [40, 60], 'counts': [*run, 40 * 60 - sum(run)]}},  # as a brush leaves it
        ],
    }))
    Path('labelme/c.json').write_text(json.dumps({
        'imageHeight': 40, 'imageWidth': 60, 'shapes': [
            {'label': name, 'shape_type': 'polygon',
             'points': np.reshape(corners, (-1, 2)).tolist()}
            for name, corners in (('floor', floor), ('obstacle', box))
        ],
    }))
    names: dict[str, object] = {}
    for code in blocks('docs/labelling.md', 'python'):
        exec(code, names)
    found = {path.stem: read_label(path) for path in sorted(Path('round1/labels').iterdir())}
    assert set(found) == set('abc')
    assert {name: set(np.unique(ids).tolist()) for name, ids in found.items()} == {
        'a': {0, 1, 2}, 'b': {0, 1, 255}, 'c': {0, 1, 255}}
    for ids in found.values():
        assert ids.shape == (40, 60) and (ids[31:38, 3:58] == 0).all()
        assert (ids[15:30, 10:20] == 1).all()
    assert (found['b'][3:5, 0] == 1).all() and found['b'][5, 0] == 255
