"""What placing a mask costs on this CPU: `python benchmark/costmap.py`, one thread, no ROS.

Masks are drawn streets of 480 × 640 with a speckle of noise; the grid is 10 m at 5 cm.

* ground: mask to obstacles, clear ground, scan and grid on flat ground.
* depth: depth to points in the base frame, which are picked by class.
* register: depth of another camera to 240 × 320 of this one.
* nod: the view of a camera that has moved, and then ground.
* setup, once for each camera.
"""

import argparse
from collections.abc import Callable
import json
from pathlib import Path
import platform
import statistics
import time
from typing import Any

import cv2
import numpy as np

from mnv2_perception.scenes.street import CLASSES, draw_scene
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.costmap import OBSTACLE, TRAVERSABLE
from mnv2_perception.vision.ground_view import GroundView
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose
from mnv2_perception.vision.projection import depth_points, points_of, register_depth

ROOT = Path(__file__).resolve().parents[1]
LENS = (-0.32, 0.11, 0.0007, -0.0004, -0.02)


def timed_ms(function: Callable[[], Any], runs: int) -> float:
    """Return the median time of some runs, in milliseconds."""
    times_ms = []
    for _ in range(runs):
        start_s = time.perf_counter()
        function()
        times_ms.append((time.perf_counter() - start_s) * 1000.0)
    return statistics.median(times_ms)


def main() -> None:
    """Measure, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--runs', type=int, default=50)
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmark/results/costmap.json')
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    camera = Camera(480, 640, 500.0, 500.0, 319.5, 239.5, LENS)
    pose = Pose.from_rpy(0.2, 0.0, 1.2, 0.0, 0.1, 0.0) @ BODY_FROM_OPTICAL
    depth_pose = pose @ Pose.from_rpy(0.05, 0.0, 0.0, 0.01, 0.0, 0.0)
    plain = Camera(480, 640, 450.0, 450.0, 319.5, 239.5)
    roles = np.full(256, OBSTACLE, np.uint8)
    roles[[CLASSES.index('road'), CLASSES.index('pavement')]] = TRAVERSABLE
    roles[[CLASSES.index('sky'), 255]] = 0
    ids = draw_scene(3, 1.0, 480, 640)[1].copy()
    ids[np.random.default_rng(0).random(ids.shape) < 0.005] = CLASSES.index('car')
    odom = Pose.from_rpy(3.0, 2.0, 0.0, 0.0, 0.0, 0.7)
    depth_m = np.full((480, 640), 4.0, np.float32)

    start_s = time.perf_counter()
    view = GroundView(camera, pose, 10.0, 0.25)
    setup_ms = (time.perf_counter() - start_s) * 1000.0
    scene = view.look(ids, roles)
    small = camera.resized(240, 320)

    def ground() -> None:
        seen = view.look(ids, roles)
        view.grid(seen, odom, 10.0, 0.05)
        view.scan(seen, -1.57, 1.57, 0.01)

    def nod() -> None:
        GroundView(camera, pose, 10.0, 0.25)
        ground()

    def depth() -> None:
        points = pose.apply(depth_points(depth_m, camera))
        points_of(points, ids, roles == OBSTACLE)
        points_of(points, ids, roles == TRAVERSABLE)

    def register() -> None:
        register_depth(depth_m, plain, small, pose.inverse() @ depth_pose)

    register()  # computes the rays, which are cached
    ways: dict[str, Callable[[], Any]] = {
        'ground': ground,
        'ground: look': lambda: view.look(ids, roles),
        'ground: grid': lambda: view.grid(scene, odom, 10.0, 0.05),
        'ground: scan': lambda: view.scan(scene, -1.57, 1.57, 0.01),
        'nod': nod,
        'depth': depth,
        'register': register,
    }
    results = {name: round(timed_ms(way, arguments.runs), 2) for name, way in ways.items()}
    results['setup'] = round(setup_ms, 1)
    print('| | ms |\n| --- | --- |')
    for name, value in results.items():
        print(f'| {name} | {value} |')
    machine = {
        'cpu': platform.processor() or platform.machine(), 'python': platform.python_version(),
        'opencv': cv2.__version__, 'numpy': np.__version__,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({'machine': machine, 'edges': len(scene.edges), 'ms': results}, indent=2) + '\n'
    )


if __name__ == '__main__':
    main()
