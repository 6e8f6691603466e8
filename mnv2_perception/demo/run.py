"""`mnv2 demo`: a bag through the live nodes, and what came of it.

Three processes over DDS, as on a robot: player, perception with all its nodes, recorder. This
one only starts them, waits, and reads what they left. It imports no ROS, so it can say what is
missing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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

import cv2

from mnv2_perception.bags.camera import (
    CameraTopics,
    find_camera,
    read_ids,
    read_images,
    read_stamps,
)
from mnv2_perception.bags.read import BagReader
from mnv2_perception.bags.results import (
    read_classifications,
    read_detections,
    read_grids,
    read_last_diagnostics,
)
from mnv2_perception.demo.pictures import draw_results, Results
from mnv2_perception.errors import BagError, PerceptionError, SetupError
from mnv2_perception.evaluation.recording import (
    account,
    accuracy,
    latencies_ms,
    percentile,
    spread,
)
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.scenes.bag import draw_bag, IMAGE_TOPIC, SEED
from mnv2_perception.scenes.street import camera_height_m, CLASSES
from mnv2_perception.tasks.detector import Detector
from mnv2_perception.tasks.models import find_model, find_shared_file
from mnv2_perception.tasks.segmenter import Segmenter

MASK, CONFIDENCE = '/segmentation/mask', '/segmentation/confidence'
LABEL_INFO, DIAGNOSTICS = '/segmentation/label_info', '/diagnostics'
DETECTIONS, CLASSIFICATION, GRID = '/detections', '/classification', '/grid'
NODE = 'segmentation_node'
DETECTION_MODEL, CLASSIFICATION_MODEL = 'ssdlite_mobilenetv2_camvid', 'mobilenetv2_camvid_surface'
GROUND = 'road'  # the class that costmap_node marks free; without it there is no grid
RESULTS = (
    'summary.json', 'masks.mcap', 'sent.csv', 'received.csv', 'bag_player_node.log',
    'bag_recorder_node.log', 'perception.log',
)
START_TIMEOUT_S = 60.0
MIN_ROAD_IOU = 0.5


class DemoError(PerceptionError):
    """The demo ran, and its result is not good enough."""


@dataclass(frozen=True)
class AssumedCamera:
    """What a bag does not tell of its camera.

    Attributes:
        height_m: above flat ground.
        pitch_rad: positive looks down.
        horizontal_fov_rad: field of view, where the bag has no camera_info.
    """

    height_m: float
    pitch_rad: float
    horizontal_fov_rad: float


def run_demo(
    out: Path,
    bag: Path | None,
    topic: str,
    model: str,
    engine: str,
    threads: int,
    assumed: AssumedCamera,
) -> dict[str, Any]:
    """Replay a bag through the live nodes and report.

    Args:
        out: folder of the results, empty or of an earlier demo, whose results are replaced.
        bag: the bag; None draws one.
        topic: the image topic; empty takes the bag's first.
        model: of segmentation_node.
        engine: of segmentation_node; that of the other nodes is `auto`.
        threads: CPU threads for one inference; 0 uses one for each core.
        assumed: of the bag's camera; that of a drawn street is known.

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
        find_camera(bag, topic)  # before anything is removed
    find_model(model)
    clear(out, bag)
    drawn = bag is None
    if bag is None:
        bag = out / 'drawn_street'
        print('drawing a street …', flush=True)
        draw_bag(bag)
        topic = IMAGE_TOPIC
    camera = find_camera(bag, topic)
    with BagReader(bag) as reader:
        duration_s = (reader.end_ns - reader.start_ns) / 1e9
    segmenter = Segmenter.open(model, engine, threads)
    bare_ms = measure_bare_inference(segmenter, bag, camera.image)
    spec = segmenter.spec
    segmenter.close()
    results = [MASK, CONFIDENCE, DETECTIONS, CLASSIFICATION]
    if GROUND in spec.classes:
        results.append(GRID)
        costmap, placed = place_camera(camera, None if drawn else assumed)
    else:
        costmap, placed = {}, f'none, and no grid: {spec.name} has no class {GROUND}'
    values = node_parameters(camera, model, engine, threads, costmap)
    print(f'replaying {bag} ({duration_s:.1f} s) through the live nodes …', flush=True)
    counts = replay(out, bag, camera, values, results, bare_ms)
    note = '' if drawn else f'grid: camera assumed {assumed.height_m:.2f} m above flat ground'
    summary = summarise(out, bag, camera, spec, counts, drawn)
    draw_pictures(out, bag, camera, spec, note if counts['grids'] else '')
    recording = out / 'recording'
    shutil.move(next(recording.glob('*.mcap')), out / 'masks.mcap')  # says all that the folder did
    shutil.rmtree(recording)
    summary |= {'bare_inference_ms': bare_ms, 'duration_s': duration_s, 'camera': placed}
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
        foreign = sorted(n for n in found - ours if not fnmatch(n, 'frame_[0-9][0-9].png'))
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
    segmenter: Segmenter, bag: Path, topic: str, runs: int = 15
) -> float:
    """Return the median time of one image through the segmenter alone, in ms; nothing else runs.

    Raises:
        BagError: the topic has no images.
    """
    first = next(read_images(bag, topic), None)
    if first is None:
        raise BagError(f'{bag}: has no images on {topic}')
    times_ms = []
    for _ in range(runs + 3):
        start_s = time.perf_counter()
        segmenter(first[1])
        times_ms.append((time.perf_counter() - start_s) * 1000.0)
    return statistics.median(times_ms[3:])


def node_parameters(
    camera: CameraTopics,
    model: str,
    engine: str,
    threads: int,
    costmap: Mapping[str, object],
) -> dict[str, object]:
    """Return the parameters of perception and its nodes; no `costmap`, no costmap_node."""
    nodes = ['segmentation', 'detection', 'classification']
    if costmap:
        nodes.append('costmap')
    return {
        'perception:nodes': nodes,
        'image_transport': 'compressed' if camera.compressed else 'raw',
        'threads': threads,
        'segmentation_node:model': model,
        'segmentation_node:engine': engine,
        'detection_node:model': DETECTION_MODEL,
        'detection_node:min_score': 0.4,
        'classification_node:model': CLASSIFICATION_MODEL,
        'classification_node:region': [0.25, 0.5, 0.75, 1.0],  # what lies ahead
        # Slow enough that two cores still make masks at the camera's rate.
        'detection_node:max_rate_hz': 2.0,
        'classification_node:max_rate_hz': 2.0,
        **{f'costmap_node:{name}': value for name, value in costmap.items()},
    }


def place_camera(
    camera: CameraTopics, assumed: AssumedCamera | None
) -> tuple[dict[str, object], str]:
    """Return costmap_node's parameters for a camera, and in words what they rest on.

    Args:
        camera: its topics.
        assumed: None for that of the drawn street.
    """
    values: dict[str, object] = {
        'traversable_classes': [GROUND], 'pose_source': 'parameters', 'max_range_m': 20.0,
        'grid_size_m': 40.0, 'grid_resolution_m': 0.2,
    }
    if assumed is None:
        height_m = camera_height_m(SEED)
        values |= {'camera_z_m': height_m, 'max_footprint_m': 0.7}
        return values, f'known: camera_info, {height_m:.2f} m above flat ground, level'
    values |= {
        'camera_z_m': assumed.height_m, 'camera_pitch_rad': assumed.pitch_rad,
        'max_footprint_m': 0.5, 'rectified': 'image_rect' in camera.image,
    }
    pose = f'{assumed.height_m:.2f} m above flat ground, pitch {assumed.pitch_rad:.2f} rad'
    if camera.info:
        return values, f'camera_info; assumed: {pose}'
    values['horizontal_fov_rad'] = assumed.horizontal_fov_rad
    return values, f'assumed: {pose}, {assumed.horizontal_fov_rad:.2f} rad wide'


def replay(
    out: Path,
    bag: Path,
    camera: CameraTopics,
    values: Mapping[str, object],
    results: Sequence[str],
    bare_ms: float,
) -> dict[str, int]:
    """Run recorder, nodes and player; return what player and recorder counted.

    Args:
        out: where logs and the recording go.
        bag: what is played.
        camera: its topics.
        values: parameters of the nodes.
        results: topics to record, besides names and diagnostics.
        bare_ms: time of one inference.

    Raises:
        DemoError: a process died or did not come up.
    """
    played = [camera.image]
    node_args = ['--ros-args', '-r', f'image:={camera.image.removesuffix("/compressed")}']
    if camera.info and GRID in results:
        played.append(camera.info)
        node_args += ['-r', f'camera_info:={camera.info}']
    for name, value in values.items():
        node_args += ['-p', f'{name}:={value}']
    player_args = [
        str(bag), '--topics', *played, '--wait-for-subscribers', '30', '--start-delay', '1',
        '--log', str(out / 'sent.csv'),
    ]
    recorder_args = [
        '--out', str(out / 'recording'), '--log', str(out / 'received.csv'), LABEL_INFO,
        DIAGNOSTICS, *results,
    ]
    with (
        started('bag_recorder_node', recorder_args, out) as recorder,
        started('perception', node_args, out) as nodes,
    ):
        for topic in results:
            wait_for_line(out / 'bag_recorder_node.log', f'recording {topic} ', recorder, nodes)
        with started('bag_player_node', player_args, out) as player:
            while player.poll() is None:
                for process, name in ((nodes, 'perception'), (recorder, 'recorder')):
                    if process.poll() is not None:
                        raise DemoError(f'{name} died; see the logs in {out}')
                time.sleep(0.1)
        # The frame in work, the one that waits, and one period of the diagnostics.
        time.sleep(2.5 + 3.0 * bare_ms / 1000.0)
    sent = read_counts(out / 'bag_player_node.log', 'published')
    received = read_counts(out / 'bag_recorder_node.log', 'received')
    return {
        'frames_in': sent.get(camera.image, 0),
        'masks_out': received.get(MASK, 0),
        'detections': received.get(DETECTIONS, 0),
        'classifications': received.get(CLASSIFICATION, 0),
        'grids': received.get(GRID, 0),
    }


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
                for path in sorted(log.parent.glob('*.log'))
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
    camera: CameraTopics,
    spec: ModelSpec,
    counts: Mapping[str, int],
    drawn: bool,
) -> dict[str, Any]:
    """Return the summary of a recorded run.

    Raises:
        DemoError: no mask came.
    """
    masks_bag = out / 'recording'
    node = read_last_diagnostics(masks_bag, DIAGNOSTICS, NODE)
    accounted = account(counts['frames_in'], counts['masks_out'], node)
    summary: dict[str, Any] = {**accounted, **counts}
    if not counts['masks_out']:
        raise DemoError(
            f'no mask came out of {counts["frames_in"]} frames; see {out}/perception.log'
        )
    latencies = latencies_ms(out / 'sent.csv', out / 'received.csv', camera.image, MASK)
    arrived = read_stamps(masks_bag, MASK)
    duration_s = (arrived[-1][0] - arrived[0][0]) / 1e9
    summary |= {
        'latency_ms': {
            'p50': percentile(latencies, 0.5), 'p95': percentile(latencies, 0.95)
        },
        'fps': (len(arrived) - 1) / max(1e-9, duration_s),
        'engine': node['engine'],
        'model': node['model'],
    }
    if camera.label:
        matrix = accuracy(
            read_ids(bag, camera.label), read_ids(masks_bag, MASK), len(spec.classes)
        )
        if matrix.counts.any():  # else the labels are of other classes or stamps
            summary['miou'] = matrix.miou()
            if drawn and spec.classes == CLASSES:
                summary['road_iou'] = float(matrix.iou()[CLASSES.index('road')])
    return summary


def draw_pictures(
    out: Path, bag: Path, camera: CameraTopics, spec: ModelSpec, note: str
) -> None:
    """Write a few frames with all that the nodes said of them, `out/frame_00.png` and so on.

    Not every node sees every frame: those of which all spoke are taken, if there are any.
    """
    recording = out / 'recording'
    with BagReader(recording) as reader:
        spoke = {topic.name for topic in reader.topics if topic.message_count}
    stamps = [
        {stamp_ns for _, stamp_ns in read_stamps(recording, topic)}
        for topic in (MASK, DETECTIONS, CLASSIFICATION, GRID) if topic in spoke
    ]
    chosen = spread(sorted(set.intersection(*stamps) or stamps[0]))

    def read(
        results: Callable[[Path, str], Iterable[tuple[int, Any]]], topic: str
    ) -> dict[int, Any]:
        pairs = results(recording, topic) if topic in spoke else ()
        return {stamp_ns: result for stamp_ns, result in pairs if stamp_ns in chosen}

    ids, boxes = read(read_ids, MASK), read(read_detections, DETECTIONS)
    classes = read(read_classifications, CLASSIFICATION)
    grids = read(read_grids, GRID)
    detector = Detector.open(DETECTION_MODEL)
    colours = dict(zip(detector.spec.classes, detector.spec.colours, strict=True))
    detector.close()
    start_ns, drawn = None, 0
    for stamp_ns, image in read_images(bag, camera.image):
        start_ns = stamp_ns if start_ns is None else start_ns
        if stamp_ns not in chosen:
            continue
        chosen.remove(stamp_ns)  # once, even where all images have one stamp
        results = Results(
            (stamp_ns - start_ns) / 1e9, image, ids[stamp_ns], boxes.get(stamp_ns),
            classes.get(stamp_ns), grids.get(stamp_ns), note,
        )
        picture = draw_results(results, spec, colours)
        cv2.imwrite(str(out / f'frame_{drawn:02d}.png'), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        drawn += 1
