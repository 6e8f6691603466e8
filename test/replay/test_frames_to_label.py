"""`mnv2 bag frames`: a recording becomes pictures, masks to correct and a spec to train with."""

import csv
import json
import os
from pathlib import Path
import tracemalloc
from typing import Any

from camera_bags import CLASSES, HEIGHT, IMAGE, picture, stamp, WIDTH, write_bag, write_model
import cv2
from identity_network import identity_spec, write_onnx
import numpy as np
import pytest

from mnv2_perception.bags.write import BagWriter, image_cdr
from mnv2_perception.cli.bag_frames import spec_text
from mnv2_perception.cli.main import main
from mnv2_perception.data.folders import list_pairs, read_folder
from mnv2_perception.data.images import read_image
from mnv2_perception.model_spec import ModelSpec


def frames(recording: Path, out: Path, *options: str, **changes: Any) -> int:
    """Run `mnv2 bag frames` with the identity network."""
    model = write_model(out.parent / 'model.yaml', **changes)
    return main([
        'bag', 'frames', str(recording), '--out', str(out), '--model', str(model), '--engine',
        'fake', *options,
    ])


def rows(out: Path) -> list[dict[str, str]]:
    with (out / 'frames.csv').open(encoding='utf-8') as file:
        return list(csv.DictReader(file))


def write_sure(path: Path, confidences: list[int]) -> Path:
    """Write images whose confidence is the same at all pixels."""
    with BagWriter(path) as bag:
        bag.add_topic(IMAGE, 'sensor_msgs/msg/Image')
        for number, confidence in enumerate(confidences):
            image = picture(number)
            image[..., 1] = confidence
            bag.write(IMAGE, stamp(number), image_cdr(image, stamp(number), 'camera'))
    return path


def test_pictures_masks_and_spec_are_what_training_reads(tmp_path: Path) -> None:
    out = tmp_path / 'out'
    assert frames(write_bag(tmp_path / 'my_drive'), out, '--count', '4') == 0
    names = [image.name for image, _ in list_pairs(out)]
    assert names == [f'my-drive_{number:06}.png' for number in (1, 3, 5, 7)]
    spec = ModelSpec.from_yaml(out / 'spec.yaml')
    assert spec.classes == tuple(CLASSES) and (spec.height, spec.width) == (64, 64)
    for number, (image, label) in zip((1, 3, 5, 7), read_folder(out, spec.classes), strict=True):
        assert np.array_equal(image, picture(number))
        assert np.array_equal(label, picture(number)[..., 0])


def test_the_spec_of_a_foreign_model_is_one_that_can_be_trained(tmp_path: Path) -> None:
    model = identity_spec(
        HEIGHT, WIDTH, input='float_nchw', output='logits', channel_order='bgr',
        mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], classes=CLASSES, fit='letterbox', pad=7,
        licence='MIT', attribution='somebody',
    )
    (tmp_path / 'spec.yaml').write_text(spec_text(model, 'round1'), 'utf-8')
    assert ModelSpec.from_yaml(tmp_path / 'spec.yaml') == identity_spec(
        64, WIDTH, name='identity_round1', mean=[3.0, 2.0, 1.0], std=[6.0, 5.0, 4.0],
        classes=CLASSES, fit='letterbox', pad=7, licence='MIT', attribution='somebody',
    )


def test_masks_show_their_classes_in_paint_programs(tmp_path: Path) -> None:
    colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    out = tmp_path / 'out'
    assert frames(write_bag(tmp_path / 'bag'), out, '--count', '1', colours=colours) == 0
    (_, label), = list_pairs(out)
    shown = cv2.imread(str(label))[..., ::-1]
    assert np.array_equal(shown, np.array(colours)[picture(4)[..., 0]])


def test_a_table_says_which_frame_when_of_what_topic_and_why(tmp_path: Path) -> None:
    out = tmp_path / 'out'
    bag = write_sure(tmp_path / 'bag', [200, 90, 80, 250, 60, 255])
    assert frames(bag, out, '--count', '3', '--by', 'uncertainty', '--spacing', '2') == 0
    assert rows(out) == [{
        'picture': f'bag_{number:06}.png', 'frame': str(number), 'stamp_ns': str(stamp(number)),
        'topic': IMAGE, 'by': 'uncertainty', 'rank': str(rank),
        'why': f'mean confidence {confidence / 255:.4f}',
    } for number, rank, confidence in ((0, 3, 200), (2, 2, 80), (4, 1, 60))]


def test_the_spacing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / 'bag')
    assert frames(bag, tmp_path / 'a', '--count', '2', '--by', 'uncertainty', '--json') == 0
    assert json.loads(capsys.readouterr().out)['spacing'] == 2
    assert frames(bag, tmp_path / 'b', '--by', 'uncertainty', '--spacing', '4') == 0
    told = capsys.readouterr()
    assert 'spacing    4' in told.out
    assert '2 of 50: no more frames are 4 frames apart; give a smaller --spacing' in told.err
    assert frames(bag, tmp_path / 'c', '--spacing', '4') == 1
    assert '--spacing needs --by uncertainty' in capsys.readouterr().err


def test_uncertainty_needs_a_model_that_tells_its_confidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    onnx = pytest.importorskip('onnx', reason='no onnx: run make setup-train')
    model = write_onnx(tmp_path / 'ids.onnx', identity_spec(HEIGHT, WIDTH, classes=CLASSES))
    proto = onnx.load(str(model))
    del proto.graph.output[1]
    spec = identity_spec(HEIGHT, WIDTH, classes=CLASSES, output='ids')
    onnx.helper.set_model_props(proto, spec.to_metadata())
    onnx.save(proto, str(model))
    line = ['bag', 'frames', str(write_bag(tmp_path / 'bag')), '--model', str(model), '--out']
    assert main([*line, str(tmp_path / 'a'), '--by', 'uncertainty']) == 1
    assert 'outputs ids without confidence; choose --by time' in capsys.readouterr().err
    assert main([*line, str(tmp_path / 'b')]) == 0


def test_diversity_takes_one_frame_of_each_scene_the_same_ones_each_time(tmp_path: Path) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    scenes = np.random.default_rng(3).integers(0, 256, (3, 4, 4, 3), np.uint8)
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic(IMAGE, 'sensor_msgs/msg/Image')
        for number in range(12):  # four frames of each scene, a little brighter each
            image = scenes[number // 4].repeat(HEIGHT // 4, 0).repeat(WIDTH // 4, 1)
            image = np.clip(image.astype(int) + number % 4, 0, 255).astype(np.uint8)
            bag.write(IMAGE, stamp(number), image_cdr(image, stamp(number), 'camera'))
    for out in ('a', 'b'):
        assert main([
            'bag', 'frames', str(tmp_path / 'bag'), '--out', str(tmp_path / out), '--count', '3',
            '--by', 'diversity',
        ]) == 0
    assert sorted(int(row['frame']) // 4 for row in rows(tmp_path / 'a')) == [0, 1, 2]
    files = [path.relative_to(tmp_path / 'a') for path in (tmp_path / 'a').rglob('*.[pc]*')]
    assert len(files) == 7
    for file in files:
        assert (tmp_path / 'a' / file).read_bytes() == (tmp_path / 'b' / file).read_bytes()


def test_diversity_of_a_model_without_an_encoder_is_refused_with_the_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert frames(write_bag(tmp_path / 'bag'), tmp_path / 'out', '--by', 'diversity') == 1
    assert 'features can only be taken from an .onnx file' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_pictures_keep_their_names_and_every_nth_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / 'photos').mkdir()
    for number in range(9):
        image = cv2.cvtColor(picture(number), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(tmp_path / f'photos/hall_{number}.png'), image)
    out = tmp_path / 'out'
    assert frames(tmp_path / 'photos', out, '--count', '2', '--every', '3') == 0
    assert [row['picture'] for row in rows(out)] == ['hall_0.png', 'hall_6.png']
    assert np.array_equal(read_image(out / 'images/hall_6.png'), picture(6))


def test_damaged_messages_are_counted_and_told_and_never_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic(IMAGE, 'sensor_msgs/msg/Image')
        for number in range(6):
            cdr = image_cdr(picture(number), stamp(number), 'camera')
            bag.write(IMAGE, stamp(number), cdr[:90] if number in (2, 3) else cdr)
    assert frames(tmp_path / 'bag', tmp_path / 'out', '--json', '--topic', IMAGE) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found['frames'], found['looked_at'], found['chosen']) == (6, 4, 4)
    assert found['rejected'] == 2 and sum(found['reasons'].values()) == 2
    assert [row['frame'] for row in rows(tmp_path / 'out')] == ['0', '1', '4', '5']


def test_a_recording_without_one_readable_frame_is_an_error_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic(IMAGE, 'sensor_msgs/msg/Image')
        bag.write(IMAGE, stamp(0), image_cdr(picture(0), stamp(0), 'camera')[:90])
    assert frames(tmp_path / 'bag', tmp_path / 'out', '--topic', IMAGE) == 1
    assert 'none of 1 frames could be read' in capsys.readouterr().err
    assert list((tmp_path / 'out').iterdir()) == []


def test_frames_of_a_bag_that_was_cut_short_are_counted_as_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic(IMAGE, 'sensor_msgs/msg/Image')
        for number in range(8):  # each of more than a chunk's megabyte
            image = np.full((800, 500, 3), number % 3, np.uint8)
            bag.write(IMAGE, stamp(number), image_cdr(image, stamp(number), 'camera'))
    file = next((tmp_path / 'bag').glob('*.mcap'))
    os.truncate(file, file.stat().st_size * 11 // 20)
    assert frames(tmp_path / 'bag', tmp_path / 'out', '--count', '2', '--topic', IMAGE) == 3
    told = capsys.readouterr()
    assert 'lost       4' in told.out and 'fewer messages than metadata.yaml promises' in told.err
    assert [row['frame'] for row in rows(tmp_path / 'out')] == ['1', '3']


def test_labels_that_were_edited_are_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, out = write_bag(tmp_path / 'bag'), tmp_path / 'out'
    assert frames(bag, out, '--count', '2') == 0
    before = {path: path.read_bytes() for path in out.rglob('*.*')}
    assert frames(bag, out, '--count', '3') == 1
    assert 'is not empty; choose another --out' in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob('*.*')} == before


def test_less_sure_pixels_are_left_unlabelled_where_asked(tmp_path: Path) -> None:
    bag, out = write_sure(tmp_path / 'bag', [200, 90]), tmp_path / 'out'
    assert frames(bag, out, '--min-confidence', '0.5') == 0
    (_, sure), (_, unsure) = read_folder(out, CLASSES)
    assert (unsure == 255).all() and np.array_equal(sure, picture(0)[..., 0])


def test_a_background_that_is_no_class_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / 'bag')
    assert frames(bag, tmp_path / 'a', '--count', '1') == 0
    assert 'background' not in capsys.readouterr().err
    assert frames(bag, tmp_path / 'b', '--count', '1', background=True) == 0
    assert 'give it a class of its own in labels and spec.yaml' in capsys.readouterr().err


@pytest.mark.parametrize('by', ['time', 'uncertainty'])
def test_images_of_a_long_recording_are_not_kept(by: str, tmp_path: Path) -> None:
    image = np.full((800, 500, 3), 90, np.uint8)
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic(IMAGE, 'sensor_msgs/msg/Image')
        for number in range(40):
            bag.write(IMAGE, stamp(number), image_cdr(image, stamp(number), 'camera'))
    tracemalloc.start()
    try:
        assert frames(tmp_path / 'bag', tmp_path / 'out', '--count', '30', '--by', by) == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows(tmp_path / 'out')) == 30
    assert peak < 12 * image.nbytes
