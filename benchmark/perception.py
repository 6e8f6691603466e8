"""CPU time and memory of nodes in one process and in several: `python benchmark/perception.py`.

Two comparisons, each in rounds that take turns; a camera of drawn images, 480 × 640 rgb8, sends
slowly enough that nothing is passed over:

* one `perception` process with all four nodes, and the same nodes in a process each;
* `perception` with segmentation and costmap, for one to four cameras: CPU time an image.

CPU time is that of the nodes' processes, user and system; memory is what they hold on their own
plus their part of what they share (PSS), or the resident size where the system does not tell. The
camera runs apart. Takes ten minutes; writes results/perception.json.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, ExitStack
import json
import math
import os
from pathlib import Path
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

# This process is the camera: its transport and domain must be set before rclpy is loaded.
from mnv2_perception.demo.processes import ros_environment

os.environ.update(ros_environment(os.environ))

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from mnv2_perception.evaluation.benchmark import cpu_name
from mnv2_perception.nodes.messages import rgb_to_msg
from mnv2_perception.nodes.rclpy_private import Executor
from mnv2_perception.scenes.street import draw_scene

ROOT = Path(__file__).resolve().parents[1]
NODES = ('segmentation', 'classification', 'detection', 'costmap')
HEIGHT, WIDTH, FOCAL_PX = 480, 640, 550.0
TICKS = os.sysconf('SC_CLK_TCK')
PARAMETERS = ('pose_source:=parameters', 'camera_z_m:=1.4', 'max_range_m:=20.0')


class Cameras(Node):
    """Cameras of one rate, which also record the nodes' frame counts from their diagnostics."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__('cameras')
        self.images = [self.create_publisher(Image, f'{name}/image', 5) for name in names]
        self.infos = [self.create_publisher(CameraInfo, f'{name}/camera_info', 5)
                      for name in names]
        self.scene = [draw_scene(seed, 0.0, HEIGHT, WIDTH)[0] for seed in range(4)]
        self.counts: dict[str, dict[str, int]] = {}
        self.create_subscription(DiagnosticArray, '/diagnostics', self.on_diagnostics, 50)
        self.executor_ = Executor()
        self.executor_.add_node(self)

    def on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            values = {entry.key: entry.value for entry in status.values}
            if 'published' in values:
                self.counts[status.name] = {
                    name: int(values[name]) for name in ('received', 'published')
                }

    def spin(self, until_s: float) -> None:
        while (left_s := until_s - time.monotonic()) > 0:
            self.executor_.spin_once(timeout_sec=left_s)

    def send(self, number: int) -> None:
        """Publish one image and camera_info from each camera, all with the same stamp."""
        stamp = self.get_clock().now().to_msg()
        header = Header(stamp=stamp, frame_id='camera_optical')
        k = [FOCAL_PX, 0.0, WIDTH / 2 - 0.5, 0.0, FOCAL_PX, HEIGHT / 2 - 0.5, 0.0, 0.0, 1.0]
        p = [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]
        for image, info in zip(self.images, self.infos, strict=True):
            info.publish(CameraInfo(
                header=header, height=HEIGHT, width=WIDTH, distortion_model='plumb_bob',
                d=[0.0] * 5, k=k, r=np.eye(3).ravel().tolist(), p=p,
            ))
            image.publish(rgb_to_msg(self.scene[number % len(self.scene)], header))


@contextmanager
def running(module: str, arguments: Sequence[str]) -> Iterator['subprocess.Popen[bytes]']:
    """Run a node's process."""
    process = subprocess.Popen(
        [sys.executable, '-m', f'mnv2_perception.nodes.{module}', '--ros-args', *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30.0)


def cpu_s(process: 'subprocess.Popen[bytes]') -> float:
    """Return the CPU time that a process has used, in seconds."""
    fields = Path(f'/proc/{process.pid}/stat').read_text(encoding='ascii').rpartition(')')[2]
    return sum(map(int, fields.split()[11:13])) / TICKS


def memory_mb(process: 'subprocess.Popen[bytes]') -> tuple[float, str]:
    """Return a process's memory in MiB, and whether it is PSS or RSS."""
    for file, key in (('smaps_rollup', 'Pss:'), ('status', 'VmRSS:')):
        try:
            lines = Path(f'/proc/{process.pid}/{file}').read_text(encoding='ascii').splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(key):
                return int(line.split()[1]) / 1024, key[:-1].lower()
    return math.nan, 'unknown'


def measure(
    modules: dict[str, list[str]], nodes: Sequence[str], cameras: Sequence[str], rate_hz: float,
    images: int,
) -> dict[str, Any]:
    """Start processes, send images to their nodes, and return the measurements.

    Args:
        modules: modules to run, with their ROS arguments.
        nodes: names of the nodes that these start for each camera.
        cameras: names of the cameras; one empty name for a single camera.
        rate_hz: rate of each camera.
        images: number of images of each camera.
    """
    rclpy.init()
    peer = Cameras(cameras)
    expected = len(nodes) * len(cameras)
    with ExitStack() as stack:
        processes = [
            stack.enter_context(running(module, arguments))
            for module, arguments in modules.items()
        ]
        deadline_s = time.monotonic() + 60.0
        while (
            len(peer.counts) < expected
            or any(not publisher.get_subscription_count() for publisher in peer.images)
        ):
            peer.spin(time.monotonic() + 0.2)
            if time.monotonic() > deadline_s:
                raise SystemExit(f'the nodes did not come up: {sorted(peer.counts)}')
        for number in range(3):  # the first frames also fill caches
            peer.send(number)
            peer.spin(time.monotonic() + 1.0)
        peer.spin(time.monotonic() + 1.5)
        before, start_s = dict(peer.counts), time.monotonic()
        begin_s = sum(map(cpu_s, processes))
        for number in range(images):
            peer.send(number)
            peer.spin(start_s + (number + 1) / rate_hz)
        busy_s, elapsed_s = sum(map(cpu_s, processes)) - begin_s, time.monotonic() - start_s
        peer.spin(time.monotonic() + 2.5)  # until the last diagnostics have come
        published = [
            peer.counts[name]['published'] - before[name]['published'] for name in before
        ]
        idle_begin_s, idle_start_s = sum(map(cpu_s, processes)), time.monotonic()
        peer.spin(time.monotonic() + 5.0)
        idle_s = sum(map(cpu_s, processes)) - idle_begin_s
        idle = idle_s / (time.monotonic() - idle_start_s)
        memory = [memory_mb(process) for process in processes]
    peer.executor_.shutdown()
    peer.destroy_node()
    rclpy.shutdown()
    share = min(published) / images
    return {
        'cpu_ms_per_image': 1000.0 * busy_s / (images * len(cameras)),
        'cpu_share': busy_s / elapsed_s,
        'idle_cpu_percent': 100.0 * idle,
        'memory_mb': sum(mb for mb, _ in memory),
        'memory_kind': memory[0][1],
        'published_share': share,
    }


def main() -> None:
    """Measure; print; write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--images', type=int, default=30, help='images of each camera per round')
    parser.add_argument('--rate', type=float, default=3.0, help='images per second of each camera')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads per inference')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmark/results/perception.json')
    arguments = parser.parse_args()
    common = [part for value in (*PARAMETERS, f'threads:={arguments.threads}')
              for part in ('-p', value)]

    def perception(nodes: Sequence[str], cameras: Sequence[str]) -> dict[str, list[str]]:
        named = [f'cameras:=[{", ".join(cameras)}]'] if cameras[0] else []
        return {'perception': [
            *common, *(part for value in (f'nodes:=[{", ".join(nodes)}]', *named)
                       for part in ('-p', value))
        ]}

    ways: dict[str, tuple[dict[str, list[str]], Sequence[str], Sequence[str]]] = {
        'one process': (perception(NODES, ['']), NODES, ['']),
        'four processes': ({f'{name}_node': common for name in NODES}, NODES, ['']),
    }
    few = ('segmentation', 'costmap')
    for count in range(1, 5):
        names = [f'camera{index}' for index in range(count)]
        ways[f'{count} cameras'] = perception(few, names), few, names
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, (modules, nodes, cameras) in ways.items():
            found[name].append(
                measure(modules, nodes, cameras, arguments.rate, arguments.images)
            )
            print(name, json.dumps(found[name][-1]), flush=True)
    figures = ('cpu_ms_per_image', 'idle_cpu_percent', 'memory_mb', 'published_share')
    result = {
        'machine': {'cpu': cpu_name(), 'load': os.getloadavg()[0]},
        'settings': {name: getattr(arguments, name) for name in ('rounds', 'images', 'rate',
                                                                 'threads')},
        'memory': found['one process'][0]['memory_kind'],
        'ways': {
            name: {key: round(statistics.median(each[key] for each in rounds), 3)
                   for key in figures}
            for name, rounds in found.items()
        },
        # Ratios within the same round.
        'one_process_to_four': {
            key: [round(one[key] / four[key], 3) for one, four in zip(
                found['one process'], found['four processes'], strict=True)]
            for key in ('cpu_ms_per_image', 'memory_mb')
        },
        'cpu_per_image_to_one_camera': {
            name: [round(each['cpu_ms_per_image'] / one['cpu_ms_per_image'], 3) for each, one in
                   zip(found[name], found['1 cameras'], strict=True)]
            for name in found if name.endswith('cameras')
        },
    }
    arguments.out.write_text(json.dumps(result, indent=2) + '\n')
    print(json.dumps(result, indent=2))


if __name__ == '__main__':
    main()
