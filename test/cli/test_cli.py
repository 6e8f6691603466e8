"""`mnv2`: its commands, its name, and errors that a person can read."""

from dataclasses import replace
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
from xml.etree import ElementTree

import cv2
from fixed_detector import write_detector
from identity_network import identity_spec, write_fake, write_onnx
import numpy as np
from onnx_graphs import node, write_convolutions, write_graph
import pytest

from mnv2_perception.bags.read import BagReader
from mnv2_perception.cli import main as cli
from mnv2_perception.cli.training import classes_of_start, licence_of_start
from mnv2_perception.tasks.models import find_model
from mnv2_perception.tasks.onnx_spec import read_spec

ROOT = Path(__file__).parents[2]
COLOURS = [[250, 0, 0], [0, 250, 0]]


@pytest.fixture
def model(tmp_path: Path) -> str:
    spec = identity_spec(8, 12, classes=['road', 'sky'], colours=COLOURS)
    return str(write_fake(tmp_path / 'model.yaml', spec))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One image of which the identity network gets three quarters right."""
    label = np.zeros((8, 12), np.uint8)
    label[:, 6:] = 1
    image = np.zeros((8, 12, 3), np.uint8)
    image[:, 3:, 2] = 1
    for name, picture in (('images', image), ('labels', label)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / 'a.png'), picture)
    return tmp_path


def test_run_with_a_folder_names_the_command_for_all_of_it(
    model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(['run', str(folder / 'images'), '--model', model, '--engine', 'fake']) == 1
    assert re.search(r'is a folder, .* bag run .*images --model .* --out', capsys.readouterr().err)


def test_evaluate_prints_json(
    model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(['evaluate', model, str(folder), '--engine', 'fake', '--json']) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {
        'model', 'engine', 'precision', 'images', 'miou', 'per_class', 'pixel_accuracy',
        'ms_per_image', 'unlabelled', 'absent', 'false_alarms', 'confusion', 'boundary_iou',
        'boundary_per_class', 'ece', 'calibration', 'worst',
    }
    assert result['pixel_accuracy'] == 0.75
    assert result['per_class'] == {'road': 0.5, 'sky': pytest.approx(2 / 3)}
    assert result['miou'] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_evaluate_prints_a_table(
    model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(['evaluate', model, str(folder), '--engine', 'fake']) == 0
    rows = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows['pixel_accuracy'] == '0.750' and rows['per_class.road'] == '0.500'


@pytest.fixture
def detector(tmp_path: Path) -> str:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    return str(write_detector(tmp_path / 'detector.onnx', 32, 64, colours=COLOURS))


def test_boxes_of_masks_are_written_and_measured(
    model: str, detector: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('pycocotools', reason='no pycocotools: run make setup-train')
    (folder / 'spec.yaml').write_text(
        '{name: m, task: segmentation, height: 8, width: 12, classes: [car, dog],\n'
        ' mean: [0, 0, 0], std: [1, 1, 1]}'
    )
    out = folder / 'coco.json'
    assert cli.main([
        'boxes', str(folder), '--classes', 'dog', '--spec', str(folder / 'spec.yaml'), '--out',
        str(out),
    ]) == 0
    assert capsys.readouterr().out == f'{out}: 1 boxes in 1 images, and 0 to be ignored\n'
    assert cli.main(['evaluate', detector, str(out), '--json']) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {
        'model', 'engine', 'precision', 'images', 'ap', 'ap50', 'ap50_per_class', 'ms_per_image',
        'confusion', 'ece', 'calibration', 'worst',
    }
    assert 0.0 <= result['ap'] < 1.0


def test_evaluate_measures_a_segmentations_components(
    model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('pycocotools', reason='no pycocotools: run make setup-train')
    (folder / 'spec.yaml').write_text(
        '{name: m, task: segmentation, height: 8, width: 12, classes: [road, sky],\n'
        ' mean: [0, 0, 0], std: [1, 1, 1]}'
    )
    args = ['--spec', str(folder / 'spec.yaml'), '--out', str(folder / 'coco.json')]
    assert cli.main(['boxes', str(folder), '--classes', 'road', 'sky', *args]) == 0
    capsys.readouterr()
    assert cli.main(['evaluate', model, str(folder / 'coco.json'), '--engine', 'fake']) == 0
    rows = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    # The sky is 9×8 pixels where it should be 6×8; the road, 3×8, is no object of 40.
    assert (rows['ap50_per_class.road'], rows['ap50_per_class.sky']) == ('0.000', '1.000')


def test_windows_are_cut_and_labelled_by_masks(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / 'spec.yaml').write_text(
        '{name: m, task: segmentation, height: 8, width: 12, classes: [road, sky],\n'
        ' mean: [0, 0, 0], std: [1, 1, 1]}'
    )
    args = ['patches', str(folder), '--spec', str(folder / 'spec.yaml'), '--height', '8',
            '--width', '12', '--top', '0', '--out', str(folder / 'windows')]
    assert cli.main([*args, '--groups', 'any=road,sea']) == 1
    assert "has no class 'sea'; it has road, sky" in capsys.readouterr().err
    assert cli.main([*args, '--groups', 'any=road,sky']) == 0
    assert capsys.readouterr().out == f'{folder}/windows/labels.tsv: 1 any\n'


def test_run_draws_a_detectors_boxes(
    detector: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay, args = folder / 'overlay.png', ['run', str(folder / 'images/a.png'), '--model']
    assert cli.main([*args, detector, '--out', str(overlay), '--min-score', '0.7']) == 0
    assert capsys.readouterr().out == f'{overlay}\n'
    picture = cv2.imread(str(overlay))  # BGR
    assert (picture[..., 1] > 200).any() and not (picture[..., 2] > 200).all(axis=1).any()
    assert cli.main([*args, detector, '--mask', str(folder / 'm.png')]) == 1
    assert 'is for detection and makes no masks' in capsys.readouterr().err


def test_info_says_what_a_model_takes_and_gives(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    assert cli.main(['info', 'unet_mobilenetv2_camvid', '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    size = f'(1, {facts["height"]}, {facts["width"]}, 3) uint8'
    assert facts['takes'] == [f"'image' {size}"]
    assert facts['classes'][3] == 'road' and len(facts['classes']) == len(facts['colours']) == 11
    assert facts['licence'] == 'CC-BY-NC-4.0'
    assert cli.main(['info', 'unet_mobilenetv2_camvid']) == 0
    told = capsys.readouterr().out
    assert re.search(r'^licence +CC-BY-NC-4\.0 \(not for commercial use\)$', told, re.M)
    assert re.search(r'^attribution +mnv2_perception, from CamVid by Brostow', told, re.M)


def foreign_classifier(folder: Path) -> Path:
    """Write a network without a spec whose scores are the mean of each colour."""
    return write_graph(
        folder / 'm.onnx',
        [node('GlobalAveragePool', 'image', 'means'), node('Flatten', 'means', 'scores')],
        ('float32', (1, 3, 4, 6)), {'scores': ('float32', (1, 3))},
    )


def fill_in(draft: str) -> str:
    """Fill in what the draft of `foreign_classifier` leaves open."""
    for name, value in {
        'output': 'logits', 'background': 'false', 'classes': '[red, green, blue]', 'fit': 'crop',
        'channel_order': 'rgb', 'mean': '[0, 0, 0]', 'std': '[1, 1, 1]',
    }.items():
        draft = draft.replace(f'{name}: ???', f'{name}: {value}')
    return draft


def test_info_of_a_foreign_model_drafts_the_spec_that_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(foreign_classifier(tmp_path))
    assert cli.main(['info', model]) == 1
    out, err = capsys.readouterr()
    assert err.startswith('error: m.onnx does not say how') and err.count('\n') == 1
    facts, draft = out.split('\n\n')
    told = dict(line.split(maxsplit=1) for line in facts.splitlines())
    assert told['takes'] == "'image' (1, 3, 4, 6) float32"
    assert told['lacks'] == 'output, background, classes, fit, channel_order, mean, std'
    assert draft.startswith('# m.yaml: fill in each ???\nname: m\ntask: classification\n')
    (tmp_path / 'm.yaml').write_text(fill_in(draft))
    assert cli.main(['info', model]) == 0
    told = capsys.readouterr().out
    assert re.search('^licence +not stated$', told, re.M)
    assert told.endswith('lacks          licence, description\n')


def test_info_of_a_spec_that_does_not_fit_drafts_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = foreign_classifier(tmp_path)
    (tmp_path / 'm.yaml').write_text('name: m\n')
    assert cli.main(['info', str(model), '--json']) == 1
    out, err = capsys.readouterr()
    assert set(json.loads(out)) == {'file', 'takes', 'gives', 'runs here'}
    assert 'm.yaml: classes, height' in err


def test_run_prints_what_a_classification_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, picture = str(foreign_classifier(tmp_path)), str(tmp_path / 'a.png')
    cli.main(['info', model])
    (tmp_path / 'm.yaml').write_text(fill_in(capsys.readouterr().out.split('\n\n')[1]))
    cv2.imwrite(picture, np.full((8, 12, 3), (3, 1, 2), np.uint8))  # BGR
    assert cli.main(['run', picture, '--model', model]) == 0
    assert capsys.readouterr().out == '0.665  blue\n0.245  red\n0.090  green\n'
    assert cli.main(['run', picture, '--model', model, '--min-confidence', '0.2']) == 0
    assert capsys.readouterr().out == '0.665  blue\n0.245  red\n'
    assert not (tmp_path / 'overlay.png').exists()
    assert cli.main(['run', picture, '--model', model, '--mask', 'mask.png']) == 1
    assert 'is for classification and makes no masks' in capsys.readouterr().err


def test_evaluate_of_a_classification_counts_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(foreign_classifier(tmp_path))
    cli.main(['info', model])
    (tmp_path / 'm.yaml').write_text(fill_in(capsys.readouterr().out.split('\n\n')[1]))
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((8, 12, 3), (9, 1, 2), np.uint8))
    (tmp_path / 'labels.tsv').write_text('a.png\tblue\na.png\t0\n')
    assert cli.main(['evaluate', model, f'{tmp_path}/labels.tsv', '--json']) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result['top1'], result['images']) == (0.5, 2)
    assert result['per_class'] == {'red': 0.0, 'green': None, 'blue': 1.0}


def test_run_writes_overlay_and_mask(
    model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay, mask = folder / 'overlay.png', folder / 'mask.png'
    assert cli.main([
        'run', str(folder / 'images/a.png'), '--model', model, '--engine', 'fake', '--out',
        str(overlay), '--mask', str(mask),
    ]) == 0
    assert capsys.readouterr().out.splitlines() == [str(overlay), str(mask)]
    ids = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    assert ids.tolist() == [[0] * 3 + [1] * 9] * 8
    picture = cv2.imread(str(overlay))  # BGR
    assert picture[0, 0].argmax() == 2 and picture[0, -1].argmax() == 1
    assert picture.shape[0] > 8  # the legend


@pytest.mark.parametrize('name', ['o.exr', 'o.pgm', 'o.odd', 'o'])
def test_run_says_what_a_picture_is_to_end_in(
    name: str, model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, image = folder / name, str(folder / 'images/a.png')
    assert cli.main(['run', image, '--model', model, '--engine', 'fake', '--out', str(out)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f'error: {out}: ') and told.endswith('; use a name that ends in .png\n')
    assert not out.exists()
    assert cli.main(['run', image, '--model', f'{folder}/absent.onnx', '--out', str(out)]) == 1
    assert capsys.readouterr().err == told  # before a model is opened


def test_run_leaves_out_what_is_not_sure(model: str, folder: Path) -> None:
    mask = folder / 'mask.png'
    args = ['run', str(folder / 'images/a.png'), '--model', model, '--engine', 'fake', '--out',
            str(folder / 'o.png'), '--mask', str(mask), '--min-confidence', '0.5']
    assert cli.main(args) == 0
    assert (cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) == 255).all()


def test_only_force_replaces_a_file_and_nothing_what_the_command_reads(
    model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = folder / 'images/a.png', folder / 'mine.png'
    line = ['run', str(image), '--model', model, '--engine', 'fake', '--out']
    out.write_text('mine')
    assert cli.main([*line, str(out)]) == 1
    assert capsys.readouterr().err.endswith('choose another file, or replace it with --force\n')
    assert out.read_text() == 'mine'
    assert cli.main([*line, str(out), '--force']) == 0
    assert cv2.imread(str(out)) is not None
    before = image.read_bytes()
    assert cli.main([*line, str(folder / 'labels/../images/a.png'), '--force']) == 1
    assert 'is named twice' in capsys.readouterr().err
    assert image.read_bytes() == before


def test_bag_draw_writes_a_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = f'bag draw {tmp_path}/street --seed 3 --seconds 0.5 --rate-hz 6 --height 64 --width 96'
    assert cli.main(args.split()) == 0
    assert capsys.readouterr().out == f'{tmp_path}/street\n'
    with BagReader(tmp_path / 'street') as bag:
        assert [topic.message_count for topic in bag.topics] == [3, 3, 3, 1]


@pytest.mark.parametrize(
    'args',
    [
        'info no_such_model',
        'info {tmp}/text.onnx',
        'evaluate {tmp}/model.yaml {tmp}/absent --engine fake',
        'evaluate {tmp}/model.yaml {tmp} --engine fake',
        'evaluate {tmp}/model.yaml {tmp} --engine tpu',
        'evaluate {tmp}/model.yaml {tmp}/absent.json --engine fake',
        'boxes {tmp} --classes car --out {tmp}/coco.json',
        'boxes {tmp} --classes tram --out {tmp}/coco.json',
        'boxes {tmp} --classes car --out {tmp}/coco.json --spec {tmp}/absent.yaml',
        'run {tmp}/absent.png --model {tmp}/model.yaml --engine fake',
        'run {tmp}/picture.png --model {tmp}/model.yaml --engine fake --out {tmp}/absent/o.png',
        'run {tmp}/picture.png --model {tmp}/model.yaml --engine fake --out {tmp}/o.nonsense',
        'bag draw {tmp}',
        'bag draw {tmp}/small --height 10',
        'bag draw {tmp}/short --seconds 0.01',
        'demo --bag {tmp}/absent --out {tmp}/out',
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    args: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'text.onnx').write_text('no model')
    cv2.imwrite(str(tmp_path / 'picture.png'), np.zeros((8, 12, 3), np.uint8))
    assert cli.main(args.format(tmp=tmp_path).split()) == 1
    out, err = capsys.readouterr()
    assert err.startswith('error: ') and err.count('\n') == 1
    assert out == ''
    assert not (tmp_path / 'small').exists()


@pytest.mark.train
@pytest.mark.parametrize(
    'args',
    [
        'export {tmp}/absent.pt {tmp}/model.onnx',
        'export {tmp}/text.pt {tmp}/model.onnx',
        'train segmentation {tmp} --out {tmp}/run',
        'train segmentation {tmp} --out {tmp}/run --spec {tmp}/text.pt',
        'train segmentation {tmp} --out {tmp}/run --crop-height 100',
    ],
)
def test_an_error_of_training_is_one_line_and_exit_code_1(
    args: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('torch', reason='no torch: run make setup-train')
    (tmp_path / 'text.pt').write_text('no checkpoint')
    assert cli.main(args.format(tmp=tmp_path).split()) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1


def run_without(missing: str, args: list[str]) -> 'subprocess.CompletedProcess[str]':
    """Run a command as on a machine where a package is not installed."""
    code = (
        f'import sys; sys.modules[{missing!r}] = None\n'
        f'from mnv2_perception.cli import main as cli; sys.exit(cli.main({args!r}))'
    )
    return subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.mark.parametrize(
    ('missing', 'args', 'cure'),
    [
        ('torch', ['train', 'segmentation', 'x', '--out', 'y', '--epochs', '3'], 'setup-train'),
        ('torch', ['export', 'x.pt', 'y.onnx'], 'setup-train'),
        ('onnxruntime', ['evaluate', 'unet_mobilenetv2_camvid', 'x', '--engine', 'onnx_runtime'],
         'pip install onnxruntime'),
        ('openvino', ['evaluate', 'unet_mobilenetv2_camvid', 'x', '--engine', 'openvino'],
         'pip install openvino'),
        ('onnx', ['quantize', 'unet_mobilenetv2_camvid', '--calibrate', 'docs'],
         'pip install onnx'),
        ('rosbags', ['bag', 'draw', '/nowhere/bag'], 'rosbags'),
        ('pycocotools', ['evaluate', 'unet_mobilenetv2_camvid', 'x.json'], 'pip install pyco'),
        ('rosbags', ['demo', '--out', '/nowhere/out'], 'rosbags'),
    ],
)
def test_a_missing_package_is_named_with_its_cure(
    missing: str, args: list[str], cure: str
) -> None:
    result = run_without(missing, args)
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith('error: ') and result.stderr.count('\n') == 1
    assert cure in result.stderr


def test_evaluate_needs_no_bags(model: str, folder: Path) -> None:
    result = run_without('rosbags', ['evaluate', model, str(folder), '--engine', 'fake'])
    assert result.returncode == 0, result.stderr


def test_evaluate_on_a_bag_says_what_it_needs(model: str, tmp_path: Path) -> None:
    line = ['evaluate', model, str(tmp_path / 'drive.mcap'), '--engine', 'fake']
    result = run_without('rosbags', line)
    assert (result.returncode, result.stdout) == (1, '')
    assert 'bags need rosbags: pip install rosbags' in result.stderr


def test_a_name_that_cannot_be_printed_is_printed_escaped(tmp_path: Path) -> None:
    line = ['bag', 'draw', b'\xff', '--seconds', '0.1', '--height', '64', '--width', '64']
    done = subprocess.run(
        [sys.executable, '-m', 'mnv2_perception.cli', *line],
        capture_output=True, cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b'\\udcff\n'), done.stderr


@pytest.mark.parametrize('args', [[], ['info'], ['bag'], ['fly'], ['bag', 'draw']])
def test_wrong_usage_is_exit_code_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(args)
    assert stop.value.code == 2
    assert 'usage: ' in capsys.readouterr().err


def test_version_tells_what_a_report_of_a_fault_should(
    capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(['--version'])
    assert exit_info.value.code == 0
    version = ElementTree.parse(ROOT / 'package.xml').findtext('version')
    python = '.'.join(map(str, sys.version_info[:3]))
    assert capsys.readouterr().out == f'mnv2_perception {version}, Python {python}\n'


@pytest.mark.parametrize(
    ('program', 'name'),
    [
        ('{cwd}/install/lib/mnv2_perception/mnv2', 'ros2 run mnv2_perception mnv2'),
        ('/opt/ros/jazzy/lib/mnv2_perception/mnv2', 'ros2 run mnv2_perception mnv2'),
        ('{cwd}/.venv/bin/mnv2', '.venv/bin/mnv2'),
        ('.venv/bin/mnv2', '.venv/bin/mnv2'),
        ('/opt/venv/bin/mnv2', '/opt/venv/bin/mnv2'),
        ('/usr/lib/python3/pytest', 'mnv2'),
        ('/somewhere/mnv2_perception/cli/__main__.py', 'mnv2'),
    ],
)
def test_messages_name_the_command_as_it_is_called_here(
    program: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [program.format(cwd=tmp_path)])
    assert cli.command_name() == name


def test_quantize_measures_before_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_convolutions(tmp_path / 'model.onnx')
    rng = np.random.default_rng(0)
    for name, shape in (('images', (16, 24, 3)), ('labels', (16, 24))):
        (tmp_path / name).mkdir()
        for index in range(3):
            picture = rng.integers(0, 3 if name == 'labels' else 256, shape, np.uint8)
            cv2.imwrite(str(tmp_path / name / f'{index}.png'), picture)
    out = tmp_path / 'small.onnx'
    options = ['quantize', str(model), '--calibrate', str(tmp_path), '--labels', str(tmp_path),
               '--out', str(out), '--images', '2', '--tolerance', '1e9', '--json']
    assert cli.main(options) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts['file'], facts['images'], facts['layers_int8']) == (str(out), 2, 3)
    assert set(facts['before']) == set(facts['after']) == {'miou'}
    assert cli.main(['info', str(out), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['name'] == 'convolutions_int8'


def test_training_tells_the_licence_of_the_model_that_it_starts_from() -> None:
    weights = find_model('unet_mobilenetv2_ground_fast')
    start = read_spec(weights)
    assert start
    mine = replace(start, licence='CC0-1.0', attribution='')
    told = licence_of_start(start, mine)
    assert 'licence is CC-BY-4.0, with the attribution "' in told and 'by buinghia3101' in told
    assert licence_of_start(start, start) == ''


def test_training_tells_where_a_head_of_other_classes_is_taken() -> None:
    start = read_spec(find_model('unet_mobilenetv2_ground_fast'))
    assert start and classes_of_start(start, start) == ''
    told = classes_of_start(start, replace(start, classes=start.classes[::-1]))
    assert 'has the classes background, obstacle, stairs' in told and 'use the same order' in told
    fewer = replace(start, classes=start.classes[1:], colours=start.colours[1:])
    assert classes_of_start(start, fewer) == ''  # the head begins anew


def test_the_classes_of_masks_may_be_those_of_a_shipped_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    spec = ['--spec', 'unet_mobilenetv2_ground_fast']
    line = ['boxes', str(folder), '--classes', 'floor', '--out', str(folder / 'b.json'), *spec]
    assert cli.main(line) == 0
    assert [each['name'] for each in json.loads(
        (folder / 'b.json').read_text())['categories']] == ['floor']
    line = ['patches', str(folder), '--height', '8', '--width', '12', '--top', '0', *spec]
    assert cli.main([*line, '--out', str(folder / 'w'), '--groups', 'way=road']) == 1
    assert "unet_mobilenetv2_ground_fast has no class 'road'" in capsys.readouterr().err
    assert cli.main([*line, '--out', str(folder / 'w'), '--groups', 'way=floor,sidewalk']) == 0
    assert capsys.readouterr().out == f'{folder}/w/labels.tsv: 1 way\n'
    assert cli.main(['boxes', str(folder), '--classes', 'car', '--out', str(folder / 'c.json'),
                     '--spec', 'no_such_model']) == 1
    assert 'neither a model file nor a shipped model' in capsys.readouterr().err


def test_a_user_without_a_home_works_and_is_told_where_one_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a container with `--user 12345`: no HOME, and no line in /etc/passwd."""
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')

    def unknown(_: int) -> None:
        raise KeyError

    for name in ('HOME', 'XDG_CACHE_HOME'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr('pwd.getpwuid', unknown)
    monkeypatch.chdir(tmp_path)
    model = write_onnx(tmp_path / 'm.onnx', identity_spec(32, 64))
    assert cli.main(['info', str(model)]) == 0
    capsys.readouterr()
    for args, told in (
        (['info', '~/m.onnx'], '~/m.onnx: is neither a model file nor a shipped model'),
        (['info', '~nobody_here/m.onnx'], '~nobody_here/m.onnx: is neither a model file'),
        (['bag', 'info', '~/drive'], '~/drive'),
        (['fetch', 'mobilenet_v2'], 'this user has no home folder to store weights in; set XDG_'),
    ):
        assert cli.main(args) == 1
        assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [model]


def test_ctrl_c_while_modules_are_loaded_ends_a_command_quietly() -> None:
    code = (
        'import sys\n'
        'class Pressed:\n'
        '    def find_spec(self, name, *_):\n'
        "        if name == 'numpy': raise KeyboardInterrupt\n"
        'sys.meta_path.insert(0, Pressed())\n'
        'from mnv2_perception.cli.main import main\n'
        "sys.exit(main(['info', 'nothing']))\n"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, '', '')


@pytest.mark.parametrize('line', [
    'evaluate {model} {folder} --engine fake', 'demo',
    'patches {folder} --height 8 --width 12 --top 0 --groups way=sky',
])
def test_a_file_in_the_place_of_the_folder_of_results_is_told_with_the_cure(
    model: str, folder: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    (out := folder / 'results').touch()
    args = [part.format(model=model, folder=folder) for part in line.split()]
    assert cli.main([*args, '--out', str(out)]) == 1
    told = f'{out} is a file, expected a folder; choose another --out'
    assert told in capsys.readouterr().err


@pytest.mark.parametrize('line', [
    'benchmark {}', 'build {}', 'evaluate {} .', 'info {}', 'quantize {} --calibrate .',
    'verify {} .', 'verify {} . --out new.onnx',
])
def test_a_checkpoint_in_the_place_of_a_model_names_the_command_that_makes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    (checkpoint := tmp_path / 'best.pt').write_bytes(b'PK')
    before = signal.getsignal(signal.SIGINT)
    assert cli.main(line.format(checkpoint).split()) == 1
    told = capsys.readouterr().err
    assert told.startswith(f'error: {checkpoint}: is a checkpoint, expected a model such as an')
    assert told.count(f'mnv2 export {checkpoint} model.onnx') == 1
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(('said', 'told'), [
    ('libtorch_cpu.so: failed to map segment from shared object', 'not enough memory'),
    ('libtorch_cpu.so: undefined symbol: cudnn', 'is installed but cannot be loaded; reinstall'),
])
@pytest.mark.parametrize(('library', 'args'), [
    ('torch', ['train', 'segmentation', 'x', '--out', 'y']), ('torch', ['export', 'x.pt', 'y']),
    ('torch', ['embed', 'x.pth', '--encoder', 'mobilenet_v2', '--onnx', 'y.onnx']),
    ('openvino', ['evaluate', 'unet_mobilenetv2_camvid', 'x', '--engine', 'openvino']),
    ('onnxruntime', ['evaluate', 'unet_mobilenetv2_camvid', 'x', '--engine', 'onnx_runtime']),
    ('onnx', ['verify', 'unet_mobilenetv2_camvid', 'x', '--out', 'y.onnx']),
    ('onnxruntime.quantization', ['quantize', 'ssdlite_mobilenetv2_ground', '--calibrate',
                                  'docs', '--out', 'y.onnx']),
    ('pycocotools', ['evaluate', 'ssdlite_mobilenetv2_ground', 'x.json']),
])
def test_a_library_that_cannot_be_loaded_is_told_with_what_the_loader_said(
    library: str, args: list[str], said: str, told: str
) -> None:
    if args[0] in ('export', 'embed', 'quantize'):  # they import onnx first
        pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    code = (
        'import sys\n'
        'class Loader:\n'
        '    def find_spec(self, name, *_):\n'
        f'        if name == {library!r}: raise ImportError({said!r})\n'
        'sys.meta_path.insert(0, Loader())\n'
        'from mnv2_perception.cli.main import main\n'
        f'sys.exit(main({args!r}))\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and done.stderr.startswith('error: ')
    assert said in done.stderr and told in done.stderr
    assert 'not installed' not in done.stderr
