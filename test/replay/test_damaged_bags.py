"""`mnv2 bag run` on damaged bags: what is readable is processed, the rest is counted and told."""

from collections.abc import Callable
import os
from pathlib import Path
import struct

from camera_bags import IMAGE, masks, messages, picture, run, stamp, write_bag
import numpy as np
import pytest

from mnv2_perception.bags.messages import header, make, serialised, text_cdr
from mnv2_perception.bags.read import BagReader
from mnv2_perception.bags.write import BagWriter, image_cdr

BIG = np.zeros((800, 500, 3), np.uint8)  # more than a chunk's megabyte


def storage_file(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.suffix in ('.mcap', '.db3'))


def write_big(path: Path, storage: str = 'mcap') -> Path:
    """Write eight images, each a chunk of its own."""
    with BagWriter(path, storage) as bag:
        bag.add_topic(IMAGE, 'sensor_msgs/msg/Image')
        for number in range(8):
            bag.write(IMAGE, stamp(number), image_cdr(BIG + number, stamp(number), 'camera'))
    return path


def test_cut_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag, out = write_big(tmp_path / 'bag'), tmp_path / 'out.mcap'
    file = storage_file(bag)
    os.truncate(file, file.stat().st_size * 11 // 20)
    assert run(bag, out, '--topic', IMAGE) == 3
    assert sorted(masks(out)) == [stamp(number) for number in range(4)]
    told = capsys.readouterr()
    assert 'cut, ' in told.err and 'fewer messages than metadata.yaml promises' in told.err
    assert 'lost                               4' in told.out


@pytest.mark.parametrize(('storage', 'code'), [('mcap', 3), ('sqlite3', 1)])
def test_flipped_bytes(
    tmp_path: Path, storage: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, out = write_big(tmp_path / 'bag', storage), tmp_path / 'out.mcap'
    file = storage_file(bag)
    data = bytearray(file.read_bytes())
    # Of the third image, or of the page of its row: lengths that lead nowhere.
    place = data.index(struct.pack('<iI', *divmod(stamp(2), 10**9)))
    data[place - 60:place + 60] = b'\xff' * 120
    file.write_bytes(data)
    assert run(bag, out, '--topic', IMAGE) == code
    told = capsys.readouterr()
    if storage == 'sqlite3':  # SQLite cannot tell what else is damaged
        assert 'sqlite3 IN.db3 .recover' in told.err and not out.exists()
        return
    assert sorted(masks(out)) == [stamp(number) for number in (0, 1, 3, 4, 5, 6, 7)]
    assert 'lost                               1' in told.out and '1 × bag: ' in told.err


def test_missing_metadata(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag')
    (bag / 'metadata.yaml').unlink()
    assert run(bag, tmp_path / 'out.mcap') == 0
    assert len(masks(tmp_path / 'out.mcap')) == 8


def write_images(path: Path, stamps: list[int], frame_id: str = 'camera') -> Path:
    """Write images recorded at whole tenths of a second, with other stamps."""
    with BagWriter(path) as bag:
        bag.add_topic(IMAGE, 'sensor_msgs/msg/Image')
        for number, stamp_ns in enumerate(stamps):
            bag.write(IMAGE, stamp(number), image_cdr(picture(number), stamp_ns, frame_id))
    return path


def test_zero_stamps_and_empty_frame_ids_are_handed_on_and_placed_by_the_camera_s_height(
    tmp_path: Path
) -> None:
    bag, out = write_images(tmp_path / 'bag', [0] * 4, ''), tmp_path / 'out.mcap'
    assert run(bag, out, '--camera-height', '1', '--camera-fov', '1') == 0
    with BagReader(out) as reader:
        found = [reader.deserialize(each) for each in reader.messages(['/segmentation/mask'])]
    assert [(each.header.stamp.sec, each.header.frame_id) for each in found] == [(0, '')] * 4
    for number, msg in enumerate(found):
        assert np.array_equal(msg.data.reshape(msg.height, -1), picture(number)[..., 0])
    assert len(messages(out, '/grid')) == 4


def test_a_frame_id_that_tf_does_not_know_is_told_and_the_masks_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / 'bag', tf=True)
    frames = write_images(tmp_path / 'frames', [stamp(3)] * 3, '')
    assert run([bag, frames], tmp_path / 'out.mcap') == 0
    assert "the bag has no transform of ''" in capsys.readouterr().err
    assert len(messages(tmp_path / 'out.mcap', '/segmentation/mask')) == 11


def test_out_of_order(tmp_path: Path) -> None:
    order = [stamp(number) for number in (3, 0, 2, 1)]
    bag, out = write_images(tmp_path / 'bag', order), tmp_path / 'out.mcap'
    assert run(bag, out) == 0
    with BagReader(out) as reader:
        found = [reader.deserialize(each) for each in reader.messages(['/segmentation/mask'])]
    assert [
        each.header.stamp.sec * 10**9 + each.header.stamp.nanosec for each in found
    ] == order


def test_a_recording_written_out_of_order_is_run_in_the_order_of_time(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', numbers=(5, 1, 4, 0, 3, 2))
    assert run(bag, tmp_path / 'out.mcap') == 0
    assert [each.stamp_ns for each in messages(tmp_path / 'out.mcap', '/segmentation/mask')] == [
        stamp(number) for number in range(6)
    ]


def test_wrong_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Strings where images are expected, and images whose bytes are none."""
    with BagWriter(tmp_path / 'strings') as bag:
        bag.add_topic(IMAGE, 'std_msgs/msg/String')
        bag.write(IMAGE, stamp(0), text_cdr('no image'))
    assert run(tmp_path / 'strings', tmp_path / 'out.mcap') == 1
    assert 'has no camera images' in capsys.readouterr().err
    with BagWriter(tmp_path / 'mixed') as bag:
        bag.add_topic(IMAGE, 'sensor_msgs/msg/Image')
        for number in range(4):
            good = image_cdr(picture(number), stamp(number), 'camera')
            depth = serialised(make(
                'sensor_msgs/msg/Image', header=header(stamp(number), 'camera'), height=1,
                width=1, encoding='16UC1', step=2, data=np.zeros(2, np.uint8),
            ))
            bag.write(IMAGE, stamp(number), (good, text_cdr('no image'), good, depth)[number])
    assert run(tmp_path / 'mixed', tmp_path / 'out.mcap') == 3
    told = capsys.readouterr()
    assert sorted(masks(tmp_path / 'out.mcap')) == [stamp(0), stamp(2)]
    assert 'rejected                           2' in told.out
    assert '1 × ' in told.err and "'16UC1'" in told.err


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_empty(tmp_path: Path, storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with BagWriter(tmp_path / 'bag', storage) as bag:
        bag.add_topic(IMAGE, 'sensor_msgs/msg/Image')
    (tmp_path / 'void.mcap').touch()
    for path in (tmp_path / 'bag', tmp_path / 'void.mcap'):
        assert run(path, tmp_path / 'out.mcap') == 1
        assert capsys.readouterr().err.startswith('error: ')
    assert not (tmp_path / 'out.mcap').exists()


def test_an_mcap_without_its_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag, out = write_big(tmp_path / 'bag'), tmp_path / 'out.mcap'
    file = storage_file(bag)
    data = file.read_bytes()
    end = data.index(struct.pack('<BQI', 0x0F, 4, 0))  # DataEnd: the summary is behind it
    file.write_bytes(data[:end])
    assert run(bag, out, '--topic', IMAGE) == 0  # all of it is there
    assert len(masks(out)) == 8


def old_names(file: Path) -> None:
    """Give types their names of ROS 1 in a file, of the same length."""
    data = file.read_bytes()
    assert b'sensor_msgs/msg/Image' in data
    import sqlite3

    with sqlite3.connect(file) as database:
        database.execute("UPDATE topics SET type = replace(type, '/msg/', '/')")
        database.execute(
            "UPDATE message_definitions SET topic_type = replace(topic_type, '/msg/', '/')")
    database.close()


def test_legacy_type_names(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', storage='sqlite3')
    old_names(storage_file(bag))
    with BagReader(bag) as reader:
        assert {'sensor_msgs/msg/Image', 'std_msgs/msg/UInt32'} <= {
            each.type_name for each in reader.topics
        }
    assert run(bag, tmp_path / 'out.mcap', '--copy', '/count') == 0
    assert len(masks(tmp_path / 'out.mcap')) == 8


@pytest.mark.parametrize(
    ('damage', 'told'),
    [
        (lambda file: os.truncate(file, 100), 'recover'),
        (lambda file: file.write_bytes(b'version https://git-lfs.github.com/spec/v1\n'), 'lfs'),
        (lambda file: file.unlink(), 'does not exist'),
    ],
)
def test_what_cannot_be_opened_at_all_is_one_error(
    tmp_path: Path, damage: Callable[[Path], object], told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bag = write_bag(tmp_path / 'bag', storage='sqlite3')
    damage(storage_file(bag))
    assert run(bag, tmp_path / 'out.mcap') == 1
    error = capsys.readouterr().err
    assert told in error and error.count('error: ') == 1
    assert not (tmp_path / 'out.mcap').exists()
