"""`mnv2 demo`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mnv2_perception.bags.viewing import add_viewer_option
from mnv2_perception.cli.options import (
    add_command,
    add_model_options,
    check_rosbags,
    Number,
    table,
)

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
    add_viewer_option(demo)
    add_model_options(demo, optional=True, precision=False)


def demo_command(arguments: argparse.Namespace) -> None:
    """Run the demo and print its table."""
    check_rosbags()
    from mnv2_perception.demo.camera import AssumedCamera
    from mnv2_perception.demo.run import run_demo

    summary = run_demo(
        arguments.out, arguments.bag, arguments.topic, arguments.model, arguments.engine,
        arguments.threads,
        AssumedCamera(arguments.camera_height, arguments.camera_pitch, arguments.camera_fov),
        arguments.foxglove or '',
    )
    print(table(summary))
    pictures = sorted(arguments.out.glob('frame_*.png'))
    print(
        f'\n{arguments.out}: summary.json, masks.mcap, {len(pictures)} pictures '
        f'({pictures[0].name} …)'
    )
    print(f'{arguments.out / "report.html"}: all of it on one page; open it in a browser')
