"""A storage file's messages past what is damaged, and what was lost there."""

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
    """What of a bag could not be read.

    Attributes:
        messages: how many of each topic, where that can be told.
        reasons: why, each once.
    """

    messages: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, None] = field(default_factory=dict)

    def add(self, messages: Counter[str], reason: object) -> None:
        """Count a loss."""
        self.messages += messages
        self.reasons[' '.join(f'{type(reason).__name__}: {reason}'.split())[:200]] = None


class _Due(NamedTuple):
    """A message, or where `connection` is None only that a chunk begins."""

    stamp_ns: int
    offset: int
    connection: Connection | None
    cdr: bytes


def readable_of(reader: Any, connections: list[Connection], losses: Losses) -> Iterator[Raw]:
    """Yield the messages of an open storage file in the order of time, past what is damaged.

    Of an mcap with chunks a damaged one is left out; any other file ends where it is damaged. It
    begins with its time alone, so that merging reads no file before it is due.
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
    except Exception as exc:  # on a damaged file the parsers fail in whatever way its bytes lead
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
