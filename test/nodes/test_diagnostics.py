"""Level and message of a node's status, worst first."""

from dataclasses import replace

import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from diagnostic_msgs.msg import DiagnosticStatus

from mnv2_perception.nodes.diagnostics import Health, judge

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
