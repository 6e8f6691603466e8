"""bag_recorder_node: record topics into a ROS 2 bag (``mnv2 bag record``)."""

import argparse
from contextlib import ExitStack
import csv
from dataclasses import replace
from functools import partial
import json
import signal
import sys
import threading
import time
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from mnv2_perception.bags.read import header_stamp_ns, TopicQos
from mnv2_perception.bags.write import BagWriter
from mnv2_perception.errors import BagError, PerceptionError
from mnv2_perception.nodes.bag_player_node import (
    begins_with_header,
    message_class,
    open_log,
    split_ros_arguments,
)
from mnv2_perception.nodes.parameters import BagRecorderParameters, declare, read

DISCOVERY_PERIOD_S = 0.05
# After a signal: what has arrived by then is still written.
DRAIN_S = 0.2
LARGE_TYPES = {
    'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage', 'sensor_msgs/msg/PointCloud2',
    'nav_msgs/msg/OccupancyGrid',
}
LARGE_DEPTH = 10
SMALL_DEPTH = 100


def parse_arguments(args: list[str]) -> argparse.Namespace:
    """Parse a command line without ROS arguments; what is not given there is None."""
    parser = argparse.ArgumentParser(
        prog='mnv2 bag record', description='Record topics into a ROS 2 bag until Ctrl-C.'
    )
    parser.add_argument('topics', nargs='*', metavar='TOPIC')
    parser.add_argument('--out', metavar='DIR', help="the new bag's folder")
    parser.add_argument('--storage', choices=['mcap', 'sqlite3'], help='(mcap)')
    parser.add_argument('--log', metavar='FILE.csv', help='write topic,stamp_ns,received_ns')
    arguments = parser.parse_args(args)
    arguments.topics = arguments.topics or None
    return arguments


def offered_qos(publishers: list[Any]) -> TopicQos:
    """Return what all of a topic's publishers offer, so that a subscription matches each of them.

    Args:
        publishers: rclpy TopicEndpointInfo of each publisher, at least one.

    Returns:
        The weakest of their offers.
    """
    profiles = [publisher.qos_profile for publisher in publishers]
    return TopicQos(
        reliable=all(p.reliability != ReliabilityPolicy.BEST_EFFORT for p in profiles),
        transient_local=all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles),
        depth=max(profile.depth for profile in profiles),
    )


class BagRecorderNode(Node):
    """Subscribes to topics as soon as they appear and writes what comes, unread, into a bag."""

    def __init__(self, arguments: argparse.Namespace | None = None) -> None:
        """Create the bag and begin to look for the topics.

        Args:
            arguments: From ``parse_arguments``; what is not None there beats the parameter.

        Raises:
            BagError: The bag or the log cannot be made.
        """
        super().__init__('bag_recorder')
        declare(self, BagRecorderParameters, read_only=True)
        given = {k: v for k, v in vars(arguments or argparse.Namespace()).items() if v is not None}
        settings = self.settings = replace(read(self, BagRecorderParameters), **given)
        if not settings.out or not settings.topics:
            raise BagError(
                'nothing to record; name the new bag (--out DIR) and at least one topic, or set '
                "the parameters 'out' and 'topics'"
            )
        try:
            self.topics = [self.resolve_topic_name(topic) for topic in settings.topics]
        except Exception as exc:  # rclpy's RCLError is private
            raise BagError(f'{", ".join(settings.topics)}: no topic name ({exc})') from exc
        self._log: Any = None
        with ExitStack() as files:
            self._writer = files.enter_context(BagWriter(settings.out, settings.storage))
            if settings.log:
                self._log = csv.writer(files.enter_context(open_log(settings.log)))
                self._log.writerow(['topic', 'stamp_ns', 'received_ns'])
            self._files = files.pop_all()
        self._subscription_of: dict[str, tuple[TopicQos, Any]] = {}
        self._refused: set[str] = set()
        # Topics must be found also while simulated time stands still.
        self.create_timer(
            DISCOVERY_PERIOD_S, self.discover, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    @property
    def received(self) -> dict[str, int]:
        """Messages written so far, per topic; 0 for a topic that never appeared."""
        return {topic: self._writer.message_counts.get(topic, 0) for topic in self.topics}

    def discover(self) -> None:
        """Subscribe to the topics that have appeared; weaken a QoS that not all can serve."""
        if self.get_clock().now().nanoseconds == 0:  # use_sim_time, and no /clock yet.
            return
        for topic in self.topics:
            publishers = self.get_publishers_info_by_topic(topic)
            if not publishers or topic in self._refused:
                continue
            qos = offered_qos(publishers)
            type_name = publishers[0].topic_type
            if topic not in self._subscription_of:
                try:
                    message_type = message_class(type_name)
                    self._writer.add_topic(topic, type_name, qos)
                except BagError as exc:
                    self._refused.add(topic)
                    self.get_logger().error(f'not recording {topic}: {exc}')
                    continue
                self._subscribe(topic, type_name, message_type, qos)
                continue
            known, subscription = self._subscription_of[topic]
            if (known.reliable and not qos.reliable) or (
                known.transient_local and not qos.transient_local
            ):
                self.destroy_subscription(subscription)
                weaker = TopicQos(
                    known.reliable and qos.reliable,
                    known.transient_local and qos.transient_local,
                )
                self._subscribe(topic, type_name, message_class(type_name), weaker)

    def close(self) -> None:
        """Finish the bag and the log.

        Raises:
            BagError: The disk took no more.
        """
        self._files.close()

    def _subscribe(self, topic: str, type_name: str, message_type: Any, qos: TopicQos) -> None:
        profile = QoSProfile(
            depth=LARGE_DEPTH if type_name in LARGE_TYPES else SMALL_DEPTH,
            reliability=(
                ReliabilityPolicy.RELIABLE if qos.reliable else ReliabilityPolicy.BEST_EFFORT
            ),
            durability=(
                DurabilityPolicy.TRANSIENT_LOCAL if qos.transient_local
                else DurabilityPolicy.VOLATILE
            ),
        )
        on_message = partial(self._on_message, topic, begins_with_header(message_type))
        subscription = self.create_subscription(
            message_type, topic, on_message, profile, raw=True
        )
        self._subscription_of[topic] = (qos, subscription)
        self.get_logger().info(f'recording {topic} ({type_name})')
        print(json.dumps({'event': 'recording', 'topic': topic}), flush=True)

    def _on_message(self, topic: str, stamped: bool, cdr: bytes) -> None:
        received_ns = time.monotonic_ns()
        self._writer.write(topic, self.get_clock().now().nanoseconds, cdr)
        if self._log:
            self._log.writerow([topic, header_stamp_ns(cdr) if stamped else '', received_ns])


def main(args: list[str] | None = None) -> int:
    """Record until SIGINT or SIGTERM; print the counts as one line of JSON.

    Args:
        args: Command line without the program's name; sys.argv's when None.

    Returns:
        Exit code: 0, or 1 with a message on stderr.
    """
    own_args, ros_args = split_ros_arguments(sys.argv[1:] if args is None else args)
    arguments = parse_arguments(own_args)
    # rclpy's own handlers would end the context, and with it what is received but not yet taken.
    rclpy.init(args=ros_args, signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        node = BagRecorderNode(arguments)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            while not stop.is_set():
                executor.spin_once(timeout_sec=DISCOVERY_PERIOD_S)
            end_s = time.monotonic() + DRAIN_S
            while time.monotonic() < end_s:
                executor.spin_once(timeout_sec=DISCOVERY_PERIOD_S)
        finally:
            node.close()
    except PerceptionError as exc:
        print(f'error: {exc}', file=sys.stderr)
        return 1
    finally:
        rclpy.shutdown()
    print(json.dumps({'bag': node.settings.out, 'received': node.received}), flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
