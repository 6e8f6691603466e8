"""mnv2_perception.bags.result_file: equal messages, equal bytes; a killed run goes on."""

from pathlib import Path
import random

import pytest
from rosbags.rosbag2 import Reader

from mnv2_perception.bags.read import BagReader, TopicQos
from mnv2_perception.bags.result_file import ResultFile, written_here
from mnv2_perception.errors import BagError

UINT32, BLOCK = 'std_msgs/msg/UInt32', 'std_msgs/msg/UInt8MultiArray'
ITEMS = 40


def cdr_of(value: int) -> bytes:
    return b'\0\1\0\0' + value.to_bytes(4, 'little')


def block_of(item: int) -> bytes:
    """300 kB that do not compress, so that a few items make a chunk."""
    return b'\0\1\0\0' + bytes(12) + random.Random(item).randbytes(300_000)


def write_items(file: ResultFile, last: int = ITEMS, finish: bool = True) -> None:
    """Write /count, and /block for each third item, from where the file has come to."""
    file.add_topic('/count', UINT32, TopicQos(transient_local=True, depth=1))
    file.add_topic('/block', BLOCK)
    for item in range(file.done + 1, last):
        if item % 7 == 3:  # a frame without results
            file.end_item(item)
            continue
        file.write('/count', 1000 + item, cdr_of(item), item)
        if item % 3 == 0:
            file.write('/block', 1000 + item, block_of(item), item)
        file.end_item(item)
    if finish:
        file.finish()


def test_what_was_written_is_read_by_us_and_by_rosbags(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / 'a.mcap')
    write_items(file)
    counts = [item for item in range(ITEMS) if item % 7 != 3]
    assert file.counts['/count'] == len(counts)
    for reader in (Reader(tmp_path / 'a.mcap'), BagReader(tmp_path / 'a.mcap')):
        with reader as bag:
            messages = list(bag.messages())
            assert bag.message_count == len(messages)
    found = [message for message in messages if message.topic == '/count']
    assert [(each.stamp_ns - 1000, each.cdr) for each in found] == [
        (item, cdr_of(item)) for item in counts
    ]
    with BagReader(tmp_path / 'a.mcap') as bag:
        block, count = bag.topics
    assert count.qos == TopicQos(transient_local=True, depth=1) and block.qos is None
    assert 'uint8[] data' in block.definition


def test_the_bytes_depend_on_the_messages_and_not_on_when_they_were_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_items(ResultFile(tmp_path / 'a.mcap'))
    monkeypatch.setattr('mnv2_perception.bags.result_file.FLUSH_PERIOD_S', 0.0)
    write_items(ResultFile(tmp_path / 'b.mcap'))
    assert (tmp_path / 'a.mcap').read_bytes() == (tmp_path / 'b.mcap').read_bytes()


def test_a_file_cut_anywhere_is_read_in_whole_items_and_gone_on_with_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mnv2_perception.bags.result_file.FLUSH_PERIOD_S', 0.0)
    whole, cut = tmp_path / 'whole.mcap', tmp_path / 'cut.mcap'
    write_items(ResultFile(whole))
    expected = whole.read_bytes()
    killed = ResultFile(tmp_path / 'killed.mcap')
    write_items(killed, ITEMS - 3, finish=False)
    data = (tmp_path / 'killed.mcap').read_bytes()
    rng = random.Random(0)
    places = [0, 5, 30, len(data) - 1, len(data), *(rng.randrange(len(data)) for _ in range(40))]
    came_to = set()
    for place in places:
        cut.write_bytes(data[:place])
        assert written_here(cut)
        file = ResultFile(cut, resume=True)
        came_to.add(file.done)
        write_items(file)
        assert cut.read_bytes() == expected, f'cut at {place}'
    assert len(came_to) > 3 and -1 in came_to


def test_what_waits_for_its_chunk_is_readable_once_it_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mnv2_perception.bags.result_file.FLUSH_PERIOD_S', 0.0)
    file = ResultFile(tmp_path / 'a.mcap')
    file.add_topic('/count', UINT32)
    for item in range(3):
        file.write('/count', item, cdr_of(item), item)
        file.end_item(item)
        with BagReader(tmp_path / 'a.mcap') as bag:
            assert len(list(bag.messages())) == item + 1


def test_a_topic_is_added_once_and_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / 'a.mcap')
    file.add_topic('/count', UINT32)
    with pytest.raises(BagError, match='add a topic once'):
        file.add_topic('/count', UINT32)
    with pytest.raises(BagError, match='cannot be written'):
        ResultFile(tmp_path)


def test_files_of_others_are_not_taken_for_ours(tmp_path: Path) -> None:
    for data in (b'x', b'\x89MCAP0\r\n\x01' + bytes(100)):
        (tmp_path / 'a.mcap').write_bytes(data)
        assert not written_here(tmp_path / 'a.mcap')
