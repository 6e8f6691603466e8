"""mnv2_perception.bags.write: bags that rosbag2 of every distro since Humble reads."""

import os
from pathlib import Path
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
from rosbags.rosbag2 import Reader
import yaml

from mnv2_perception.bags.read import BagReader, TopicQos
from mnv2_perception.bags.write import (
    BagWriter,
    camera_info_cdr,
    compressed_image_cdr,
    image_cdr,
)
from mnv2_perception.errors import BagError

STAMP_NS = 1_700_000_000_123_456_789
STORAGES = ['mcap', 'sqlite3']
IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
# vision_msgs 4.1.1
LABEL_INFO_HASH = (
    'RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783'
)


@pytest.mark.parametrize('storage', STORAGES)
def test_bytes_stamps_and_counts_come_back(tmp_path: Path, storage: str) -> None:
    cdr = image_cdr(IMAGE, STAMP_NS, 'camera')
    with BagWriter(tmp_path / 'bag', storage) as writer:
        writer.add_topic('/image', 'sensor_msgs/msg/Image')
        writer.write('/image', STAMP_NS, cdr)
        writer.write('/image', STAMP_NS + 1, memoryview(cdr))
        assert writer.message_counts == {'/image': 2}
    with BagReader(tmp_path / 'bag') as bag:
        assert [(m.stamp_ns, m.cdr) for m in bag.messages()] == [
            (STAMP_NS, cdr), (STAMP_NS + 1, cdr)
        ]


@pytest.mark.parametrize('storage', STORAGES)
def test_metadata_is_of_the_version_and_spelling_that_rosbag2_takes(
    tmp_path: Path, storage: str
) -> None:
    with BagWriter(tmp_path / 'bag', storage) as writer:
        writer.add_topic(
            '/label_info', 'std_msgs/msg/String', TopicQos(transient_local=True)
        )
        writer.add_topic('/camera', 'std_msgs/msg/String', TopicQos(reliable=False, depth=5))
    text = (tmp_path / 'bag' / 'metadata.yaml').read_text(encoding='utf-8')
    info = yaml.safe_load(text)['rosbag2_bagfile_information']
    assert info['version'] == 8  # 9 is refused by Humble
    assert info['storage_identifier'] == storage
    label_info, camera = (topic['topic_metadata'] for topic in info['topics_with_message_count'])
    (latched,) = yaml.safe_load(label_info['offered_qos_profiles'])
    (best_effort,) = yaml.safe_load(camera['offered_qos_profiles'])
    # rmw's numbers: 1 reliable, 2 best effort; 1 transient local, 2 volatile; 1 keep last
    assert (latched['reliability'], latched['durability'], latched['depth']) == (1, 1, 10)
    assert (best_effort['reliability'], best_effort['durability']) == (2, 2)
    assert (best_effort['history'], best_effort['depth']) == (1, 5)


def test_a_type_of_an_installed_package_is_embedded_with_all_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = tmp_path / 'install' / 'share' / 'drive_msgs' / 'msg'
    share.mkdir(parents=True)
    (share / 'Wheel.msg').write_text('float32 speed  # rad/s\n', encoding='utf-8')
    (share / 'Car.msg').write_text(
        'std_msgs/Header header\nWheel[4] wheels\nuint8 MANUAL=1\n', encoding='utf-8'
    )
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path / 'install'))
    with BagWriter(tmp_path / 'bag') as writer:
        writer.add_topic('/car', 'drive_msgs/msg/Car')
        header = image_cdr(IMAGE, STAMP_NS, 'abc')[:4 + 8 + 4 + 4]
        writer.write('/car', STAMP_NS, header + np.float32([1, 2, 3, 4]).tobytes())
    monkeypatch.delenv('AMENT_PREFIX_PATH')
    with BagReader(tmp_path / 'bag') as bag:
        assert {'MSG: drive_msgs/Wheel', 'MSG: std_msgs/Header', 'MSG: builtin_interfaces/Time'} \
            <= set(bag.topics[0].definition.splitlines())
        car = bag.deserialize(next(bag.messages()))
    assert [wheel.speed for wheel in car.wheels] == [1, 2, 3, 4]
    assert car.header.frame_id == 'abc'


@pytest.mark.ros
def test_vision_msgs_are_embedded_under_their_official_hash(tmp_path: Path) -> None:
    pytest.importorskip('vision_msgs')
    with BagWriter(tmp_path / 'bag') as writer:
        writer.add_topic('/label_info', 'vision_msgs/msg/LabelInfo')
        empty_label_info = image_cdr(IMAGE, STAMP_NS, 'abc')[:20] + b'\0' * 8
        writer.write('/label_info', STAMP_NS, empty_label_info)
    with BagReader(tmp_path / 'bag') as bag:
        (topic,) = bag.topics
        assert 'MSG: vision_msgs/VisionClass' in topic.definition
        assert topic.type_hash == LABEL_INFO_HASH
        assert bag.deserialize(next(bag.messages())).class_map == []


def test_a_type_that_is_nowhere_defined_is_an_error_that_names_its_package(
    tmp_path: Path
) -> None:
    with BagWriter(tmp_path / 'bag') as writer, pytest.raises(
        BagError, match='install and source the package absent_msgs'
    ):
        writer.add_topic('/thing', 'absent_msgs/msg/Thing')


def test_no_folder_of_the_name_tilde_is_made_where_nobody_has_such_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BagError, match='~nobody12/run: there is no such home folder; write the'):
        BagWriter('~nobody12/run')
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv('HOME', str(tmp_path))
    with BagWriter('~/run') as writer:
        assert writer.path == tmp_path / 'run'


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r'already exists.*choose another folder or remove'):
        BagWriter(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(BagError, match='cannot be created'):
        BagWriter(tmp_path / 'file' / 'bag')


def test_an_unknown_topic_or_a_second_announcement_is_an_error(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as writer:
        writer.add_topic('/a', 'std_msgs/msg/String')
        with pytest.raises(BagError, match='add a topic once'):
            writer.add_topic('/a', 'std_msgs/msg/String')
        with pytest.raises(BagError, match="write '/b'"):
            writer.add_topic('b', 'std_msgs/msg/String')
        with pytest.raises(BagError, match='call add_topic first'):
            writer.write('/b', STAMP_NS, b'')


@pytest.mark.parametrize('storage', STORAGES)
def test_an_exception_still_leaves_a_readable_bag(tmp_path: Path, storage: str) -> None:
    with pytest.raises(KeyboardInterrupt), BagWriter(tmp_path / 'bag', storage) as writer:
        writer.add_topic('/image', 'sensor_msgs/msg/Image')
        writer.write('/image', STAMP_NS, image_cdr(IMAGE, STAMP_NS, 'camera'))
        raise KeyboardInterrupt
    with BagReader(tmp_path / 'bag') as bag:
        assert bag.message_count == 1


WRITE_FOR_EVER = """
import itertools, sys, time
from mnv2_perception.bags.write import BagWriter
with BagWriter(sys.argv[1], sys.argv[2]) as bag:
    bag.add_topic('/count', 'std_msgs/msg/UInt32')
    for value in itertools.count():
        bag.write('/count', time.time_ns(), b'\\0\\1\\0\\0' + value.to_bytes(4, 'little'))
        print(value, flush=True)
        time.sleep(0.005)
"""


@pytest.mark.parametrize('storage', STORAGES)
def test_after_kill_9_all_but_the_last_second_is_read_by_us_and_by_rosbags(
    tmp_path: Path, storage: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, '-c', WRITE_FOR_EVER, tmp_path / 'bag', storage],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])},
    )
    assert process.stdout
    written = [int(process.stdout.readline())]
    begun_s = time.monotonic()
    written += [int(line) for line in iter(process.stdout.readline, '')
                if time.monotonic() - begun_s < 2.5 or process.kill()]
    killed_ns = time.time_ns()
    process.wait()
    for reader in (Reader(tmp_path / 'bag'), BagReader(tmp_path / 'bag')):
        with reader as bag:
            stamps_ns = [message[-2] for message in bag.messages()]
            # Killed between a file and its metadata.yaml, that promises less than there is.
            assert 0 < bag.message_count <= len(stamps_ns) <= len(written) + 1
            assert killed_ns - stamps_ns[-1] < 1_000_000_000
    said = yaml.safe_load((tmp_path / 'bag' / 'metadata.yaml').read_text())
    assert 0 < said['rosbag2_bagfile_information']['message_count'] <= len(stamps_ns)


@pytest.mark.parametrize('storage', STORAGES)
def test_on_a_full_disk_what_it_took_is_kept_and_the_error_says_how_much(
    tmp_path: Path, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mnv2_perception.bags.write.FLUSH_BYTES', 300_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    cdr = image_cdr(np.zeros((100, 100, 3), np.uint8), STAMP_NS, 'camera')
    with BagWriter(tmp_path / 'bag', storage) as writer:
        writer.add_topic('/image', 'sensor_msgs/msg/Image')
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
        try:
            with pytest.raises(BagError, match=r'cannot be written .* are kept') as caught:
                for value in range(200):
                    writer.write('/image', STAMP_NS + value, cdr)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        with pytest.raises(BagError, match='is closed'):
            writer.write('/image', STAMP_NS, cdr)
    for reader in (Reader(tmp_path / 'bag'), BagReader(tmp_path / 'bag')):
        with reader as bag:
            kept = len(list(bag.messages()))
            assert kept == bag.message_count
            assert f' {kept} messages are kept (/image {kept})' in str(caught.value)
    assert kept >= 50
    assert not list((tmp_path / 'bag').glob('*.tmp'))


def test_camera_messages_made_without_ros_say_what_was_given(tmp_path: Path) -> None:
    k = np.array([[500.0, 0, 3], [0, 500, 2], [0, 0, 1]])
    with BagWriter(tmp_path / 'bag') as writer:
        for topic, type_name, cdr in (
            ('/1', 'sensor_msgs/msg/Image', image_cdr(IMAGE[:, ::-1], STAMP_NS, 'camera')),
            ('/2', 'sensor_msgs/msg/CompressedImage',
             compressed_image_cdr(b'\xff\xd8', STAMP_NS, 'camera', 'jpeg')),
            ('/3', 'sensor_msgs/msg/CameraInfo', camera_info_cdr(4, 6, k, STAMP_NS, 'camera')),
        ):
            writer.add_topic(topic, type_name)
            writer.write(topic, STAMP_NS, cdr)
    with BagReader(tmp_path / 'bag') as bag:
        image, compressed, info = map(bag.deserialize, bag.messages())
    for message in (image, compressed, info):
        assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == STAMP_NS
        assert message.header.frame_id == 'camera'
    assert (image.height, image.width, image.step, image.encoding) == (4, 6, 18, 'rgb8')
    np.testing.assert_array_equal(image.data.reshape(4, 6, 3), IMAGE[:, ::-1])
    assert (compressed.format, bytes(compressed.data)) == ('jpeg', b'\xff\xd8')
    assert (info.height, info.width) == (4, 6)
    np.testing.assert_array_equal(info.k.reshape(3, 3), k)
    np.testing.assert_array_equal(info.p.reshape(3, 4)[:, :3], k)


@pytest.mark.parametrize(
    ('image', 'encoding'),
    [(IMAGE, 'mono8'), (IMAGE[:, :, 0], 'rgb8'), (IMAGE.astype(np.uint16), 'rgb8'),
     (IMAGE, '16UC1')],
)
def test_an_image_that_does_not_fit_its_encoding_is_an_error(
    image: np.ndarray, encoding: str
) -> None:
    with pytest.raises(BagError, match='convert'):
        image_cdr(image, STAMP_NS, 'camera', encoding)
