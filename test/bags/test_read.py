"""mnv2_perception.bags.read: what a bag holds, in order, whatever form it came in."""

import os
from pathlib import Path
import tracemalloc

import numpy as np
import pytest

from mnv2_perception.bags.read import BagReader, header_stamp_ns, TopicQos
from mnv2_perception.bags.write import BagWriter, compressed_image_cdr, image_cdr
from mnv2_perception.errors import BagError

START_NS = 1_700_000_000_000_000_000
STORAGES = ['mcap', 'sqlite3']
UINT32 = 'std_msgs/msg/UInt32'


def uint32_cdr(value: int) -> bytes:
    return b'\x00\x01\x00\x00' + value.to_bytes(4, 'little')


def write_counts(path: Path, storage: str = 'mcap', values: range = range(10)) -> Path:
    """Write /count with one UInt32 every 10 ms, the value giving the place in time."""
    with BagWriter(path, storage) as bag:
        bag.add_topic('/count', UINT32)
        for value in values:
            bag.write('/count', START_NS + value * 10_000_000, uint32_cdr(value))
    return path


def count_of(cdr: bytes) -> int:
    return int.from_bytes(cdr[4:8], 'little')


@pytest.mark.parametrize('storage', STORAGES)
def test_topics_are_listed_with_type_count_and_definition(tmp_path: Path, storage: str) -> None:
    with BagWriter(tmp_path / 'bag', storage) as writer:
        writer.add_topic('/b', UINT32, TopicQos(transient_local=True, depth=1))
        writer.add_topic('/a', 'sensor_msgs/msg/Image')
        writer.write('/b', START_NS, uint32_cdr(1))
        writer.write('/b', START_NS + 5, uint32_cdr(2))
        writer.write('/a', START_NS + 7, image_cdr(np.zeros((2, 3, 3), np.uint8), 0, 'camera'))
    with BagReader(tmp_path / 'bag') as bag:
        a, b = bag.topics
        assert (a.name, a.type_name, a.message_count) == ('/a', 'sensor_msgs/msg/Image', 1)
        assert (b.name, b.type_name, b.message_count) == ('/b', UINT32, 2)
        assert a.type_hash.startswith('RIHS01_d31d41a9a4c4bc8e')
        assert 'MSG: std_msgs/Header' in a.definition
        assert a.qos is None
        assert b.qos == TopicQos(reliable=True, transient_local=True, depth=1)
        assert (bag.message_count, bag.start_ns, bag.end_ns) == (3, START_NS, START_NS + 7)


@pytest.mark.parametrize('storage', STORAGES)
def test_messages_come_in_time_order_even_when_written_out_of_order(
    tmp_path: Path, storage: str
) -> None:
    with BagWriter(tmp_path / 'bag', storage) as writer:
        writer.add_topic('/count', UINT32)
        for value in (3, 0, 2, 1):
            writer.write('/count', START_NS + value, uint32_cdr(value))
    with BagReader(tmp_path / 'bag') as bag:
        messages = list(bag.messages())
    assert [message.stamp_ns - START_NS for message in messages] == [0, 1, 2, 3]
    assert [count_of(message.cdr) for message in messages] == [0, 1, 2, 3]
    assert {(message.topic, message.type_name) for message in messages} == {('/count', UINT32)}


@pytest.mark.parametrize('storage', STORAGES)
def test_a_bare_file_and_a_folder_without_metadata_read_like_the_folder(
    tmp_path: Path, storage: str
) -> None:
    folder = write_counts(tmp_path / 'bag', storage)
    with BagReader(folder) as bag:
        expected = list(bag.messages())
    (folder / 'metadata.yaml').unlink()
    (file,) = folder.iterdir()
    for path in (folder, file):
        with BagReader(path) as bag:
            assert list(bag.messages()) == expected


def test_a_split_bag_without_metadata_is_merged_in_time_order(tmp_path: Path) -> None:
    folder = tmp_path / 'split'
    folder.mkdir()
    for name, values in (('z', range(5)), ('a', range(5, 9)), ('m', range(3, 7))):
        write_counts(tmp_path / name, values=values)
        (tmp_path / name / f'{name}.mcap').rename(folder / f'{name}.mcap')
    with BagReader(folder) as bag:
        assert [count_of(m.cdr) for m in bag.messages()] == [0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8]


def test_topics_filter_the_messages_and_an_unknown_one_is_an_error(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as writer:
        for topic in ('/a', '/b'):
            writer.add_topic(topic, UINT32)
            writer.write(topic, START_NS, uint32_cdr(7))
    with BagReader(tmp_path / 'bag') as bag:
        assert [message.topic for message in bag.messages(['/b'])] == ['/b']
        assert list(bag.messages([])) == []
        with pytest.raises(BagError, match=r'no topic /c in the bag; choose from /a, /b'):
            bag.messages(['/b', '/c'])


@pytest.mark.parametrize('storage', STORAGES)
def test_reading_never_holds_the_whole_bag_in_memory(tmp_path: Path, storage: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 4), np.uint8)
    with BagWriter(tmp_path / 'bag', storage) as writer:
        writer.add_topic('/image', 'sensor_msgs/msg/Image')
        for k in range(40):
            writer.write('/image', START_NS + k, image_cdr(image, START_NS, 'camera', 'rgba8'))
    with BagReader(tmp_path / 'bag') as bag:
        tracemalloc.start()
        count = sum(1 for _ in bag.messages())
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert count == 40
    assert peak_bytes < 10 * image.nbytes  # of 40


@pytest.mark.parametrize('storage', STORAGES)
def test_deserialize_uses_the_definition_inside_the_bag(tmp_path: Path, storage: str) -> None:
    with BagWriter(tmp_path / 'bag', storage) as writer:
        writer.add_topic('/thing', 'absent_msgs/msg/Thing', definition='uint8 first\nuint8 second')
        writer.write('/thing', START_NS, b'\x00\x01\x00\x00\x05\x07')
    with BagReader(tmp_path / 'bag') as bag:
        (message,) = bag.messages()
        thing = bag.deserialize(message)
    assert (thing.first, thing.second) == (5, 7)


def test_deserialize_refuses_bytes_that_are_not_the_type(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as writer:
        writer.add_topic('/image', 'sensor_msgs/msg/Image')
        writer.write('/image', START_NS, b'\x00\x01\x00\x00\x01')
    with BagReader(tmp_path / 'bag') as bag:
        (message,) = bag.messages()
        with pytest.raises(BagError, match='/image is not the sensor_msgs/msg/Image'):
            bag.deserialize(message)


def test_header_stamp_is_read_from_the_bytes_of_either_byte_order() -> None:
    stamp_ns = START_NS + 123_456_789
    cdr = compressed_image_cdr(b'jpeg', stamp_ns, 'camera', 'jpeg')
    assert header_stamp_ns(cdr) == stamp_ns
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    big_endian = b'\0\0\0\0' + seconds.to_bytes(4, 'big') + nanoseconds.to_bytes(4, 'big')
    assert header_stamp_ns(big_endian) == stamp_ns


def test_a_missing_bag_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='no such bag'):
        BagReader(tmp_path / 'nowhere')


def test_a_folder_that_is_no_bag_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r'not a bag; expected a folder with a metadata\.yaml'):
        BagReader(tmp_path)


@pytest.mark.parametrize('storage', STORAGES)
def test_an_empty_bag_is_an_error_with_a_cure(tmp_path: Path, storage: str) -> None:
    write_counts(tmp_path / 'bag', storage, range(0))
    with pytest.raises(BagError, match=r'no messages.*check that the topics'):
        BagReader(tmp_path / 'bag')


@pytest.mark.parametrize(
    ('storage', 'kept'),
    [('mcap', 0.0), ('mcap', 0.3), *(('sqlite3', kept) for kept in (0.0, 0.3, 0.9, 0.99))],
)
def test_a_bag_without_a_whole_chunk_or_table_is_an_error_with_a_cure(
    tmp_path: Path, storage: str, kept: float
) -> None:
    folder = write_counts(tmp_path / 'bag', storage, range(2000))
    (file,) = (path for path in folder.iterdir() if path.suffix != '.yaml')
    os.truncate(file, int(file.stat().st_size * kept))
    for path in (folder, file):
        with pytest.raises(BagError, match='recover'), BagReader(path) as bag:
            list(bag.messages())


def test_a_ros1_bag_is_an_error_that_names_the_converter(tmp_path: Path) -> None:
    file = tmp_path / 'drive.bag'
    file.write_bytes(b'#ROSBAG V2.0\n')
    for path in (file, tmp_path):
        with pytest.raises(BagError, match=r'rosbags-convert --src .*drive\.bag'):
            BagReader(path)


@pytest.mark.parametrize('storage', STORAGES)
def test_a_real_recording_reads_in_both_storages(storage: str) -> None:
    if not (data := os.environ.get('MNV2_DATA')):
        pytest.skip('MNV2_DATA is not set: no real bags here')
    with BagReader(Path(data) / 'bags' / f'svo_752x480_mono8_{storage}') as bag:
        messages = list(bag.messages())
        image = bag.deserialize(next(m for m in messages if m.topic == '/camera/image_raw'))
        counts = {topic.name: topic.message_count for topic in bag.topics}
    stamps = [message.stamp_ns for message in messages]
    assert len(messages) == 133
    assert stamps == sorted(stamps)
    assert (counts['/camera/image_raw'], counts['/camera/camera_info']) == (10, 11)
    assert (image.height, image.width, image.encoding) == (480, 752, 'mono8')
    assert image.data.shape == (480 * 752,)
    assert 10 < image.data.mean() < 245
