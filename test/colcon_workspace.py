"""Build this repository as in a robot's workspace, and find free ROS domains for its nodes."""

from functools import cache
import itertools
import os
from pathlib import Path
import shutil
import socket
import subprocess
import sys

ROOT = Path(__file__).resolve().parents[1]
# Another domain for each graph: discovery still remembers the graph that has just ended.
_NUMBERS = itertools.count(os.getpid() * 17)


def colcon(folder: Path, *args: str | Path) -> str:
    """Run colcon in a folder with the Python of the tests; return its output."""
    code = 'import sys; from colcon_core.command import main; sys.exit(main())'
    command = [sys.executable, '-c', code, '--log-base', str(folder / 'log'), *map(str, args)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_workspace(folder: Path, *options: str) -> dict[str, str]:
    """Build a copy of the repository in an empty folder; return the environment for its use."""
    not_sources = ('.*', '*.egg-info', '__pycache__', 'build', 'install', 'log', 'out')
    shutil.copytree(
        ROOT, folder / 'src/mnv2_perception', ignore=shutil.ignore_patterns(*not_sources)
    )
    colcon(folder, 'build', *options)
    sourced = subprocess.run(
        ['bash', '-c', 'source install/local_setup.bash && env -0'],
        cwd=folder, stdout=subprocess.PIPE, text=True, check=True,
    )
    environment = dict(entry.split('=', 1) for entry in sourced.stdout.split('\0') if entry)
    # The node runs with the Python it was built with; its output is read immediately.
    return {**environment, 'PYTHONUNBUFFERED': '1', 'ROS_LOG_DIR': str(folder / 'ros_log')}


def localhost_domain(domain_id: int) -> dict[str, str]:
    """Return environment variables that limit a graph to this machine and a domain."""
    return {'ROS_DOMAIN_ID': str(domain_id), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}


@cache
def own_domain_id() -> int:
    """Return a domain that other test runs on this machine probably do not use."""
    return free_domain_id()


def free_domain_id() -> int:
    """Return a domain that nobody on this machine uses, such as another run of these tests.

    A graph that has ended exists until its context is garbage-collected, and other nodes see its
    names until then.
    """
    for _ in range(100):
        domain_id = 1 + next(_NUMBERS) % 100
        first = 7410 + 250 * domain_id  # RTPS: of a domain's first participant; each has two ports
        if all(is_free(first + 2 * participant) for participant in range(40)):
            return domain_id
    raise RuntimeError('no ROS domain of this machine is free')


def is_free(port: int) -> bool:
    """Return whether no process on this machine listens on a UDP port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(('', port))
        except OSError:
            return False
    return True
