"""Nodes in processes of their own, and what they say."""

from pathlib import Path
import time

import pytest

from mnv2_perception.demo.processes import Process, read_event, ros_environment
from mnv2_perception.errors import DemoError
from mnv2_perception.scenes.bag import draw_bag


@pytest.mark.parametrize(
    ('line', 'event'),
    [
        (b'{"event": "active", "node": "/a"}\n', {'event': 'active', 'node': '/a'}),
        (b'[INFO] recording /grid\n', None), (b'', None), (b'7\n', None), (b'\xff{}\n', None),
        (b'{"event": "act', None),
    ],
)
def test_of_a_process_only_json_objects_are_heard(line: bytes, event: object) -> None:
    assert read_event(line) == event


@pytest.mark.ros
def test_a_process_is_heard_to_its_end(tmp_path: Path) -> None:
    pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
    draw_bag(tmp_path / 'bag', duration_s=0.2, height=64, width=64)
    recorder_args = ['/camera/image_raw', '--out', str(tmp_path / 'recording')]
    with Process('bag_recorder_node', recorder_args, tmp_path) as recorder:
        player_args = [
            str(tmp_path / 'bag'), '--topics', '/camera/image_raw', '--wait-for-subscribers', '30'
        ]
        with Process('bag_player_node', player_args, tmp_path) as player:
            recorder.wait_for({'event': 'recording', 'topic': '/camera/image_raw'}, player)
            while player.running:
                time.sleep(0.05)
    assert not recorder.running
    assert player.counts('published') == {'/camera/image_raw': 3}
    assert set(recorder.counts('received')) == {'/camera/image_raw'}
    assert '"recording"' in recorder.last_words()  # a log has all


@pytest.mark.ros
def test_a_process_that_ends_is_not_waited_for_and_its_last_words_are_told(
    tmp_path: Path,
) -> None:
    pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
    with (
        Process('bag_player_node', [str(tmp_path / 'no_bag')], tmp_path) as player,
        pytest.raises(DemoError, match=r'did not start; (.*\n)+.*no_bag: no such bag'),
    ):
        player.wait_for({'event': 'active'})
    with pytest.raises(DemoError, match='ends without the counts'):
        player.counts('published')


def test_what_the_user_has_set_stays_in_a_processs_environment() -> None:
    ours = ros_environment({'ROS_DOMAIN_ID': '7'})
    assert ours['ROS_DOMAIN_ID'] == '7' and ours['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
