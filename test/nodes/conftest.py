"""Fixtures for tests of nodes. They import ROS late, so that tests are skipped without it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from identity_network import identity_spec, write_fake
import pytest

if TYPE_CHECKING:
    from ros_graph import Graph, Robot


@pytest.fixture
def graph(tmp_path: Path) -> Iterator['Graph']:
    """segmentation_node, not started yet, with the identity network in the fake engine."""
    from ros_graph import Graph

    from mnv2_perception.nodes.segmentation_node import SegmentationNode

    model = write_fake(tmp_path / 'm.yaml', identity_spec(48, 64))
    graph = Graph(SegmentationNode, engine='fake', model=str(model))
    yield graph
    graph.close()


@pytest.fixture
def robot() -> Iterator['Robot']:
    """The nodes of `perception`, not started yet."""
    from ros_graph import Robot

    robot = Robot()
    yield robot
    robot.close()
