"""Write results to one mcap file: reproducible byte for byte, and resumable after a kill.

Chunks end by their content, never by the clock. At most half a second after it was written, a
message is in the file, even before its chunk is complete: the unfinished chunk lies behind the
last complete one and is overwritten by what follows. Each message carries the number of the item
that it belongs to (mcap's `sequence`), so the file itself tells how far its run has come.
Format: https://mcap.dev/spec
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
import os
from pathlib import Path
import struct
import time
from typing import NamedTuple

from rosbags.rosbag2.metadata import dump_qos_v8

from mnv2_perception.bags.definitions import typestore_of
from mnv2_perception.bags.read import TopicQos
from mnv2_perception.bags.unfinished import (
    CHUNK,
    Chunk,
    DATA_END,
    decompress,
    end_of_file,
    MAGIC,
    MESSAGE,
    MESSAGE_INDEX,
    record,
    STATISTICS,
    UNINDEXED_END,
    walk,
)
from mnv2_perception.bags.write import FLUSH_PERIOD_S, offered
from mnv2_perception.bags.zstandard import zstd
from mnv2_perception.errors import BagError

HEADER, SCHEMA, CHANNEL = 0x01, 0x03, 0x04
LIBRARY = 'mnv2_perception'
CHUNK_BYTES = 2**20
LEVEL = 1  # zstd: shrinks masks to a tenth, in a millisecond


class Channel(NamedTuple):
    """A topic of the file: its channel number and its mcap records."""

    number: int
    records: bytes


def text(value: str) -> bytes:
    """Return a string in mcap's encoding."""
    data = value.encode()
    return struct.pack('<I', len(data)) + data


def written_here(path: Path) -> bool:
    """Return whether a ResultFile began this file; an empty file counts as such."""
    with path.open('rb') as file:
        start = file.read(len(_FILE_START))
    return _FILE_START.startswith(start)


_FILE_START = MAGIC + record(HEADER, text('ros2') + text(LIBRARY))


class ResultFile:
    """An mcap file to which the messages of one item after another are written.

    Args:
        path: path of the file. It is created anew, or continued with `resume`.
        resume: continue the file that a killed run has left.

    Attributes:
        path: path of the file.
        done: number of the last item whose messages are in the file; -1 if there are none.
        counts: number of messages of each topic.

    Raises:
        BagError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        self.path = path
        self.done = -1
        self.counts: Counter[str] = Counter()
        self._channels: dict[str, Channel] = {}
        self._schemas: dict[str, bytes] = {}
        self._chunks: list[Chunk] = []
        self._numbers: Counter[int] = Counter()  # number of messages by channel
        self._waiting = bytearray()
        self._index: dict[int, list[tuple[int, int]]] = {}
        self._flushed_s = time.monotonic()
        self._taken_up = False
        try:
            self._file = path.open('r+b' if resume else 'wb', buffering=0)
            if resume and path.stat().st_size > len(_FILE_START):
                self._take_up()
            else:
                self._end = 0
                self._put(_FILE_START, UNINDEXED_END)
        except OSError as exc:
            raise BagError(f'{path}: cannot be written ({exc}); choose another file') from exc

    def add_topic(
        self, topic: str, type_name: str, qos: TopicQos | None = None,
        definition: str | None = None,
    ) -> None:
        """Add a topic; a resumed run must add the same topics in the same order.

        Args:
            topic: absolute topic name.
            type_name: ROS 2 type, such as ``sensor_msgs/msg/Image``.
            qos: QoS that the topic's publishers offer; None leaves it open.
            definition: .msg text of the type and of all types that it uses; None for the
                definition that is known here.

        Raises:
            BagError: the topic was added before, or its type is not defined.
        """
        if topic in self._channels:
            raise BagError(f'{self.path}: {topic} was added already; add a topic once')
        records = b''
        if type_name not in self._schemas:
            store = typestore_of(type_name, definition)
            defined, _ = store.generate_msgdef(type_name, ros_version=2)
            schema = struct.pack('<H', len(self._schemas) + 1)
            self._schemas[type_name] = schema
            kind = 'ros2idl' if defined.startswith('=' * 80 + '\nIDL: ') else 'ros2msg'
            records = record(SCHEMA, schema + text(type_name) + text(kind) + text(defined))
        number = len(self._channels) + 1
        profiles = text('offered_qos_profiles') + text(dump_qos_v8([offered(qos)] if qos else []))
        records += record(CHANNEL, b''.join((
            struct.pack('<H', number), self._schemas[type_name], text(topic), text('cdr'),
            struct.pack('<I', len(profiles)), profiles,
        )))
        self._channels[topic] = Channel(number, records)
        self.counts[topic] = self._numbers[number]
        if not self._taken_up:  # otherwise the file has these records
            self._waiting += records

    def write(self, topic: str, stamp_ns: int, cdr: bytes | memoryview, item: int) -> None:
        """Write one message of an item.

        Args:
            topic: a topic that was added.
            stamp_ns: time of recording, ns since the epoch.
            cdr: the serialised message, encapsulation header included.
            item: number of the item; must not decrease.
        """
        number = self._channels[topic].number
        self._index.setdefault(number, []).append((stamp_ns, len(self._waiting)))
        head = struct.pack('<HIQQ', number, item, stamp_ns, stamp_ns)
        self._waiting += struct.pack('<BQ', MESSAGE, len(head) + len(cdr)) + head
        self._waiting += cdr
        self._numbers[number] += 1
        self.counts[topic] += 1

    def end_item(self, item: int) -> None:
        """Mark an item's messages as complete: a chunk holds whole items.

        Raises:
            BagError: the disk is full or failed; what was written before is kept.
        """
        self.done = item
        try:
            if len(self._waiting) > CHUNK_BYTES:
                self._end_chunk()
            elif time.monotonic() - self._flushed_s >= FLUSH_PERIOD_S:
                self._flush()
        except OSError as exc:
            raise BagError(
                f'{self.path}: cannot be written ({exc}); what was written before is kept: free '
                f'some space and continue with --resume'
            ) from exc

    def finish(self) -> None:
        """Write the index, which completes the file, and close it.

        Raises:
            BagError: the disk is full or failed.
        """
        try:
            if self._waiting:
                self._end_chunk()
            topics = b''.join(channel.records for channel in self._channels.values())
            times = [(chunk.start_ns, chunk.end_ns) for chunk in self._chunks if chunk.indexes]
            counts = b''.join(
                struct.pack('<HQ', channel.number, self._numbers[channel.number])
                for channel in self._channels.values()
            )
            start = self._end + len(record(DATA_END, bytes(4)))
            self._put(b''.join((
                record(DATA_END, bytes(4)), topics, *(chunk.index() for chunk in self._chunks),
                record(STATISTICS, struct.pack(
                    '<QHIIIIQQI', sum(self._numbers.values()), len(self._schemas),
                    len(self._channels), 0, 0, len(self._chunks),
                    min((first for first, _ in times), default=0),
                    max((last for _, last in times), default=0), len(counts),
                ) + counts),
            )), end_of_file(start))
        except OSError as exc:
            raise BagError(
                f'{self.path}: cannot be finished ({exc}); what was written is kept: free some '
                f'space and continue with --resume'
            ) from exc
        self._file.close()

    def abandon(self) -> None:
        """Close the file as it is, for reading or resuming; harmless if it is closed already."""
        if not self._file.closed:
            with suppress(OSError):  # what was flushed before is in the file
                self._flush()
            self._file.close()

    def _end_chunk(self) -> None:
        data, chunk = self._packed()
        place, indexes = self._end + len(data), []
        for number, entries in self._index.items():
            chunk.indexes[number] = place
            body = b''.join(struct.pack('<QQ', *entry) for entry in entries)
            indexes.append(
                record(MESSAGE_INDEX, struct.pack('<HI', number, len(body)) + body)
            )
            place += len(indexes[-1])
        chunk.indexed_to = place
        self._put(data + b''.join(indexes), UNINDEXED_END)
        self._chunks.append(chunk)
        self._waiting, self._index = bytearray(), {}

    def _flush(self) -> None:
        """Write the unfinished chunk behind the last complete one, to be overwritten later."""
        if self._waiting:
            data, _ = self._packed()
            self._put(data + UNINDEXED_END, b'', keep=False)
        self._flushed_s = time.monotonic()

    def _packed(self) -> tuple[bytes, Chunk]:
        """Return the waiting messages as a chunk record, and its entry for the index."""
        stamps = [stamp_ns for entries in self._index.values() for stamp_ns, _ in entries]
        packed, size = zstd.compress(bytes(self._waiting), LEVEL), len(self._waiting)
        first, last = min(stamps, default=0), max(stamps, default=0)
        data = record(CHUNK, b''.join((
            struct.pack('<QQQI', first, last, size, 0), text('zstd'),
            struct.pack('<Q', len(packed)), packed,
        )))
        end = self._end + len(data)
        return data, Chunk(self._end, end, end, first, last, size, b'zstd', len(packed))

    def _put(self, data: bytes, end: bytes, keep: bool = True) -> None:
        """Write data behind the last complete chunk; with `keep`, it becomes part of the file."""
        view, written = memoryview(data + end), 0
        while written < len(view):
            written += os.pwrite(self._file.fileno(), view[written:], self._end + written)
        # Remove the rest of a longer chunk that was there before.
        os.ftruncate(self._file.fileno(), self._end + len(view))
        if keep:
            self._end += len(data)
            self._flushed_s = time.monotonic()

    def _take_up(self) -> None:
        """Load the last readable chunk into memory again: what follows may belong to it."""
        with self.path.open('rb') as file:
            self._end, chunks, _, _ = walk(file)
            self._end = len(_FILE_START)
            while chunks:
                last = chunks.pop()
                file.seek(last.end - last.stored)
                try:
                    content = decompress(file.read(last.stored), last)
                except Exception:  # decompressors can raise anything on damaged bytes
                    continue
                self._end = last.offset
                self._waiting += content
                break
            for chunk in chunks:
                for number, place in chunk.indexes.items():
                    file.seek(place + 9 + 2)
                    size, = struct.unpack('<I', file.read(4))
                    self._numbers[number] += size // 16
        self._chunks, self._taken_up = chunks, bool(self._waiting)
        for place, number, item, stamp_ns in _messages(bytes(self._waiting)):
            self._index.setdefault(number, []).append((stamp_ns, place))
            self._numbers[number] += 1
            self.done = item
        if len(self._waiting) > CHUNK_BYTES:
            self._end_chunk()


def _messages(content: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield (offset, channel, item, stamp in ns) of each message in a chunk's content."""
    place = 0
    while place < len(content):
        opcode, length = struct.unpack_from('<BQ', content, place)
        if opcode == MESSAGE:
            number, item, stamp_ns = struct.unpack_from('<HIQ', content, place + 9)
            yield place, number, item, stamp_ns
        place += 9 + length
