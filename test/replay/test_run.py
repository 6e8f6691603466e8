"""`mnv2 bag run`: every frame, in order, the same bytes each time, on after a kill."""

from contextlib import ExitStack
import json
import os
from pathlib import Path
import subprocess
import sys
import threading
import time
from typing import Any

from camera_bags import (
    CLASSES,
    HEIGHT,
    IMAGE,
    INFO,
    masks,
    MATRIX,
    messages,
    picture,
    read,
    run,
    stamp,
    START_NS,
    WIDTH,
    write_bag,
    write_model,
)
import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from mnv2_perception.bags.messages import header, make, serialised
from mnv2_perception.bags.read import BagReader, TopicQos
from mnv2_perception.bags.result_file import ResultFile
from mnv2_perception.bags.results import read_grids
from mnv2_perception.bags.write import BagWriter, compressed_image_cdr, image_cdr
from mnv2_perception.cli.main import main
from mnv2_perception.engines.fake import FakeEngine
from mnv2_perception.errors import BagError, EngineError
from mnv2_perception.replay.frames import open_source
from mnv2_perception.replay.models import open_tasks
from mnv2_perception.replay.run import Run
from mnv2_perception.scenes.bag import draw_bag

ROOT = Path(__file__).parents[2]


def check_masks(out: Path, numbers: range = range(8)) -> None:
    found = masks(out)
    assert sorted(found) == [stamp(number) for number in numbers]
    for number in numbers:
        assert np.array_equal(found[stamp(number)], picture(number)[..., 0])


def test_every_frame_has_its_mask_and_confidence_at_its_stamp_and_time(tmp_path: Path) -> None:
    bag, out = write_bag(tmp_path / 'bag'), tmp_path / 'out.mcap'
    assert run(bag, out) == 0
    check_masks(out)
    with BagReader(out) as reader:
        qos = {topic.name: topic.qos for topic in reader.topics}
    assert qos['/segmentation/label_info'] == TopicQos(True, True, 1)
    assert qos['/segmentation/mask'] == TopicQos(True, False, 1)
    confidences, labels = read(out, '/segmentation/confidence'), read(
        out, '/segmentation/label_info')
    assert np.array_equal(confidences[3].data.reshape(HEIGHT, WIDTH), picture(3)[..., 1])
    assert [each.stamp_ns for each in messages(out, '/segmentation/mask')] == [
        each.stamp_ns for each in messages(bag, IMAGE)
    ]
    assert [(each.class_id, each.class_name) for each in labels[0].class_map] == [
        *enumerate(CLASSES)
    ]
    assert all(each.header.frame_id == 'camera' for each in confidences)


def test_the_summary_counts_what_became_of_the_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(write_bag(tmp_path / 'bag'), tmp_path / 'out.mcap', '--json') == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts['frames'], facts['rejected'], facts['lost'], facts['reasons']) == (8, 0, 0, {})
    assert facts['messages']['/segmentation/mask'] == 8 and facts['frames_per_s'] > 0


def test_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', tf=True)
    for name in ('a.mcap', 'b.mcap'):
        assert run(bag, tmp_path / name) == 0
    assert (tmp_path / 'a.mcap').read_bytes() == (tmp_path / 'b.mcap').read_bytes()
    assert len(messages(tmp_path / 'a.mcap', '/grid')) == 7  # odometry begins after the first


def whole_masks(out: Path) -> int:
    """Return how many masks can be read of a file that is being written."""
    try:
        return len(messages(out, '/segmentation/mask'))
    except BagError:  # not one block is whole yet
        return 0


@pytest.mark.parametrize('batch', [1, 3])
def test_killed_at_half_and_gone_on_with_gives_the_same_bytes(
    tmp_path: Path, batch: int
) -> None:
    bag = write_bag(tmp_path / 'bag', frames=20, tf=True)
    write_model(tmp_path / 'model.yaml', latency_ms=60.0 * batch, batch=batch)
    whole, out = tmp_path / 'whole.mcap', tmp_path / 'out.mcap'
    assert run(bag, whole, '--copy', '/count') == 0
    command = [
        'bag', 'run', str(bag), '--out', str(out), '--model', str(tmp_path / 'model.yaml'),
        '--engine', 'fake', '--copy', '/count',
    ]
    process = subprocess.Popen(
        [sys.executable, '-c', 'import sys; from mnv2_perception.cli.main import main; main()',
         *command],
        env={**os.environ, 'PYTHONPATH': str(ROOT)}, stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not whole_masks(out):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -9
    before = len(messages(out, '/segmentation/mask'))
    assert 0 < before < 20
    assert run(bag, out, '--copy', '/count', '--resume') == 0
    assert out.read_bytes() == whole.read_bytes()
    check_masks(out, range(20))


@pytest.mark.parametrize('batch', [1, 3])
def test_gone_on_with_behind_frames_that_were_rejected_nothing_is_there_twice(
    tmp_path: Path, batch: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic(IMAGE, 'sensor_msgs/msg/Image')
        bag.add_topic('/count', 'std_msgs/msg/UInt32')
        for number in range(12):
            bag.write('/count', stamp(number) - 1, bytes([0, 1, 0, 0, number, 0, 0, 0]))
            good = image_cdr(picture(number), stamp(number), 'camera')
            bag.write(IMAGE, stamp(number), good[:40] if number % 4 == 2 else good)
    write_model(tmp_path / 'model.yaml', batch=batch)
    whole, out = tmp_path / 'whole.mcap', tmp_path / 'out.mcap'
    assert run(tmp_path / 'bag', whole, '--copy', '/count') == 3
    with BagReader(whole) as reader:
        description = reader.deserialize(next(reader.messages(['/mnv2/run']))).data
    for frames in range(1, 12):
        write_part(tmp_path / 'bag', out, tmp_path / 'model.yaml', frames, description)
        capsys.readouterr()
        assert run(tmp_path / 'bag', out, '--copy', '/count', '--resume') == 3
        assert 'rejected                           3' in capsys.readouterr().out
        assert out.read_bytes() == whole.read_bytes(), frames


def write_part(bag: Path, out: Path, model: Path, frames: int, description: str) -> None:
    """Leave what a run leaves that was killed after so many frames or a few more."""
    with ExitStack() as stack:
        source = open_source([bag], stack, copied=['/count'])
        tasks = open_tasks([str(model)], stack, 'fake')

        def tell(done: int, *_: object) -> None:
            if done >= frames:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Run(source, tasks, None, ResultFile(out), description)(tell)


def test_inferences_that_end_out_of_order_are_written_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag, alone, out = write_bag(tmp_path / 'bag'), tmp_path / 'alone.mcap', tmp_path / 'out.mcap'
    assert run(bag, alone, '--threads', '1') == 0
    infer, ended = FakeEngine._infer, [threading.Event() for _ in range(8)]
    order = []

    def backwards(self: FakeEngine, tensors: dict[str, Any]) -> dict[str, Any]:
        outputs = infer(self, tensors)
        for number in range(8):
            if np.array_equal(tensors['image'][0], picture(number)):
                if number % 2 == 0:
                    assert ended[number + 1].wait(30.0)
                order.append(number)
                ended[number].set()
        return outputs

    monkeypatch.setattr(FakeEngine, '_infer', backwards)
    assert run(bag, out, '--threads', '2') == 0
    assert sorted(order) == [*range(8)]
    assert all(order.index(number + 1) < order.index(number) for number in range(0, 8, 2))
    assert out.read_bytes() == alone.read_bytes()


@pytest.mark.parametrize('threads', ['1', '2'])
def test_an_inference_that_fails_is_named_and_nothing_behind_it_is_written(
    tmp_path: Path, threads: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bag, whole, out = (tmp_path / name for name in ('bag', 'whole.mcap', 'out.mcap'))
    write_bag(bag, frames=20)
    assert run(bag, whole) == 0
    infer = FakeEngine._infer

    def fail_once(self: FakeEngine, tensors: dict[str, Any]) -> dict[str, Any]:
        if np.array_equal(tensors['image'][0], picture(7)):
            raise EngineError('out of memory')
        return infer(self, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(FakeEngine, '_infer', fail_once)
        assert run(bag, out, '--threads', threads) == 1
    told = capsys.readouterr().err
    assert f'{stamp(7)} ns: out of memory; the results before that are kept' in told
    check_masks(out, range(7))
    assert run(bag, out, '--threads', threads, '--resume') == 0
    assert out.read_bytes() == whole.read_bytes()


def test_what_messages_need_is_loaded_before_the_time_counts(tmp_path: Path) -> None:
    model = write_model(tmp_path / 'model.yaml')
    found = subprocess.run(
        [sys.executable, '-c', (
            'import contextlib, sys\n'
            'from mnv2_perception.bags.definitions import jazzy_types\n'
            'from mnv2_perception.replay import models, work\n'
            'with contextlib.ExitStack() as stack:\n'
            '    tasks = models.open_tasks(sys.argv[1:], stack, "fake")\n'
            '    work.Work(tasks, None).warm_up()\n'
            'print(jazzy_types.cache_info().currsize)'
        ), str(model)], env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True,
        text=True, check=True,
    )
    assert found.stdout.strip() == '1'


def test_resume_tells_a_complete_file_another_run_and_a_file_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, out = write_bag(tmp_path / 'bag'), tmp_path / 'out.mcap'
    assert run(bag, out, '--resume') == 0
    data = out.read_bytes()
    assert run(bag, out, '--resume') == 0
    assert 'is already complete' in capsys.readouterr().out
    assert run(bag, out, '--resume', '--min-confidence', '0.5') == 1
    assert 'belongs to another run (then "min_confidence": 0.0, now' in capsys.readouterr().err
    assert out.read_bytes() == data
    foreign = next(bag.glob('*.mcap'))
    copy = tmp_path / 'copy.mcap'
    copy.write_bytes(foreign.read_bytes())
    assert run(bag, copy, '--resume') == 1
    assert 'was not written by `mnv2 bag run`' in capsys.readouterr().err
    assert copy.read_bytes() == foreign.read_bytes()


def test_no_file_is_replaced_unasked_and_none_that_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, out = write_bag(tmp_path / 'bag'), tmp_path / 'out.mcap'
    out.write_bytes(b'mine')
    assert run(bag, out) == 1
    assert out.read_bytes() == b'mine'
    assert run(bag, out, '--force') == 0
    check_masks(out)
    inside = next(bag.glob('*.mcap'))
    data = inside.read_bytes()
    for target in (inside, bag / 'new.mcap'):
        assert run(bag, target, '--force') == 1
    assert inside.read_bytes() == data and not (bag / 'new.mcap').exists()
    assert run(bag, tmp_path / 'out.bag') == 1
    assert 'ends in .mcap' in capsys.readouterr().err


def test_where_the_model_does_not_open_the_earlier_results_stay(tmp_path: Path) -> None:
    out = tmp_path / 'out.mcap'
    out.write_bytes(b'mine')
    (tmp_path / 'model.yaml').write_text('{}')
    assert run(write_bag(tmp_path / 'bag'), out, '--force') == 1
    assert out.read_bytes() == b'mine'


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('mode', [None, CompressionMode.MESSAGE, CompressionMode.FILE])
def test_storages_and_compressions(
    tmp_path: Path, storage: str, mode: CompressionMode | None
) -> None:
    bag = plain = write_bag(tmp_path / 'plain', storage=storage)
    if mode:
        bag = tmp_path / 'bag'
        writer = Writer(bag, version=8, storage_plugin=StoragePlugin[storage.upper()])
        writer.set_compression(mode, CompressionFormat.ZSTD)
        with writer, BagReader(plain) as reader:
            connections = {
                each.name: writer.add_connection(
                    each.name, each.type_name, msgdef=each.definition, rihs01=each.type_hash)
                for each in reader.topics
            }
            for message in reader.messages():
                writer.write(connections[message.topic], message.stamp_ns, message.cdr)
    assert run(bag, tmp_path / 'out.mcap') == 0
    check_masks(tmp_path / 'out.mcap')


def test_splits_and_bags_recorded_beside_each_other_are_merged(tmp_path: Path) -> None:
    early = write_bag(tmp_path / 'early', numbers=range(4), calibrated=False)
    late = write_bag(tmp_path / 'late', numbers=range(4, 8), calibrated=False)
    with BagWriter(tmp_path / 'odometry') as bag:
        bag.add_topic('/speed', 'std_msgs/msg/UInt32')
        bag.write('/speed', stamp(5) + 3, bytes([0, 1, 0, 0, 9, 0, 0, 0]))
    bags = [late, tmp_path / 'odometry', early]
    assert run(bags, tmp_path / 'out.mcap', '--copy', '/speed', '/count') == 0
    check_masks(tmp_path / 'out.mcap')
    with BagReader(tmp_path / 'out.mcap') as reader:
        order = [each.stamp_ns for each in reader.messages()]
        assert order == sorted(order)
    assert [each.stamp_ns for each in messages(tmp_path / 'out.mcap', '/speed')] == [stamp(5) + 3]


def test_copied_topics_keep_bytes_times_types_and_qos(tmp_path: Path) -> None:
    bag, out = write_bag(tmp_path / 'bag'), tmp_path / 'out.mcap'
    assert run(bag, out, '--copy', IMAGE, INFO, '/count') == 0
    for topic in (IMAGE, INFO, '/count'):
        assert messages(out, topic) == messages(bag, topic)


def test_labels_are_taken_along_with_what_names_their_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, out, label = tmp_path / 'street', tmp_path / 'out.mcap', '/camera/label/compressed'
    draw_bag(bag, duration_s=0.2, height=64, width=96)
    assert run(bag, out, '--copy', label) == 0
    assert messages(out, '/camera/label_info') == messages(bag, '/camera/label_info') != []
    assert main(['bag', 'compare', str(out), str(out), '--labels', label]) == 0
    assert "compared        by name, 'road' as floor" in capsys.readouterr().out


def test_copying_what_is_not_there_or_what_is_written_anyway_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, out = write_bag(tmp_path / 'bag'), tmp_path / 'out.mcap'
    assert run(bag, out, '--copy', '/absent') == 1
    assert 'no topic /absent' in capsys.readouterr().err and not out.exists()
    assert run(bag, out) == 0
    assert run([bag, out], tmp_path / 'b.mcap', '--copy', '/segmentation/mask') == 1
    assert 'leave it out of --copy' in capsys.readouterr().err


def write_jpegs(path: Path) -> Path:
    with BagWriter(path) as bag:
        bag.add_topic(f'{IMAGE}/compressed', 'sensor_msgs/msg/CompressedImage')
        for number in range(8):
            png = cv2.imencode('.png', picture(number)[..., ::-1])[1].tobytes()
            bag.write(f'{IMAGE}/compressed', stamp(number), compressed_image_cdr(
                png, stamp(number), 'camera', 'rgb8; png compressed bgr8'))
    return path


def test_compressed_images(tmp_path: Path) -> None:
    assert run(write_jpegs(tmp_path / 'bag'), tmp_path / 'out.mcap') == 0
    check_masks(tmp_path / 'out.mcap')


def test_a_camera_of_twelve_bits_that_fills_the_lower_ones_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic('/twelve/image_raw', 'sensor_msgs/msg/Image')
        for number in range(8):
            pixels = np.full((HEIGHT, WIDTH), 4095, np.uint16).reshape(-1).view(np.uint8)
            bag.write('/twelve/image_raw', stamp(number), serialised(make(
                'sensor_msgs/msg/Image', header=header(stamp(number), 'camera'), height=HEIGHT,
                width=WIDTH, encoding='mono16', step=2 * WIDTH, data=pixels,
            )))
    assert run(tmp_path / 'bag', tmp_path / 'out.mcap') == 0
    told, = [each for each in caplog.messages if 'nearly black' in each]
    assert told.startswith('/twelve/image_raw: the first 5 images (mono16) are nearly black')


def test_pictures_have_stamps_by_their_index_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder, out = tmp_path / 'pictures', tmp_path / 'out.mcap'
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f'{number:03d}.png'), picture(number)[..., ::-1])
    assert run(folder, out, '--fps', '4') == 0
    found = masks(out)
    assert sorted(found) == [10**9, 10**9 + 250_000_000, 10**9 + 500_000_000]
    assert np.array_equal(found[10**9 + 250_000_000], picture(1)[..., 0])
    (folder / '001.png').write_bytes(b'broken')
    assert run(folder, tmp_path / 'b.mcap', '--fps', '4') == 3
    assert sorted(masks(tmp_path / 'b.mcap')) == [10**9, 10**9 + 500_000_000]


def test_a_video_is_read_at_its_rate(tmp_path: Path) -> None:
    path, out = tmp_path / 'drive.avi', tmp_path / 'out.mcap'
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 5.0, (WIDTH, HEIGHT))
    if not video.isOpened():
        pytest.skip('this OpenCV writes no video')
    for number in range(4):
        video.write(picture(number)[..., ::-1])
    video.release()
    assert run(path, out) == 0
    assert sorted(masks(out)) == [10**9 + number * 200_000_000 for number in range(4)]
    (tmp_path / 'no.mp4').write_bytes(b'no video')
    assert run(tmp_path / 'no.mp4', tmp_path / 'b.mcap') == 1


def test_the_grid_stands_where_the_transforms_of_the_image_s_stamp_say(tmp_path: Path) -> None:
    bag, out = write_bag(tmp_path / 'bag', tf=True), tmp_path / 'out.mcap'
    assert run(bag, out) == 0
    grids = dict(read_grids(out, '/grid'))
    assert sorted(grids) == [stamp(number) for number in range(1, 8)]
    # At 1 m/s the centre of a grid of 20 m is where the robot is, in cells of 0.1 m.
    assert [round(grids[stamp(number)].origin_x_m + 10.0, 3) for number in (1, 5)] == [0.1, 0.5]
    grid, scan = read(out, '/grid')[0], read(out, '/scan')[0]
    assert (grid.header.frame_id, scan.header.frame_id) == ('odom', 'base_link')
    assert {0, 100} <= set(np.asarray(grid.data).tolist())
    assert read(out, '/obstacles')[0].width > 0 and read(out, '/ground')[0].width > 0


@pytest.mark.parametrize(
    ('calibrated', 'options', 'grids', 'told'),
    [
        (True, (), 0, 'none: no /tf in the recording; give --camera-height'),
        (False, (), 0, 'none: neither /tf nor camera_info'),
        (True, ('--camera-height', '1'), 8, 'camera 1 m above flat ground, pitch 0 rad, camera_'),
        (False, ('--camera-height', '1'), 0, 'give --camera-fov too'),
        (False, ('--camera-height', '1', '--camera-fov', '1'), 8, '1 rad wide'),
        (True, ('--camera-height', '1', '--no-grid'), 0, 'grid: none'),
        (True, ('--camera-height', '1', '--traversable-classes', 'car'), 8, 'camera 1 m'),
    ],
)
def test_what_the_grid_rests_on_is_told(
    tmp_path: Path, calibrated: bool, options: tuple[str, ...], grids: int, told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bag, out = write_bag(tmp_path / 'bag', calibrated=calibrated), tmp_path / 'out.mcap'
    assert run(bag, out, *options) == 0
    assert told in capsys.readouterr().err
    assert len(messages(out, '/grid')) == grids


def test_a_calibration_of_another_image_size_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_twice_the_size = MATRIX * 2.0 - np.diag((0.0, 0.0, 1.0))
    bag = write_bag(tmp_path / 'bag', matrix=of_twice_the_size)
    assert run(bag, tmp_path / 'a.mcap', '--camera-height', '1') == 0
    told = capsys.readouterr().err
    assert told.count('principal point') == 1
    assert f'{INFO}: the principal point is (63, 47) in an image of 48 × 64' in told
    assert run(bag, tmp_path / 'b.mcap', '--no-grid') == 0  # it does not matter there
    assert 'principal point' not in capsys.readouterr().err


def test_ground_that_the_model_does_not_know_is_refused_where_it_was_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, out = write_bag(tmp_path / 'bag'), tmp_path / 'out.mcap'
    options = ['--camera-height', '1', '--traversable-classes', 'lawn']
    assert run(bag, out, *options) == 1
    assert "'lawn'" in capsys.readouterr().err and not out.exists()


def test_two_models_for_one_task_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, other = write_bag(tmp_path / 'bag'), write_model(tmp_path / 'other.yaml')
    assert run(bag, tmp_path / 'out.mcap', '--model', str(other)) == 1
    assert 'both for segmentation' in capsys.readouterr().err


def test_a_run_begins_with_what_it_is(tmp_path: Path) -> None:
    out = tmp_path / 'out.mcap'
    assert run(write_bag(tmp_path / 'bag'), out, '--min-confidence', '0.25') == 0
    (text,) = read(out, '/mnv2/run')
    said = json.loads(text.data)
    assert said['source'] == {'bags': ['bag'], 'topic': IMAGE}
    assert said['options']['min_confidence'] == 0.25
    assert said['models'][0]['name'] == 'identity' and len(said['models'][0]['sha256']) == 64
    assert messages(out, '/mnv2/run')[0].stamp_ns == START_NS


def test_real_frames_are_as_good_as_the_files_and_the_same_each_time(
    tmp_path: Path, mnv2_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    bag, label = mnv2_data / 'bags/camvid_val_15hz', '/camera/label/compressed'
    model = 'unet_mobilenetv2_camvid_fast'
    for name in ('a.mcap', 'b.mcap'):
        assert main(['bag', 'run', str(bag), '--out', str(tmp_path / name), '--copy', label,
                     '--model', model]) == 0
    a, b = tmp_path / 'a.mcap', tmp_path / 'b.mcap'
    assert a.read_bytes() == b.read_bytes()
    assert len(messages(a, '/segmentation/mask')) == 101
    capsys.readouterr()
    assert main(['bag', 'compare', str(a), str(b), '--labels', label, '--json']) == 0
    judged = json.loads(capsys.readouterr().out)
    miou = next(c for c in judged['checks'] if c['name'] == 'accuracy')['figures']['miou_new']
    assert main(['evaluate', model, str(mnv2_data / 'camvid/val'), '--json']) == 0
    expected = json.loads(capsys.readouterr().out)['miou']
    assert abs(miou - expected) < 0.005
    out = tmp_path / 'judged'
    assert main(['evaluate', model, str(bag), '--labels', label, '--json', '--out', str(out)]) == 0
    assert json.loads(capsys.readouterr().out)['miou'] == pytest.approx(miou)
    assert {each.name for each in out.iterdir()} == {'results.json', 'confusion.png'}
