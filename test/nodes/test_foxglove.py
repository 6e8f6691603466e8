"""The server for Foxglove: real topics over DDS, seen by a real client of its protocol."""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
pytest.importorskip('foxglove', reason='no foxglove-sdk: run make setup-train')

from colcon_workspace import free_domain_id, localhost_domain, ROOT
from foxglove_viewer import free_port, Viewer
from nav_msgs.msg import OccupancyGrid
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from ros_graph import eventually, Graph, header
from rosbags.typesys import get_types_from_msg
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage

from mnv2_perception.bags.read import BagReader, TopicQos
from mnv2_perception.bags.write import BagWriter, image_cdr
from mnv2_perception.nodes.qos import LATCHED_QOS, RESULT_QOS

pytestmark = pytest.mark.ros

START_NS = 1_700_000_000 * 10**9
BRIDGE = 'mnv2_perception.nodes.foxglove_bridge'


def start(domain_id: int, *command: str | Path) -> 'subprocess.Popen[str]':
    environment = {**os.environ, **localhost_domain(domain_id)}
    return subprocess.Popen(
        [sys.executable, '-m', *map(str, command)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


def end(process: 'subprocess.Popen[str]') -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def graph() -> Iterator[Graph]:
    graph = Graph()
    yield graph
    graph.close()


@pytest.fixture
def url(graph: Graph) -> Iterator[str]:
    """Where a server beside the graph listens; it ends well."""
    port = free_port()
    process = start(graph.domain_id, BRIDGE, str(port))
    try:
        assert process.stdout
        assert json.loads(process.stdout.readline())['event'] == 'serving'
        yield f'ws://127.0.0.1:{port}'
        process.send_signal(signal.SIGINT)
        assert process.wait(20.0) == 0
    finally:
        end(process)


def mask(number: int) -> Image:
    """Make a mask whose picture tells its number."""
    return Image(
        header=header(number), height=48, width=64, encoding='mono8', step=64,
        data=np.full(48 * 64, number, np.uint8).tobytes(),
    )


def listeners(graph: Graph, topic: str) -> list[Any]:
    """Return who subscribes to a topic."""
    return list(graph.peer.get_subscriptions_info_by_topic(topic))


def test_a_message_arrives_as_it_was_published_beside_its_definition(
    graph: Graph, url: str
) -> None:
    publisher = graph.peer.create_publisher(Image, '/segmentation/mask', RESULT_QOS)
    with Viewer(url) as viewer:
        viewer.subscribe('/segmentation/mask')
        viewer.wait(publisher.get_subscription_count, 'a subscription')
        publisher.publish(mask(7))
        viewer.wait(lambda: viewer.messages, 'a mask')
        channel = viewer.channels['/segmentation/mask']
        (_, data), = viewer.messages['/segmentation/mask']
    assert (channel['encoding'], channel['schemaEncoding']) == ('cdr', 'ros2msg')
    assert channel['schemaName'] == 'sensor_msgs/msg/Image'
    types = get_types_from_msg(channel['schema'], 'sensor_msgs/msg/Image')
    assert [name for name, _ in types['sensor_msgs/msg/Image'][1]] == list(
        Image.get_fields_and_field_types()
    )
    assert 'builtin_interfaces/msg/Time' in types
    assert deserialize_message(data, Image) == mask(7)
    # Who watches cannot send, call or set anything.
    assert viewer.server['capabilities'] == []


def test_only_what_is_watched_is_subscribed_to_and_its_newest_image_is_enough(
    graph: Graph, url: str
) -> None:
    graph.peer.create_publisher(Image, '/segmentation/mask', RESULT_QOS)
    with Viewer(url) as viewer:
        viewer.wait(lambda: '/segmentation/mask' in viewer.channels, 'the topic')
        assert listeners(graph, '/segmentation/mask') == []
        viewer.subscribe('/segmentation/mask')
        viewer.wait(lambda: listeners(graph, '/segmentation/mask'), 'a subscription')
        viewer.unsubscribe('/segmentation/mask')
        eventually(lambda: not listeners(graph, '/segmentation/mask'))
        viewer.subscribe('/segmentation/mask')
        viewer.wait(lambda: listeners(graph, '/segmentation/mask'), 'a subscription')
    eventually(lambda: not listeners(graph, '/segmentation/mask'))


def test_images_larger_than_the_transport_s_memory_arrive(graph: Graph, url: str) -> None:
    publisher = graph.peer.create_publisher(Image, '/segmentation/overlay', RESULT_QOS)
    overlay = Image(
        height=480, width=640, encoding='rgb8', step=1920, data=bytes(480 * 1920)
    )
    with Viewer(url) as viewer:
        viewer.subscribe('/segmentation/overlay')
        viewer.wait(publisher.get_subscription_count, 'a subscription')
        for _ in range(30):
            publisher.publish(overlay)
            time.sleep(1 / 15)
        # Asked for best effort, about one in five does.
        viewer.wait(
            lambda: len(viewer.messages.get('/segmentation/overlay', [])) >= 15, 'half of them'
        )


def test_a_topic_s_publishers_are_all_heard_whatever_they_offer(graph: Graph, url: str) -> None:
    publishers = [graph.peer.create_publisher(Image, '/camera/image_raw', RESULT_QOS)]
    with Viewer(url) as viewer:
        viewer.subscribe('/camera/image_raw')
        viewer.wait(publishers[0].get_subscription_count, 'a subscription')
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        publishers.append(graph.peer.create_publisher(Image, '/camera/image_raw', best_effort))
        viewer.wait(lambda: all(p.get_subscription_count() for p in publishers), 'both')


def test_who_comes_later_gets_what_is_latched_and_who_was_there_keeps_it(
    graph: Graph, url: str
) -> None:
    grid = OccupancyGrid(header=header(3), data=[0, 100, -1])
    graph.peer.create_publisher(OccupancyGrid, '/grid', LATCHED_QOS).publish(grid)
    for _ in range(2):  # each static broadcaster latches a message of its own
        static = graph.peer.create_publisher(TFMessage, '/tf_static', LATCHED_QOS)
        static.publish(TFMessage())
    with Viewer(url) as first:
        first.subscribe('/grid', '/tf_static')
        first.wait(lambda: len(first.messages.get('/tf_static', [])) == 2, 'both transforms')
        first.wait(lambda: '/grid' in first.messages, 'the grid')
        with Viewer(url) as second:
            second.subscribe('/grid')
            second.wait(lambda: '/grid' in second.messages, 'the grid')
    assert deserialize_message(second.messages['/grid'][0][1], OccupancyGrid) == grid


def test_a_topic_that_nobody_publishes_any_more_is_withdrawn(graph: Graph, url: str) -> None:
    publisher = graph.peer.create_publisher(Image, '/segmentation/mask', RESULT_QOS)
    graph.subscribe(Image, '/nobody/publishes')
    with Viewer(url) as viewer:
        viewer.subscribe('/segmentation/mask')
        viewer.wait(publisher.get_subscription_count, 'a subscription')
        graph.peer.destroy_publisher(publisher)
        viewer.wait(lambda: '/segmentation/mask' not in viewer.channels, 'it is withdrawn')
        assert '/nobody/publishes' not in viewer.channels


def test_a_port_that_is_taken_ends_it_with_a_sentence(graph: Graph) -> None:
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start(graph.domain_id, BRIDGE, str(port))
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and 'Traceback' not in err
    event = json.loads(out)
    assert event['event'] == 'failed'
    assert f'127.0.0.1:{port}' in event['error'] and 'free port' in event['error']


def write_drive(path: Path) -> None:
    """Write two seconds of images and masks, and a latched grid."""
    rng = np.random.default_rng(5)
    with BagWriter(path) as bag:
        bag.add_topic('/camera/image_raw', 'sensor_msgs/msg/Image')
        bag.add_topic('/segmentation/mask', 'sensor_msgs/msg/Image')
        bag.add_topic(
            '/grid', 'nav_msgs/msg/OccupancyGrid', TopicQos(transient_local=True, depth=1)
        )
        grid = OccupancyGrid(header=header(1), data=[0, 100, -1])
        bag.write('/grid', START_NS, serialize_message(grid))
        for number in range(20):
            stamp_ns = START_NS + number * 10**8
            picture = rng.integers(0, 256, (48, 64, 3), np.uint8)
            bag.write('/camera/image_raw', stamp_ns, image_cdr(picture, stamp_ns, 'camera'))
            bag.write('/segmentation/mask', stamp_ns, serialize_message(mask(number)))


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    write_drive(tmp_path / 'drive')
    return tmp_path / 'drive'


def test_a_bag_that_is_played_is_seen_with_the_bag_s_own_messages_and_time(drive: Path) -> None:
    topics = ('/camera/image_raw', '/segmentation/mask', '/grid')
    with BagReader(drive) as bag:
        originals: dict[str, set[bytes]] = {topic: set() for topic in topics}
        for message in bag.messages(topics):
            originals[message.topic].add(bytes(message.cdr))
    port = free_port()
    process = start(
        free_domain_id(), 'mnv2_perception.cli', 'bag', 'play', drive, '--loop',
        '--foxglove', str(port),
    )
    try:
        with Viewer(f'ws://127.0.0.1:{port}') as viewer:
            viewer.subscribe(*topics)
            viewer.wait(
                lambda: set(viewer.messages) == set(topics)
                and len(viewer.messages['/segmentation/mask']) > 3, 'all three topics',
            )
            viewer.wait(lambda: viewer.times_ns, 'the time')
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        end(process)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])['event'] == 'done'
    assert f'watch at ws://127.0.0.1:{port}' in err
    for topic in topics:
        for time_ns, data in viewer.messages[topic]:
            assert any(data.startswith(original) for original in originals[topic]), topic
            assert START_NS <= time_ns <= START_NS + 3 * 10**9
    assert viewer.server['capabilities'] == ['time']
    assert START_NS <= viewer.times_ns[-1] <= START_NS + 3 * 10**9


def test_a_server_whose_player_was_killed_ends_too(drive: Path) -> None:
    port = free_port()
    process = start(
        free_domain_id(), 'mnv2_perception.cli', 'bag', 'play', drive, '--loop',
        '--foxglove', str(port),
    )
    try:
        with Viewer(f'ws://127.0.0.1:{port}'):
            pass
        process.kill()

        def free() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(('127.0.0.1', port)) != 0

        eventually(free)
    finally:
        end(process)


def test_a_viewer_that_takes_nothing_holds_nobody_up(drive: Path) -> None:
    port = free_port()
    begin_s = time.monotonic()
    process = start(
        free_domain_id(), 'mnv2_perception.cli', 'bag', 'play', drive, '--foxglove', str(port),
        '--wait-for-subscribers', '60', '--wait-for-topics', '/camera/image_raw',
    )
    try:
        with Viewer(f'ws://127.0.0.1:{port}') as viewer:
            viewer.subscribe('/camera/image_raw', '/segmentation/mask')
            viewer.wait(lambda: viewer.messages, 'the first image')
            out, err = process.communicate(timeout=60)  # and nothing else is read
    finally:
        end(process)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])['published'] == {
        '/camera/image_raw': 20, '/segmentation/mask': 20, '/grid': 1
    }
    assert 'no subscriber to' not in err
    assert time.monotonic() - begin_s < 50.0
