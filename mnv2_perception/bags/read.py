"""Read ROS 2 and ROS 1 bags: their topics, and their messages one at a time in time order."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass
import heapq
import logging
from pathlib import Path
import struct
from typing import Any, NamedTuple

from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    Qos,
    QosDurability,
    QosReliability,
)
from rosbags.rosbag2 import Reader

from mnv2_perception.bags.damage import Losses, Raw, readable_of
from mnv2_perception.bags.files import find_files, Metadata, open_file
from mnv2_perception.bags.message_types import MessageType
from mnv2_perception.bags.ros1 import Ros1File
from mnv2_perception.bags.zstandard import zstd
from mnv2_perception.errors import BagError, with_home

STAMP_BYTES = 12  # length of a serialised message up to the end of its header's stamp
logger = logging.getLogger(__name__)
# In a bag with compression of messages each message begins so; CDR never does.
ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
Stream = Callable[['Reader | Ros1File', list[Connection]], Iterator[Raw]]


@dataclass(frozen=True)
class TopicQos:
    """The QoS that a topic's publishers offered; a player offers the same.

    Attributes:
        reliable: False if any publisher was best effort.
        transient_local: True (latched) if every publisher was transient local.
        depth: Length of the history, messages; 0 where unknown (DDS discovery does not tell it).
    """

    reliable: bool = True
    transient_local: bool = False
    depth: int = 0


@dataclass(frozen=True)
class BagTopic:
    """One topic of a bag.

    Attributes:
        name: Absolute topic name.
        type_name: ROS 2 type, such as ``sensor_msgs/msg/Image``.
        message_count: Number of messages in the bag.
        qos: QoS that its publishers offered; None where the bag does not say.
        type_hash: RIHS01 hash of the type; empty where the bag does not say.
        definition: Definition of the type and of all types it uses; empty where the bag has none.
    """

    name: str
    type_name: str
    message_count: int
    qos: TopicQos | None
    type_hash: str
    definition: str


class BagMessage(NamedTuple):
    """One recorded message, still serialised.

    Attributes:
        topic: Absolute topic name.
        type_name: ROS 2 type, such as ``sensor_msgs/msg/Image``.
        stamp_ns: Time of recording, ns since the epoch (not the header's stamp).
        cdr: The message as it was on the wire, encapsulation header included.
    """

    topic: str
    type_name: str
    stamp_ns: int
    cdr: bytes


def header_stamp_ns(cdr: bytes) -> int:
    """Read the stamp of a message that begins with a std_msgs/Header, without deserialising it.

    Args:
        cdr: The serialised message, encapsulation header included.

    Returns:
        The header's stamp, ns.

    Raises:
        BagError: The message is too short to have a stamp.
    """
    if len(cdr) < STAMP_BYTES:
        raise BagError(
            f'a message of {len(cdr)} bytes has no header, expected at least {STAMP_BYTES}; check '
            f'its publisher'
        )
    byte_order = '<' if cdr[1] & 1 else '>'
    seconds, nanoseconds = struct.unpack_from(f'{byte_order}iI', cdr, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


class BagReader:
    """A bag (a folder, or one .mcap, .db3 or .bag file), open until ``close`` or ``with`` ends it.

    A ROS 1 bag reads as if ROS 2 had recorded it. The content is read from the storage files;
    metadata.yaml, where there is one, adds QoS and the number of messages to expect.

    Attributes:
        path: Path of the bag.
        topics: The topics, sorted by name.
        message_count: Number of messages of all topics.
        start_ns: Time when the first message was recorded, ns since the epoch.
        end_ns: Time when the last message was recorded, ns since the epoch.
        missing: Number of messages of each topic that metadata.yaml promises but that are not in
            the files; set once an iteration over ``messages`` or ``readable`` has ended.
        losses: What ``readable`` could not read, and what a killed recorder left incomplete.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a bag and read its topics, but none of its messages.

        Args:
            path: A bag folder, or a single .mcap, .db3 or .bag file.

        Raises:
            BagError: The bag is missing, damaged or empty.
        """
        self.path = with_home(path)
        self._stack = ExitStack()
        self._readers: list[Reader | Ros1File] = []
        self._types: dict[str, MessageType] = {}
        self.missing: dict[str, int] = {}
        self.losses = Losses()
        try:
            with _bag_errors(self.path):
                files, self._metadata = find_files(self.path)
                for file in files:
                    self._readers.append(open_file(file, self._stack, self.losses))
            self.message_count = sum(reader.message_count for reader in self._readers)
            if self.message_count == 0:
                raise BagError(
                    f'{self.path}: the bag holds no messages; expected at least one; check that '
                    'the topics were being published, under those names, while it was recorded'
                )
            self.topics = _topics(self._readers, self._metadata)
        except BaseException:
            self._stack.close()
            raise
        self.start_ns = min(r.start_time for r in self._readers if r.message_count)
        self.end_ns = max(r.end_time - 1 for r in self._readers if r.message_count)

    def __enter__(self) -> 'BagReader':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the bag's files; calling it again is harmless."""
        self._stack.close()

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """Iterate over the messages in the order they were recorded, holding one chunk at a time.

        Args:
            topics: Names of the topics to read; None for all.

        Returns:
            An iterator over the messages.

        Raises:
            BagError: A topic is not in the bag; while iterating: the bag is damaged.
        """
        return self._messages(self._names(topics), _messages_of)

    def readable(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """Iterate over the messages as ``messages`` does, but skip damaged parts; see ``losses``.

        Args:
            topics: Names of the topics to read; None for all.

        Raises:
            BagError: A topic is not in the bag.
        """
        self.losses.messages.clear()
        return self._messages(
            self._names(topics), lambda reader, of: readable_of(reader, of, self.losses)
        )

    def _names(self, topics: Collection[str] | None) -> set[str]:
        if topics is None:
            return {topic.name for topic in self.topics}
        self.require(topics)
        return set(topics)

    def require(self, topics: Collection[str]) -> None:
        """Check that the bag has these topics.

        Args:
            topics: Absolute topic names.

        Raises:
            BagError: One of them is not in the bag.
        """
        names = sorted({topic.name for topic in self.topics})
        if missing := sorted(set(topics) - set(names)):
            raise BagError(
                f'{self.path}: no topic {", ".join(missing)} in the bag; choose from '
                f'{", ".join(names)}'
            )

    def deserialize(self, message: BagMessage) -> Any:
        """Deserialise a message, by the bag's own definition of its type if there is one.

        Args:
            message: A message of this bag.

        Returns:
            An object with the message's fields as attributes; arrays of numbers are numpy arrays.

        Raises:
            BagError: The type is not known, or the bytes do not fit it.
        """
        return self.message_type(message.type_name).deserialize(message.topic, message.cdr)

    def message_type(self, name: str) -> MessageType:
        """Return a type by its name, with the bag's own definition if there is one."""
        if name not in self._types:
            definitions = (
                connection.msgdef
                for reader in self._readers
                for connection in reader.connections
                if _ros2_name(connection) == name and connection.msgdef.data
            )
            self._types[name] = MessageType(self.path, name, next(definitions, None))
        return self._types[name]

    def _messages(self, names: Collection[str], of: Stream) -> Iterator[BagMessage]:
        streams = [
            of(reader, connections)
            for reader in self._readers
            # rosbags takes an empty list for all connections.
            if (connections := [c for c in reader.connections if c.topic in names])
        ]
        came: Counter[str] = Counter()
        with _bag_errors(self.path):
            for connection, stamp_ns, cdr in heapq.merge(*streams, key=lambda item: item[1]):
                if connection is None:
                    continue
                came[connection.topic] += 1
                if cdr.startswith(ZSTD_MAGIC):
                    cdr = zstd.decompress(cdr)
                yield BagMessage(connection.topic, _ros2_name(connection), stamp_ns, cdr)
        promised = Counter({n: self._metadata.counts[n] for n in names})
        if self.missing or not (promised - came):
            return
        self.missing = dict(promised - came)
        logger.warning(
            '%s: metadata.yaml promises more messages than the bag has; missing: %s (recorder '
            'killed, disk full, or copied in part?)',
            self.path, ', '.join(f'{count} of {name}' for name, count in self.missing.items()),
        )


@contextmanager
def _bag_errors(path: Path) -> Iterator[None]:
    """Convert what rosbags and its decompressors raise on a damaged file to a BagError."""
    try:
        yield
    except BagError:
        raise
    except OSError as exc:
        raise BagError(f'{path}: cannot be read ({exc}); check the path and its '
                       f'permissions') from exc
    except Exception as exc:  # Parsers can raise anything on damaged bytes.
        files = [path] if path.is_file() else sorted(path.iterdir())
        if 'Profile is not ros2' in str(exc):
            raise BagError(
                f'{path}: is an MCAP file that ROS 2 did not record, for example one of '
                f"Foxglove's SDK or a converted ROS 1 bag; expected the profile ros2, as `ros2 "
                f'bag record` writes it; give the original ROS 1 bag, or convert this file'
            ) from exc
        if any(file.suffix == '.bag' for file in files):
            recover = "'rosbag reindex IN.bag' where ROS 1 is installed"
        elif any(file.suffix == '.mcap' for file in files):
            recover = "'mcap recover IN.mcap -o OUT.mcap'"
        else:
            recover = "'sqlite3 IN.db3 .recover | sqlite3 OUT.db3'"
        raise BagError(
            f'{path}: cannot be read as a bag ({exc}); if it is incomplete (copied in part, '
            f'recorder killed), copy it again or recover the intact part with {recover}'
        ) from exc


def _ros2_name(connection: Connection) -> str:
    """Return the ROS 2 name of a type, also where a recorder wrote ``sensor_msgs/Image``."""
    name = connection.msgtype
    return name.replace('/', '/msg/') if name.count('/') == 1 else name


def _messages_of(reader: Reader | Ros1File, connections: list[Connection]) -> Iterator[Raw]:
    """Yield the start time alone, then the messages: a merge reads no file before it is due."""
    yield None, reader.start_time, b''
    yield from reader.messages(connections)


def _topics(readers: list[Reader | Ros1File], metadata: Metadata) -> tuple[BagTopic, ...]:
    """Merge the connections of all readers into topics; a topic may have several connections."""
    connections: dict[tuple[str, str], list[Connection]] = {}
    for reader in readers:
        for connection in reader.connections:
            key = (connection.topic, _ros2_name(connection))
            connections.setdefault(key, []).append(connection)
    return tuple(
        BagTopic(
            name=name,
            type_name=type_name,
            message_count=sum(connection.msgcount for connection in group),
            qos=_topic_qos(metadata.qos.get(name) or _offers(group)),
            type_hash=(
                metadata.type_hashes.get(name) or next((c.digest for c in group if c.digest), '')
            ),
            definition=next((c.msgdef.data for c in group if c.msgdef.data), ''),
        )
        for (name, type_name), group in sorted(connections.items())
    )


def _offers(connections: list[Connection]) -> list[Qos]:
    return [
        profile
        for connection in connections
        if isinstance(connection.ext, ConnectionExtRosbag2)
        for profile in connection.ext.offered_qos_profiles
    ]


def _topic_qos(profiles: list[Qos]) -> TopicQos | None:
    if not profiles:
        return None
    return TopicQos(
        reliable=all(p.reliability is not QosReliability.BEST_EFFORT for p in profiles),
        transient_local=all(p.durability is QosDurability.TRANSIENT_LOCAL for p in profiles),
        depth=max(profile.depth for profile in profiles),
    )
