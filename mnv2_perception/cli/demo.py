"""`mnv2 demo`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mnv2_perception.bags.viewing import add_viewer_option
from mnv2_perception.cli.options import add_command, check_rosbags, Number, THREADS
from mnv2_perception.engines import ENGINES

if TYPE_CHECKING:
    from mnv2_perception.cli.options import Commands


def add(commands: 'Commands') -> None:
    """Add the command."""
    demo = add_command(
        commands, 'demo', demo_command, 'Replay a bag through the live nodes and report.'
    )
    demo.add_argument('--bag', type=Path, help='the bag (default: one that is drawn)')
    demo.add_argument(
        '--topic', default='', help='image topic (default: what looks like the camera)'
    )
    demo.add_argument('--out', type=Path, default=Path('out/demo'), help='(%(default)s)')
    for option, numbers, value, meaning in (
        ('height', Number(float, 0.0, 100.0, above=True), 1.5, 'metres above flat ground'),
        ('pitch', Number(float, -1.57, 1.57), 0.0, 'radians, positive looks down'),
        ('fov', Number(float, 0.0, 3.1, above=True), 0.9,
         'horizontal field of view, radians, where the bag has no camera_info'),
    ):
        demo.add_argument(
            f'--camera-{option}', type=numbers, default=value, metavar=option.upper(),
            help=f"of the bag's camera, for the grid: {meaning} (%(default)s)",
        )
    demo.add_argument(
        '--model', action='append', default=[],
        help='path or name; once for each task (default: the shipped ones for segmentation, '
        'detection and classification)',
    )
    demo.add_argument(
        '--engine', default='auto',
        help=f'of segmentation and of the given models: auto, {", ".join(ENGINES)}',
    )
    demo.add_argument('--threads', type=THREADS, default=0, help='0: one for each core')
    demo.add_argument(
        '--rate', type=Number(float, 0.01, 100.0), default=1.0,
        help='bag seconds per second; below 1 on slow machines (%(default)s)',
    )
    for role, meaning in (
        ('traversable', 'ground to drive on; without one there is no grid'),
        ('forbidden', 'ground not to drive on'),
        ('obstacle', 'what stands on the ground (default: all that no list names)'),
        ('ignored', 'neither'),
    ):
        demo.add_argument(
            f'--{role}', f'--{role}-classes', nargs='+', default=[], metavar='CLASS',
            help=f"of the segmentation model's classes, for the grid: {meaning}",
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
