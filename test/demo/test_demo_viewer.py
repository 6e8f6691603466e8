"""The demo as somebody sees it who has Foxglove alone: a client of its protocol."""

import json
import os
from pathlib import Path
import subprocess
import sys

from colcon_workspace import free_domain_id
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
pytest.importorskip('foxglove', reason='no foxglove-sdk: run make setup-train')

from diagnostic_msgs.msg import DiagnosticArray
from foxglove_viewer import free_port, Viewer
from nav_msgs.msg import OccupancyGrid
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image

from mnv2_perception.demo.folder import clear
from mnv2_perception.scenes.bag import draw_bag

pytestmark = pytest.mark.ros

# What config/foxglove/perception.json shows of it.
TOPICS = {
    '/segmentation/overlay': Image, '/grid': OccupancyGrid, '/diagnostics': DiagnosticArray,
}


def demo(*args: str) -> 'subprocess.Popen[str]':
    return subprocess.Popen(
        [sys.executable, '-m', 'mnv2_perception.cli', 'demo', *args], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, 'ROS_DOMAIN_ID': str(free_domain_id())},
    )


def test_a_viewer_sees_the_demo_from_its_first_mask_on(tmp_path: Path) -> None:
    draw_bag(tmp_path / 'bag', duration_s=3.0, height=120, width=160)
    port = free_port()
    process = demo(
        '--out', str(tmp_path / 'out'), '--bag', str(tmp_path / 'bag'), '--foxglove', str(port)
    )
    try:
        with Viewer(f'ws://127.0.0.1:{port}', timeout_s=60.0) as viewer:
            viewer.subscribe(*TOPICS)
            viewer.wait(lambda: set(viewer.messages) == set(TOPICS), 'one of each', 60.0)
            out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err
    assert f'waiting for a viewer at ws://127.0.0.1:{port}' in out and 'nobody' not in out
    messages = {
        topic: deserialize_message(viewer.messages[topic][0][1], kind)
        for topic, kind in TOPICS.items()
    }
    overlay, grid = messages['/segmentation/overlay'], messages['/grid']
    picture = np.frombuffer(overlay.data, np.uint8).reshape(overlay.height, overlay.width, 3)
    assert (overlay.height, overlay.width, overlay.encoding) == (120, 160, 'rgb8')
    assert (picture[..., 0] != picture[..., 1]).any()  # coloured
    assert {0, 100} & set(grid.data)
    assert messages['/diagnostics'].status[0].name.endswith('_node: frames')
    # It leaves nothing behind that the next demo would not take for a demo's.
    summary = json.loads((tmp_path / 'out/summary.json').read_text('utf-8'))
    assert summary['frames_in'] == summary['masks_out'] + summary['dropped']
    clear(tmp_path / 'out', None)


def test_an_address_that_cannot_be_had_ends_the_demo_with_a_sentence(tmp_path: Path) -> None:
    draw_bag(tmp_path / 'bag', duration_s=0.5, height=120, width=160)
    process = demo(
        '--out', str(tmp_path / 'out'), '--bag', str(tmp_path / 'bag'),
        '--foxglove', '192.0.2.1:8765',
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert 'Foxglove cannot be served at 192.0.2.1:8765' in err and 'Traceback' not in err
