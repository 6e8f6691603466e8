"""bag_player_node: play a ROS 2 bag with its original spacing and /clock (``mnv2 bag play``)."""

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
import itertools
import logging
import sys
import threading
import time

from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.publisher import Publisher
from rclpy.time import Time
from rosgraph_msgs.msg import Clock

from mnv2_perception.bags.playback import read_ahead, schedule
from mnv2_perception.bags.read import BagMessage, BagReader
from mnv2_perception.errors import BagError, PerceptionError
from mnv2_perception.nodes.bag_arguments import player_arguments, player_settings
from mnv2_perception.nodes.bag_publisher import BagPublisher
from mnv2_perception.nodes.bag_topics import absolute, DEFAULT_DEPTH, MessageLog, split_remap
from mnv2_perception.nodes.foxglove_bridge import served
from mnv2_perception.nodes.process import ros, RosLogHandler, tell
from mnv2_perception.nodes.rclpy_private import ToughNode

ACK_TIMEOUT_S = 5.0
POLL_S = 0.02


class BagPlayerNode(ToughNode):
    """Publishes the serialised messages of a bag as they were recorded, and /clock."""

    def __init__(self, arguments: argparse.Namespace | None = None) -> None:
        """Open the bag and create the publishers.

        Args:
            arguments: From ``player_arguments``; a value that is not None overrides the parameter.

        Raises:
            BagError: The bag cannot be read, or nothing in it can be played.
        """
        super().__init__('bag_player')
        self._log_handler = RosLogHandler(self)
        self.settings = player_settings(self, arguments)
        self.published: Counter[str] = Counter()
        self.skipped: dict[str, str] = {}
        self.error: Exception | None = None
        self._publisher_of: dict[tuple[str, str], BagPublisher] = {}
        self._waiting_publishers: list[Publisher] = []
        self._clock: Publisher | None = None
        self._stop = threading.Event()
        self._log: MessageLog | None = None
        with ExitStack() as files:
            logger = logging.getLogger('mnv2_perception')
            logger.addHandler(self._log_handler)
            files.callback(logger.removeHandler, self._log_handler)
            self.reader = files.enter_context(BagReader(self.settings.bag))
            self._create_publishers()
            if self.settings.log:
                self._log = MessageLog(self.settings.log, 'published_ns', self)
                files.callback(self._log.close)
            files.enter_context(served(self.settings.foxglove))
            self._files = files.pop_all()
        self._thread = threading.Thread(target=self._run, name='play')

    def start(self) -> None:
        """Begin to play, in a thread of its own."""
        self._thread.start()

    @property
    def playing(self) -> bool:
        """False once the end is reached, or playing has failed (see ``error``)."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop playing and close the files."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._files.close()

    def _create_publishers(self) -> None:
        remap = dict(split_remap(rule) for rule in self.settings.remap)
        wanted = [absolute(name) for name in self.settings.topics]
        excluded = [absolute(name) for name in self.settings.exclude]
        waited_for = [absolute(name) for name in self.settings.wait_for_topics]
        self.reader.require([*wanted, *excluded, *waited_for, *remap])
        message_count = 0
        for topic in self.reader.topics:
            if (wanted and topic.name not in wanted) or topic.name in excluded:
                continue
            name = remap.get(topic.name, topic.name)
            try:
                publisher = BagPublisher(self, topic, name)
            except BagError as exc:
                self.skipped[topic.name] = topic.type_name
                self.get_logger().warning(f'skipping {topic.name}: {exc}')
                continue
            self._publisher_of[topic.name, topic.type_name] = publisher
            if not waited_for or topic.name in waited_for:
                self._waiting_publishers.append(publisher.ros)
            message_count += topic.message_count
        if message_count == 0:
            raise BagError(
                f'{self.settings.bag}: no message can be played; choose topics with messages, and '
                'install the packages named above'
            )
        # A recorded /clock is played as it is. Reliable: it matches every subscriber.
        recorded = '/clock' in {name for name, _ in self._publisher_of}
        if self.settings.clock_hz > 0 and not recorded:
            self._clock = self.create_publisher(Clock, '/clock', DEFAULT_DEPTH)

    def _run(self) -> None:
        try:
            self._play()
            deadline_s = time.monotonic() + ACK_TIMEOUT_S
            for publisher in self._publisher_of.values():
                left_s = deadline_s - time.monotonic()
                if not self._stop.is_set() and left_s > 0:
                    publisher.ros.wait_for_all_acked(Duration(seconds=left_s))
        except Exception as exc:  # A thread must hand its exception over; main() reports it.
            self.error = exc

    def _play(self) -> None:
        topics = {name for name, _ in self._publisher_of}
        for turn in itertools.count():
            messages = read_ahead(self.reader.messages(topics))
            if (first := next(messages, None)) is None:
                raise BagError(f'{self.settings.bag}: no readable message; record it again')
            if turn == 0:
                self._wait_for_listeners(first.stamp_ns)
            self._play_once(itertools.chain([first], messages))
            if self._stop.is_set() or not self.settings.loop:
                return

    def _wait_for_listeners(self, start_ns: int) -> None:
        """Hold /clock at the start of the bag while subscribers appear and discovery finishes."""
        deadline_s = time.monotonic() + self.settings.wait_for_subscribers_s
        while (lonely := self._topics_without_subscriber()) and time.monotonic() < deadline_s:
            self._publish_clock(start_ns)
            if self._stop.wait(POLL_S):
                return
        if lonely and self.settings.wait_for_subscribers_s > 0:
            self.get_logger().warning(f'no subscriber to {", ".join(lonely)}; playing anyway')
        deadline_s = time.monotonic() + self.settings.start_delay_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            self._publish_clock(start_ns)
            if self._stop.wait(min(POLL_S, left_s)):
                return

    def _topics_without_subscriber(self) -> list[str]:
        return [p.topic_name for p in self._waiting_publishers if not p.get_subscription_count()]

    def _play_once(self, messages: Iterator[BagMessage]) -> None:
        begin_ns = time.monotonic_ns()
        clock_hz = self.settings.clock_hz if self._clock else 0.0
        for step in schedule(messages, self.settings.rate, clock_hz, self.settings.max_gap_s):
            if step.gap_ns:
                self.get_logger().warning(
                    f'skipping {step.gap_ns / 1e9:.0f} s without messages, which is more than '
                    f'max_gap_s ({self.settings.max_gap_s:g}); /clock jumps there'
                )
            if self._stop.wait(max(0.0, (begin_ns + step.after_ns - time.monotonic_ns()) / 1e9)):
                return
            self._publish_clock(step.stamp_ns)
            if step.message:
                self._publish(step.message)

    def _publish(self, message: BagMessage) -> None:
        publisher = self._publisher_of.get((message.topic, message.type_name))
        if publisher is None:  # The topic has a second type, which is not installed.
            return
        published_ns = time.monotonic_ns()
        publisher.publish(message.cdr)
        name = publisher.ros.topic_name
        self.published[name] += 1
        if self._log:
            self._log.write(name, message.cdr, publisher.stamped, published_ns)

    def _publish_clock(self, stamp_ns: int) -> None:
        if self._clock:
            self._clock.publish(Clock(clock=Time(nanoseconds=stamp_ns).to_msg()))


def main(args: list[str] | None = None) -> int:
    """Play a bag to its end, or until SIGINT or SIGTERM; print the counts as last line, JSON.

    Args:
        args: Command line without the program's name; None: that of sys.argv.

    Returns:
        Exit code: 0, or 1 with a message on stderr, also if the bag has less than it promises.
    """
    arguments, ros_args = player_arguments(args)
    try:
        # A signal stops the playing, not the context: sent messages must still be acknowledged.
        with ros(ros_args) as stop:
            node = BagPlayerNode(arguments)
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            node.start()
            while node.playing and not stop.is_set():
                executor.spin_once(timeout_sec=0.1)
            node.close()
            if node.error:
                raise node.error
    except PerceptionError as exc:
        print(f'error: {exc}', file=sys.stderr)
        return 1
    published, missing = dict(sorted(node.published.items())), node.reader.missing
    bag, skipped = node.settings.bag, node.skipped
    tell('done', bag=bag, published=published, skipped=skipped, missing=missing)
    return 1 if missing else 0


if __name__ == '__main__':
    sys.exit(main())
