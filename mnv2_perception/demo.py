"""`mnv2 demo`: a bag through the live nodes, and what came of it.

Three processes over DDS, as on a robot: player, segmentation_node, recorder. This one only starts
them, waits, and reads what they left. It imports no ROS, so it can say what is missing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
import importlib.util
import json
import os
from pathlib import Path
import shutil
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

from mnv2_perception.bags import report
from mnv2_perception.bags.draw import draw_bag, IMAGE_TOPIC
from mnv2_perception.bags.read import BagReader, header_stamp_ns
from mnv2_perception.errors import BagError, PerceptionError, SetupError
from mnv2_perception.pipeline import find_model, find_shared_file, Segmenter
from mnv2_perception.vision.scenes import CLASSES

MASK, CONFIDENCE = '/segmentation/mask', '/segmentation/confidence'
LABEL_INFO, DIAGNOSTICS = '/segmentation/label_info', '/diagnostics'
NODE = 'segmentation_node'
RESULTS = (
    'summary.json', 'masks.mcap', 'sent.csv', 'received.csv', 'bag_player_node.log',
    'bag_recorder_node.log', 'segmentation_node.log',
)
START_TIMEOUT_S = 60.0
MIN_ROAD_IOU = 0.5


class DemoError(PerceptionError):
    """The demo ran, and its result is not good enough."""


def run_demo(
    out: Path, bag: Path | None, topic: str, model: str, engine: str, threads: int
) -> dict[str, Any]:
    """Replay a bag through the live nodes and report.

    Args:
        out: folder of the results, empty or of an earlier demo, whose results are replaced.
        bag: the bag; None draws one.
        topic: the image topic; empty takes the bag's first.
        model: model for the node.
        engine: engine for the node.
        threads: CPU threads for one inference; 0 uses one for each core.

    Returns:
        The summary that is also in `out/summary.json`.

    Raises:
        SetupError: rclpy is missing, or `out` holds something else.
        BagError: the bag cannot be used.
        ModelError: there is no such model.
        DemoError: no mask came, or a drawn road was not found.
    """
    if importlib.util.find_spec('rclpy') is None:
        raise SetupError('the demo needs ROS 2: run `make setup`, or source a ROS distro')
    if bag is not None:
        report.find_camera(bag, topic)  # before anything is removed
    find_model(model)
    clear(out, bag)
    drawn = bag is None
    if bag is None:
        bag = out / 'drawn_street'
        print('drawing a street …', flush=True)
        draw_bag(bag)
        topic = IMAGE_TOPIC
    camera = report.find_camera(bag, topic)
    with BagReader(bag) as reader:
        duration_s = (reader.end_ns - reader.start_ns) / 1e9
    bare_ms = measure_bare_inference(bag, camera.image, model, engine, threads)
    print(f'replaying {bag} ({duration_s:.1f} s) through the live nodes …', flush=True)
    counts = replay(out, bag, camera, model, engine, threads, bare_ms)
    summary = summarise(out, bag, camera, model, engine, counts, drawn)
    summary |= {'bare_inference_ms': bare_ms, 'duration_s': duration_s}
    (out / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n', encoding='utf-8')
    if drawn and not (summary.get('road_iou') or 0.0) >= MIN_ROAD_IOU:
        raise DemoError(
            f'the road of the drawn street was found with an IoU of {summary.get("road_iou")}, '
            f'expected {MIN_ROAD_IOU} or more; was another model given?'
        )
    return summary


def clear(out: Path, bag: Path | None) -> None:
    """Make the folder, or remove an earlier demo's results from it.

    Raises:
        SetupError: the folder cannot be made, or holds what is not of a demo.
        BagError: the bag to replay is, or lies among, what would be removed.
    """
    if bag is not None and bag.resolve().is_relative_to(out.resolve()):
        raise BagError(f'{bag}: lies in {out}, which the demo replaces; choose another --out')
    try:
        out.mkdir(parents=True, exist_ok=True)
        found = {path.name for path in out.iterdir()}
        ours = {*RESULTS, 'recording', 'drawn_street'}
        foreign = sorted(n for n in found - ours if not fnmatch(n, 'overlay_[0-9][0-9].png'))
        if foreign:
            raise SetupError(
                f'{out}: holds {foreign[0]}, which no demo made; choose an empty --out'
            )
        for name in found:
            if (out / name).is_dir():
                shutil.rmtree(out / name)
            else:
                (out / name).unlink()
    except OSError as exc:
        raise SetupError(f'{out}: cannot be used for the results: {exc}') from exc


def measure_bare_inference(
    bag: Path, topic: str, model: str, engine: str, threads: int, runs: int = 15
) -> float:
    """Return the median time of one image through the segmenter alone, in ms; nothing else runs.

    Raises:
        BagError: the topic has no images.
    """
    first = next(report.read_images(bag, topic), None)
    if first is None:
        raise BagError(f'{bag}: has no images on {topic}')
    segmenter = Segmenter.open(model, engine, threads)
    times_ms = []
    for _ in range(runs + 3):
        start_s = time.perf_counter()
        segmenter(first[1])
        times_ms.append((time.perf_counter() - start_s) * 1000.0)
    segmenter.close()
    return statistics.median(times_ms[3:])


def replay(
    out: Path,
    bag: Path,
    camera: report.CameraTopics,
    model: str,
    engine: str,
    threads: int,
    bare_ms: float,
) -> dict[str, Any]:
    """Run recorder, node and player; return what player and recorder counted.

    Raises:
        DemoError: a process died or did not come up.
    """
    remap = f'image:={camera.image.removesuffix("/compressed")}'
    transport = 'compressed' if camera.compressed else 'raw'
    recorded = [MASK, CONFIDENCE, LABEL_INFO, DIAGNOSTICS]
    node_args = [
        '--ros-args', '-r', remap, '-p', f'image_transport:={transport}', '-p',
        f'model:={model}', '-p', f'engine:={engine}', '-p', f'threads:={threads}',
    ]
    player_args = [
        str(bag), '--topics', camera.image, '--wait-for-subscribers', '30', '--start-delay', '1',
        '--log', str(out / 'sent.csv'),
    ]
    recorder_args = [
        '--out', str(out / 'recording'), '--log', str(out / 'received.csv'), *recorded
    ]
    with (
        started('bag_recorder_node', recorder_args, out) as recorder,
        started('segmentation_node', node_args, out) as node,
    ):
        wait_for_line(out / 'bag_recorder_node.log', f'recording {CONFIDENCE}', recorder, node)
        with started('bag_player_node', player_args, out) as player:
            while player.poll() is None:
                for process, name in ((node, 'segmentation_node'), (recorder, 'recorder')):
                    if process.poll() is not None:
                        raise DemoError(f'{name} died; see the logs in {out}')
                time.sleep(0.1)
        # The frame in work, the one that waits, and one period of the diagnostics.
        time.sleep(2.5 + 3.0 * bare_ms / 1000.0)
    sent = read_counts(out / 'bag_player_node.log', 'published')
    received = read_counts(out / 'bag_recorder_node.log', 'received')
    return {'frames_in': sent.get(camera.image, 0), 'masks_out': received.get(MASK, 0)}


@contextmanager
def started(module: str, args: list[str], out: Path) -> Iterator['subprocess.Popen[bytes]']:
    """Run a node in a process of its own; on leaving, SIGINT and wait."""
    with (out / f'{module}.log').open('wb') as log:
        process = subprocess.Popen(
            [sys.executable, '-m', f'mnv2_perception.nodes.{module}', *args],
            stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=ros_environment(os.environ),
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(20.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ros_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment whose ROS graph is this machine's alone, with room for images.

    What the user has set stays.
    """
    profile = str(find_shared_file('config/fastdds.xml'))
    ours = {
        'ROS_DOMAIN_ID': str(1 + os.getpid() % 100),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'FASTDDS_DEFAULT_PROFILES_FILE': profile,
        'FASTRTPS_DEFAULT_PROFILES_FILE': profile,
    }
    if environ.get('ROS_DISTRO') == 'humble':
        ours['ROS_LOCALHOST_ONLY'] = '1'  # later distros have the discovery range instead
    return ours | dict(environ)


def wait_for_line(log: Path, text: str, *processes: 'subprocess.Popen[bytes]') -> None:
    """Wait until a log holds a text.

    Raises:
        DemoError: it did not come in time, or a process ended before.
    """
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while text not in log.read_text(encoding='utf-8', errors='replace'):
        dead = any(process.poll() is not None for process in processes)
        if dead or time.monotonic() > deadline_s:
            logs = '\n'.join(
                path.read_text(encoding='utf-8', errors='replace')[-2000:]
                for path in sorted(log.parent.glob('*_node.log'))
            )
            raise DemoError(f'the nodes did not come up; their last words:\n{logs}')
        time.sleep(0.1)


def read_counts(log: Path, key: str) -> dict[str, int]:
    """Return the counts per topic that player and recorder print as their last line.

    Raises:
        DemoError: there are none: the process did not end well.
    """
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
    try:
        return dict(json.loads(lines[-1])[key])
    except (IndexError, KeyError, ValueError) as exc:
        raise DemoError(f'{log}: ends without its counts; its end:\n' + '\n'.join(lines[-5:])) \
            from exc


def summarise(
    out: Path,
    bag: Path,
    camera: report.CameraTopics,
    model: str,
    engine: str,
    counts: Mapping[str, int],
    drawn: bool,
) -> dict[str, Any]:
    """Read the recorded bag; write pictures; return the summary.

    Raises:
        DemoError: no mask came.
    """
    masks_bag = out / 'recording'
    node = report.read_last_diagnostics(masks_bag, DIAGNOSTICS, NODE)
    summary: dict[str, Any] = dict(
        report.account(counts['frames_in'], counts['masks_out'], node)
    )
    if not counts['masks_out']:
        raise DemoError(
            f'no mask came out of {counts["frames_in"]} frames; see {out}/segmentation_node.log'
        )
    segmenter = Segmenter.open(model, engine)
    spec = segmenter.spec
    segmenter.close()
    latencies = report.latencies_ms(out / 'sent.csv', out / 'received.csv', camera.image, MASK)
    with BagReader(masks_bag) as reader:
        arrived = [(m.stamp_ns, header_stamp_ns(m.cdr)) for m in reader.messages([MASK])]
    duration_s = (arrived[-1][0] - arrived[0][0]) / 1e9
    chosen = report.spread([stamp_ns for _, stamp_ns in arrived])
    summary |= {
        'latency_ms': {
            'p50': report.percentile(latencies, 0.5), 'p95': report.percentile(latencies, 0.95)
        },
        'fps': (len(arrived) - 1) / max(1e-9, duration_s),
        'engine': node['engine'],
        'model': node['model'],
    }
    if camera.label:
        matrix = report.accuracy(
            report.read_ids(bag, camera.label), report.read_ids(masks_bag, MASK), len(spec.classes)
        )
        if matrix.counts.any():  # else the labels are of other classes or stamps
            summary['miou'] = matrix.miou()
            if drawn and spec.classes == CLASSES:
                summary['road_iou'] = float(matrix.iou()[CLASSES.index('road')])
    pairs = report.paired(
        report.read_images(bag, camera.image), report.read_ids(masks_bag, MASK)
    )
    report.write_overlays(out, (pair for pair in pairs if pair[0] in chosen), spec)
    shutil.move(next(masks_bag.glob('*.mcap')), out / 'masks.mcap')  # says all that the folder did
    shutil.rmtree(masks_bag)
    return summary
