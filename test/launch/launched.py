"""A launch file run as by `ros2 launch`, and a node that queries the launched nodes."""

from collections.abc import Callable
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time
from typing import Any

# Replaces RViz; prints what the launch file set: its topics' names, its file and its clock.
RVIZ = f"""#!{sys.executable}
import sys, time
import rclpy

rclpy.init()
node = rclpy.create_node('rviz')
for topic in ('grid', 'image', '/tf'):
    print(f'{{topic}} is {{node.resolve_topic_name(topic)}}')
print(f'file {{sys.argv[sys.argv.index("-d") + 1]}}')
print(f'simulated time: {{node.get_parameter("use_sim_time").value}}', flush=True)
try:
    while STAYS and rclpy.ok():
        time.sleep(0.1)
except KeyboardInterrupt:
    pass
"""
TIMEOUT_S = 60.0
ASK_AGAIN_S = 2.0


def rviz_prefix(folder: Path, stays: bool) -> str:
    """Make an ament prefix with this RViz, which stays until it is interrupted or ends at once."""
    prefix = folder / 'rviz'
    for name, text in {
        'share/ament_index/resource_index/packages/rviz2': '',
        'lib/rviz2/rviz2': RVIZ.replace('STAYS', str(stays)),
    }.items():
        (prefix / name).parent.mkdir(parents=True)
        (prefix / name).write_text(text)
        (prefix / name).chmod(0o755)
    return str(prefix)


class Launched:
    """A running launch, and a node that queries the launched nodes."""

    def __init__(self, process: 'subprocess.Popen[str]', log: Path, executor: Any) -> None:
        self.process = process
        self.log = log
        self.executor = executor
        self.observer = executor.get_nodes()[0]

    def wait_for(self, what: str, value: Callable[[], Any]) -> Any:
        """Return a value as soon as it is true."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not (found := value()):
            assert time.monotonic() < deadline_s, f'no {what}:\n{self.log.read_text()}'
            assert self.process.poll() is None, self.log.read_text()
            self.executor.spin_once(timeout_sec=0.05)
        return found

    def call(self, service: str, service_type: Any, request: Any) -> Any:
        client = self.observer.create_client(service_type, service)
        self.wait_for(f'service {service}', client.service_is_ready)
        # An answer is lost if the server has not discovered the client yet, so ask again.
        futures = [client.call_async(request)]
        begin_s = time.monotonic()

        def answered() -> Any:
            if time.monotonic() > begin_s + len(futures) * ASK_AGAIN_S:
                futures.append(client.call_async(request))
            return next((future for future in futures if future.done()), None)

        future = self.wait_for(f'answer of {service}', answered)
        self.observer.destroy_client(client)
        return future.result()

    def state(self, node: str) -> str:
        from lifecycle_msgs.srv import GetState

        label: str = self.call(
            f'{node}/get_state', GetState, GetState.Request()
        ).current_state.label
        return label

    def wait_until_active(self, *nodes: str) -> None:
        for node in nodes:
            self.wait_for(f'active {node}', lambda node=node: self.state(node) == 'active')

    def parameters(self, node: str, *names: str) -> list[Any]:
        from rcl_interfaces.srv import GetParameters
        from rclpy.parameter import parameter_value_to_python

        request = GetParameters.Request(names=names)
        answer = self.call(f'{node}/get_parameters', GetParameters, request)
        return [parameter_value_to_python(value) for value in answer.values]

    def wait_until_subscribed(self, topic: str, node: str) -> None:
        """Wait until this node, and no other, subscribes to a topic."""

        def subscribed() -> bool:
            found = self.observer.get_subscriptions_info_by_topic(topic)
            nodes = {f'{info.node_namespace}/{info.node_name}' for info in found}
            return {name.replace('//', '/') for name in nodes} == {node}

        self.wait_for(f'{node} on {topic}', subscribed)

    def pids(self, executable: str) -> list[int]:
        """Return the process ids of an executable that have been started so far."""
        pattern = rf'\[{executable}-\d+\]: process started with pid \[(\d+)\]'
        return [int(pid) for pid in re.findall(pattern, self.log.read_text())]

    def environment(self, executable: str) -> dict[str, str]:
        entries = Path(f'/proc/{self.pids(executable)[0]}/environ').read_text().split('\0')
        return dict(entry.split('=', 1) for entry in entries if entry)

    def wait_until_ended(self) -> str:
        """Wait until the launch ends by itself without error; return its output."""
        returncode = self.process.wait(TIMEOUT_S)
        printed = self.log.read_text()
        assert returncode == 0, printed
        assert 'process has finished cleanly' in printed
        assert 'process has died' not in printed
        return printed

    def interrupt(self) -> str:
        """End the launch as Ctrl-C in its terminal does; return its output."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.wait_until_ended()

    def error(self) -> str:
        """Wait until a launch fails to start; return its output."""
        assert self.process.wait(TIMEOUT_S) == 1
        return self.log.read_text()
