"""Wrong command lines, made from the commands' own options: told in words, and nothing is lost."""

import argparse
from collections.abc import Iterator
import importlib
import logging
from pathlib import Path
import signal
from typing import NoReturn

import cv2
from identity_network import identity_spec, write_fake
from mutations import count, generators, HOSTILE, pick
import numpy as np
import pytest

from mnv2_perception.cli.main import build_parser, main
from mnv2_perception.cli.options import Number
from mnv2_perception.scenes.bag import draw_bag

# For each command a line that works, or would if it had more to work on. Each wrong line is one
# of these with something added or left out; options that are given again replace what is here.
LINES = {
    'demo': '--bag street --model model.yaml --engine fake --out out',
    'info': 'model.yaml',
    'build': 'model.yaml --cache cache',
    'quantize': 'model.onnx --calibrate set --out out.onnx --images 1',
    'verify': 'model.onnx set --out out.onnx',
    'benchmark': 'model.yaml --engine fake --runs 1',
    'run': 'set/images/a.png --model model.yaml --engine fake --out out.png',
    'evaluate': 'model.yaml set --engine fake',
    'camera-pose': 'set/images/a.png --camera-fov 1 --floor-line 6 1 --camera-height 0.5',
    'embed': 'unet_mobilenetv2_ground_fast set --out out.npz',
    'boxes': 'set --classes road --spec spec.yaml --out out.json',
    'patches': 'set --groups any=road,sky --spec spec.yaml --out out --height 8 --width 9 --top 0',
    'bag draw': 'out --seconds 0.1 --height 64 --width 64',
    'bag run': 'street --out out.mcap --model model.yaml --engine fake --camera-height 1 '
    '--camera-fov 1 --traversable-classes road',
    'bag frames': 'street --out out --count 1 --model model.yaml --engine fake',
    'bag info': 'street',
    'bag compare': 'street street',
    'bag report': 'street street --bag street --out out.html',
    'fetch': 'mobilenet_v2 --cache cached',
    'train segmentation': 'set --spec spec.yaml --out out --epochs 1 --batch 1 --drawn 0',
    'train classification': 'classes --spec spec.yaml --out out --epochs 1 --batch 1',
    'train detection': 'coco.json --spec spec.yaml --out out --epochs 1 --batch 1',
    'export': 'text.pt out.onnx',
}
# Of the options whose value is a file: these are read, these written, and these a folder's name.
READ = {
    'model', 'image', 'data', 'spec', 'bag', 'calibrate', 'labels', 'val', 'weights',
    'checkpoint', 'folder', 'models', 'camera_info', 'recording', 'base', 'new', 'pictures',
    'results', 'other',
}
NO_FILES = ['absent', 'absent/file.png', 'text.png/below', 'text.png', 'empty', 'x' * 300, '']
NO_PLACES = {
    'boxes': ['absent/o.json', 'text.png/o.json', 'mine.json', 'folder.json', 'o.png', 'empty'],
    'quantize': ['absent/o.onnx', 'text.png/o.onnx', 'model.onnx', 'folder.onnx', 'o.png', '.'],
    'verify': ['absent/o.onnx', 'text.png/o.onnx', 'folder.onnx', 'mine.json', 'o.png', '.'],
    'run': ['absent/o.png', 'text.png/o.png', 'text.png', 'set/images/a.png', 'folder.png', 'o.x'],
    'evaluate': ['text.png', 'text.png/below', 'reported', 'x' * 300],
    'camera-pose': ['absent/o.png', 'text.png/o.png', 'text.png', 'set/images/a.png', 'o.x'],
    'export': ['absent/o.onnx', 'text.png/o.onnx', 'model.onnx', 'folder.onnx', 'o.png', 'o.pt'],
    'patches': ['text.png', 'text.png/below', 'set', 'x' * 300],
    'bag draw': ['text.png', 'text.png/below', 'set', 'street', '.', 'x' * 300],
    'bag run': ['absent/o.mcap', 'text.png/o.mcap', 'street/o.mcap', 'street/street.mcap', 'o.png',
                'mine.mcap', 'empty', '.', 'x' * 300 + '.mcap'],
    'bag frames': ['text.png', 'text.png/below', 'set', 'street', '.', 'street/out', 'x' * 300],
    'embed': ['absent/o.npz', 'text.png/o.npz', 'set/images/a.png', 'empty', 'o.png', 'o.json'],
    'bag report': ['absent/o.html', 'text.png/o.html', 'o.png', 'street', 'empty', '.',
                   'x' * 300 + '.html'],
    'demo': ['text.png', 'text.png/below', 'set', 'street', '.', 'x' * 300],
    'train segmentation': ['text.png', 'run', 'begun'],
    'train classification': ['text.png', 'run', 'begun'],
    'train detection': ['text.png', 'run', 'begun'],
}
MASKS = ['absent/m.png', 'm.jpg', 'mine.png', 'set/images/a.png', 'set/labels/a.png', 'folder.png',
         'out.png']
NUMBERS = ['nan', 'inf', '-inf', '1e999', 'ten', '', '0x10', '1,5']
ADDRESSES = ['drive', 'street.mcap', '0', '65536', 'a b:80', '1:2:3', ':80', '']
ZERO_HAS_A_MEANING = {
    'threads', 'workers', 'min_area', 'per_class', 'top', 'seed', 'tolerance', 'min_confidence',
    'min_score', 'camera_pitch', 'dla', 'learning_rate', 'encoder_rate', 'weight_decay',
    'warm_up', 'frozen_stages', 'ema', 'patience', 'balance', 'drawn', 'jaccard', 'light',
    'label_smoothing', 'max_drop', 'max_changed_cells', 'spacing',
}


def commands(parser: argparse.ArgumentParser, name: str = '') -> Iterator[
    tuple[str, argparse.ArgumentParser]
]:
    """Go through all commands; those that are a node's belong to the node."""
    inner = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    for action in inner:
        for word, sub in action.choices.items():
            yield from commands(sub, f'{name} {word}'.strip())
    if not inner and name not in ('bag play', 'bag record'):
        yield name, parser


def wrong_values(command: str, action: argparse.Action) -> list[str]:
    """Return values that an option must refuse."""
    if isinstance(action.type, Number):
        values = list(NUMBERS)
        if action.dest != 'camera_pitch':
            values.append('-1')
        if action.dest not in ZERO_HAS_A_MEANING:
            values.append('0')
        if action.type.kind is int:
            values += ['2.5', '9' * 5000]
        return values
    if action.choices:
        return ['nonsense', '']
    if action.dest in READ and (command, action.dest) != ('demo', 'model'):
        return [each for each in NO_FILES if action.type or each]
    if action.dest == 'mask':
        return MASKS
    if action.dest in ('out', 'model'):
        return NO_PLACES[command]
    return {
        'engine': ['tpu', ''], 'precision': ['fp7', ''], 'classes': ['tram', ''],
        'groups': ['any', 'any=tram', '=road', ''],
        'map': ['road', 'road=tram', 'tram=road', '=road', 'road=', 'road=sky=road', ''],
        'topic': ['/absent', 'no topic'],
        'encoder': ['resnet', ''], 'decoder_channels': ['0', '1,x', '-1'],
        'board': ['8', '2x6', '0x0', '-3x4', '9999x9999', ''],
        'copy': ['/absent', 'no topic', '/segmentation/mask'], 'traversable_classes': ['tram', ''],
        'base_frame': ['', '/'], 'grid_frame': ['', '/'],
        'onnx': ['absent/o.onnx', 'text.png/o.onnx', 'model.onnx', 'folder.onnx', 'o.npz'],
        'video': ['absent/v.mp4', 'text.png/v.mp4', 'v.avi', 'street', 'empty', '.'],
        'junit': ['absent/r.xml', 'text.png/r.xml', 'r.png', 'mine.xml', 'empty'],
        'cache': ['text.png', 'text.png/below'], 'timing_cache': ['model.yaml', 'empty'],
        'foxglove': ADDRESSES,
    }.get(action.dest, [])


def wrong_lines(command: str, parser: argparse.ArgumentParser) -> list[list[str]]:
    """Return wrong lines of a command."""
    line = [*command.split(), *LINES[command].split()]
    lines = [[*line, '--nonsense'], [*line, '--nonsense', '1']]
    if command not in ('fetch', 'demo'):  # which need nothing
        lines.append(command.split())
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if not action.option_strings:
            place = len(command.split()) + [
                each.dest for each in parser._actions if not each.option_strings
            ].index(action.dest)
            lines += [
                [*line[:place], value, *line[place + 1 :]]
                for value in wrong_values(command, action)
            ]
            continue
        option = action.option_strings[0]
        if action.nargs == 0:
            lines.append([*line, f'{option}=1'])
            continue
        if action.nargs != '?':  # which needs no value
            lines.append([*line, option])
        lines += [
            [*line, option, value] if value[:1] != '-' else [*line, f'{option}={value}']
            for value in wrong_values(command, action)
        ]
    if not any(each.nargs in ('+', '?') for each in parser._actions if not each.option_strings):
        lines.append([*line[: len(command.split())], 'one', 'two', 'three', 'four'])
    return lines


COMMANDS = dict(commands(build_parser()))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with something of everything that a command reads or could overwrite."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'caches'))
    spec = identity_spec(8, 12, classes=['road', 'sky'], colours=[[250, 0, 0], [0, 250, 0]])
    write_fake(tmp_path / 'model.yaml', spec)
    for name in ('set/images', 'set/labels', 'classes/road', 'empty', 'run', 'cached',
                 'begun', 'reported', 'folder.png', 'folder.json', 'folder.onnx'):
        (tmp_path / name).mkdir(parents=True)
    picture = np.zeros((8, 12, 3), np.uint8)
    for name in ('set/images/a.png', 'classes/road/a.png', 'mine.png'):
        cv2.imwrite(str(tmp_path / name), picture)
    cv2.imwrite(str(tmp_path / 'set/labels/a.png'), picture[..., 0])
    (tmp_path / 'spec.yaml').write_text(
        '{name: m, task: segmentation, height: 32, width: 32, classes: [road, sky],\n'
        ' mean: [0, 0, 0], std: [1, 1, 1]}'
    )
    for name in ('text.png', 'text.pt', 'mine.json', 'mine.mcap', 'mine.xml', 'model.onnx',
                 'coco.json', 'run/best.pt', 'run/last.pt', 'begun/best.pt',
                 'reported/results.json',
                 'cached/mobilenet_v2-7ebf99e0.pth'):
        (tmp_path / name).write_text(f'mine: {name}')
    draw_bag(tmp_path / 'street', duration_s=0.1, height=64, width=64)
    level = logging.getLogger().level
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)
    logging.getLogger().setLevel(level)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b''
        for path in folder.rglob('*')
    }


def told(
    capture: pytest.CaptureFixture[str], place: Path, lines: list[list[str]]
) -> dict[str, object]:
    """Run lines; return those that were not answered as they should be, and how they were."""
    before = contents(place)
    capture.readouterr()
    faults = {}
    for line in lines:
        try:
            code: object = main(line)
        except SystemExit as exc:
            code = exc.code
        except BaseException as exc:  # what a user would see as a traceback
            code = f'{type(exc).__name__}: {exc}'
        err = capture.readouterr().err
        after = contents(place)
        lost = [name for name in before if after.get(name) != before[name]]
        if code not in (1, 2) or 'error: ' not in err or 'Traceback' in err or lost:
            faults[' '.join(line)[-120:]] = (code, err[-200:], lost)
    return faults


@pytest.mark.parametrize('command', COMMANDS)
def test_a_wrong_line_is_answered_in_words_and_nothing_is_lost(
    command: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(capsys, place, wrong_lines(command, COMMANDS[command])) == {}


NODE_LINES = {
    'play': [
        [], ['absent'], ['text.png'], ['text.png/below'], ['empty'], ['set'], ['x' * 300],
        ['street', 'street'], ['street', '--nonsense'], ['street', '--loop=1'],
        *(['street', f'--{option}={value}']
          for option in ('rate', 'start-delay', 'wait-for-subscribers', 'clock-hz')
          for value in (*NUMBERS, '-1')),
        ['street', '--rate', '0'],
        *(['street', option] for option in ('--rate', '--topics', '--remap', '--log')),
        ['street', '--topics', '/absent'], ['street', '--wait-for-topics', '/absent'],
        *(['street', f'--foxglove={address}'] for address in ADDRESSES),
        ['--foxglove', 'street'], ['street', '--ros-args', '-p', 'foxglove:=drive'],
        *(['street', '--remap', rule] for rule in
          ('/a', '/a:=', ':=/b', '/absent:=/b', '/camera/image_raw:=b c')),
        *(['street', '--log', path] for path in
          ('absent/log.csv', 'text.png', 'text.png/below', 'empty', 'street/metadata.yaml')),
        ['street', '--ros-args', '-p', 'rate:=nan'], ['street', '--ros-args', '-p', 'rate:=x'],
        ['street', '--ros-args', '--nonsense'],
    ],
    'record': [
        [], ['/topic'], ['--out', 'new0'], ['--out'], ['/topic', '--out', 'street'],
        ['/topic', '--out', 'text.png'], ['/topic', '--out', 'text.png/below'],
        ['/topic', '--out', 'x' * 300], ['/topic', '--out', 'new1', '--storage', 'tape'],
        ['no topic', '--out', 'new2'], ['/topic', '--out', 'new3', '--nonsense'],
        *(['/topic', '--out', f'new{5 + index}', '--log', path] for index, path in enumerate(
            ('absent/log.csv', 'text.png', 'text.png/below', 'empty', 'street/metadata.yaml'))),
    ],
}  # fmt: skip


@pytest.mark.ros
@pytest.mark.parametrize('command', NODE_LINES)
def test_a_wrong_line_of_a_bag_node_is_answered_in_words_and_nothing_is_lost(
    command: str, place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

    def become(_: str, args: list[str]) -> NoReturn:
        raise SystemExit(importlib.import_module(args[2]).main(args[3:]))

    monkeypatch.setattr('os.execv', become)
    faults = told(capfd, place, [['bag', command, *line] for line in NODE_LINES[command]])
    assert faults == {}


def test_there_are_more_than_300_wrong_lines() -> None:
    assert set(COMMANDS) == set(LINES)
    assert sum(len(wrong_lines(name, parser)) for name, parser in COMMANDS.items()) > 300


def test_shuffled_lines_end_in_words_and_nothing_is_lost(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Words of lines that work, left out, given twice, and mixed with each other's."""
    # Those that fetch, train or run nodes would do so.
    names = [name for name in COMMANDS if name not in ('demo', 'fetch') and 'train' not in name]
    before = contents(place)
    codes = set()
    for seed, rng in generators(count(100, 0.1)):
        name = pick(rng, names)
        words = LINES[name].split()
        options = [each.option_strings[-1] for each in COMMANDS[name]._actions
                   if each.option_strings and each.dest not in ('help', 'force')]
        others = [word for each in names for word in LINES[each].split()]
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(words) + 1))
            word = pick(rng, [*options, pick(rng, HOSTILE), pick(rng, others)])
            words[at:at + int(rng.integers(2))] = [word] * int(rng.integers(3))
        line = [*name.split(), *words]
        try:
            code: object = main(line)
        except SystemExit as exc:
            code = exc.code
        err = capsys.readouterr().err
        after = contents(place)
        assert code in (0, 1, 2, 3), (f'FUZZ_SEED={seed}', line, code)
        assert code in (0, 3) or 'error: ' in err, (f'FUZZ_SEED={seed}', line, err)
        assert [each for each in before if after.get(each) != before[each]] == [], line
        codes.add(code)
    assert len(codes) > 1 or count(100, 0.1) < 50


def test_every_number_of_an_option_has_a_range() -> None:
    plain = [
        f'{name} {action.option_strings}'
        for name, parser in COMMANDS.items() for action in parser._actions
        if (action.type in (int, float) or isinstance(action.default, (int, float)))
        and not isinstance(action.type, Number) and action.nargs != 0
    ]
    assert plain == []
