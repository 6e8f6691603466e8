"""`mnv2 demo`: replay a bag through the live nodes and report the results.

Three processes over DDS, as on a robot: player, perception with all its nodes, recorder. This
process only starts them, waits, and reads their results. It does not import ROS, so it can tell
the user what is missing.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
import importlib.util
import json
from pathlib import Path
import shutil
import time
from typing import Any

from mnv2_perception.bags.camera import CameraTopics, find_camera, read_stamps
from mnv2_perception.bags.playback import played_s
from mnv2_perception.bags.viewing import check_viewer
from mnv2_perception.demo.camera import AssumedCamera, choose_roles, place_camera
from mnv2_perception.demo.folder import clear
from mnv2_perception.demo.models import choose_models, Chosen
from mnv2_perception.demo.pictures import draw_pictures
from mnv2_perception.demo.processes import Process
from mnv2_perception.demo.summary import measure_bare_inference, rate_hz, summarise
from mnv2_perception.demo.topics import (
    CLASSIFICATION,
    CONFIDENCE,
    DETECTIONS,
    DIAGNOSTICS,
    GRID,
    LABEL_INFO,
    MASK,
)
from mnv2_perception.demo.viewer import serve, wait_for_viewer
from mnv2_perception.errors import DemoError, SetupError
from mnv2_perception.evaluation.labels import known_as
from mnv2_perception.report.report import make_report, write_report
from mnv2_perception.scenes.bag import draw_bag, IMAGE_TOPIC
from mnv2_perception.tasks.model_info import licence_of
from mnv2_perception.tasks.segmenter import Segmenter

MIN_ROAD_IOU = 0.8
MAX_GAP_S = 10.0  # longer gaps in the bag are shortened to a second


def run_demo(
    out: Path,
    bag: Path | None,
    topic: str,
    models: Sequence[str],
    engine: str,
    threads: int,
    assumed: AssumedCamera,
    roles: Mapping[str, Sequence[str]],
    rate: float = 1.0,
    foxglove: str = '',
) -> dict[str, Any]:
    """Replay a bag through the live nodes and report.

    Args:
        out: folder for the results: empty, or with those of an earlier demo, which are replaced.
        bag: path of the bag; None draws one.
        topic: image topic; empty for the one that looks like the bag's camera.
        models: see `choose_models`.
        engine: engine for the given models and for segmentation.
        threads: CPU threads for one inference; 0 uses one for each core.
        assumed: assumptions about the bag's camera; that of a drawn street is known.
        roles: lists of classes for the grid, see `choose_roles`.
        rate: bag seconds per second.
        foxglove: address at which the demo can be watched; empty for none.

    Returns:
        The summary that is also in `out/summary.json`.

    Raises:
        SetupError: rclpy or what `foxglove` needs is missing, or `out` holds other files.
        BagError: the bag cannot be used.
        ModelError: there is no such model.
        DemoError: there were no masks, or the road of a drawn street was not found.
    """
    if importlib.util.find_spec('rclpy') is None:
        raise SetupError('the demo needs ROS 2: run `make setup`, or source a ROS distro')
    if foxglove:
        check_viewer()
    if bag is not None:
        find_camera(bag, topic)  # fails before models are opened, which takes longer
    drawn = bag is None
    # The earlier results are removed as late as possible: they stay if something above fails.
    chosen = choose_models(models, engine, threads)
    spec = chosen['segmentation'].spec
    lists, said = choose_roles(spec, roles)
    if said:
        print(f'grid: {said}', flush=True)
    if bag is None:
        clear(out, None)
        bag, topic = out / 'drawn_street', IMAGE_TOPIC
        print('drawing a street …', flush=True)
        draw_bag(bag)
    camera = find_camera(bag, topic)
    with closing(Segmenter.open(chosen['segmentation'].model, engine, threads)) as segmenter:
        bare_ms = measure_bare_inference(segmenter, bag, camera.image)
    if not drawn:
        clear(out, bag)
    stamps_ns = [recorded_ns for recorded_ns, _ in read_stamps(bag, camera.image)]
    duration_s = played_s(stamps_ns, MAX_GAP_S)
    costmap: dict[str, object] = {}
    placed = said
    if lists:
        costmap, placed = place_camera(camera, None if drawn else assumed, lists)
        placed += f'; {said}' if said else ''
    values = node_parameters(camera, chosen, threads, costmap)
    lasting = f' ({duration_s / rate:.1f} s)' if duration_s else ''
    print(f'replaying {bag}{lasting} through the live nodes …', flush=True)
    nodes = [*chosen, *(['costmap'] if costmap else [])]
    results = [MASK, CONFIDENCE, DETECTIONS, CLASSIFICATION, *([GRID] if costmap else [])]
    counts = replay(out, bag, camera, nodes, values, results, bare_ms, rate, foxglove)
    note = '' if drawn else f'grid: camera assumed {assumed.height_m:.2f} m above flat ground'
    summary = summarise(out, bag, camera, spec, counts, drawn)
    draw_pictures(
        out, bag, camera, spec, chosen['detection'].spec, note if counts['grids'] else ''
    )
    recording = out / 'recording'
    shutil.move(next(recording.glob('*.mcap')), out / 'masks.mcap')  # complete without its folder
    shutil.rmtree(recording)
    summary |= {
        'bare_inference_ms': bare_ms, 'duration_s': duration_s, 'rate': rate,
        'images_per_s': rate_hz(len(stamps_ns), duration_s / rate), 'camera': placed,
        'ground': lists.get('traversable_classes', []), 'bag': str(bag), 'image': camera.image,
        'images_passed_over': camera.passed_over,
        'models': {task: each.spec.name for task, each in chosen.items()},
        'licences': {task: licence_of(each.spec) for task, each in chosen.items()},
        'classes': {task: list(each.spec.classes) for task, each in chosen.items()},
    }
    write_report(make_report([out / 'masks.mcap'], bag, topic=camera.image), out / 'report.html')
    (out / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n', encoding='utf-8')
    if drawn and known_as('road', spec.classes) and not (
        (summary.get('road_iou') or 0.0) >= MIN_ROAD_IOU
    ):
        raise DemoError(
            f'the road of the drawn street was found with an IoU of {summary.get("road_iou")}, '
            f'expected {MIN_ROAD_IOU} or more; is --model one for other scenes?'
        )
    return summary


def node_parameters(
    camera: CameraTopics,
    chosen: Mapping[str, Chosen],
    threads: int,
    costmap: Mapping[str, object],
) -> dict[str, object]:
    """Return the parameters of all nodes: their models, and costmap_node's own."""
    return {
        'image_transport': 'compressed' if camera.compressed else 'raw',
        'threads': threads,
        **{f'{task}_node:model': each.model for task, each in chosen.items()},
        **{f'{task}_node:engine': each.engine for task, each in chosen.items()},
        'detection_node:min_score': 0.4,
        'classification_node:region': [0.25, 0.5, 0.75, 1.0],  # the ground ahead
        # Low rates, so that two cores can still make masks at the camera's rate.
        'detection_node:max_rate_hz': 2.0,
        'classification_node:max_rate_hz': 2.0,
        **{f'costmap_node:{name}': value for name, value in costmap.items()},
    }


def replay(
    out: Path,
    bag: Path,
    camera: CameraTopics,
    chosen: Sequence[str],
    values: Mapping[str, object],
    results: Sequence[str],
    bare_ms: float,
    rate: float,
    foxglove: str = '',
) -> dict[str, int]:
    """Run recorder, nodes and player; return the counts of player and recorder.

    Args:
        out: folder for logs and recording.
        bag: path of the bag to play.
        camera: topics of the camera.
        chosen: the nodes that `perception` runs.
        values: parameters of the nodes.
        results: topics to record, besides label_info and diagnostics.
        bare_ms: time of one inference.
        rate: bag seconds per second.
        foxglove: address for a viewer, who is waited for; empty for none.

    Raises:
        DemoError: a process ended, or did not start properly.
        SetupError: nothing can be served at `foxglove`.
    """
    played = [camera.image]
    node_args = ['--ros-args', '-r', f'image:={camera.image.removesuffix("/compressed")}']
    if camera.info and GRID in results:
        played.append(camera.info)
        node_args += ['-r', f'camera_info:={camera.info}']
    for name, value in {'perception:nodes': list(chosen), **values}.items():
        node_args += ['-p', f'{name}:={value}']
    player_args = [
        str(bag), '--topics', *played, '--wait-for-subscribers', '30', '--start-delay', '1',
        '--rate', str(rate), '--max-gap', str(MAX_GAP_S), '--log', str(out / 'sent.csv'),
    ]
    recorder_args = [
        '--out', str(out / 'recording'), '--log', str(out / 'received.csv'), LABEL_INFO,
        DIAGNOSTICS, *results,
    ]
    with (
        Process('bag_recorder_node', recorder_args, out) as recorder,
        Process('perception', node_args, out) as nodes,
        serve(foxglove, out) as bridge,
    ):
        for topic in results:
            recorder.wait_for({'event': 'recording', 'topic': topic}, nodes)
        for name in chosen:
            nodes.wait_for({'event': 'active', 'node': f'/{name}_node'}, recorder)
        if bridge:
            wait_for_viewer(bridge, nodes)
        with Process('bag_player_node', player_args, out) as player:
            while player.running:
                for process in (nodes, recorder):
                    if not process.running:
                        raise DemoError(f'{process.log.stem} ended unexpectedly; see the logs in '
                                        f'{out}')
                time.sleep(0.1)
        # Time for the frame in work, the waiting one, and one period of the diagnostics.
        time.sleep(2.5 + 3.0 * bare_ms / 1000.0)
    sent, received = player.counts('published'), recorder.counts('received')
    return {
        'frames_in': sent.get(camera.image, 0),
        'masks_out': received.get(MASK, 0),
        'detections': received.get(DETECTIONS, 0),
        'classifications': received.get(CLASSIFICATION, 0),
        'grids': received.get(GRID, 0),
    }
