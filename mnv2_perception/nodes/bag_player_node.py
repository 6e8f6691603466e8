"""bag_player_node: play a ROS 2 bag with its original spacing and /clock (``mnv2 bag play``)."""

import argparse
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
import csv
from dataclasses import replace
import importlib
import itertools
import json
from pathlib import Path
import signal
import sys
import threading
import time
from typing import Any, TextIO

import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from rclpy.validate_full_topic_name import validate_full_topic_name
from rosgraph_msgs.msg import Clock

from mnv2_perception.bags.read import BagMessage, BagReader, header_stamp_ns, TopicQos
from mnv2_perception.errors import BagError, PerceptionError
from mnv2_perception.nodes.parameters import BagPlayerParameters, declare, read

DEFAULT_DEPTH = 10  # What `ros2 bag play` offers where the bag does not tell.
ACK_TIMEOUT_S = 5.0
POLL_S = 0.02
# A 1080p image takes 6 ms to read, and now and then the disk much longer.
READ_AHEAD = 4


def parse_arguments(args: list[str]) -> argparse.Namespace:
    """Parse a command line without ROS arguments; what is not given there is None."""
    parser = argparse.ArgumentParser(
        prog='mnv2 bag play', description='Play a ROS 2 bag with its original spacing and /clock.'
    )
    parser.add_argument('bag', nargs='?', metavar='BAG', help='folder, .mcap or .db3 file')
    parser.add_argument('--rate', type=float, help='bag seconds per second (1.0)')
    parser.add_argument('--loop', action='store_const', const=True, help='start again at the end')
    parser.add_argument('--topics', nargs='+', metavar='T', help='play only these')
    parser.add_argument('--remap', nargs='+', metavar='A:=B', help='publish A under the name B')
    parser.add_argument(
        '--start-delay', type=float, dest='start_delay_s', metavar='SECONDS',
        help='time for discovery before the first message (0.5)',
    )
    parser.add_argument(
        '--wait-for-subscribers', type=float, dest='wait_for_subscribers_s', metavar='SECONDS',
        help='longest wait until every played topic has a subscriber (0: do not wait)',
    )
    parser.add_argument(
        '--wait-for-topics', nargs='+', metavar='T', help='wait for subscribers of these only'
    )
    parser.add_argument('--clock-hz', type=float, help='/clock messages per second (100; 0: none)')
    parser.add_argument('--log', metavar='FILE.csv', help='write topic,stamp_ns,published_ns')
    return parser.parse_args(args)


def split_ros_arguments(args: list[str]) -> tuple[list[str], list[str]]:
    """Separate a program's own arguments from those between ``--ros-args`` and ``--``.

    rclpy's ``remove_ros_args`` would take the ``a:=b`` of our ``--remap`` for its own.

    Args:
        args: Command line without the program's name.

    Returns:
        Own arguments, and ROS arguments with the marks around them.
    """
    own: list[str] = []
    ros: list[str] = []
    target = own
    for arg in args:
        if arg == '--ros-args':
            target = ros
        target.append(arg)
        if arg == '--' and target is ros:
            target = own
    return own, ros


def message_class(type_name: str) -> Any:
    """Import the Python class of a message type.

    Args:
        type_name: ROS 2 type, as ``sensor_msgs/msg/Image``.

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


def read_ahead(messages: Iterator[BagMessage]) -> Iterator[BagMessage]:
    """Read the next few messages in a thread, so that a slow disk delays none.

    Args:
        messages: What to read; from now on only through the result.

    Returns:
        The same messages in the same order.
    """
    with ThreadPoolExecutor(1) as thread:
        pending = deque(thread.submit(next, messages, None) for _ in range(READ_AHEAD))
        while (message := pending.popleft().result()) is not None:
            pending.append(thread.submit(next, messages, None))
            yield message


def open_log(path: str) -> TextIO:
    """Create a CSV file.

    Args:
        path: Where; an older file is replaced.

    Returns:
        The open file, written line by line so that it can be followed.

    Raises:
        BagError: It cannot be made.
    """
    try:
        return Path(path).open('w', buffering=1, newline='', encoding='utf-8')
    except OSError as exc:
        raise BagError(f'--log: cannot be written ({exc}); choose another file') from exc


def begins_with_header(message_type: Any) -> bool:
    """Tell whether a message class begins with a std_msgs/Header."""
    fields = message_type.get_fields_and_field_types()
    return next(iter(fields.values()), '') == 'std_msgs/Header'


def publisher_qos(offered: TopicQos | None) -> QoSProfile:
    """Return the QoS to publish a topic with: as it was when recorded; latched stays latched."""
    offered = offered or TopicQos()
    latched = offered.transient_local
    return QoSProfile(
        depth=offered.depth if latched and offered.depth > 0 else DEFAULT_DEPTH,
        reliability=(
            ReliabilityPolicy.RELIABLE if offered.reliable else ReliabilityPolicy.BEST_EFFORT
        ),
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


class BagPlayerNode(Node):
    """Publishes the serialised messages of a bag as they were recorded, and /clock."""

    def __init__(self, arguments: argparse.Namespace | None = None) -> None:
        """Open the bag and create the publishers.

        Args:
            arguments: From ``parse_arguments``; what is not None there beats the parameter.

        Raises:
            BagError: The bag cannot be read, or nothing of it can be played.
        """
        super().__init__('bag_player')
        declare(self, BagPlayerParameters, read_only=True)
        given = {k: v for k, v in vars(arguments or argparse.Namespace()).items() if v is not None}
        self.settings = _checked(replace(read(self, BagPlayerParameters), **given))
        self.published: Counter[str] = Counter()
        self.skipped: dict[str, str] = {}
        self.error: Exception | None = None
        self._stop = threading.Event()
        self._log: Any = None
        with ExitStack() as files:
            self._reader = files.enter_context(BagReader(self.settings.bag))
            self._create_publishers()
            if self.settings.log:
                self._log = csv.writer(files.enter_context(open_log(self.settings.log)))
                self._log.writerow(['topic', 'stamp_ns', 'published_ns'])
            self._files = files.pop_all()
        self._thread = threading.Thread(target=self._run, name='play')

    def start(self) -> None:
        """Begin to play, in a thread of its own."""
        self._thread.start()

    @property
    def playing(self) -> bool:
        """False once the end was reached, ``stop`` was called, or it failed (``error``)."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End playing; returns at once."""
        self._stop.set()

    def close(self) -> None:
        """End playing and close the files."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join()
        self._files.close()

    def _create_publishers(self) -> None:
        remap = dict(_split_remap(rule) for rule in self.settings.remap)
        wanted = [_absolute(name) for name in self.settings.topics]
        waited_for = [_absolute(name) for name in self.settings.wait_for_topics]
        self._reader.require([*wanted, *waited_for, *remap])
        self._publisher_of: dict[tuple[str, str], Any] = {}
        self._waiting_publishers: list[Any] = []
        self._stamped: set[str] = set()
        message_count = 0
        for topic in self._reader.topics:
            if wanted and topic.name not in wanted:
                continue
            try:
                message_type = message_class(topic.type_name)
            except BagError as exc:
                self.skipped[topic.name] = topic.type_name
                self.get_logger().warning(f'skipping {topic.name}: {exc}')
                continue
            publisher = self.create_publisher(
                message_type, remap.get(topic.name, topic.name), publisher_qos(topic.qos)
            )
            self._publisher_of[topic.name, topic.type_name] = publisher
            if not waited_for or topic.name in waited_for:
                self._waiting_publishers.append(publisher)
            message_count += topic.message_count
            if begins_with_header(message_type):
                self._stamped.add(topic.type_name)
        if message_count == 0:
            raise BagError(
                f'{self.settings.bag}: no message can be played; choose topics that have some, '
                'and install the packages named above'
            )
        # A recorded /clock is the one that the recorded headers were stamped by.
        recorded = '/clock' in {name for name, _ in self._publisher_of}
        own_clock = self.settings.clock_hz > 0 and not recorded
        # Reliable, so that it reaches reliable and best-effort subscribers alike.
        self._clock = self.create_publisher(Clock, '/clock', DEFAULT_DEPTH) if own_clock else None

    def _run(self) -> None:
        try:
            self._play()
            deadline_s = time.monotonic() + ACK_TIMEOUT_S
            for publisher in self._publisher_of.values():
                left_s = deadline_s - time.monotonic()
                if not self._stop.is_set() and left_s > 0:
                    publisher.wait_for_all_acked(Duration(seconds=left_s))
        except Exception as exc:  # A thread must hand its exception over; main() reports it.
            self.error = exc

    def _play(self) -> None:
        topics = {name for name, _ in self._publisher_of}
        for turn in itertools.count():
            messages = read_ahead(self._reader.messages(topics))
            first = next(messages)
            if turn == 0:
                self._wait_for_listeners(first.stamp_ns)
            self._play_once(first, messages)
            if self._stop.is_set() or not self.settings.loop:
                return

    def _wait_for_listeners(self, start_ns: int) -> None:
        """Hold /clock at the start of the bag until subscribers and discovery had their time."""
        deadline_s = time.monotonic() + self.settings.wait_for_subscribers_s
        while (lonely := self._topics_without_subscriber()) and time.monotonic() < deadline_s:
            self._publish_clock(start_ns)
            if self._stop.wait(POLL_S):
                return
        if lonely and self.settings.wait_for_subscribers_s > 0:
            self.get_logger().warning(f'nobody subscribes to {", ".join(lonely)}; playing anyway')
        deadline_s = time.monotonic() + self.settings.start_delay_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            self._publish_clock(start_ns)
            if self._stop.wait(min(POLL_S, left_s)):
                return

    def _topics_without_subscriber(self) -> list[str]:
        return [p.topic_name for p in self._waiting_publishers if not p.get_subscription_count()]

    def _play_once(self, first: BagMessage, rest: Iterator[BagMessage]) -> None:
        """Publish each message at an absolute deadline, so that lateness never adds up."""
        begin_ns = time.monotonic_ns()
        rate = self.settings.rate
        # In bag time, so that /clock runs on at clock_hz of real time between far-apart messages.
        period_ns = round(1e9 * rate / self.settings.clock_hz) if self._clock else None

        def sleep_until(stamp_ns: int) -> bool:
            deadline_ns = begin_ns + round((stamp_ns - first.stamp_ns) / rate)
            return not self._stop.wait(max(0.0, (deadline_ns - time.monotonic_ns()) / 1e9))

        clock_ns = first.stamp_ns
        for message in itertools.chain([first], rest):
            while period_ns and clock_ns + period_ns < message.stamp_ns:
                clock_ns += period_ns
                if not sleep_until(clock_ns):
                    return
                self._publish_clock(clock_ns)
            if not sleep_until(message.stamp_ns):
                return
            clock_ns = message.stamp_ns
            self._publish_clock(clock_ns)
            self._publish(message)

    def _publish(self, message: BagMessage) -> None:
        publisher = self._publisher_of.get((message.topic, message.type_name))
        if publisher is None:  # The topic has a second type, which is not installed.
            return
        published_ns = time.monotonic_ns()
        publisher.publish(message.cdr)
        self.published[publisher.topic_name] += 1
        if self._log:
            stamp_ns = header_stamp_ns(message.cdr) if message.type_name in self._stamped else ''
            self._log.writerow([publisher.topic_name, stamp_ns, published_ns])

    def _publish_clock(self, stamp_ns: int) -> None:
        if self._clock:
            self._clock.publish(Clock(clock=Time(nanoseconds=stamp_ns).to_msg()))


def main(args: list[str] | None = None) -> int:
    """Play a bag to its end, or until SIGINT or SIGTERM; print the counts as one line of JSON.

    Args:
        args: Command line without the program's name; sys.argv's when None.

    Returns:
        Exit code: 0, or 1 with a message on stderr.
    """
    own_args, ros_args = split_ros_arguments(sys.argv[1:] if args is None else args)
    arguments = parse_arguments(own_args)
    # The signals end the playing, not the context: what is out must still be acknowledged.
    rclpy.init(args=ros_args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = BagPlayerNode(arguments)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: node.stop())
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        node.start()
        while node.playing:
            executor.spin_once(timeout_sec=0.1)
        node.close()
        if node.error:
            raise node.error
    except PerceptionError as exc:
        print(f'error: {exc}', file=sys.stderr)
        return 1
    finally:
        rclpy.shutdown()
    summary = {
        'bag': node.settings.bag,
        'published': dict(sorted(node.published.items())),
        'skipped': node.skipped,
    }
    print(json.dumps(summary), flush=True)
    return 0


def _absolute(name: str) -> str:
    return name if name.startswith('/') else f'/{name}'


def _split_remap(rule: str) -> tuple[str, str]:
    old, separator, new = rule.partition(':=')
    if not (old and separator and new):
        raise BagError(f"remap {rule!r} is not a rule; expected 'from:=to', as /a:=/b")
    try:
        validate_full_topic_name(_absolute(new))
    except InvalidTopicNameException as exc:
        raise BagError(f'remap {rule!r}: {exc}') from exc
    return _absolute(old), new


def _checked(settings: BagPlayerParameters) -> BagPlayerParameters:
    if not settings.bag:
        raise BagError("no bag was given; name one as argument or as the parameter 'bag'")
    if not settings.rate > 0:
        raise BagError(f'rate is {settings.rate}; expected more than 0, as 0.5 or 2')
    if not settings.clock_hz >= 0:
        raise BagError(f'clock_hz is {settings.clock_hz}; expected 0 (no /clock) or more')
    return settings


if __name__ == '__main__':
    sys.exit(main())
