"""A node under test, and a peer as its camera and consumer, over real DDS."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from colcon_workspace import free_domain_id
import numpy as np
from numpy.typing import NDArray
import pytest

rclpy = pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from mnv2_perception.nodes.perception import Perception
from mnv2_perception.nodes.qos import RESULT_QOS
from mnv2_perception.nodes.rclpy_private import Executor


def header(number: int) -> Header:
    return Header(stamp=Time(sec=1000 + number, nanosec=7), frame_id='camera_optical')


def ids_of(msg: Image) -> NDArray[np.uint8]:
    """Read a mask or a confidence without the code under test."""
    return np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.width)


def eventually(condition: Callable[[], Any], timeout_s: float = 15.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, 'did not happen in time'
        time.sleep(0.01)


class Graph:
    """Nodes of one class with given parameters, and the peer; each spins in its own thread.

    `args` are the arguments of the nodes' process.
    """

    def __init__(
        self, node_class: Any = None, args: list[str] | None = None, **parameters: Any
    ) -> None:
        self.node_class = node_class
        self.parameters = parameters
        self.context = Context()
        self.domain_id = free_domain_id()
        rclpy.init(args=args, context=self.context, domain_id=self.domain_id)
        self.peer = Node('peer', context=self.context, use_global_arguments=False)
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self.nodes: list[Node] = []
        self.spin(self.peer)
        self.camera = self.peer.create_publisher(Image, 'image', 5)

    def spin(self, *nodes: Node) -> None:
        """Spin nodes in one thread."""

        def run() -> None:
            executor = Executor(context=self.context)
            for node in nodes:
                executor.add_node(node)
            while not self._closing.is_set():
                executor.spin_once(timeout_sec=0.1)
            executor.shutdown()  # not from another thread: it destroys what spin_once uses

        self.nodes += nodes
        # A daemon: a test that fails before it closes its graph must not block the whole run.
        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def start(self, *args: str, wait: bool = True, **parameters: Any) -> Any:
        values = {**self.parameters, **parameters}
        node = self.node_class(
            context=self.context,
            cli_args=['--ros-args', *args] if args else None,
            parameter_overrides=[Parameter(k, value=v) for k, v in values.items()],
        )
        self.spin(node)
        if wait:
            eventually(lambda: node.active)
        return node

    @contextmanager
    def process(self, name: str, **parameters: Any) -> Iterator[None]:
        """Run a node in its own process; it must end with exit code 0 when interrupted."""
        given = [part for key, value in parameters.items() for part in ('-p', f'{key}:={value}')]
        process = subprocess.Popen(
            [sys.executable, '-m', f'mnv2_perception.nodes.{name}', '--ros-args', *given],
            env={**os.environ, 'ROS_DOMAIN_ID': str(self.domain_id)},
            cwd=Path(__file__).parents[2],
        )
        try:
            yield
            process.send_signal(signal.SIGINT)
            assert process.wait(20.0) == 0
        finally:
            process.kill()
            process.wait()

    def subscribe(self, msg_type: Any, topic: str, qos: QoSProfile = RESULT_QOS) -> list[Any]:
        received: list[Any] = []
        self.peer.create_subscription(msg_type, topic, received.append, qos)
        return received

    def call(self, srv_type: Any, name: str, request: Any) -> Any:
        client = self.peer.create_client(srv_type, f'/{self.nodes[-1].get_name()}/{name}')
        assert client.wait_for_service(10.0)
        future = client.call_async(request)
        eventually(future.done)
        return future.result()

    def transition(self, transition_id: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition_id))
        return bool(self.call(ChangeState, 'change_state', request).success)

    def state(self) -> str:
        return str(self.call(GetState, 'get_state', GetState.Request()).current_state.label)

    def heard(self, publisher: Any) -> None:
        """Wait until a publisher has a subscriber, and the subscribers here know their publishers.

        Best-effort messages are lost if the subscriber does not know the publisher yet.
        """
        name = publisher.topic_name
        eventually(lambda: publisher.get_subscription_count() and all(
            subscription.get_publisher_count()
            for node in self.nodes for subscription in node.subscriptions
            if subscription.topic_name == name
        ))

    def wait_for_topics(self) -> None:
        """Wait until the camera has a subscriber and the node's results reach the peer."""
        self.heard(self.camera)
        for subscription in self.peer.subscriptions:
            eventually(lambda name=subscription.topic_name: self.peer.count_publishers(name))
        time.sleep(0.3)

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        for node in reversed(self.nodes):
            node.destroy_node()
        self.context.try_shutdown()


class Robot(Graph):
    """The nodes of `perception` in one thread; the peer is their cameras and consumers."""

    def start_all(self, nodes: list[str], cameras: tuple[str, ...] = (), **values: Any) -> Any:
        own = {'nodes': nodes, 'cameras': list(cameras) or ['']}
        perception, *started = self.create(own, values)
        self.spin(perception, *started)
        for node in started:  # the test's own transitions would be ignored during another one
            eventually(lambda node=node: node.state_label == 'active')
        return started

    def create(self, own: dict[str, Any], values: dict[str, Any]) -> list[Any]:
        perception = Perception(context=self.context, parameter_overrides=[
            Parameter(key, value=value) for key, value in own.items()
        ])
        return [perception, *perception.create_nodes(
            context=self.context,
            parameter_overrides=[Parameter(key, value=value) for key, value in values.items()],
        )]

    def cameras(self, *names: str) -> list[Any]:
        publishers = [self.peer.create_publisher(Image, f'{name}/image', 5) for name in names]
        for publisher in publishers:
            self.heard(publisher)
        return publishers
