"""Topics of bags: their message classes, QoS and names, and a CSV log of messages."""

from contextlib import suppress
import csv
import importlib
from pathlib import Path
from typing import Any, TextIO

from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rclpy.validate_full_topic_name import validate_full_topic_name

from mnv2_perception.bags.read import BagTopic, header_stamp_ns, STAMP_BYTES, TopicQos
from mnv2_perception.errors import BagError

DEFAULT_DEPTH = 10  # What `ros2 bag play` offers if the bag does not say.
LARGE_TYPES = {
    'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage', 'sensor_msgs/msg/PointCloud2',
    'nav_msgs/msg/OccupancyGrid',
}
LARGE_DEPTH = 10
SMALL_DEPTH = 100
TF = 'tf2_msgs/msg/TFMessage'
# Latched by convention, even if the bag has no QoS; volatile subscribers get latched topics, too.
LATCHED = {'tf_static', 'robot_description', 'map', 'label_info'}
LOG_HEADER = b'topic,stamp_ns,'


def message_class(type_name: str) -> Any:
    """Import the Python class of a message type.

    Args:
        type_name: ROS 2 type, such as ``sensor_msgs/msg/Image``.

    Returns:
        The class.

    Raises:
        BagError: The interface package is not installed, or has no such type.
    """
    package, _, name = type_name.split('/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError) as exc:
        raise BagError(
            f'{type_name}: not installed here ({exc}); install the interface package {package} '
            '(and source it)'
        ) from exc


def begins_with_header(message_type: Any) -> bool:
    """Tell whether a message class begins with a std_msgs/Header."""
    fields = message_type.get_fields_and_field_types()
    return next(iter(fields.values()), '') == 'std_msgs/Header'


def is_static_tf(topic: BagTopic) -> bool:
    """Tell whether a topic is one that tf2's static broadcasters publish."""
    return topic.type_name == TF and topic.name.rpartition('/')[2] == 'tf_static'


def publisher_qos(topic: BagTopic) -> QoSProfile:
    """Return the QoS to publish a topic with: that of the recording; latched stays latched."""
    known = TopicQos(transient_local=topic.name.rpartition('/')[2] in LATCHED, depth=1)
    # A tf2 listener does not match a static broadcaster that is not latched.
    offered = known if is_static_tf(topic) else topic.qos or known
    latched = offered.transient_local
    return profile(offered, offered.depth if latched and offered.depth > 0 else DEFAULT_DEPTH)


def subscription_qos(qos: TopicQos, type_name: str) -> QoSProfile:
    """Return the QoS to record a topic with."""
    return profile(qos, LARGE_DEPTH if type_name in LARGE_TYPES else SMALL_DEPTH)


def profile(qos: TopicQos, depth: int) -> QoSProfile:
    """Convert a topic's QoS to rclpy's profile."""
    return QoSProfile(
        depth=depth,
        reliability=(
            ReliabilityPolicy.RELIABLE if qos.reliable else ReliabilityPolicy.BEST_EFFORT
        ),
        durability=(
            DurabilityPolicy.TRANSIENT_LOCAL if qos.transient_local else DurabilityPolicy.VOLATILE
        ),
    )


def offered_qos(publishers: list[TopicEndpointInfo]) -> TopicQos:
    """Return the QoS that all of a topic's publishers offer, so that a subscription matches each.

    Args:
        publishers: info of each publisher, at least one.

    Returns:
        The weakest of their offers.
    """
    profiles = [publisher.qos_profile for publisher in publishers]
    return TopicQos(
        reliable=all(p.reliability != ReliabilityPolicy.BEST_EFFORT for p in profiles),
        transient_local=all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles),
        depth=max(p.depth for p in profiles),
    )


def absolute(name: str) -> str:
    """Return a topic name with a leading slash."""
    return name if name.startswith('/') else f'/{name}'


def split_remap(rule: str) -> tuple[str, str]:
    """Return both names of a rule `from:=to`; the first absolute, as topics of a bag are.

    Raises:
        BagError: it is not a rule, or the second part is not a topic name.
    """
    old, separator, new = rule.partition(':=')
    if not (old and separator and new):
        raise BagError(f"remap {rule!r} is not a rule; expected 'from:=to', such as /a:=/b")
    try:
        validate_full_topic_name(absolute(new))
    except InvalidTopicNameException as exc:
        raise BagError(f'remap {rule!r}: {exc}') from exc
    return absolute(old), new


def open_log(path: str) -> TextIO:
    """Create a CSV file for a log.

    Args:
        path: Path of the file; an older log is replaced, any other file is not.

    Returns:
        The open file, written line by line so that it can be followed.

    Raises:
        BagError: It cannot be created.
    """
    try:
        if Path(path).is_file() and not _is_log(Path(path)):
            raise BagError(f'--log: {path} exists and is not such a log; choose another file')
        return Path(path).open('w', buffering=1, newline='', encoding='utf-8')
    except OSError as exc:
        raise BagError(f'--log: cannot be written ({exc}); choose another file') from exc


class MessageLog:
    """Logs which messages went through, and when, as CSV; a failure only ends the log.

    Args:
        path: see `open_log`.
        column: Name of the column of times.
        node: Node that logs a failure, once.
    """

    def __init__(self, path: str, column: str, node: Node) -> None:
        self._file: TextIO | None = open_log(path)
        self._path, self._node = path, node
        self._write(['topic', 'stamp_ns', column])

    def write(self, topic: str, cdr: bytes, stamped: bool, time_ns: int) -> None:
        """Add a message; `stamped`: whether its type begins with a header."""
        stamp = header_stamp_ns(cdr) if stamped and len(cdr) >= STAMP_BYTES else ''
        self._write([topic, stamp, time_ns])

    def close(self) -> None:
        """Close the file."""
        if self._file:
            with suppress(OSError):
                self._file.close()

    def _write(self, row: list[object]) -> None:
        if self._file is None:
            return
        try:
            csv.writer(self._file).writerow(row)
        except OSError as exc:
            self._node.get_logger().error(
                f'--log: {self._path} cannot be written ({exc}); the log ends here, everything '
                f'else continues'
            )
            self.close()
            self._file = None


def _is_log(path: Path) -> bool:
    with path.open('rb') as file:
        return file.read(len(LOG_HEADER)) in (b'', LOG_HEADER)
