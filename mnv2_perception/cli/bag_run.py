"""`mnv2 bag run`."""

import argparse
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
import json
from pathlib import Path
import sys
import time
from typing import Any, TYPE_CHECKING

from mnv2_perception.cli.options import (
    add_command,
    add_force,
    add_json,
    check_output,
    check_rosbags,
    ENGINE_HELP,
    FPS_HELP,
    FRACTION,
    MIN_SCORE_HELP,
    MODEL_HELP,
    Number,
    PRECISION_HELP,
    RECORDING_HELP,
    table,
    THREADS,
    TOPIC_HELP,
)
from mnv2_perception.engines import PRECISIONS
from mnv2_perception.errors import BagError, CalibrationError, SetupError
from mnv2_perception.tasks.models import SEGMENTATION_MODEL

if TYPE_CHECKING:
    from mnv2_perception.cli.options import Commands
    from mnv2_perception.replay.frames import Source
    from mnv2_perception.replay.models import Task
    from mnv2_perception.replay.placing import Placer
    from mnv2_perception.replay.run import Summary

PARTLY = 3  # exit code: done, but part of the recording could not be read or processed
MOST_REASONS = 10
TELL_EVERY_S = 0.5
CLASS_LISTS = {
    'traversable': 'classes of ground to drive on (default: floor, sidewalk)',
    'forbidden': 'classes of ground that must not be driven on (default: speed_bump, stairs)',
    'obstacle': 'classes of things that stand on the ground (default: all in no other list)',
    'ignored': 'classes that are neither marked nor free (default: none)',
}


def add(commands: 'Commands') -> None:
    """Add the command to those of `mnv2 bag`."""
    run = add_command(
        commands, 'run', run_command,
        'Run models on every frame of a recording, without ROS.',
        'The output file has the topics and messages that the nodes would publish. Exit code 3: '
        'done, but part of the recording could not be read.',
    )
    run.add_argument('recording', type=Path, nargs='+', help=RECORDING_HELP)
    run.add_argument(
        '--out', type=Path, required=True, metavar='FILE', help='the .mcap file to write'
    )
    run.add_argument('--resume', action='store_true', help='continue an interrupted run')
    add_force(run)
    run.add_argument(
        '--model', action='append', default=[],
        help=f'{MODEL_HELP}; give it once for each task (default: {SEGMENTATION_MODEL})',
    )
    run.add_argument('--engine', default='auto', help=ENGINE_HELP)
    run.add_argument(
        '--threads', type=THREADS, default=0,
        help='CPU threads in total, of all images in work; 0: one per core (default: 0)',
    )
    run.add_argument(
        '--precision', default='auto', choices=('auto', *PRECISIONS), help=PRECISION_HELP
    )
    run.add_argument('--topic', default='', help=TOPIC_HELP)
    run.add_argument(
        '--copy', nargs='+', default=[], metavar='TOPIC',
        help='topics to copy into the results; label topics with their label_info',
    )
    run.add_argument(
        '--fps', type=Number(float, 0.0, 1000.0, above=True), default=0.0,
        help=FPS_HELP,
    )
    run.add_argument(
        '--min-confidence', type=FRACTION, default=0.0,
        help='pixels with a lower confidence get no class, and classes with a lower probability '
        'are left out, 0 to 1 (default: %(default)s)',
    )
    run.add_argument('--min-score', type=FRACTION, default=0.3, help=MIN_SCORE_HELP)
    ground = run.add_argument_group(
        'grid, obstacles and scan',
        "They are computed from masks if the camera's pose is known: from /tf and camera_info in "
        'the recording, or from the options below, which mean the same as the parameters of '
        'costmap_node.',
    )
    for option, numbers, meaning in (
        ('height', Number(float, 0.0, 100.0, above=True),
         'height of the camera above flat ground, in metres (default: take the pose from /tf)'),
        ('pitch', Number(float, -1.57, 1.57),
         'pitch of the camera in radians, positive: looks down (default: 0)'),
        ('fov', Number(float, 0.0, 3.1, above=True),
         'horizontal field of view in radians (default: as in camera_info)'),
    ):
        ground.add_argument(
            f'--camera-{option}', type=numbers, metavar=option.upper(),
            default=None if option == 'height' else 0.0, help=meaning,
        )
    for name, meaning in CLASS_LISTS.items():
        ground.add_argument(
            f'--{name}-classes', nargs='+', default=None, metavar='CLASS', help=meaning
        )
    ground.add_argument(
        '--base-frame', default='base_link', help="the robot's frame (default: %(default)s)"
    )
    ground.add_argument(
        '--grid-frame', default='odom',
        help='frame whose axes the grid follows (default: %(default)s)',
    )
    ground.add_argument(
        '--no-grid', action='store_true', help='compute no grid, obstacles and scan'
    )
    add_json(run)
    run.add_argument(
        '--ray', nargs='?', const='', metavar='ADDRESS',
        help='run on a Ray cluster: HOST:PORT of a cluster that this machine belongs to; without '
        'a value, the cluster that runs on this machine, or a new one. Each worker takes '
        '--threads CPUs (0: one)',
    )


def run_command(arguments: argparse.Namespace) -> int:
    """Run models on a recording and print a summary; return the exit code."""
    check_rosbags()
    from mnv2_perception.replay.fleet import Cluster, FleetRun
    from mnv2_perception.replay.frames import open_source
    from mnv2_perception.replay.models import AT_ONCE, open_tasks
    from mnv2_perception.replay.run import describe, open_results, Run

    out = arguments.out
    check_output(out, arguments.force or arguments.resume, arguments.recording, ['.mcap'])
    for recording in arguments.recording:
        if recording.is_dir() and out.resolve().is_relative_to(recording.resolve()):
            raise SetupError(f'{out}: is inside {recording}, which is read; choose another folder')
    with ExitStack() as stack:
        source = open_source(
            arguments.recording, stack, arguments.topic, arguments.copy, arguments.fps,
            transforms=arguments.camera_height is None and not arguments.no_grid,
        )
        models = arguments.model or [SEGMENTATION_MODEL]
        opening = {
            'engine': arguments.engine,
            'threads': arguments.threads or int(arguments.ray is not None),
            'precision': arguments.precision, 'min_confidence': arguments.min_confidence,
            'min_score': arguments.min_score,
            'at_once': AT_ONCE if arguments.ray is None else 1,
        }
        tasks = open_tasks(models, stack, **opening)
        placer, placed = make_placer(arguments, source, tasks)
        given = {
            'min_confidence': arguments.min_confidence, 'min_score': arguments.min_score,
            'copy': sorted(arguments.copy), 'grid': placed,
        }
        description = describe(source, tasks, given)
        cluster = None if arguments.ray is None else Cluster(
            arguments.ray, stack, models, opening, tasks, placer
        )
        results = open_results(out, description, arguments.resume)
        if results is None:
            print(f'{out}: is already complete')
            return 0
        print(f'{source.name}: {source.count or "?"} frames; grid: {placed}', file=sys.stderr)
        if placer is not None and (odd := odd_calibration(source)):
            print(f'{source.info}: {odd}', file=sys.stderr)
        of_run = source, tasks, placer, results, description
        if cluster is None:
            run = Run(*of_run)
        else:
            print(f'ray: {cluster.told}', file=sys.stderr)
            run = FleetRun(cluster, *of_run)
        summary = run(progress())
    show(out, summary, arguments.json)
    return 0 if summary.whole else PARTLY


def make_placer(
    arguments: argparse.Namespace, source: 'Source', tasks: 'list[Task]'
) -> 'tuple[Placer | None, str]':
    """Return the placer of masks, and what it is based on, in words; or None and the reason.

    Raises:
        SetupError: a frame's name is empty.
    """
    from mnv2_perception.replay.placing import Ground, Mount, Placer

    segmenting = next((task for task in tasks if task.model.spec.task == 'segmentation'), None)
    if arguments.no_grid or segmenting is None:
        return None, 'none' if arguments.no_grid else 'none: no segmentation model'
    for option in ('base_frame', 'grid_frame'):
        if not getattr(arguments, option).strip('/ '):
            raise SetupError(
                f'--{option.replace("_", "-")} is empty, expected the name of a frame'
            )
    lists: dict[str, Any] = {
        f'{name}_classes': tuple(given) for name in CLASS_LISTS
        if (given := getattr(arguments, f'{name}_classes')) is not None
    }
    ground = Ground(
        **lists, base_frame=arguments.base_frame, grid_frame=arguments.grid_frame,
        rectified=source.rectified,
    )
    classes = segmenting.model.spec.classes
    if not lists and not set(ground.traversable_classes) & set(classes):
        return None, (
            f'none: {segmenting.model.spec.name} has no class '
            f'{", ".join(ground.traversable_classes)}; name its ground classes with '
            f'--traversable-classes'
        )
    mount, tree = None, source.transforms
    if arguments.camera_height is not None:
        mount = Mount(arguments.camera_height, arguments.camera_pitch, arguments.camera_fov)
        seen = 'camera_info' if source.info else f'{mount.horizontal_fov_rad:g} rad wide'
        if not source.info and not mount.horizontal_fov_rad:
            return None, 'none: no camera_info in the recording; give --camera-fov too'
        return Placer(ground, classes, mount, None), (
            f'camera {mount.height_m:g} m above flat ground, pitch {mount.pitch_rad:g} rad, {seen}'
        )
    if tree is None or not source.info:
        lacks = 'neither /tf nor camera_info' if tree is None and not source.info else (
            'no /tf' if tree is None else 'no camera_info beside the images'
        )
        return None, f'none: {lacks} in the recording; give --camera-height (and --camera-fov)'
    if ground.grid_frame not in {*tree.frames, *tree.frames.values()}:
        ground = replace(ground, grid_frame=ground.base_frame)
    return Placer(ground, classes, None, tree), f'/tf and camera_info, in {ground.grid_frame}'


def odd_calibration(source: 'Source') -> str:
    """Return what looks wrong in the first calibration; '' if unusable, which the run reports."""
    from mnv2_perception.vision.camera import Camera, oddity

    if source.calibration is None:
        return ''
    try:
        info = source.calibration.read()
        return oddity(info, Camera.from_info(info, source.rectified))
    except (BagError, CalibrationError):
        return ''


def progress() -> Callable[[int, int, float], None]:
    """Return a function that shows a run's progress: twice a second on a terminal."""
    told_s = [time.monotonic(), -1]

    def tell(done: int, of: int, seconds: float) -> None:
        now_s = time.monotonic()
        last = done == of
        every_s = TELL_EVERY_S if sys.stderr.isatty() else 30.0
        if now_s - told_s[0] < every_s and not (last and sys.stderr.isatty()):
            return
        told_s[0] = now_s
        rate = done / max(1e-9, seconds)
        left = f', {max(0, of - done) / max(1e-9, rate):.0f} s left' if of else ''
        print(
            f'{done} of {of or "?"} frames, {rate:.1f} per second{left}   ',
            end='\r' if sys.stderr.isatty() and not last else '\n', file=sys.stderr, flush=True,
        )

    return tell


def show(out: Path, summary: 'Summary', as_json: bool) -> None:
    """Print the summary of a recording."""
    facts: dict[str, Any] = {
        'out': str(out), 'frames': summary.frames, 'done_before': summary.done_before,
        'rejected': summary.rejected, 'lost': summary.lost, 'unplaced': summary.unplaced,
        'frames_per_s': summary.frames_per_s, 'inference_ms': summary.inference_ms,
        'messages': summary.messages,
    }
    if as_json:
        print(json.dumps({**facts, 'reasons': dict(summary.reasons)}, indent=2))
        return
    print(table(facts))
    show_reasons(summary.reasons)


def show_reasons(reasons: Counter[str]) -> None:
    """Print why parts of a recording could not be read or processed, most frequent first."""
    for reason, count in reasons.most_common(MOST_REASONS):
        print(f'{count} × {reason}', file=sys.stderr)
    if len(reasons) > MOST_REASONS:
        print(f'… {len(reasons) - MOST_REASONS} more reasons (--json)', file=sys.stderr)
