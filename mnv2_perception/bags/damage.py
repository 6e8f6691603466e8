"""Read the intact messages of a damaged storage file, and count what is lost."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
import heapq
from typing import Any, NamedTuple

from rosbags.interfaces import Connection
from rosbags.rosbag2.storage_mcap import msgsrc

Raw = tuple[Connection | None, int, bytes]


@dataclass
class Losses:
    """What could not be read from a bag.

    Attributes:
        messages: number of lost messages of each topic, where it is known.
        reasons: the reasons, each once.
    """

    messages: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, None] = field(default_factory=dict)

    def add(self, messages: Counter[str], reason: object) -> None:
        """Record lost messages and the reason."""
        self.messages += messages
        self.reasons[' '.join(f'{type(reason).__name__}: {reason}'.split())[:200]] = None


class _Due(NamedTuple):
    """A message; or, if `connection` is None, only a mark that a chunk begins at this time."""

    stamp_ns: int
    offset: int
    connection: Connection | None
    cdr: bytes


def readable_of(reader: Any, connections: list[Connection], losses: Losses) -> Iterator[Raw]:
    """Yield the intact messages of an open storage file in time order.

    In an mcap with chunks, damaged chunks are skipped; any other file ends at its first damage.
    The first item carries only the file's start time: a merge thus reads no file before it is due.
    """
    yield None, reader.start_time, b''
    if chunks := getattr(getattr(reader, 'storage', None), 'chunks', None):
        wanted = {connection.id: connection for connection in connections}
        streams = [
            _of_chunk(reader.storage.bio, chunk, wanted, losses) for chunk in chunks
            if any(chunk.channel_count.get(number) for number in wanted)
        ]
        for due in heapq.merge(*streams, key=lambda each: each[:2]):
            if due.connection is not None:
                yield due.connection, due.stamp_ns, due.cdr
        return
    came: Counter[str] = Counter()
    try:
        for connection, stamp_ns, cdr in reader.messages(connections):
            came[connection.topic] += 1
            yield connection, stamp_ns, cdr
    except Exception as exc:  # parsers can raise anything on damaged bytes
        promised: Counter[str] = Counter()
        for connection in connections:
            promised[connection.topic] += connection.msgcount
        losses.add(promised - came, exc)


def _of_chunk(
    file: Any, chunk: Any, wanted: dict[int, Connection], losses: Losses
) -> Iterator[_Due]:
    yield _Due(chunk.message_start_time, 0, None, b'')
    try:
        found = list(
            msgsrc(chunk, wanted, chunk.message_start_time, chunk.message_end_time + 1, file)
        )[1:]
    except Exception as exc:  # as above
        losses.add(
            Counter({
                connection.topic: chunk.channel_count.get(number, 0)
                for number, connection in wanted.items()
            }), exc,
        )
        return
    for message in found:
        yield _Due(
            message.timestamp, chunk.chunk_start_offset, message.connection, message.data or b''
        )
