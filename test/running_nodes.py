"""Run nodes in their own process, measure its resources, and talk to it with a peer over DDS."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from colcon_workspace import free_domain_id, localhost_domain
import pytest
import yaml

rclpy = pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile

MEMORY_LIMIT = 3 * 2**30  # bytes: a decompression bomb fails here before it fills the machine


class Peer:
    """A camera and consumer: a node with its own context, spun in a thread."""

    def __init__(self, domain_id: int) -> None:
        self.domain_id = domain_id
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain_id)
        self.node = Node('peer', context=self.context, use_global_arguments=False)
        self.statuses: dict[str, DiagnosticStatus] = {}
        self.reports = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._on_status, 50)

    def _spin(self) -> None:
        # Not the events executor: it may crash when an entity is destroyed.
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self.node)
        while not self._closing.is_set():
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()

    def _on_status(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            self.statuses[status.name.partition(':')[0]] = status
        self.reports += 1

    def publisher(self, msg_type: Any, topic: str, qos: Any = 5) -> Any:
        return self.node.create_publisher(msg_type, topic, qos)

    def stamps(self, msg_type: Any, topic: str) -> set[tuple[int, int]]:
        """Return a set to which the stamp of each arriving message is added."""
        seen: set[tuple[int, int]] = set()

        def on_message(msg: Any) -> None:
            seen.add((msg.header.stamp.sec, msg.header.stamp.nanosec))

        self.node.create_subscription(msg_type, topic, on_message, QoSProfile(depth=10))
        return seen

    def counts(self, node: str) -> dict[str, int]:
        """Return a node's frame counts from a new report."""
        self.statuses.pop(node, None)
        wait(lambda: node in self.statuses, 10.0, f'{node} reports on /diagnostics')
        values = {pair.key: pair.value for pair in self.statuses[node].values}
        return {
            name: int(values[name])
            for name in ('received', 'published', 'passed_over', 'rejected', 'lost')
        }

    def settled(self, node: str) -> dict[str, int]:
        """Return the counts once two consecutive reports are equal."""
        before = self.counts(node)
        while (now := self.counts(node)) != before:
            before = now
        return now

    def call(self, srv_type: Any, name: str, request: Any, timeout_s: float = 20.0) -> Any:
        client = self.node.create_client(srv_type, name)
        try:
            assert client.wait_for_service(10.0), f'no service {name}'
            future = client.call_async(request)
            wait(future.done, timeout_s, f'{name} answers')
            return future.result()
        finally:
            self.node.destroy_client(client)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self.node.destroy_node()
        self.context.try_shutdown()


class Running:
    """A process with nodes, and its peer."""

    def __init__(self, process: 'subprocess.Popen[bytes]', folder: Path, peer: Peer) -> None:
        self.process, self.folder, self.peer = process, folder, peer

    def alive(self) -> None:
        code = self.process.poll()
        assert code is None, f'the process ended with {code}: {self.log()[-3000:]}'

    def log(self) -> str:
        return (self.folder / 'stderr').read_text(errors='replace')

    def lines(self) -> Counter[str]:
        """Return the number of log lines by node; '' for lines without a node.

        Output of rclpy and its C libraries about messages that cannot be deserialised, and about
        failing callbacks of their own, is not counted.
        """
        theirs = (
            r'\n>>> \[rcutils.*?<<<\n', r'sequence size exceeds remaining buffer\n',
            r"\[FATAL\] [^\n]* Exception in '\w+' callback: .*?\n\n",
            r'(?<=in a callback: )Traceback.*?\n\n',
        )
        own = re.sub('|'.join(theirs), '', self.log(), flags=re.DOTALL)
        names = [re.match(r'\[\w+\] \[[\d.]+\] \[([\w.]+)\]: ', line) for line in own.splitlines()]
        return Counter(name[1] if name else '' for name in names)

    def active(self, nodes: int) -> None:
        """Wait until this number of nodes is active."""
        def all_active() -> bool:
            self.alive()
            return (self.folder / 'stdout').read_text().count('"active"') >= nodes
        wait(all_active, 60.0, f'{nodes} nodes are active')

    def holds(self) -> dict[str, float]:
        """Return the process's memory (MB), threads, file handles and shared memory segments."""
        place = Path('/proc') / str(self.process.pid)
        status = (place / 'status').read_text()

        def figure(name: str) -> int:
            found = re.search(rf'{name}:\s+(\d+)', status)
            assert found
            return int(found[1])

        maps = (place / 'maps').read_text().splitlines()
        shared = {line.split()[-1] for line in maps if ' /dev/shm/' in line}
        return {
            # Private memory only: the used part of shared memory depends on the peer.
            'rss_mb': figure('RssAnon') / 1024, 'peak_mb': figure('VmHWM') / 1024,
            'threads': figure('Threads'), 'handles': len(list((place / 'fd').iterdir())),
            'dev_shm': len(shared),
        }


@contextmanager
def running(
    folder: Path, module: str, parameters: dict[str, dict[str, Any]],
    environment: dict[str, str] | None = None,
) -> Iterator[Running]:
    """Run `mnv2_perception.nodes.MODULE`; it must end without error, unless the block ends it.

    Args:
        folder: new folder for its parameters and output.
        module: module of the node.
        parameters: parameters by node name, as in a YAML file.
        environment: additional environment variables.
    """
    folder.mkdir()
    file = folder / 'parameters.yaml'
    file.write_text(yaml.safe_dump(
        {name: {'ros__parameters': values} for name, values in parameters.items()}
    ))
    domain_id = free_domain_id()
    with (folder / 'stdout').open('wb') as out, (folder / 'stderr').open('wb') as err:
        process = subprocess.Popen(
            [sys.executable, '-m', f'mnv2_perception.nodes.{module}', '--ros-args',
             '--params-file', str(file)],
            stdout=out, stderr=err, cwd=Path(__file__).parents[1],
            env={**os.environ, **localhost_domain(domain_id), **(environment or {}),
                 'ROS_LOG_DIR': str(folder / 'ros_log')},
        )
    resource.prlimit(process.pid, resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    peer = Peer(domain_id)
    run = Running(process, folder, peer)
    try:
        yield run
        if process.returncode is not None:  # the block has ended it
            return
        run.alive()
        process.send_signal(signal.SIGINT)
        assert process.wait(20.0) == 0, run.log()[-3000:]
        assert '\nTraceback' not in run.log()  # an exception that no node has logged
    finally:
        process.kill()
        process.wait()
        peer.close()


def wait(condition: Callable[[], Any], timeout_s: float, what: str) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f'not within {timeout_s:.0f} s: {what}'
        time.sleep(0.0005)
