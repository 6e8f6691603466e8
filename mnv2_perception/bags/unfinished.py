"""Read mcap files without an index: recorder killed, disk full, or copied in part.

A reader finds everything in an mcap through its end. If that is missing, the complete chunks are
still there, one after another. `Completed` presents the file up to the last of them, followed by
an index that exists only in memory. Format: https://mcap.dev/spec
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
import io
from pathlib import Path
import struct
from typing import Any, BinaryIO

from mnv2_perception.bags.zstandard import zstd

MAGIC = b'\x89MCAP0\r\n'
FOOTER, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX, STATISTICS, DATA_END = (
    0x02, 0x05, 0x06, 0x07, 0x08, 0x0B, 0x0F
)
FOOTER_START = struct.pack('<BQ', FOOTER, 20)


def record(opcode: int, content: bytes) -> bytes:
    """Return a record of an mcap file."""
    return struct.pack('<BQ', opcode, len(content)) + content


def end_of_file(summary_start: int) -> bytes:
    """Return an mcap's footer and magic; `summary_start` is 0 if there is no summary.

    Without a summary, readers go through the whole file.
    """
    return record(FOOTER, struct.pack('<QQI', summary_start, 0, 0)) + MAGIC


# Appended to complete chunks, this makes a valid file without an index.
UNINDEXED_END = record(DATA_END, bytes(4)) + end_of_file(0)


@dataclass
class Chunk:
    """A chunk of an mcap file.

    Attributes:
        offset: position of its record in the file.
        end: position where its record ends.
        indexed_to: position where the message indexes behind it end.
        start_ns: time of the earliest message.
        end_ns: time of the latest message.
        size: size of its content, decompressed, bytes.
        compression: `zstd`, `lz4` or empty.
        stored: size of its content in the file, bytes.
        indexes: position of each channel's message index.
    """

    offset: int
    end: int
    indexed_to: int
    start_ns: int
    end_ns: int
    size: int
    compression: bytes
    stored: int
    indexes: dict[int, int] = field(default_factory=dict)

    def index(self) -> bytes:
        """Return the chunk's index record for a summary."""
        offsets = b''.join(struct.pack('<HQ', *item) for item in self.indexes.items())
        return record(CHUNK_INDEX, b''.join((
            struct.pack('<QQQQ', self.start_ns, self.end_ns, self.offset, self.end - self.offset),
            struct.pack('<I', len(offsets)), offsets,
            struct.pack('<Q', self.indexed_to - self.end),
            struct.pack('<I', len(self.compression)), self.compression,
            struct.pack('<QQ', self.stored, self.size),
        )))


def is_indexed(path: Path) -> bool:
    """Return whether an mcap file has an end with a summary."""
    with path.open('rb') as file:
        if file.seek(0, io.SEEK_END) < len(UNINDEXED_END):
            return False
        file.seek(-(len(FOOTER_START) + 20 + len(MAGIC)), io.SEEK_END)
        footer = file.read()
    place = len(FOOTER_START)
    return (
        footer.startswith(FOOTER_START) and footer.endswith(MAGIC)
        and footer[place:place + 8] != bytes(8)
    )


class Completed:
    """An mcap file up to its last complete chunk, plus an end; rosbags takes it for a path.

    Attributes:
        whole: whether the file has anything that can be read.
        lost_bytes: size of the incomplete part.
    """

    suffix = '.mcap'

    def __init__(self, path: Path) -> None:
        """Find the chunks; if there are none, the file is presented as it is.

        Raises:
            OSError: the file cannot be read.
        """
        self._path = path
        self._end, self._tail = path.stat().st_size, b''
        with path.open('rb') as file:
            end, chunks, loose, self.lost_bytes = walk(file)
            found = len(chunks)
            last = _indexes(file, chunks)
        self.whole = bool(chunks) or loose
        if not self.whole:
            return
        if loose:
            self._tail = UNINDEXED_END
        else:
            self.lost_bytes += end - chunks[-1].end if len(chunks) < found else 0
            end = chunks[-1].end
            self._tail = last + record(DATA_END, bytes(4))
            start = end + len(self._tail)
            # A summary without schemas: readers collect these, and the counts, from the chunks.
            self._tail += b''.join(chunk.index() for chunk in chunks)
            self._tail += record(STATISTICS, bytes(46)) + end_of_file(start)
        self._end = end

    def __str__(self) -> str:
        return str(self._path)

    def exists(self) -> bool:
        """Return whether the file exists."""
        return self._path.exists()

    def is_dir(self) -> bool:
        """Return False."""
        return False

    def open(self, *_: Any) -> BinaryIO:
        """Open the file and its added end for reading."""
        return io.BufferedReader(_Joined(self._path.open('rb'), self._end, self._tail))


class _Joined(io.RawIOBase):
    """The first bytes of a file, followed by others from memory."""

    def __init__(self, file: BinaryIO, whole: int, tail: bytes) -> None:
        self._file, self._whole, self._tail, self._place = file, whole, tail, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        ends = {io.SEEK_CUR: self._place, io.SEEK_END: self._whole + len(self._tail)}
        self._place = ends.get(whence, 0) + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        if self._place < self._whole:
            self._file.seek(self._place)
            data = self._file.read(min(len(buffer), self._whole - self._place))
        else:
            start = self._place - self._whole
            data = self._tail[start:start + len(buffer)]
        buffer[:len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def walk(file: BinaryIO) -> tuple[int, list[Chunk], bool, int]:
    """Go through the records of the data section.

    Returns:
        End of the last complete record, the chunks, whether there are messages outside of chunks,
        and the number of bytes of an incomplete record behind.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    place, chunks, loose = len(MAGIC), list[Chunk](), False
    if file.read(place) != MAGIC:
        return place, chunks, loose, size
    lost = 0
    while place < size:
        file.seek(place)
        opcode, length = struct.unpack('<BQ', file.read(9).ljust(9, b'\0'))
        end = place + 9 + length
        if opcode in (FOOTER, DATA_END):
            break
        if opcode == 0 or end > size:
            lost = size - place
            break
        if opcode == CHUNK and length >= 40:
            start_ns, end_ns, content, _, name = struct.unpack('<QQQII', file.read(32))
            compression = file.read(min(name, length))
            stored, = struct.unpack('<Q', file.read(8).ljust(8, b'\0'))
            chunks.append(Chunk(place, end, end, start_ns, end_ns, content, compression, stored))
        elif opcode == MESSAGE_INDEX and chunks and length >= 2:
            channel, = struct.unpack('<H', file.read(2))
            chunks[-1].indexes[channel] = place
            chunks[-1].indexed_to = end
        elif opcode == MESSAGE:
            loose = True
        place = end
    return place, chunks, loose, lost


def _indexes(file: BinaryIO, chunks: list[Chunk]) -> bytes:
    """Return message indexes for the last chunk, whose own may be cut; drop damaged chunks."""
    while chunks:
        chunk = chunks[-1]
        file.seek(chunk.offset + 9 + 32 + len(chunk.compression) + 8)
        try:
            counts = Counter(_channels(decompress(file.read(chunk.stored), chunk)))
        except Exception:  # decompressors can raise anything on damaged bytes
            del chunks[-1]
            continue
        chunk.indexes.clear()
        data = b''
        for channel, count in counts.items():
            chunk.indexes[channel] = chunk.end + len(data)
            # Readers only need the number of entries, which they take from the length.
            entries = bytes(16 * count)
            data += record(MESSAGE_INDEX, struct.pack('<HI', channel, len(entries)) + entries)
        chunk.indexed_to = chunk.end + len(data)
        return data
    return b''


def decompress(data: bytes, chunk: Chunk) -> bytes:
    """Return a chunk's content.

    Raises:
        ValueError: the content does not have the size that the chunk states.
        Exception: whatever the decompressors raise on damaged bytes.
    """
    if chunk.compression == b'zstd':
        data = zstd.decompress(data)
    elif chunk.compression == b'lz4':
        from lz4.frame import decompress as decompress_lz4  # type: ignore[import-untyped]

        data = decompress_lz4(data)
    if len(data) != chunk.size:
        raise ValueError(f'{len(data)} bytes, expected {chunk.size}')
    return data


def _channels(content: bytes) -> Iterator[int]:
    """Yield the channel of each message in a chunk's content."""
    place = 0
    while place < len(content):
        opcode, length = struct.unpack_from('<BQ', content, place)
        if opcode == MESSAGE:
            yield struct.unpack_from('<H', content, place + 9)[0]
        place += 9 + length
