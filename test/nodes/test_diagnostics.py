"""Level and message of a node's status, worst first; the names that an aggregator looks for."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ros_graph import eventually, Graph

from mnv2_perception.nodes.diagnostics import Diagnostics, Health, judge
from mnv2_perception.nodes.parameters import SHARING_NODES

pytestmark = pytest.mark.ros

WELL = Health('active', True, '', '', 0.0, {}, [])


def test_a_node_that_works_is_ok() -> None:
    assert judge(WELL, 0) == (DiagnosticStatus.OK, 'working')


def test_the_worst_is_told_first() -> None:
    poor = replace(WELL, warning='no tf2')
    assert judge(poor, 0) == (DiagnosticStatus.WARN, 'no tf2')
    assert judge(poor, 2) == (DiagnosticStatus.WARN, '2 frames rejected, see the log')
    silent = replace(poor, silent_s=3.5)
    assert silent.silent
    assert judge(silent, 2) == (DiagnosticStatus.WARN, 'no image for 3 s or more')
    inactive = replace(silent, active=False, state='inactive')
    assert not inactive.silent
    assert judge(inactive, 2) == (DiagnosticStatus.OK, 'inactive, not working')
    failed = replace(silent, failure='configure failed: no model')
    assert not failed.silent
    assert judge(failed, 2) == (DiagnosticStatus.ERROR, 'configure failed: no model')


def test_the_analyzers_look_for_the_names_that_the_nodes_publish() -> None:
    file = Path(__file__).parents[2] / 'config/diagnostics_analyzers.yaml'
    settings = yaml.safe_load(file.read_text(encoding='utf-8'))['analyzers']['ros__parameters']
    looked_for = [name for group in SHARING_NODES for name in settings[group]['contains']]
    graph = Graph()
    try:
        heard = graph.subscribe(DiagnosticArray, '/diagnostics')
        publisher = Diagnostics(graph.peer)
        eventually(lambda: publisher.publish(WELL, {}) or heard)
        assert heard[0].status[0].name == 'peer: frames'
    finally:
        graph.close()
    assert looked_for == [f'{name}_node: frames' for name in SHARING_NODES]
