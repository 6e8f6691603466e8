"""A silent camera topic: the type that is found there and the parameter that fits are named."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from ros_graph import eventually, Graph, header
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from test_segmentation_node import fake_model, picture
from vision_msgs.msg import LabelInfo

from mnv2_perception.nodes import camera
from mnv2_perception.nodes.advice import types_on, wrong_topic, wrong_type
from mnv2_perception.nodes.costmap_node import CostmapNode
from mnv2_perception.nodes.messages import rgb_to_msg
from mnv2_perception.nodes.qos import LATCHED_QOS
from mnv2_perception.nodes.segmentation_node import SegmentationNode

pytestmark = pytest.mark.ros


@pytest.fixture
def graph() -> Iterator[Graph]:
    graph = Graph(SegmentationNode)
    graph.peer.destroy_publisher(graph.camera)
    yield graph
    graph.close()


@pytest.mark.parametrize(
    ('published', 'topic', 'compressed', 'told'),
    [
        ((Image, '/c/image'), '/c/image', False, ''),
        ((CompressedImage, '/c/image/compressed'), '/c/image/compressed', True, ''),
        ((CompressedImage, '/c/image/compressed'), '/c/image', False,
         '/c/image has no publisher, but /c/image/compressed has; set image_transport to '
         'compressed'),
        ((CompressedImage, '/c/image/compressed'), '/c/image/compressed', False,
         '/c/image/compressed carries sensor_msgs/msg/CompressedImage, expected '
         'sensor_msgs/msg/Image; set image_transport to compressed and remap image to /c/image'),
        ((CompressedImage, '/c/image/compressed'), '/c/image/compressed/compressed', True,
         '/c/image/compressed/compressed has no publisher, but /c/image/compressed has; remap '
         'image to /c/image'),
        ((CompressedImage, '/c/jpeg'), '/c/jpeg', False,
         '/c/jpeg carries sensor_msgs/msg/CompressedImage, expected sensor_msgs/msg/Image; set '
         'image_transport to compressed and remap image/compressed, instead of image, to '
         '/c/jpeg'),
        ((Image, '/c/image'), '/c/image/compressed', True,
         '/c/image/compressed has no publisher, but /c/image carries sensor_msgs/msg/Image; set '
         'image_transport to raw'),
        ((Image, '/c/image/compressed'), '/c/image/compressed', True,
         '/c/image/compressed carries sensor_msgs/msg/Image, expected '
         'sensor_msgs/msg/CompressedImage; set image_transport to raw and remap image to '
         '/c/image/compressed'),
        ((PointCloud2, '/c/image'), '/c/image', False,
         "/c/image carries 'sensor_msgs/msg/PointCloud2', expected sensor_msgs/msg/Image; remap "
         "image to the camera's topic"),
        ((Image, '/other'), '/c/image', False,
         "/c/image has no publisher; remap image to the camera's topic"),
    ],
)
def test_the_topic_and_the_transport_that_fit_are_named(
    graph: Graph, published: tuple[Any, str], topic: str, compressed: bool, told: str
) -> None:
    graph.peer.create_publisher(*published, 5)
    eventually(lambda: types_on(graph.peer, published[1]))
    assert wrong_topic(graph.peer, topic, compressed) == told


def test_of_a_camera_that_has_gone_no_other_topic_is_asked_for(
    graph: Graph, tmp_path: Path
) -> None:
    node = graph.start(model=fake_model(tmp_path), engine='fake')
    driver = graph.peer.create_publisher(Image, '/image', 5)

    def publish() -> bool:
        driver.publish(rgb_to_msg(picture(), header(1)))
        return bool(node.counts['received'])

    eventually(publish)
    graph.peer.destroy_publisher(driver)
    eventually(lambda: 'no publisher any more' in (told := node.explain_silence())
               and 'remap' not in told)


def test_a_topic_of_another_type_is_named_with_the_type_that_is_expected(graph: Graph) -> None:
    graph.peer.create_publisher(CompressedImage, '/depth/image', 5)
    eventually(lambda: types_on(graph.peer, '/depth/image'))
    assert wrong_type(graph.peer, '/depth/image', Image) == (
        "/depth/image carries 'sensor_msgs/msg/CompressedImage', expected sensor_msgs/msg/Image; "
        'remap it'
    )
    assert wrong_type(graph.peer, '/depth/image', CompressedImage) == ''
    assert wrong_type(graph.peer, '/nobody', Image) == ''


def test_buffers_are_blamed_only_where_the_right_publisher_stays_silent(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = graph.start(model=fake_model(tmp_path), engine='fake')
    graph.peer.create_publisher(CompressedImage, '/image/compressed', 5)
    eventually(lambda: 'set image_transport to compressed' in node.explain_silence())
    graph.peer.create_publisher(Image, '/image', 5)
    eventually(lambda: node.explain_silence() == '')  # it may be about to begin
    monkeypatch.setattr(camera, 'PUBLISHER_BEGINS_S', 0.0)
    assert 'the camera sends none; otherwise its images need larger' in node.explain_silence()


def test_image_slash_compressed_can_be_remapped_as_advised(graph: Graph, tmp_path: Path) -> None:
    graph.start(
        '-r', 'image/compressed:=/c/jpeg', model=fake_model(tmp_path), engine='fake',
        image_transport='compressed',
    )
    publisher = graph.peer.create_publisher(CompressedImage, '/c/jpeg', 5)
    eventually(publisher.get_subscription_count)


def test_who_asks_a_result_for_what_is_not_kept_is_named_once(
    graph: Graph, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    node = graph.start(model=fake_model(tmp_path), engine='fake')
    graph.subscribe(Image, 'segmentation/mask')
    graph.subscribe(Image, 'segmentation/mask', LATCHED_QOS)
    eventually(lambda: node._told_qos)
    node.publish_diagnostics()
    told = "'peer' subscribes to /segmentation/mask with an incompatible QoS"
    assert capfd.readouterr().err.count(told) == 1


def test_a_label_info_that_is_not_kept_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    graph = Graph(CostmapNode)
    node = graph.start()
    graph.peer.create_publisher(LabelInfo, 'segmentation/label_info', 1)
    eventually(lambda: node._told_qos)
    graph.close()
    told = "'peer' publishes /segmentation/label_info with an incompatible QoS"
    assert capfd.readouterr().err.count(told) == 1
