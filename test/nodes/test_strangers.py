"""A live node among hostile senders: counted, told in few lines, and good frames answered."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from rcl_interfaces.msg import Log
from rclpy.parameter import Parameter
from ros_graph import eventually, Graph, header
from sensor_msgs.msg import CompressedImage, Image
from test_segmentation_node import fake_model, picture, ready

from mnv2_perception.nodes.messages import rgb_to_msg
from mnv2_perception.nodes.segmentation_node import SegmentationNode

pytestmark = pytest.mark.ros


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    graph = Graph(SegmentationNode, model=fake_model(tmp_path), engine='fake')
    yield graph
    graph.close()


def hostile() -> list[tuple[str, bytes]]:
    """Return formats and data, none of which is an image that a camera sends."""
    rng = np.random.default_rng(6)
    image = rng.integers(0, 255, (64, 96, 3), np.uint8)
    jpeg, png = (cv2.imencode(suffix, image)[1].tobytes() for suffix in ('.jpg', '.png'))
    place = jpeg.index(b'\xff\xc0') + 5
    found = [
        ('jpeg', jpeg[:place] + b'\x3e\x80\xfd\xe8' + jpeg[place + 4:]),  # 16000 × 65000
        ('gif', b'GIF89a' + bytes(100)), ('h264', b'\0\0\0\1' + bytes(100)),
        ('x\n[ERROR] forged' + 'y' * 2_000_000, b''),
    ]
    for _ in range(100):
        damaged = bytearray(png)
        damaged[int(rng.integers(50, len(png) - 20))] ^= int(rng.integers(1, 256))
        found.append(('png', bytes(damaged)))
    return found


def test_hostile_images_are_rejected_in_few_short_lines_and_a_good_one_is_answered(
    graph: Graph, capfd: pytest.CaptureFixture[str]
) -> None:
    graph.peer.destroy_publisher(graph.camera)
    graph.camera = graph.peer.create_publisher(CompressedImage, 'image/compressed', 5)
    masks = graph.subscribe(Image, 'segmentation/mask')
    lines: list[Any] = graph.subscribe(Log, '/rosout')
    node = graph.start(image_transport='compressed')
    ready(graph, node)
    sent = hostile()
    for count, (name, data) in enumerate(sent, 1):
        graph.camera.publish(CompressedImage(header=header(count), format=name, data=data))
        eventually(lambda expected=count: node.counts['rejected'] == expected)
    good = cv2.imencode('.png', picture()[..., ::-1])[1].tobytes()
    graph.camera.publish(CompressedImage(header=header(9999), format='png', data=good))
    eventually(lambda: masks)
    assert masks[-1].header.stamp == header(9999).stamp
    assert node.counts['received'] == len(sent) + 1 and node.counts['published'] == 1
    told = [line.msg for line in lines if 'rejected' in line.msg]
    assert 1 <= len(told) <= 4
    assert all(len(text) < 600 and '\n' not in text for text in told)
    assert 'libpng' not in capfd.readouterr().err


def test_the_largest_image_is_a_live_parameter(graph: Graph) -> None:
    masks = graph.subscribe(Image, 'segmentation/mask')
    node = graph.start(max_image_megapixels=0.01)
    ready(graph, node)
    large = picture(120, 100)
    graph.camera.publish(rgb_to_msg(large, header(1)))
    eventually(lambda: node.counts['rejected'] == 1)
    result, = node.set_parameters([Parameter('max_image_megapixels', value=0.012)])
    assert result.successful
    graph.camera.publish(rgb_to_msg(large, header(2)))
    eventually(lambda: masks)
    assert masks[-1].header.stamp == header(2).stamp
