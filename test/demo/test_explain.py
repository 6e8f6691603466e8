"""What the demo's end says."""

from pathlib import Path
import shlex
from typing import Any

import pytest

from mnv2_perception.cli.main import build_parser
from mnv2_perception.demo.explain import explain, next_steps

OUT = Path('out/demo')
SUMMARY: dict[str, Any] = {
    'frames_in': 90, 'masks_out': 60, 'passed_over': 27, 'rejected': 2, 'lost': 1, 'dropped': 30,
    'detections': 12, 'classifications': 13, 'grids': 60, 'latency_ms': {'p50': 31.6, 'p95': 80.2},
    'fps': 10.04, 'images_per_s': 15.0, 'engine': 'openvino', 'model': 'street.onnx',
    'compared': 'by name', 'miou': 0.614, 'road_iou': 0.912, 'bare_inference_ms': 40.4,
    'duration_s': 5.93, 'rate': 1.0, 'camera': 'known: camera_info', 'ground': ['floor'],
    'bag': 'drives/my drive', 'image': '/camera/image_raw',
    'images_passed_over': {'/camera/label': 'gray, called label'},
    'models': {
        'segmentation': 'street', 'detection': 'boxes', 'classification': 'ahead',
    },
    'licences': {
        'segmentation': 'CC-BY-4.0', 'detection': 'CC-BY-NC-4.0 (not for commercial use)',
        'classification': 'not stated',
    },
    'classes': {
        'segmentation': ['floor', 'wall'], 'detection': ['car'],
        'classification': [f'kind_{number}' for number in range(1000)],
    },
}


def test_a_reader_finds_topics_classes_rates_drops_pictures_and_agreement() -> None:
    text = explain(SUMMARY, OUT, 6)
    for told in (
        '/camera/image_raw of drives/my drive',
        'street on openvino → /segmentation/mask, /segmentation/confidence',
        'classes: floor, wall; licence: CC-BY-4.0\n', 'car; licence: CC-BY-NC-4.0 (not for',
        'boxes → /detections', 'ahead → /classification',
        'kind_11 and 988 more', '→ /grid; ground: floor', 'camera: known: camera_info',
        '90 images in (15.0 per second), 60 masks out (10.0 per second)', '12 messages of boxes',
        'within 32 ms', 'within 80 ms', 'alone takes 40 ms',
        '30 of 90 images without a mask: 27 passed over: a newer image came', '2 rejected',
        'perception.log says why', '1 lost on the way', 'frame_00.png … frame_05.png',
        'masks.mcap', 'mIoU 0.61, IoU of the road 0.91, compared by name',
    ):
        assert told in text, told
    assert text.splitlines()[-1].startswith('out/demo/report.html: all of it on one page')
    assert max(map(len, text.splitlines())) < 260


def test_one_image_has_no_rate_and_no_half_of_its_masks() -> None:
    text = explain({
        **SUMMARY, 'frames_in': 1, 'masks_out': 1, 'dropped': 0, 'passed_over': 0, 'rejected': 0,
        'lost': 0, 'fps': None, 'images_per_s': None, 'detections': 1, 'classifications': 0,
        'grids': 1, 'miou': float('nan'), 'road_iou': None,
    }, OUT, 1)
    assert '1 image in, 1 mask out, 1 message of boxes and 0 of classes' in text
    assert '1 grid.' in text and 'came 32 ms after its image' in text
    assert 'No image was dropped.' in text and '  frame_00.png: ' in text
    for nonsense in ('nan', '0.0 per second', 'None', 'Half', '--rate'):
        assert nonsense not in text


def test_without_ground_the_grid_is_missing_and_the_reason_stands_there() -> None:
    text = explain({**SUMMARY, 'ground': [], 'camera': 'none: no ground', 'grids': 0}, OUT, 2)
    assert 'grid: none: no ground' in text and '/grid' not in text and 'free' not in text


@pytest.mark.parametrize('bag', ['drives/my drive', 'old.bag', 'out/demo/drawn_street'])
def test_each_next_step_is_a_command_that_exists(bag: str) -> None:
    given = ['--topic', '/front', '--model', 'my model.onnx', '--engine', 'openvino']
    steps = dict(next_steps({**SUMMARY, 'bag': bag}, OUT, given, ['--traversable-classes', 'a b']))
    parser, lines = build_parser(), [shlex.split(line) for line in steps.values()]
    for line in lines:
        assert line[0] == 'mnv2'
        if '--help' not in line:
            parser.parse_args(line[1:])
    slower, run = (parser.parse_args(line[1:]) for line in lines[:2])
    assert (str(slower.bag), slower.rate, str(slower.out)) == (bag, 0.6, 'out/demo_slower')
    assert (slower.model, slower.traversable) == (['my model.onnx'], ['a b'])
    assert (str(run.recording[0]), run.topic, run.engine) == (bag, '/front', 'openvino')
    assert (['demo', '--bag', 'path/to/bag'] in [line[1:] for line in lines]) == (
        bag == 'out/demo/drawn_street'
    )
