"""A node is registered in nodes/parameters.py; what else must name it is told if it does not."""

import json
from pathlib import Path
import subprocess
import sys

import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from rclpy.node import Node

from mnv2_perception.nodes import bag_player_node, bag_recorder_node, launching, perception
from mnv2_perception.nodes.lifecycle import PerceptionNode
from mnv2_perception.nodes.parameters import NODES, SHARING_NODES

pytestmark = pytest.mark.ros

ROOT = Path(__file__).parents[2]
PACKAGE = 'mnv2_perception'


@pytest.fixture(scope='module')
def entry_points() -> list[str]:
    """The console scripts of setup.py."""
    code = (
        'import json, setuptools\n'
        'from distutils.core import run_setup\n'
        "print(json.dumps(run_setup('setup.py', stop_after='init').entry_points))\n"
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    scripts: list[str] = json.loads(done.stdout.splitlines()[-1])['console_scripts']
    return scripts


def missing(nodes: set[str], sharing: set[str], entry_points: list[str]) -> list[str]:
    """Return where nodes are not named, of all nodes and of those that `perception` runs."""
    documents = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
    told = '\n'.join(path.read_text(encoding='utf-8') for path in documents)
    found = []
    for name in sorted(nodes):
        if f'{name} = {PACKAGE}.nodes.{name}:main' not in entry_points:
            found.append(f'setup.py has no entry point {name}')
        if f'{name}: parameters' not in told:
            found.append(f'no document has the parameters of {name}')
    for name in sorted(sharing):
        if not (ROOT / f'config/{name}.yaml').is_file():
            found.append(f'config/ has no {name}.yaml')
    return found


def test_every_node_is_named_wherever_a_node_must_be(entry_points: list[str]) -> None:
    assert missing(set(NODES), set(SHARING_NODES), entry_points) == []
    assert set(launching.NODE_NAMES) == set(perception.NODE_CLASSES) == set(SHARING_NODES)


def test_a_node_that_is_registered_alone_is_told_with_all_that_it_lacks(
    entry_points: list[str]
) -> None:
    assert missing({*NODES, 'depth_node'}, {*SHARING_NODES, 'depth'}, entry_points) == [
        'setup.py has no entry point depth_node',
        'no document has the parameters of depth_node',
        'config/ has no depth.yaml',
    ]


def test_no_entry_point_is_left_of_a_node_that_is_gone(entry_points: list[str]) -> None:
    started = {line.split(' = ')[0] for line in entry_points if f'{PACKAGE}.nodes.' in line}
    assert started == set(NODES)


def test_each_node_is_a_class_of_its_own_file_with_the_parameters_of_the_table() -> None:
    for name, cls in perception.NODE_CLASSES.items():
        assert issubclass(cls, PerceptionNode)
        assert cls.__module__ == f'{PACKAGE}.nodes.{name}_node'
        assert cls.Parameters is SHARING_NODES[name]
    files = {path.stem for path in (ROOT / PACKAGE / 'nodes').glob('*_node.py')}
    assert files | {'perception'} == set(NODES)
    assert issubclass(bag_player_node.BagPlayerNode, Node)
    assert issubclass(bag_recorder_node.BagRecorderNode, Node)
