"""mnv2_perception.bags.read: what a bag holds, in order, whatever form it came in."""

from contextlib import closing
import os
from pathlib import Path
import shutil
import sqlite3
import tracemalloc
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
import yaml

from mnv2_perception.bags.definitions import jazzy_types
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
        with pytest.raises(BagError, match='/image is not of the type sensor_msgs/msg/Image'):
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


def storage_file(folder: Path) -> Path:
    (file,) = (path for path in folder.iterdir() if path.suffix != '.yaml')
    return file


def counts_in(path: Path) -> list[int]:
    with BagReader(path) as bag:
        return [count_of(message.cdr) for message in bag.messages()]


def edit_metadata(folder: Path, **values: Any) -> None:
    """Change what a metadata.yaml says of the bag; `qos` and `count` of its first topic."""
    file = folder / 'metadata.yaml'
    said = yaml.safe_load(file.read_text())
    info = said['rosbag2_bagfile_information']
    topic = info['topics_with_message_count'][0]
    topic['topic_metadata']['offered_qos_profiles'] = values.pop('qos', '')
    topic['message_count'] = values.pop('count', topic['message_count'])
    info.update(values)
    file.write_text(yaml.safe_dump(said))


def write_blocks(path: Path, order: list[int]) -> Path:
    """Write an mcap of a chunk for each number: messages of 1.2 MB that begin with it."""
    with BagWriter(path) as bag:
        bag.add_topic('/block', 'std_msgs/msg/UInt8MultiArray')
        for value in order:
            bag.write('/block', START_NS + value, uint32_cdr(value) + bytes(1_200_000))
    return path


@pytest.mark.parametrize('cut_bytes', [1, 100, 1_000_000])
def test_of_an_unfinished_mcap_all_whole_chunks_are_read_in_time_order(
    tmp_path: Path, cut_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    file = storage_file(write_blocks(tmp_path / 'bag', [0, 2, 1, 3, 4]))
    os.truncate(file, file.stat().st_size - cut_bytes)
    whole = [0, 1, 2, 3, 4] if cut_bytes < 1_000_000 else [0, 1, 2, 3]
    assert counts_in(file) == whole
    assert 'is incomplete' in caplog.text
    assert ('the last 0 bytes are lost' in caplog.text) == (len(whole) == 5)
    with BagReader(file) as bag:
        assert (bag.message_count, bag.end_ns) == (len(whole), START_NS + whole[-1])
        assert 'uint8[] data' in bag.topics[0].definition


def test_of_an_mcap_cut_behind_a_chunk_that_chunk_is_read(tmp_path: Path) -> None:
    file = storage_file(write_counts(tmp_path / 'bag', values=range(100)))
    data = file.read_bytes()
    index = data.index(b'\x07' + (2 + 4 + 100 * 16).to_bytes(8, 'little'))
    for kept in (index, index + 50):
        file.write_bytes(data[:kept])
        assert counts_in(file) == list(range(100))


@pytest.mark.parametrize('storage', STORAGES)
def test_qos_of_metadata_goes_before_the_files_and_hides_no_topic(
    tmp_path: Path, storage: str
) -> None:
    for name, offered in (('lost', TopicQos(transient_local=True, depth=1)), ('edited', None)):
        with BagWriter(tmp_path / name, storage) as writer:
            writer.add_topic('/tf_static', UINT32, offered)
            writer.write('/tf_static', START_NS, uint32_cdr(7))
    edit_metadata(tmp_path / 'lost', qos='')
    latched = {
        'history': 1, 'depth': 5, 'reliability': 1, 'durability': 1, 'liveliness': 1,
        'avoid_ros_namespace_conventions': False,
        'deadline': {'sec': 0, 'nsec': 0}, 'lifespan': {'sec': 0, 'nsec': 0},
        'liveliness_lease_duration': {'sec': 0, 'nsec': 0},
    }
    edit_metadata(tmp_path / 'edited', qos=yaml.safe_dump([latched]))
    for name, depth in (('lost', 1), ('edited', 5)):
        assert counts_in(tmp_path / name) == [7]
        with BagReader(tmp_path / name) as bag:
            assert bag.topics[0].qos == TopicQos(True, True, depth)


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('mode', [CompressionMode.MESSAGE, CompressionMode.FILE])
def test_a_compressed_bag_and_its_file_alone_give_the_messages(
    tmp_path: Path, storage: str, mode: CompressionMode
) -> None:
    writer = Writer(tmp_path / 'bag', version=8, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/count', UINT32, typestore=jazzy_types())
        for value in range(3):
            writer.write(connection, START_NS + value, uint32_cdr(value))
    for path in (tmp_path / 'bag', storage_file(tmp_path / 'bag')):
        assert counts_in(path) == [0, 1, 2]


def test_what_metadata_promises_and_does_not_come_is_counted_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_counts(tmp_path / 'bag')
    edit_metadata(folder, count=43)
    with BagReader(folder) as bag:
        assert bag.missing == {}
        assert len(list(bag.messages())) == 10
        assert bag.missing == {'/count': 33}
    assert 'missing: 33 of /count' in caplog.text


def test_splits_come_in_time_order_and_one_that_is_missing_or_not_named_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_counts(tmp_path / 'late', 'sqlite3', range(5, 9))
    early = storage_file(write_counts(tmp_path / 'early', 'sqlite3', range(5)))
    shutil.copy(early, folder)
    edit_metadata(folder, relative_file_paths=['late.db3', 'early.db3'], count=9)
    assert counts_in(folder) == list(range(9))
    assert not caplog.text
    edit_metadata(folder, relative_file_paths=['late.db3'], count=4)
    assert counts_in(folder) == list(range(5, 9))
    assert 'does not list early.db3' in caplog.text
    edit_metadata(folder, relative_file_paths=['late.db3', 'gone.db3'])
    with pytest.raises(BagError, match=r'lists gone\.db3, which does not exist; copy it too'):
        BagReader(folder)


@pytest.mark.parametrize('text', ['', 'a: [', '5', 'rosbag2_bagfile_information: {version: 8}'])
def test_a_metadata_that_says_nothing_is_told_and_left_aside(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_counts(tmp_path / 'bag')
    (folder / 'metadata.yaml').write_text(text)
    assert counts_in(folder) == list(range(10))
    assert 'metadata.yaml: cannot be used' in caplog.text


@pytest.mark.parametrize('where', ['files', 'qos'])
def test_a_metadata_that_would_grow_is_left_aside_at_once(
    tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_counts(tmp_path / 'bag')
    bomb = 'a0: &a0 {k0: 1}\n' + ''.join(
        f'a{i}: &a{i}\n  <<: [{", ".join([f"*a{i - 1}"] * 9)}]\n' for i in range(1, 4)
    )
    if where == 'qos':
        edit_metadata(folder, qos=bomb)
    else:
        said = (folder / 'metadata.yaml').read_text()
        (folder / 'metadata.yaml').write_text(bomb + said)
    assert counts_in(folder) == list(range(10))
    assert 'cannot be used (ValueError: it has an alias (*name)); the bag is' in caplog.text


def test_an_empty_storage_id_is_told_and_the_bag_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_counts(tmp_path / 'bag')
    edit_metadata(folder, storage_identifier='')
    assert counts_in(folder) == list(range(10))
    assert 'names no storage' in caplog.text


@pytest.mark.parametrize('name', ['drive.mcap', 'drive.db3', 'bag/metadata.yaml'])
def test_a_git_lfs_pointer_is_named(tmp_path: Path, name: str) -> None:
    write_counts(tmp_path / 'bag')
    file = tmp_path / name
    file.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 4\n')
    with pytest.raises(BagError, match=r'a Git LFS pointer.*git lfs pull'):
        BagReader(file if file.suffix != '.yaml' else file.parent)


@pytest.mark.parametrize('mode', ['WAL', 'DELETE'])
def test_what_a_killed_recorder_left_in_sqlite_s_journals_is_taken_in(
    tmp_path: Path, mode: str
) -> None:
    folder = write_counts(tmp_path / 'bag', 'sqlite3')
    file = storage_file(folder)
    killed = tmp_path / 'killed'
    with closing(sqlite3.connect(file)) as database:
        database.execute(f'PRAGMA journal_mode = {mode}')
        database.execute('PRAGMA cache_size = 1')  # what is not committed is in the file, too
        database.executemany(
            'INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?, ?)',
            [(START_NS + 10**9 + k, uint32_cdr(99) + bytes(3000)) for k in range(50)],
        )
        if mode == 'WAL':
            database.commit()
        shutil.copytree(folder, killed)
    assert len(list(killed.glob('*.db3-*'))) > 0
    assert counts_in(killed) == list(range(10)) + ([99] * 50 if mode == 'WAL' else [])


def test_an_mcap_of_another_kind_is_called_that_and_not_damaged(tmp_path: Path) -> None:
    write_counts(tmp_path / 'bag')
    (whole,) = (tmp_path / 'bag').glob('*.mcap')
    other = tmp_path / 'other.mcap'
    other.write_bytes(whole.read_bytes().replace(b'ros2', b'ros1', 1))
    with pytest.raises(BagError, match=r'that ROS 2 did not record, .*expected the profile'):
        BagReader(other)


def test_a_message_too_short_for_a_header_has_no_stamp() -> None:
    for cdr in (b'', b'\0', b'\x00\x01\x00\x00\x01'):
        with pytest.raises(BagError, match=f'a message of {len(cdr)} bytes has no header'):
            header_stamp_ns(cdr)


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
