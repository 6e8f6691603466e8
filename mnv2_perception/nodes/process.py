"""Run nodes in a process: executors, signals, log, and events for the program that started it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from mnv2_perception.errors import PerceptionError, SetupError
from mnv2_perception.nodes.overrides import check_params_files
from mnv2_perception.nodes.rclpy_private import Executor
from mnv2_perception.nodes.shared_memory import reclaim

# launch kills a process that has not ended 5 s after its signal.
GRACE_S = 3.0
# Ctrl-C reaches the process twice, from its terminal and from launch.
SECOND_SIGNAL_S = 0.5
TELLING = threading.Lock()  # nodes have threads, and each event is one line


def tell(event: str, **facts: object) -> None:
    """Print an event as one line of JSON on stdout, for the program that started this process."""
    line = json.dumps({'event': event, **facts}) + '\n'
    with suppress(OSError), TELLING:  # the reader may be gone: no reason to stop working
        print(line, end='', flush=True)


class RosLogHandler(logging.Handler):
    """Passes the log records of modules below the nodes to a node's logger."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        # rclpy wants a fixed severity for each line of code.
        if record.levelno >= logging.ERROR:
            self._logger.error(record.getMessage())
        elif record.levelno >= logging.WARNING:
            self._logger.warning(record.getMessage())
        else:
            self._logger.info(record.getMessage())


@contextmanager
def ros(args: list[str] | None, grace_s: float | None = None) -> Iterator[threading.Event]:
    """Initialise rclpy for a block; yield an event that SIGINT and SIGTERM set.

    rclpy's own handlers would end the context while callbacks still run.

    Args:
        args: arguments of the process; None: sys.argv.
        grace_s: seconds that the process has to end; after that, or on a second signal, it is
            ended with exit code 1, whatever hangs. None: no limit.

    Raises:
        SetupError: rclpy rejects the arguments, or cannot write its log.
    """
    reclaim()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as exc:  # rclpy's RCLError is private
        if 'logging' in str(exc):
            raise SetupError(
                f'ROS cannot write its log: {str(exc).strip()}; set ROS_LOG_DIR '
                f'to a writable folder'
            ) from exc
        raise SetupError(f'the ROS arguments are invalid: {exc}') from exc
    stop = threading.Event()
    first_s = 0.0

    def on_signal(*_: object) -> None:
        nonlocal first_s
        if not stop.is_set():
            first_s = time.monotonic()
            if grace_s is not None:
                timer = threading.Timer(grace_s, end_now, [f'it did not end in {grace_s:.0f} s'])
                timer.daemon = True
                timer.start()
            stop.set()
        elif grace_s is not None and time.monotonic() - first_s > SECOND_SIGNAL_S:
            end_now('a second signal arrived')

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        rclpy.shutdown()


def end_now(reason: str) -> None:
    """End the process with exit code 1, whatever its threads are doing."""
    os.write(2, f'error: the process was ended by force: {reason}\n'.encode())
    os._exit(1)


def spin_until(stop: threading.Event, node: Node, executor: Executor) -> None:
    """Run a node's callbacks until the event is set; an exception in one does not end the process.

    Whoever sets the event wakes the executor with a task that does nothing: polling the event
    several times a second would cost a robot more than an idle node does.
    """
    executor.add_node(node)
    # Not spin_until_future_complete: on Jazzy each spin adds a callback to the future.
    while not stop.is_set():
        try:
            executor.spin_once(timeout_sec=1.0)
        except Exception:  # of a single callback, such as a service's
            node.get_logger().error(
                f'unexpected error in a callback: {traceback.format_exc()}',
                throttle_duration_sec=10.0
            )
    executor.shutdown()


def spin(create: Callable[[], Node | list[Node]], args: list[str] | None = None) -> int:
    """Run one node or several until SIGINT or SIGTERM; return the exit code of the process.

    Each node has its own thread, so that a transition of one, such as opening a model, does not
    block the others. Nodes are destroyed in reverse order. A node that hangs is ended by force.
    """
    try:
        with ros(args, GRACE_S) as stop:
            created = create()
            nodes = created if isinstance(created, list) else [created]
            names = [node.get_name() for node in nodes]  # a destroyed node has no name any more
            try:
                run_nodes(nodes, stop, sys.argv if args is None else args)
            finally:
                for node in reversed(nodes):
                    node.destroy_node()
            hung = [
                name for name, node in zip(names, nodes, strict=True)
                if getattr(node, 'abandoned', False)
            ]
            if hung:
                end_now(f'the engine of {", ".join(hung)} does not answer')
    except PerceptionError as exc:
        print(f'error: {exc}', file=sys.stderr)
        return 1
    return 0


def run_nodes(nodes: Sequence[Node], stop: threading.Event, args: Sequence[str]) -> None:
    """Run the callbacks of nodes, each in a thread of its own, until the event is set.

    Args:
        nodes: nodes of this process; the first one logs for all.
        stop: event that `ros` yields.
        args: arguments of the process, with its parameter files.

    Raises:
        ParameterError: see `check_params_files`.
    """
    package_logger = logging.getLogger('mnv2_perception')
    package_logger.setLevel(logging.INFO)
    package_logger.addHandler(RosLogHandler(nodes[0]))
    for warning in check_params_files(args, nodes):
        nodes[0].get_logger().warning(warning)
    executors = [Executor(context=node.context) for node in nodes]
    threads = [
        threading.Thread(
            target=spin_until, args=(stop, node, executor), name=node.get_name(), daemon=True
        ) for node, executor in zip(nodes, executors, strict=True)
    ]
    for thread in threads:
        thread.start()
    while not stop.is_set():  # not wait(): its lock could block set() in a signal handler
        time.sleep(0.25)
    for executor in executors:
        executor.create_task(lambda: None)
    for thread in threads:
        thread.join()  # if a transition does not end, the process is ended by force
