"""Read ROS 1 bags as if ROS 2 had recorded them: with its type names, definitions and CDR."""

from collections.abc import Iterator
from pathlib import Path

from rosbags.convert.converter import is_same_wireformat, LATCH
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag1,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
)
from rosbags.interfaces.typing import Typesdict
from rosbags.rosbag1 import Reader
from rosbags.typesys import get_types_from_msg, get_typestore, Stores
from rosbags.typesys.store import Typestore

from mnv2_perception.bags.definitions import jazzy_types

RENAMED = {'tf/msg/tfMessage': 'tf2_msgs/msg/TFMessage'}
HEADER = 'std_msgs/msg/Header'


class Ros1File:
    """An open ROS 1 bag, with as much of the interface of rosbags' ROS 2 reader as is used here.

    Types that ROS 2 has in the same layout become ROS 2's. Others stay as the bag defines them,
    with ROS 2's header.

    Args:
        path: path of the .bag file.

    Attributes:
        connections: the connections, with ROS 2's types.
        message_count: number of messages of all connections.
        start_time: time of the first message, ns since the epoch.
        end_time: a nanosecond after the last message.

    Raises:
        Exception: whatever rosbags raises if the file is damaged or has no index.
    """

    def __init__(self, path: Path) -> None:
        self._reader = Reader(path)
        self._reader.open()
        try:
            self._stores: dict[str, Typestore] = {}
            self._originals = {each.id: each for each in self._reader.connections}
            self.connections = [self._converted(each) for each in self._originals.values()]
        except BaseException:
            self._reader.close()
            raise
        self.message_count = sum(each.msgcount for each in self.connections)
        self.start_time, self.end_time = self._reader.start_time, self._reader.end_time

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def messages(self, connections: list[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield (connection, recording time in ns, CDR) of the messages, in time order."""
        ours = {each.id: each for each in connections}
        for original, stamp_ns, raw in self._reader.messages(
            [self._originals[number] for number in ours]
        ):
            connection = ours[original.id]
            store = self._stores[connection.msgtype]
            yield connection, stamp_ns, bytes(store.ros1_to_cdr(raw, connection.msgtype))

    def _converted(self, original: Connection) -> Connection:
        name = RENAMED.get(original.msgtype, original.msgtype)
        if name not in self._stores:
            self._stores[name] = self._store_of(original, name)
        definition, _ = self._stores[name].generate_msgdef(name, ros_version=2)
        latching = isinstance(original.ext, ConnectionExtRosbag1) and original.ext.latching
        return original._replace(
            msgtype=name, digest='', ext=ConnectionExtRosbag2('cdr', LATCH if latching else []),
            msgdef=MessageDefinition(MessageDefinitionFormat.MSG, definition),
        )

    def _store_of(self, original: Connection, name: str) -> Typestore:
        """Return ROS 2's types if the layout of the type is the same, otherwise the bag's."""
        jazzy = jazzy_types()
        theirs: Typesdict = get_types_from_msg(original.msgdef.data, original.msgtype)
        if name in jazzy.fielddefs:
            bag_store = get_typestore(Stores.EMPTY)
            bag_store.register(theirs)
            try:
                if is_same_wireformat(bag_store, jazzy, original.msgtype, name):
                    return jazzy
            except KeyError:  # ROS 2 lacks a type that this one uses
                pass
        store = get_typestore(Stores.EMPTY)
        times = {each: jazzy.fielddefs[each] for each in (
            HEADER, 'builtin_interfaces/msg/Time', 'builtin_interfaces/msg/Duration'
        )}
        store.register({**theirs, **times, name: theirs[original.msgtype]})
        return store
