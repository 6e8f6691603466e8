"""What a robot gets from the node, by default and tuned: `python benchmark/node.py`.

Nodes in processes of their own get a drawn street of 480 × 640 from this process:

* `tutorial`: tutorial_node.py, what tutorials show, with the same network in ONNX Runtime.
* `default`: segmentation_node with no parameter but the model.
* `onnx_runtime fp32`: segmentation_node in the tutorial's runtime and precision.

Each round starts all three, one after the other. Then they take several turns, in each of which
one works while the others wait, because a shared machine may be half as fast from one minute to
the next. The order changes from turn to turn, so that none is always first or always follows the
same other one.

The time from the start of its process until a node is active is that of its line on stdout, which
waits for nobody. Its first mask needs the two processes to discover each other, too, and half a
second more. The tutorials' node has no lifecycle.

Closed loop: the next image is sent when the mask has arrived. Fixed rate: an image every 1/rate s,
whatever comes back; images without a mask in the end are lost. Flooded: half as many images more
per second as it made masks one after the other, so that the next image is always there. Latency is
measured from before the image is published until its mask has arrived. The floor is the bare call:
ONNX Runtime in this process with the network alone, on a scaled float image, opened in each round
and measured in each turn.

Writes results/node.json and docs/node.png; prints a table. Takes ten minutes per model.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, ExitStack
import json
import os
from pathlib import Path
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from mnv2_perception.demo.processes import read_event, ros_environment

os.environ.update(ros_environment(os.environ))  # before rclpy is loaded

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from mnv2_perception.engines import Engine, open_engine
from mnv2_perception.engines.graph import cut_network
from mnv2_perception.evaluation.benchmark import cpu_name
from mnv2_perception.nodes.messages import rgb_to_msg
from mnv2_perception.nodes.rclpy_private import Executor
from mnv2_perception.scenes.street import draw_scene
from mnv2_perception.tasks.models import find_model

ROOT = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH = 480, 640
WARM_UP = 15
WAIT_S = 2.0  # how long to wait for a mask
QUIET_S = 0.5  # after this time without a mask, no more will come
FLOOD = 1.5  # images sent per mask that it made one after the other
TICKS = os.sysconf('SC_CLK_TCK')
WAYS = ('tutorial', 'default', 'onnx_runtime fp32')


class Camera(Node):
    """Sends images to the node in a namespace, and records when their masks arrive."""

    def __init__(self, namespace: str) -> None:
        super().__init__('camera', namespace=namespace)
        self.images = [
            rgb_to_msg(draw_scene(7, index / 10.0, HEIGHT, WIDTH)[0], Header())
            for index in range(8)
        ]
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self.publisher = self.create_publisher(Image, 'image', qos)
        self.create_subscription(Image, 'segmentation/mask', self.on_mask, qos)
        self.sent_s: dict[int, float] = {}
        self.latencies_ms: dict[int, float] = {}
        self.executor_ = Executor()
        self.executor_.add_node(self)
        self.number = 0

    def on_mask(self, msg: Image) -> None:
        number = msg.header.stamp.nanosec
        if number in self.sent_s:
            self.latencies_ms[number] = 1000.0 * (time.perf_counter() - self.sent_s[number])

    def send(self) -> int:
        self.number += 1
        image = self.images[self.number % len(self.images)]
        image.header.stamp.sec, image.header.stamp.nanosec = 1, self.number
        self.sent_s[self.number] = time.perf_counter()
        self.publisher.publish(image)
        return self.number

    def spin_until(self, until_s: float, number: int | None = None) -> None:
        """Spin until a time (perf_counter), or until the mask of an image has arrived."""
        while number not in self.latencies_ms and (left_s := until_s - time.perf_counter()) > 0:
            self.executor_.spin_once(timeout_sec=left_s)

    def closed_loop(self, images: int) -> dict[str, float]:
        start_s, begun = time.perf_counter(), self.number
        for _ in range(images):
            number = self.send()
            self.spin_until(time.perf_counter() + WAIT_S, number)
        elapsed_s = time.perf_counter() - start_s
        found = [ms for number, ms in self.latencies_ms.items() if number > begun]
        return {'ms': statistics.median(found), 'masks_per_s': len(found) / elapsed_s}

    def fixed_rate(self, images: int, rate_hz: float) -> dict[str, float]:
        begun, start_s = self.number, time.perf_counter()
        for index in range(images):
            self.send()
            self.spin_until(start_s + (index + 1) / rate_hz)
        self.drain()
        found = [ms for number, ms in self.latencies_ms.items() if number > begun]
        return {
            'p50_ms': float(np.quantile(found, 0.5)), 'p95_ms': float(np.quantile(found, 0.95)),
            'answered': len(found) / images,
        }

    def flooded(self, images: int, rate_hz: float) -> dict[str, float]:
        begun, start_s = self.number, time.perf_counter()
        for index in range(images):
            self.send()
            self.spin_until(start_s + (index + 1) / rate_hz)
        found = sum(number > begun for number in self.latencies_ms)
        elapsed_s = time.perf_counter() - start_s
        self.drain()
        return {'flooded_masks_per_s': found / elapsed_s}

    def drain(self) -> None:
        known = -1
        while len(self.latencies_ms) > known:
            known = len(self.latencies_ms)
            self.spin_until(time.perf_counter() + QUIET_S)


def command(way: str, model: Path, network: Path, threads: int) -> list[str]:
    """Return the command line of a node."""
    parameters = [f'threads:={threads}']
    if way == 'tutorial':
        start = [str(ROOT / 'benchmark/tutorial_node.py')]
        parameters.append(f'model:={network}')
    else:
        start = ['-m', 'mnv2_perception.nodes.segmentation_node']
        parameters.append(f'model:={model}')
        if way != 'default':
            engine, precision = way.split()
            parameters += [f'engine:={engine}', f'precision:={precision}']
    given = [part for value in parameters for part in ('-p', value)]
    return [sys.executable, *start, '--ros-args', '-r', f'__ns:={namespace(way)}', *given]


def namespace(way: str) -> str:
    """Return the namespace of a node and its camera."""
    return f'/{way.replace(" ", "_")}'


class Started:
    """A node's process, and when it reported on stdout that it is active.

    Attributes:
        pid: id of the process.
        started_s: time of its start (perf_counter).
        active_s: seconds from its start until it was active; None until then.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.started_s = time.perf_counter()
        self.active_s: float | None = None
        self.process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
        )
        self.pid = self.process.pid
        self.listener = threading.Thread(target=self.listen, daemon=True)
        self.listener.start()

    def listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            now_s = time.perf_counter()
            event = read_event(line)
            if event and event.get('event') == 'active' and self.active_s is None:
                self.active_s = now_s - self.started_s


@contextmanager
def running(arguments: Sequence[str]) -> Iterator[Started]:
    """Run a node's process."""
    started = Started(arguments)
    try:
        yield started
    finally:
        started.process.send_signal(signal.SIGINT)
        started.process.wait(30.0)
        started.listener.join()


def order(ways: Sequence[str], turn: int) -> list[str]:
    """Return the ways in the order of a turn; in six turns each follows each other one alike."""
    at = turn % len(ways)
    first, *others = [*ways[at:], *ways[:at]]
    return [first, *(others if turn // len(ways) % 2 == 0 else others[::-1])]


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, in seconds."""
    fields = Path(f'/proc/{pid}/stat').read_text(encoding='ascii').rpartition(')')[2].split()
    return sum(map(int, fields[11:13])) / TICKS


def memory_mb(pid: int) -> float:
    """Return the resident size of a process, in MiB."""
    for line in Path(f'/proc/{pid}/status').read_text(encoding='ascii').splitlines():
        if line.startswith('VmRSS:'):
            return int(line.split()[1]) / 1024
    raise SystemExit(f'/proc/{pid}/status has no VmRSS')


def first_mask_s(camera: Camera, started_s: float) -> float:
    """Send an image every 0.1 s until a mask comes; return the seconds from the start to it."""
    while not camera.latencies_ms:  # the first images find nobody, or are held back
        if time.perf_counter() > started_s + 60.0:
            raise SystemExit(f'no mask in 60 s: {camera.get_namespace()}')
        camera.spin_until(time.perf_counter() + 0.1, camera.send())
    return min(
        camera.sent_s[number] + ms / 1000.0 for number, ms in camera.latencies_ms.items()
    ) - started_s


def bare_ms(engine: Engine, runs: int) -> float:
    """Return the median time of the bare call, in milliseconds."""
    (spec,) = engine.inputs
    sides = [side for side in spec.shape if side is not None]
    tensor = np.random.default_rng(0).standard_normal(sides).astype(spec.dtype)
    times = []
    for _ in range(runs):
        start_s = time.perf_counter()
        engine.infer({spec.name: tensor})
        times.append(1000.0 * (time.perf_counter() - start_s))
    return statistics.median(times[len(times) // 10:])


def measure_round(
    lines: dict[str, list[str]], network: Path, arguments: argparse.Namespace, number: int
) -> dict[str, Any]:
    """Start the nodes, let them take turns, and return the measurements of starts and turns."""
    images = arguments.images
    found: dict[str, Any] = {way: {} for way in lines}
    turns: dict[str, list[dict[str, float]]] = {way: [] for way in lines}
    bare: list[float] = []
    rclpy.init()
    cameras = {way: Camera(namespace(way)) for way in lines}
    with ExitStack() as stack:
        # Opened again, like the nodes: a session's speed also depends on where its memory is.
        engine = stack.enter_context(open_engine(network, 'onnx_runtime', arguments.threads))
        pids = {}
        for way in order(WAYS, number):
            started = stack.enter_context(running(lines[way]))
            pids[way] = started.pid
            first_s = first_mask_s(cameras[way], started.started_s)
            found[way] = {'active_s': started.active_s, 'first_mask_s': first_s}
            cameras[way].closed_loop(WARM_UP)
        for turn in range(arguments.turns):
            bare.append(bare_ms(engine, images))
            for way in order(WAYS, number * arguments.turns + turn):
                camera = cameras[way]
                camera.closed_loop(3)  # the caches hold other nodes' data
                busy_s = cpu_s(pids[way])
                closed = camera.closed_loop(images)
                busy_s = cpu_s(pids[way]) - busy_s
                fixed = camera.fixed_rate(images, arguments.rate)
                flooded = camera.flooded(2 * images, FLOOD * closed['masks_per_s'])
                turns[way].append(
                    {**closed, **fixed, **flooded, 'cpu_ms': 1000.0 * busy_s / images}
                )
        for way in cameras:
            found[way]['memory_mb'] = memory_mb(pids[way])
    for camera in cameras.values():
        camera.executor_.shutdown()
        camera.destroy_node()
    rclpy.shutdown()
    return {'bare_ms': bare, 'ways': found, 'turns': turns}


def measure_model(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one model in rounds; return figures, and ratios within turns."""
    model = find_model(name)
    bare: list[float] = []
    once: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    turns: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / 'network.onnx'
        cut_network(model, network)
        lines = {way: command(way, model, network, arguments.threads) for way in WAYS}
        for number in range(arguments.rounds):
            found = measure_round(lines, network, arguments, number)
            bare += found['bare_ms']
            for way in WAYS:
                once[way].append(found['ways'][way])
                turns[way] += found['turns'][way]
                print(name, number, way,
                      json.dumps({**found['turns'][way][-1], **found['ways'][way]}),
                      file=sys.stderr, flush=True)

    def medians(each: list[dict[str, Any]]) -> dict[str, float | None]:
        return {
            key: None if each[0][key] is None
            else round(statistics.median(found[key] for found in each), 3) for key in each[0]
        }

    def to_tutorial(key: str) -> dict[str, list[float]]:
        return {
            way: quartiles([ours[key] / theirs[key] for ours, theirs in zip(
                turns[way], turns['tutorial'], strict=True)]) for way in WAYS[1:]
        }

    return {
        'bare_ms': round(statistics.median(bare), 3),
        'ways': {way: {**medians(turns[way]), **medians(once[way])} for way in WAYS},
        'starts': {
            way: {
                key: [found[key] and round(found[key], 3) for found in once[way]]
                for key in ('active_s', 'first_mask_s')
            } for way in WAYS
        },
        # Ratios within the same turn: lower quartile, median, upper quartile.
        'masks_per_s_to_tutorial': to_tutorial('masks_per_s'),
        'flooded_to_tutorial': to_tutorial('flooded_masks_per_s'),
        'p95_to_tutorial': to_tutorial('p95_ms'),
        'ms_above_bare': {
            way: quartiles([each['ms'] - floor for each, floor in zip(
                turns[way], bare, strict=True)]) for way in WAYS
        },
        'ms_to_bare': {
            way: quartiles([each['ms'] / floor for each, floor in zip(
                turns[way], bare, strict=True)]) for way in WAYS
        },
        'p95_to_bare': {
            way: quartiles([each['p95_ms'] / floor for each, floor in zip(
                turns[way], bare, strict=True)]) for way in WAYS
        },
    }


def quartiles(values: list[float]) -> list[float]:
    """Return lower quartile, median and upper quartile."""
    return [round(float(value), 3) for value in np.quantile(values, (0.25, 0.5, 0.75))]


def draw(result: dict[str, Any], out: Path) -> None:
    """Draw masks per second and the 95th percentile of latency, for each model and way."""
    figure = Figure(figsize=(9, 3.2), dpi=110, layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    models = list(result['models'])
    for panel, key, title in (
        (panels[0], 'masks_per_s', 'masks a second, one after the other'),
        (panels[1], 'p95_ms', f'95th percentile at {result["settings"]["rate"]:g} Hz, ms'),
    ):
        for index, way in enumerate(WAYS):
            values = [result['models'][model]['ways'][way][key] for model in models]
            at = np.arange(len(models)) + 0.25 * (index - 1)
            bars = panel.bar(at, values, 0.24, label=way)
            panel.bar_label(bars, fmt='%.0f', fontsize=8)
        panel.set_xticks(range(len(models)), [m.removeprefix('unet_mobilenetv2_') for m in models])
        panel.set_title(title, fontsize=10)
        panel.spines[['top', 'right']].set_visible(False)
    panels[0].legend(fontsize=8, frameon=False)
    figure.savefig(out)


def main() -> None:
    """Measure, print, write results and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--models', nargs='+',
        default=['unet_mobilenetv2_ground_fast', 'unet_mobilenetv2_ground'],
    )
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--turns', type=int, default=6, help='turns of each node per round')
    parser.add_argument(
        '--images', type=int, default=30, help='images per turn and way of sending'
    )
    parser.add_argument('--rate', type=float, default=30.0, help='images per second')
    parser.add_argument(
        '--threads', type=int, default=0, help='CPU threads; 0: one per core (default: 0)'
    )
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmark/results/node.json')
    parser.add_argument('--picture', type=Path, default=ROOT / 'docs/node.png')
    arguments = parser.parse_args()
    result = {
        'machine': {'cpu': cpu_name(), 'load': os.getloadavg()[0]},
        'settings': {name: getattr(arguments, name) for name in ('rounds', 'turns', 'images',
                                                                 'rate', 'threads')},
        'models': {name: measure_model(name, arguments) for name in arguments.models},
    }
    arguments.out.write_text(json.dumps(result, indent=2) + '\n')
    draw(result, arguments.picture)
    columns = ('ms', 'masks_per_s', 'flooded_masks_per_s', 'p50_ms', 'p95_ms', 'answered',
               'cpu_ms', 'memory_mb', 'active_s', 'first_mask_s')
    print(f'{"":48}' + ''.join(f'{column:>20}' for column in columns))
    for name, found in result['models'].items():
        print(f'{name}: bare call {found["bare_ms"]:.1f} ms')
        for way, figures in found['ways'].items():
            cells = ('-' if figures[key] is None else f'{figures[key]:.2f}' for key in columns)
            print(f'    {way:44}' + ''.join(f'{cell:>20}' for cell in cells))


if __name__ == '__main__':
    main()
