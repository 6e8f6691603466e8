"""What a process of nodes tells the program that started it."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys

from identity_network import identity_spec, write_fake
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from ros_graph import free_domain_id

pytestmark = pytest.mark.ros

NODES = 'mnv2_perception.nodes'


def start(module: str, *args: str, stdout: int = subprocess.PIPE) -> 'subprocess.Popen[str]':
    return subprocess.Popen(
        [sys.executable, '-m', f'{NODES}.{module}', *args], stdout=stdout,
        stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        env={**os.environ, 'ROS_DOMAIN_ID': str(free_domain_id())},
    )


def test_each_node_that_becomes_active_is_a_line_of_json_on_stdout(tmp_path: Path) -> None:
    model = write_fake(tmp_path / 'm.yaml', identity_spec(48, 64))
    with start(
        'perception', '--ros-args', '-r', '__ns:=/robot', '-p', 'cameras:=[front, rear]',
        '-p', 'engine:=fake', '-p', f'model:={model}',
    ) as process:
        assert process.stdout
        events = [json.loads(process.stdout.readline()) for _ in range(4)]
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert rest == ''
    assert sorted(event['node'] for event in events) == [
        f'/robot/{camera}/{node}_node'
        for camera in ('front', 'rear') for node in ('costmap', 'segmentation')
    ]
    assert {event['event'] for event in events} == {'active'}


def test_a_node_becomes_active_though_nobody_reads_what_it_tells(tmp_path: Path) -> None:
    model = write_fake(tmp_path / 'm.yaml', identity_spec(48, 64))
    reader, writer = os.pipe()
    os.close(reader)
    with start(
        'segmentation_node', '--ros-args', '-p', 'engine:=fake', '-p', f'model:={model}',
        stdout=writer,
    ) as process:
        os.close(writer)
        assert process.stderr
        for line in process.stderr:
            assert 'failed' not in line
            if line.endswith(': active\n'):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert 'Traceback' not in err


@pytest.mark.parametrize('module', ['segmentation_node', 'bag_player_node', 'bag_recorder_node'])
def test_ros_arguments_that_cannot_be_used_are_told_in_a_sentence(module: str) -> None:
    with start(module, '--ros-args', '-p', 'nothing') as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, '')
    assert 'error: the ROS arguments are invalid' in err and 'Traceback' not in err


def test_who_has_nowhere_to_log_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ROS_LOG_DIR', '/dev/null/log')  # as without a home that can be written
    with start('segmentation_node') as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, '')
    assert 'error: ROS cannot write its log: ' in err
    assert err.endswith('; set ROS_LOG_DIR to a writable folder\n')
