"""`mnv2 bag`: play, record and draw are defined here, the other commands in their own files."""

import argparse
import importlib.util
import os
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from mnv2_perception.cli import bag_compare, bag_frames, bag_report, bag_run
from mnv2_perception.cli.options import add_command, check_rosbags, COUNT, Number, PIXELS
from mnv2_perception.errors import SetupError
from mnv2_perception.tasks.models import find_shared_file

if TYPE_CHECKING:
    from mnv2_perception.cli.options import Commands

NODES = {'play': 'bag_player_node', 'record': 'bag_recorder_node'}


def add(commands: 'Commands') -> None:
    """Add the commands."""
    about = 'Play, record, draw, run, compare and report bags.'
    bag = commands.add_parser(
        'bag', help=about,
        description=f'{about} Works without `ros2 bag`; only play and record need ROS 2.',
    )
    bag_commands = bag.add_subparsers(metavar='COMMAND', required=True)
    for name, what in (
        ('play', 'Play a bag, with /clock.'), ('record', 'Record topics into a bag.')
    ):
        bag_commands.add_parser(name, help=what)  # for --help; become_node() runs these
    draw = add_command(
        bag_commands, 'draw', draw_command, 'Write a bag of a drive through a drawn street.',
        'It has images, exact labels and camera_info.',
    )
    draw.add_argument('out', type=Path, help="the new bag's folder")
    for option, kind, value, meaning in (
        ('seed', COUNT, 7, 'number of the drive; the same seed gives the same drive'),
        ('seconds', Number(float, 0.0, 86400.0, above=True), 6.0, 'duration of the bag'),
        ('rate-hz', Number(float, 0.0, 1000.0, above=True), 15.0, 'images per second'),
        ('height', PIXELS, 360, 'height of the images, in pixels'),
        ('width', PIXELS, 480, 'width of the images, in pixels'),
    ):
        draw.add_argument(
            f'--{option}', type=kind, default=value, help=f'{meaning} (default: %(default)s)'
        )
    bag_run.add(bag_commands)
    bag_frames.add(bag_commands)
    bag_compare.add(bag_commands)
    bag_report.add(bag_commands)


def become_node(args: list[str]) -> None:
    """Replace this process by a node, so that signals reach the node directly.

    Does nothing if the command line is for another command.

    Raises:
        SetupError: rclpy or rosbags is missing.
    """
    if len(args) < 2 or args[0] != 'bag' or args[1] not in NODES:
        return
    check_rosbags()
    if importlib.util.find_spec('rclpy') is None:
        raise SetupError('this needs ROS 2: run `make setup`, or source a ROS distro')
    if any(arg.partition('=')[0] == '--foxglove' for arg in args):
        # Images do not fit into Fast DDS's default shared memory: of best-effort images one in six
        # arrived.
        profile = str(find_shared_file('config/fastdds.xml'))
        for variable in ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'):
            os.environ.setdefault(variable, profile)
    module = f'mnv2_perception.nodes.{NODES[args[1]]}'
    os.execv(sys.executable, [sys.executable, '-m', module, *args[2:]])


def draw_command(arguments: argparse.Namespace) -> None:
    """Draw a bag and print its path."""
    check_rosbags()
    from mnv2_perception.scenes.bag import draw_bag

    draw_bag(
        arguments.out, arguments.seed, arguments.seconds, arguments.rate_hz, arguments.height,
        arguments.width,
    )
    print(arguments.out)
