"""A process of nodes: its executor, its signals, its log, and what it tells who started it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
import json
import logging
import signal
import sys
import threading

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from mnv2_perception.errors import PerceptionError, SetupError
from mnv2_perception.nodes.shared_memory import reclaim

try:
    from rclpy.experimental import EventsExecutor as Executor
except ImportError:  # Humble; with many nodes it takes a multiple of the CPU time
    from rclpy.executors import SingleThreadedExecutor as Executor


def tell(event: str, **facts: object) -> None:
    """Print an event as one line of JSON on stdout, for the program that started this process."""
    with suppress(OSError):  # it may have stopped reading: no reason to stop working
        print(json.dumps({'event': event, **facts}), flush=True)


class RosLogHandler(logging.Handler):
    """Hands what modules below the nodes log to a node's logger."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        # rclpy wants one severity for each line of code.
        if record.levelno >= logging.ERROR:
            self._logger.error(record.getMessage())
        elif record.levelno >= logging.WARNING:
            self._logger.warning(record.getMessage())
        else:
            self._logger.info(record.getMessage())


@contextmanager
def ros(args: list[str] | None) -> Iterator[threading.Event]:
    """Initialise rclpy for a block; yield what SIGINT and SIGTERM set.

    rclpy's own handlers would end the context under the callbacks that still run.

    Raises:
        SetupError: rclpy does not take the arguments.
    """
    reclaim()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as exc:  # rclpy's RCLError is private
        raise SetupError(f'the ROS arguments cannot be used: {exc}') from exc
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        rclpy.shutdown()


def spin(create: Callable[[], Node | list[Node]], args: list[str] | None = None) -> int:
    """Run one node, or several, until SIGINT or SIGTERM; return the process's exit code.

    Nodes are destroyed in reverse order.
    """
    try:
        with ros(args) as stop:
            created = create()
            nodes = created if isinstance(created, list) else [created]
            package_logger = logging.getLogger('mnv2_perception')
            package_logger.setLevel(logging.INFO)
            package_logger.addHandler(RosLogHandler(nodes[0]))
            try:
                executor = Executor()
                for node in nodes:
                    executor.add_node(node)
                # Not spin_until_future_complete: on Jazzy each spin adds a callback to the future.
                while not stop.is_set():
                    executor.spin_once(timeout_sec=0.2)
                executor.shutdown()
            finally:
                for node in reversed(nodes):
                    node.destroy_node()
    except PerceptionError as exc:
        print(f'error: {exc}', file=sys.stderr)
        return 1
    return 0
