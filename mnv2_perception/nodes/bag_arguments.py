"""Command lines of `mnv2 bag play` and `mnv2 bag record`, which override the nodes' parameters."""

import argparse
from dataclasses import fields, replace
import sys
from typing import TypeVar

from rclpy.node import Node

from mnv2_perception.bags.viewing import add_viewer_option
from mnv2_perception.errors import BagError, ParameterError
from mnv2_perception.nodes.bag_parameters import BagPlayerParameters
from mnv2_perception.nodes.declare import declare, describe_range, read
from mnv2_perception.nodes.overrides import check_overrides, check_params_files

P = TypeVar('P')

ROS_EPILOG = 'ROS arguments, such as parameters and remappings, go after --ros-args.'


def player_arguments(args: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the player's command line, by default that of sys.argv; an option not given is None.

    Returns:
        The parsed arguments, and the ROS arguments of the command line.
    """
    own, ros = split_ros_arguments(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser(
        prog='mnv2 bag play', epilog=ROS_EPILOG,
        description='Play a bag, with /clock and its original timing.'
    )
    parser.add_argument(
        'bag', nargs='?', metavar='BAG', help='bag folder, or a single .mcap, .db3 or .bag file'
    )
    parser.add_argument(
        '--rate', type=float, help='playing speed, bag seconds per second (default: 1.0)'
    )
    parser.add_argument('--loop', action='store_const', const=True, help='start again at the end')
    parser.add_argument(
        '--topics', nargs='+', metavar='TOPIC', help='play only these topics (default: all)'
    )
    parser.add_argument('--exclude', nargs='+', metavar='TOPIC', help='do not play these topics')
    parser.add_argument(
        '--remap', nargs='+', metavar='A:=B', help='publish topic A under the name B'
    )
    parser.add_argument(
        '--start-delay', type=float, dest='start_delay_s', metavar='SECONDS',
        help='pause before the first message, for discovery (default: 0.5)',
    )
    parser.add_argument(
        '--wait-for-subscribers', type=float, dest='wait_for_subscribers_s', metavar='SECONDS',
        help='wait at most this long until every played topic has a subscriber; 0: do not wait '
        '(default: 0)',
    )
    parser.add_argument(
        '--wait-for-topics', nargs='+', metavar='TOPIC',
        help='wait for subscribers of these topics only (default: of all played topics)',
    )
    parser.add_argument(
        '--clock-hz', type=float, help='/clock messages per second; 0: none (default: 100)'
    )
    parser.add_argument(
        '--max-gap', type=float, dest='max_gap_s', metavar='SECONDS',
        help='shorten longer gaps in the recording to 1 s; 0: keep all gaps (default: 60)',
    )
    parser.add_argument(
        '--log', metavar='FILE.csv',
        help='also write a CSV file: topic,stamp_ns,published_ns',
    )
    add_viewer_option(parser)
    return parser.parse_args(own, argparse.Namespace(ros_args=ros)), ros


def recorder_arguments(args: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the recorder's command line, by default that of sys.argv; an option not given is None.

    Returns:
        The parsed arguments, and the ROS arguments of the command line.
    """
    own, ros = split_ros_arguments(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser(
        prog='mnv2 bag record', epilog=ROS_EPILOG,
        description='Record topics into a ROS 2 bag until Ctrl-C.'
    )
    parser.add_argument('topics', nargs='*', metavar='TOPIC', help='topics to record')
    parser.add_argument('--out', metavar='DIR', help="the new bag's folder")
    parser.add_argument(
        '--storage', choices=['mcap', 'sqlite3'], help='file format of the bag (default: mcap)'
    )
    parser.add_argument(
        '--log', metavar='FILE.csv', help='also write a CSV file: topic,stamp_ns,received_ns'
    )
    arguments = parser.parse_args(own, argparse.Namespace(ros_args=ros))
    arguments.topics = arguments.topics or None
    return arguments, ros


def split_ros_arguments(args: list[str]) -> tuple[list[str], list[str]]:
    """Separate a program's own arguments from those between ``--ros-args`` and ``--``.

    rclpy's ``remove_ros_args`` would take the ``a:=b`` of our ``--remap`` for its own.

    Args:
        args: Command line without the program's name.

    Returns:
        Own arguments, and ROS arguments including the two marks.
    """
    own: list[str] = []
    ros: list[str] = []
    target = own
    for arg in args:
        if arg == '--ros-args':
            target = ros
        target.append(arg)
        if arg == '--' and target is ros:
            target = own
    return own, ros


def declared(node: Node, cls: type[P], arguments: argparse.Namespace | None) -> P:
    """Declare a node's parameters and return their values, overridden by the command line.

    Args:
        node: the node.
        cls: its parameter class.
        arguments: arguments of the command line; a value that is not None overrides the parameter.

    Raises:
        ParameterError: a value is out of range or invalid, or its parameter does not exist.
    """
    declare(node, cls, read_only=True)
    check_overrides(node, cls, alone=True)
    given = {k: v for k, v in vars(arguments or argparse.Namespace()).items() if v is not None}
    for warning in check_params_files(given.pop('ros_args', []), [node]):
        node.get_logger().warning(warning)
    for item in fields(cls):  # type: ignore[arg-type]
        low, high = item.metadata['low'], item.metadata['high']
        if low is not None and not low <= given.get(item.name, low) <= high:
            raise ParameterError(
                f'{item.name} is {given[item.name]}; expected {describe_range(item)}'
            )
    return replace(read(node, cls), **given)  # type: ignore[type-var]


def player_settings(node: Node, arguments: argparse.Namespace | None) -> BagPlayerParameters:
    """Return the settings of the player, see `declared`.

    Raises:
        BagError: no bag was given.
        ParameterError: a number is out of range.
    """
    settings = declared(node, BagPlayerParameters, arguments)
    if not settings.bag:
        raise BagError("no bag was given; name one as argument or as the parameter 'bag'")
    return settings
