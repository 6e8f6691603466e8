"""Whether cameras starve each other: `python benchmark/cameras.py`.

One `perception` process runs segmentation for several cameras of 1920 × 1080 JPEG, first for one
of them alone, then for all, at a fixed rate; in turns, in rounds. The cameras are this process;
they send one after the other within a period, as unsynchronised ones do. Reported of each camera:
masks a second, and their age, from before an image is published until its mask is here, also in
times of one image of a camera alone. Writes results/cameras.json. Four minutes a model.
"""

import argparse
import json
import os
from pathlib import Path
import statistics
import sys
import time
from typing import Any

from mnv2_perception.demo.processes import ros_environment

os.environ.update(ros_environment(os.environ))  # before rclpy is loaded

import cv2
from node import cpu_s, memory_mb, running
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from mnv2_perception.evaluation.benchmark import cpu_name
from mnv2_perception.nodes.rclpy_private import Executor
from mnv2_perception.scenes.street import draw_scene

ROOT = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH = 1080, 1920
WARM_UP = 5  # number of images of each camera
WAIT_S = 2.0  # how long to wait for a mask


class Cameras(Node):
    """Cameras that send pictures, and record when their masks arrive."""

    def __init__(self, names: list[str]) -> None:
        super().__init__('cameras')
        self.names = names
        self.pictures = [
            cv2.imencode('.jpg', draw_scene(seed, 0.0, HEIGHT, WIDTH)[0][..., ::-1])[1].tobytes()
            for seed in range(4)
        ]
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self.senders = {
            name: self.create_publisher(CompressedImage, f'/{name}/image/compressed', qos)
            for name in names
        }
        self.sent_s: dict[tuple[str, int], float] = {}
        self.ages_ms: dict[tuple[str, int], float] = {}
        for name in names:
            self.create_subscription(
                Image, f'/{name}/segmentation/mask',
                lambda msg, name=name: self.note(name, msg), qos,
            )
        self.executor_ = Executor()
        self.executor_.add_node(self)
        self.number = 0

    def note(self, name: str, msg: Image) -> None:
        key = name, msg.header.stamp.nanosec
        if key in self.sent_s:
            self.ages_ms[key] = 1000.0 * (time.perf_counter() - self.sent_s[key])

    def spin(self, until_s: float) -> None:
        while (left_s := until_s - time.perf_counter()) > 0:
            self.executor_.spin_once(timeout_sec=left_s)

    def send(self, images: int, rate_hz: float) -> dict[str, list[float]]:
        """Send images from each camera; return the ages of the masks that arrived, ms."""
        begun, step_s = self.number, 1.0 / rate_hz / len(self.names)
        at_s = time.perf_counter()
        for _ in range(images):
            self.number += 1
            for index, name in enumerate(self.names):
                msg = CompressedImage(format='jpeg')
                msg.header.stamp.sec, msg.header.stamp.nanosec = 1, self.number
                msg.data = self.pictures[(self.number + index) % len(self.pictures)]
                self.sent_s[name, self.number] = time.perf_counter()
                self.senders[name].publish(msg)
                at_s += step_s
                self.spin(at_s)
        self.spin(time.perf_counter() + WAIT_S)
        new = {key: ms for key, ms in self.ages_ms.items() if key[1] > begun}
        return {name: [ms for (of, _), ms in new.items() if of == name] for name in self.names}


def measure(model: str, names: list[str], images: int, rate_hz: float) -> dict[str, Any]:
    """Start the process, send it images from each camera, and return the measurements."""
    rclpy.init()
    cameras = Cameras(names)
    given = (f'model:={model}', 'image_transport:=compressed', 'nodes:=[segmentation]',
             f'cameras:=[{", ".join(names)}]')
    line = [sys.executable, '-m', 'mnv2_perception.nodes.perception', '--ros-args',
            *(part for value in given for part in ('-p', value))]
    started_s = time.perf_counter()
    with running(line) as process:
        while not all(cameras.send(1, rate_hz).values()):  # the first find nobody
            if time.perf_counter() > started_s + 60.0:
                raise SystemExit(f'no mask in 60 s: {" ".join(line)}')
        cameras.send(WARM_UP, rate_hz)
        busy_s = cpu_s(process.pid)
        ages = cameras.send(images, rate_hz)
        busy_s = cpu_s(process.pid) - busy_s
        held_mb = memory_mb(process.pid)
    cameras.executor_.shutdown()
    cameras.destroy_node()
    rclpy.shutdown()
    every = np.concatenate([np.asarray(found) for found in ages.values()])
    return {
        'masks_hz': [len(found) * rate_hz / images for found in ages.values()],
        'p50_ms': float(np.quantile(every, 0.5)), 'p95_ms': float(np.quantile(every, 0.95)),
        'oldest_ms': float(every.max()), 'cpu_ms': 1000.0 * busy_s / every.size,
        'memory_mb': held_mb,
    }


def measure_model(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one model in turns, with one camera and with all; return medians and ratios."""
    names = [f'camera{index}' for index in range(arguments.cameras)]
    ways = {'one': names[:1], 'all': names}
    rounds: list[dict[str, Any]] = []
    for number in range(arguments.rounds):
        found = {}
        for way in sorted(ways, reverse=bool(number % 2)):
            found[way] = measure(model, ways[way], arguments.images, arguments.rate)
            print(model, number, way, json.dumps(found[way]), file=sys.stderr, flush=True)
        rounds.append(found)
    figures = ('p50_ms', 'p95_ms', 'oldest_ms', 'cpu_ms', 'memory_mb')
    return {
        **{way: {key: round(statistics.median(each[way][key] for each in rounds), 2)
                 for key in figures} for way in ways},
        'masks_hz': [each['all']['masks_hz'] for each in rounds],
        # Ratios within the same round.
        'slowest_to_fastest_camera': [
            round(min(each['all']['masks_hz']) / max(each['all']['masks_hz']), 3)
            for each in rounds
        ],
        'oldest_to_one_image_alone': [
            round(each['all']['oldest_ms'] / each['one']['p50_ms'], 2) for each in rounds
        ],
    }


def main() -> None:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--models', nargs='+',
        default=['unet_mobilenetv2_ground_fast', 'unet_mobilenetv2_ground'],
    )
    parser.add_argument('--cameras', type=int, default=4)
    parser.add_argument('--rate', type=float, default=5.0, help='images per second of each camera')
    parser.add_argument('--images', type=int, default=60, help='images of each camera per round')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmark/results/cameras.json')
    arguments = parser.parse_args()
    result = {
        'machine': {'cpu': cpu_name(), 'cores': os.cpu_count(), 'load': os.getloadavg()[0]},
        'settings': {name: getattr(arguments, name) for name in ('cameras', 'rate', 'images',
                                                                 'rounds')},
        'models': {name: measure_model(name, arguments) for name in arguments.models},
    }
    arguments.out.write_text(json.dumps(result, indent=2) + '\n')
    print(json.dumps(result, indent=2))


if __name__ == '__main__':
    main()
