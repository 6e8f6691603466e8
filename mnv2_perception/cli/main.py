"""`mnv2`: all commands that need no ROS graph, and access to the nodes that do."""

import argparse
from importlib import metadata
import io
import os
import platform
import sys

from mnv2_perception.errors import command_name, PerceptionError


def main(args: list[str] | None = None) -> int:
    """Run a command; return its exit code: 1 after a reported error, 2 for wrong usage."""
    args = sys.argv[1:] if args is None else args
    if isinstance(sys.stdout, io.TextIOWrapper):  # names may have letters that it cannot encode
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        from mnv2_perception.cli.bags import become_node  # slow, so Ctrl-C must be handled here

        become_node(args)
        arguments = build_parser().parse_args(args)
        return arguments.command(arguments) or 0
    except PerceptionError as exc:
        return tell(str(exc))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # piped into head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as exc:
        # Not foreseen elsewhere: a name that is too long, a full disk, missing permissions.
        return tell(f'{exc.filename}: {exc.strerror}' if exc.filename else str(exc))
    except MemoryError as exc:
        return tell(f'not enough memory: {exc or "nothing is left"}; use smaller inputs')


def tell(error: str) -> int:
    """Print an error as one line; return its exit code."""
    print(f'error: {error}', file=sys.stderr)
    return 1


def installed_version() -> str:
    """Return the versions of the package and of Python, for bug reports."""
    try:
        version = metadata.version('mnv2_perception')
    except metadata.PackageNotFoundError:  # run from the source folder
        version = '(not installed)'
    return f'mnv2_perception {version}, Python {platform.python_version()}'


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    from mnv2_perception.cli import bags, camera_pose, data, demo, embed, images, models, training

    parser = argparse.ArgumentParser(
        prog=command_name(),
        description='Camera perception with networks of the MobileNetV2 family.',
        epilog='COMMAND --help lists the options of a command.',
    )
    parser.add_argument('--version', action='version', version=installed_version())
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for group in (demo, models, images, embed, camera_pose, data, bags, training):
        group.add(commands)
    return parser
