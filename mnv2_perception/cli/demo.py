"""`mnv2 demo`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mnv2_perception.bags.viewing import add_viewer_option
from mnv2_perception.cli.options import (
    add_command,
    check_rosbags,
    MODEL_HELP,
    Number,
    THREADS,
    THREADS_HELP,
    TOPIC_HELP,
)
from mnv2_perception.engines import ENGINES

if TYPE_CHECKING:
    from mnv2_perception.cli.options import Commands


def add(commands: 'Commands') -> None:
    """Add the command."""
    demo = add_command(
        commands, 'demo', demo_command, 'Replay a bag through the live nodes and write a report.',
        'Needs ROS 2.',
    )
    demo.add_argument('--bag', type=Path, help='bag to replay (default: a drawn street)')
    demo.add_argument('--topic', default='', help=TOPIC_HELP)
    demo.add_argument(
        '--out', type=Path, default=Path('out/demo'), metavar='FOLDER',
        help='folder of the results; those of an earlier demo are replaced (default: %(default)s)',
    )
    for option, numbers, value, meaning in (
        ('height', Number(float, 0.0, 100.0, above=True), 1.5,
         'height above flat ground, in metres'),
        ('pitch', Number(float, -1.57, 1.57), 0.0, 'pitch in radians, positive: looks down'),
        ('fov', Number(float, 0.0, 3.1, above=True), 0.9,
         'horizontal field of view in radians, if the bag has no camera_info'),
    ):
        demo.add_argument(
            f'--camera-{option}', type=numbers, default=value, metavar=option.upper(),
            help=f"for the grid: the camera's {meaning} (default: %(default)s)",
        )
    demo.add_argument(
        '--model', action='append', default=[],
        help=f'{MODEL_HELP}; give it once for each task (default: the shipped models for '
        'segmentation, detection and classification)',
    )
    demo.add_argument(
        '--engine', default='auto',
        help='runtime of the segmentation model and of each --model: auto, '
        f'{", ".join(ENGINES)} (default: auto)',
    )
    demo.add_argument('--threads', type=THREADS, default=0, help=THREADS_HELP)
    demo.add_argument(
        '--rate', type=Number(float, 0.01, 100.0), default=1.0,
        help='playing speed, bag seconds per second; use less than 1 on slow machines '
        '(default: %(default)s)',
    )
    for role, meaning in (
        ('traversable', 'ground to drive on; without any there is no grid (default: floor, '
         'sidewalk, road)'),
        ('forbidden', 'ground that must not be driven on (default: speed_bump, stairs, pavement)'),
        ('obstacle', 'things that stand on the ground (default: all classes in no other list)'),
        ('ignored', 'things that are neither ground nor obstacles (default: sky)'),
    ):
        demo.add_argument(
            f'--{role}', f'--{role}-classes', nargs='+', default=[], metavar='CLASS',
            help=f"for the grid: the segmentation model's classes of {meaning}",
        )
    add_viewer_option(demo)


def demo_command(arguments: argparse.Namespace) -> None:
    """Run the demo and explain its results."""
    check_rosbags()
    from mnv2_perception.demo.camera import AssumedCamera, ROLES
    from mnv2_perception.demo.explain import explain
    from mnv2_perception.demo.run import run_demo

    roles = {
        role: names for role in ROLES
        if (names := getattr(arguments, role.removesuffix('_classes')))
    }
    summary = run_demo(
        arguments.out, arguments.bag, arguments.topic, arguments.model, arguments.engine,
        arguments.threads,
        AssumedCamera(arguments.camera_height, arguments.camera_pitch, arguments.camera_fov),
        roles, arguments.rate, arguments.foxglove or '',
    )
    pictures = len(list(arguments.out.glob('frame_*.png')))
    given = [word for model in arguments.model for word in ('--model', model)]
    for name, value in (('--topic', arguments.topic), ('--engine', arguments.engine)):
        given += [name, value] if value not in ('', 'auto') else []
    for_grid = [word for role, names in roles.items() for word in (_option(role), *names)]
    print(f'\n{explain(summary, arguments.out, pictures, given, for_grid)}')


def _option(role: str) -> str:
    return f'--{role.replace("_", "-")}'
