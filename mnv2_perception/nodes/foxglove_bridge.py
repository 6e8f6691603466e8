"""Show the ROS graph in Foxglove, from a process of its own: what is played, and results."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
import json
import os
import signal
import subprocess
import sys
import time
from typing import NamedTuple

from rclpy.clock import Clock, ClockType
from rclpy.subscription import Subscription

from mnv2_perception.bags.read import TopicQos
from mnv2_perception.errors import BagError, PerceptionError, SetupError
from mnv2_perception.nodes.bag_topics import LARGE_TYPES, message_class, offered_qos, profile
from mnv2_perception.nodes.foxglove_server import FoxgloveServer
from mnv2_perception.nodes.process import ros, spin_until, tell
from mnv2_perception.nodes.rclpy_private import Executor, UneventfulNode

PERIOD_S = 0.1
DISCOVERY_PERIODS = 5
TIME_PERIODS = 2  # a connection may be blocked for 12 s before its backlog is full
# No transform or other small message may be missed; of images the newest is enough.
SMALL_DEPTH = 50
END_S = 5.0


class Heard(NamedTuple):
    """A topic that the bridge subscribes to.

    Attributes:
        subscription: the subscription.
        qos: QoS that all publishers offered when it was made.
        greeted: number of viewers that had come for the topic by then.
    """

    subscription: Subscription
    qos: TopicQos
    greeted: int


class FoxgloveBridge(UneventfulNode):
    """Offers each topic that has a publisher, and subscribes to those that a viewer watches.

    It subscribes with the QoS that the publishers offer. With best effort, images larger than the
    transport's shared memory are lost (13 of 60 arrived at 640×480 with Fast DDS's default, all
    with reliable), and a reliable publisher takes no longer for one. Of images, the newest is
    enough.
    """

    def __init__(self, address: str) -> None:
        """Begin to serve.

        Args:
            address: see `viewer_address`.

        Raises:
            ParameterError: the address is invalid.
            SetupError: the address cannot be used, or the SDK is missing.
        """
        super().__init__('mnv2_foxglove')
        self._own_time = bool(self.get_parameter('use_sim_time').value)
        self.server = FoxgloveServer(address, self._own_time)
        self._types: dict[str, str] = {}
        self._refused: set[str] = set()
        self._heard: dict[str, Heard] = {}
        self._turns = 0
        self._seen = False
        # Runs even while simulated time stands still.
        self.steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(PERIOD_S, self.follow, clock=self.steady_clock)

    def time_ns(self) -> int:
        """Return the time: that of /clock if use_sim_time is set and /clock has come."""
        return int(self.get_clock().now().nanoseconds) or time.time_ns()

    def follow(self) -> None:
        """Offer published topics, subscribe to watched ones, and send the time."""
        if discovers := self._turns % DISCOVERY_PERIODS == 0:
            self._discover()
        self._turns += 1
        watched = self.server.watched
        for name in [name for name in self._heard if name not in watched]:
            self.destroy_subscription(self._heard.pop(name).subscription)
        for name, greeted in watched.items():
            heard = self._heard.get(name)
            if discovers or heard is None or heard.greeted != greeted:
                self._subscribe(name, greeted)
        if watched and not self._seen:
            self._seen = True
            tell('watched', topics=sorted(watched))
        if self._own_time and self._turns % TIME_PERIODS == 0:
            self.server.tell_time(self.time_ns())

    def _discover(self) -> None:
        types = {}
        for name, type_names in self.get_topic_names_and_types():
            if '/_' not in name and self.count_publishers(name):  # neither hidden nor ours alone
                types[name] = type_names[0]
        for name in [name for name in self._types if types.get(name) != self._types[name]]:
            del self._types[name]
            self.server.withdraw(name)
        for name, type_name in types.items():
            if name in self._types or type_name in self._refused:
                continue
            try:
                message_class(type_name)
                self.server.offer(name, type_name)
                self._types[name] = type_name
            except BagError as exc:
                self._refused.add(type_name)
                self.get_logger().warning(f'{name} is not available in Foxglove: {exc}')

    def _subscribe(self, name: str, greeted: int) -> None:
        """Subscribe to a topic, or again if the subscription no longer matches every publisher.

        A new viewer gets latched messages from a subscription that is made again.
        """
        publishers = self.get_publishers_info_by_topic(name)
        if not publishers or name not in self._types:
            return
        qos = replace(offered_qos(publishers), depth=0)
        if heard := self._heard.get(name):
            if heard.qos == qos and (heard.greeted == greeted or not qos.transient_local):
                self._heard[name] = heard._replace(greeted=greeted)
                return
            self.destroy_subscription(heard.subscription)
        type_name = self._types[name]
        large = type_name in LARGE_TYPES and not qos.transient_local
        subscription = self.create_subscription(
            message_class(type_name), name, partial(self._on_message, name),
            profile(qos, 1 if large else SMALL_DEPTH), raw=True,
        )
        self._heard[name] = Heard(subscription, qos, greeted)

    def _on_message(self, name: str, cdr: bytes) -> None:
        self.server.send(name, cdr, self.time_ns())


@contextmanager
def served(address: str) -> Iterator[None]:
    """Serve the graph during a block, in a process of its own, which delays nothing here.

    Args:
        address: see `viewer_address`; empty: nothing is served.

    Raises:
        SetupError: the address cannot be used.
    """
    if not address:
        yield
        return
    command = [sys.executable, '-m', __name__, address, '--ros-args', '-p', 'use_sim_time:=true']
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            event = json.loads(process.stdout.readline() or '{"event": "ended"}')
            if event['event'] != 'serving':
                raise SetupError(event.get('error', f'{address}: the Foxglove server has ended'))
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def main(args: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM, or until the parent process has ended.

    Args:
        args: an address, see `viewer_address`, and ROS arguments; None: those of sys.argv.

    Returns:
        Exit code: 0, or 1 after an event `failed`.
    """
    address, *ros_args = sys.argv[1:] if args is None else args
    parent = os.getppid()
    try:
        with ros(ros_args) as stop:
            node = FoxgloveBridge(address)
            tell('serving', url=node.server.url)
            node.get_logger().info(
                f'watch at {node.server.url}: in Foxglove choose Open connection, Foxglove '
                f'WebSocket'
            )

            def end_with_parent() -> None:
                if os.getppid() != parent:
                    stop.set()

            node.create_timer(1.0, end_with_parent, clock=node.steady_clock)
            spin_until(stop, node, Executor())
            node.server.close()
    except PerceptionError as exc:
        tell('failed', error=str(exc))
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
