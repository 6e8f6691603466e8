"""bag_recorder_node: record topics into a ROS 2 bag (``mnv2 bag record``)."""

import argparse
from contextlib import ExitStack
from functools import partial
import sys
import time
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.subscription import Subscription

from mnv2_perception.bags.read import TopicQos
from mnv2_perception.bags.write import BagWriter
from mnv2_perception.errors import BagError, PerceptionError
from mnv2_perception.nodes.bag_arguments import declared, recorder_arguments
from mnv2_perception.nodes.bag_parameters import BagRecorderParameters
from mnv2_perception.nodes.bag_topics import (
    begins_with_header,
    message_class,
    MessageLog,
    offered_qos,
    subscription_qos,
)
from mnv2_perception.nodes.process import ros, tell
from mnv2_perception.nodes.rclpy_private import ToughNode

DISCOVERY_PERIOD_S = 0.05
# After a signal, messages that arrive within this time are still written.
DRAIN_S = 0.2


class BagRecorderNode(ToughNode):
    """Subscribes to topics as soon as they appear and writes their messages, unread, to a bag."""

    def __init__(self, arguments: argparse.Namespace | None = None) -> None:
        """Create the bag and begin to look for the topics.

        Args:
            arguments: From ``recorder_arguments``; a value that is not None overrides the
                parameter.

        Raises:
            BagError: Out or topics are missing or wrong, or the bag or the log cannot be created.
        """
        super().__init__('bag_recorder')
        settings = self.settings = declared(self, BagRecorderParameters, arguments)
        if not settings.out or not settings.topics:
            raise BagError(
                'nothing to record; name the new bag (--out DIR) and at least one topic, or set '
                "the parameters 'out' and 'topics'"
            )
        try:
            self.topics = [self.resolve_topic_name(topic) for topic in settings.topics]
        except Exception as exc:  # rclpy's RCLError is private
            raise BagError(f'{", ".join(settings.topics)}: no valid topic name ({exc})') from exc
        self._log: MessageLog | None = None
        with ExitStack() as files:
            self._writer = files.enter_context(BagWriter(settings.out, settings.storage))
            if settings.log:
                self._log = MessageLog(settings.log, 'received_ns', self)
                files.callback(self._log.close)
            self._files = files.pop_all()
        self._subscription_of: dict[str, tuple[TopicQos, Subscription]] = {}
        self._refused: set[str] = set()
        # A steady clock: topics must be found even while simulated time stands still.
        self.create_timer(
            DISCOVERY_PERIOD_S, self.discover, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    @property
    def received(self) -> dict[str, int]:
        """Number of messages written so far, by topic; 0 for a topic that never appeared."""
        return {topic: self._writer.message_counts.get(topic, 0) for topic in self.topics}

    def discover(self) -> None:
        """Subscribe to topics that have appeared; weaken a QoS that not all publishers can serve.

        Raises:
            BagError: The disk could not take earlier messages.
        """
        self._writer.flush()
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
            BagError: The disk could not take the rest.
        """
        self._files.close()

    def _subscribe(self, topic: str, type_name: str, message_type: Any, qos: TopicQos) -> None:
        on_message = partial(self._on_message, topic, begins_with_header(message_type))
        subscription = self.create_subscription(
            message_type, topic, on_message, subscription_qos(qos, type_name), raw=True
        )
        self._subscription_of[topic] = (qos, subscription)
        self.get_logger().info(f'recording {topic} ({type_name})')
        tell('recording', topic=topic, type=type_name)

    def _on_message(self, topic: str, stamped: bool, cdr: bytes) -> None:
        received_ns = time.monotonic_ns()
        self._writer.write(topic, self.get_clock().now().nanoseconds, cdr)
        if self._log:
            self._log.write(topic, cdr, stamped, received_ns)


def main(args: list[str] | None = None) -> int:
    """Record until SIGINT or SIGTERM; print JSON lines: topics found, then the counts.

    Args:
        args: Command line without the program's name; None: that of sys.argv.

    Returns:
        Exit code: 0, or 1 with a message on stderr.
    """
    arguments, ros_args = recorder_arguments(args)
    try:
        with ros(ros_args) as stop:
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
    tell('done', bag=node.settings.out, received=node.received)
    return 0


if __name__ == '__main__':
    sys.exit(main())
