"""Level and message of a node's status, worst first; the names that an aggregator looks for."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ros_graph import eventually, Graph

from mnv2_perception.nodes import diagnostics
from mnv2_perception.nodes.diagnostics import Diagnostics, Health, judge
from mnv2_perception.nodes.parameters import SHARING_NODES

pytestmark = pytest.mark.ros

WELL = Health('active', True, '', '', 0.0, {}, [])


QUIET = dict.fromkeys(('received', 'published', 'passed_over', 'rejected', 'lost'), 0)
SOME = {**QUIET, 'received': 10, 'published': 10}
NONE = {**QUIET, 'received': 10, 'passed_over': 10}
REJECTED = {**QUIET, 'received': 10, 'published': 8, 'rejected': 2}
WAITING = replace(WELL, waiting='/camera_info')
REASON = replace(WELL, rejection='no transform')

# The rows of the table in docs/topics.md, worst first.
STATES = [
    (replace(WELL, state='configuring', active=False, busy_s=61.0), QUIET, 'ERROR', 'answer'),
    (replace(WELL, state='configuring', active=False, busy_s=61.0, builds=True), QUIET, 'OK',
     'opening the model for 61 s'),
    (replace(WELL, state='configuring', active=False, busy_s=11.0), QUIET, 'WARN', 'opening'),
    (replace(WELL, state='configuring', active=False, busy_s=1.0), QUIET, 'OK', 'opening'),
    (replace(WELL, busy_s=6.0), SOME, 'ERROR', 'the engine has not answered for 6 s'),
    (replace(WELL, state='inactive', active=False, busy_s=6.0), QUIET, 'ERROR', 'not answered'),
    (replace(WELL, failure='configure failed: no model'), SOME, 'ERROR', 'no model'),
    (replace(WELL, state='inactive', active=False, silent_s=9.0), QUIET, 'OK', 'not working'),
    (replace(WELL, fault='no class'), SOME, 'ERROR', 'no class'),
    (replace(WELL, silent_s=3.5, silence='/image has no publisher'), QUIET, 'WARN',
     'no image for 3 s or more: /image has no publisher'),
    (WAITING, NONE, 'ERROR', 'no result of 10 images in 5 s: it waits for /camera_info'),
    (replace(WELL, passing='held back'), NONE, 'ERROR', 'held back'),
    (REASON, {**QUIET, 'received': 10, 'rejected': 10}, 'ERROR',
     '10 rejected, the last: no transform'),
    (replace(WELL, max_rate_hz=0.1), NONE, 'OK', 'working'),
    (REASON, REJECTED, 'WARN', '8 results of 10 images: 2 rejected, the last: no transform'),
    (WAITING, QUIET, 'WARN', 'it waits for /camera_info'),
    (replace(WELL, min_rate_hz=3.0), {**SOME, 'received': 75}, 'WARN',
     '2.0 results of 15.0 images per second, expected 3 (min_rate_hz): use a faster model'),
    (replace(WELL, min_rate_hz=3.0), SOME, 'WARN', '(min_rate_hz): too few images arrive'),
    (replace(WELL, min_rate_hz=2.0), SOME, 'OK', 'working'),
    (replace(WELL, min_rate_hz=2.1), SOME, 'OK', 'working'),  # the eleventh may be due just now
    (replace(WELL, min_rate_hz=0.1), SOME, 'OK', 'working'),
    (replace(WELL, warning='no tf2'), SOME, 'WARN', 'no tf2'),
    (WELL, SOME, 'OK', 'working'),
]


@pytest.mark.parametrize(('health', 'new', 'level', 'text'), STATES)
def test_each_state_has_its_level(
    health: Health, new: dict[str, int], level: str, text: str
) -> None:
    found, message = judge(health, new, 5.0)
    assert (found, text in message) == (getattr(DiagnosticStatus, level), True), message


@pytest.mark.parametrize(('over_s', 'level'), [(5.0, b'\x00'), (15.0, b'\x01')])
def test_a_low_rate_is_judged_over_three_results(over_s: float, level: bytes) -> None:
    assert judge(replace(WELL, min_rate_hz=0.2), {**SOME, 'published': 1}, over_s)[0] == level


def test_seconds_without_a_result_are_counted_from_the_first_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = Graph()
    try:
        publisher = Diagnostics(graph.peer)
        said = []
        monkeypatch.setattr(publisher._publisher, 'publish', said.append)
        now_s = [0.0]
        monkeypatch.setattr(diagnostics.time, 'monotonic', lambda: now_s[0])
        publisher._reported[0] = (0.0, {})
        levels = []
        for received in (0, 0, 0, 0, 0, 0, 1, 11, 21, 31, 41, 51, 61):
            now_s[0] += 1.0
            publisher.publish(replace(WELL, counts={'received': received}), {})
            levels.append(said[-1].status[0].level)
    finally:
        graph.close()
    assert levels == [DiagnosticStatus.OK] * 10 + [DiagnosticStatus.ERROR] * 3


def test_what_a_node_waits_for_is_told_once() -> None:
    _, message = judge(replace(WAITING, passing='/camera_info'), NONE, 5.0)
    assert message == 'no result of 10 images in 5 s: it waits for /camera_info'


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
