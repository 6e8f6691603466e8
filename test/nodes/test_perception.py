"""perception over real DDS: several nodes in one process, one camera and several."""

from array import array
from collections.abc import Iterator
from contextlib import closing, ExitStack
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

from camera_scene import BOX, draw_box, ROAD
from colcon_workspace import localhost_domain, own_domain_id
from fixed_detector import write_detector
from identity_network import identity_spec, write_fake
import numpy as np
from numpy.typing import NDArray
import pytest
import yaml

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from lifecycle_msgs.msg import Transition
from nav_msgs.msg import OccupancyGrid
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import ReliabilityPolicy
from ros_graph import eventually, header, ids_of, Robot
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from test_costmap_node import BOX_AT, CAMERA, camera_info, cell, PLACED, POSE
from vision_msgs.msg import Detection2DArray, LabelInfo

from mnv2_perception.engines.fake import FakeEngine
from mnv2_perception.errors import ParameterError
from mnv2_perception.nodes import worker
from mnv2_perception.nodes.detection_node import DetectionNode
from mnv2_perception.nodes.messages import label_info_to_msg, mask_to_msg, rgb_to_msg
from mnv2_perception.nodes.qos import LATCHED_QOS
from mnv2_perception.nodes.segmentation_node import SegmentationNode
from mnv2_perception.nodes.shared import Shared
from mnv2_perception.nodes.worker import NewestFrameWorker, Turns

pytestmark = pytest.mark.ros

HEIGHT, WIDTH = 48, 64


def model(folder: Path, latency_ms: float = 0.0, batch: int | None = 1) -> str:
    """Write a network whose ids are the red channel and whose confidence is the green one."""
    return str(write_fake(
        folder / 'identity.yaml', identity_spec(HEIGHT, WIDTH), latency_ms, batch
    ))


def picture(class_id: int) -> NDArray[np.uint8]:
    return np.full((HEIGHT, WIDTH, 3), (class_id, 200, 0), np.uint8)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def ready(*nodes: Any) -> None:
    """Wait until no node holds masks back for a new subscriber any more."""
    for node in nodes:
        eventually(lambda node=node: time.monotonic() > node.greeting.hold_until_s)


def test_masks_reach_costmap_node_in_memory_and_consumers_over_dds(
    robot: Robot, tmp_path: Path
) -> None:
    spec = identity_spec(CAMERA.height, CAMERA.width, classes=['sky', 'road', 'box'])
    segmentation, costmap = robot.start_all(
        ['segmentation', 'costmap'], model=str(write_fake(tmp_path / 'm.yaml', spec)),
        engine='fake', **PLACED,
    )
    masks = robot.subscribe(Image, 'segmentation/mask')
    grids = robot.subscribe(OccupancyGrid, 'grid')
    calibration = robot.peer.create_publisher(CameraInfo, 'camera_info', 1)
    robot.wait_for_topics()
    calibration.publish(camera_info())
    eventually(lambda: costmap.inputs.label_info and costmap.inputs.camera_info)
    ready(segmentation)
    # The peer's is the only subscription in the graph.
    for topic in ('segmentation/mask', 'segmentation/confidence'):
        assert robot.peer.count_subscribers(topic) == (topic == 'segmentation/mask')
    ids, _ = draw_box(CAMERA, POSE, *BOX_AT)
    image = np.stack([ids, np.full_like(ids, 200), ids], axis=-1)
    robot.camera.publish(rgb_to_msg(image, header(1)))
    eventually(lambda: grids and masks)
    assert np.array_equal(ids_of(masks[0]), ids) and {ROAD, BOX} <= set(ids.ravel())
    assert grids[0].header.stamp == header(1).stamp
    assert 100 in (cell(grids[0], 2.98, 0.65), cell(grids[0], 3.02, 0.65))
    assert cell(grids[0], 2.75, 0.65) == 0


def test_costmap_node_hears_other_processes_where_no_mask_is_made_in_its_own(
    robot: Robot, tmp_path: Path
) -> None:
    segmentation, costmap = robot.start_all(
        ['segmentation', 'costmap'], model=model(tmp_path), engine='fake'
    )
    mask = robot.peer.create_publisher(Image, 'segmentation/mask', 1)
    assert mask.get_subscription_count() == 0
    assert segmentation.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert segmentation.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    eventually(mask.get_subscription_count)
    mask.publish(mask_to_msg(np.zeros((HEIGHT, WIDTH), np.uint8), header(1)))
    eventually(lambda: costmap.counts['received'] == 1)
    segmentation.trigger_configure()
    eventually(lambda: mask.get_subscription_count() == 0)


def test_names_latched_elsewhere_reach_each_node_that_begins_to_listen() -> None:
    # Both cameras' masks come from one other process.
    with closing(Robot(args=[
        '--ros-args', '-r', 'segmentation/label_info:=/label_info', '-p', 'autostart:=false',
    ])) as robot:
        first, second = robot.create({'nodes': ['costmap'], 'cameras': ['front', 'rear']}, {})[1:]
        robot.spin(first, second)
        names = robot.peer.create_publisher(LabelInfo, '/label_info', LATCHED_QOS)
        names.publish(label_info_to_msg(['sky', 'road'], Header(), 0.0))
        for node in (first, second):
            node.trigger_configure()
            node.trigger_activate()
            eventually(lambda node=node: node.inputs.label_info)
        assert names.get_subscription_count() == 1
        for trigger in ('deactivate', 'cleanup', 'configure', 'activate'):
            getattr(first, f'trigger_{trigger}')()
        eventually(lambda: first.inputs.label_info)
        assert second.inputs.label_info


def test_topics_of_other_processes_are_remapped_once_and_have_their_nodes_qos(
    tmp_path: Path
) -> None:
    settings = tmp_path / 'settings.yaml'
    settings.write_text(yaml.safe_dump({'/**/segmentation_node': {'ros__parameters': {
        'qos_overrides': {'/mono': {'subscription': {'reliability': 'reliable'}}},
    }}}))
    with closing(Robot(args=[
        '--ros-args', '--params-file', str(settings), '-r', 'image:=mono', '-r', 'mono:=left',
    ])) as robot:
        robot.start_all(['segmentation'], model=model(tmp_path), engine='fake')
        eventually(lambda: robot.peer.get_subscriptions_info_by_topic('/mono'))
        [found] = robot.peer.get_subscriptions_info_by_topic('/mono')
        assert found.node_name == 'segmentation_node'
        assert found.qos_profile.reliability == ReliabilityPolicy.RELIABLE


def test_a_camera_of_twelve_bits_that_fills_the_lower_ones_is_told_once(
    caplog: pytest.LogCaptureFixture
) -> None:
    shared = Shared()
    for _ in range(8):
        data = array('B', np.full((4, 6), 4095, '<u2').tobytes())
        msg = Image(height=4, width=6, encoding='mono16', step=12, data=data)
        shared.image_of(msg, '/camera/image_raw', 1.0)
    shared.close()
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith('/camera/image_raw: the f')


def test_an_image_is_received_once_and_decoded_once(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnv2_perception.nodes import shared

    decoded: list[Any] = []
    decode = shared.image_from_msg

    def count(msg: Any, max_pixels: int) -> Any:
        decoded.append(msg)
        return decode(msg, max_pixels)

    monkeypatch.setattr(shared, 'image_from_msg', count)
    path = write_detector(tmp_path / 'detector.onnx', HEIGHT, WIDTH)
    robot = stack.enter_context(closing(Robot(args=[
        '--ros-args', '-p', f'detection_node:model:={path}',
        '-p', f'segmentation_node:model:={model(tmp_path)}',
        '-p', 'segmentation_node:engine:=fake',
    ])))
    segmentation, detection = robot.start_all(['segmentation', 'detection'])
    masks = robot.subscribe(Image, 'segmentation/mask')
    boxes = robot.subscribe(Detection2DArray, 'detections')
    robot.wait_for_topics()
    ready(segmentation)
    assert robot.camera.get_subscription_count() == 1
    robot.camera.publish(rgb_to_msg(picture(1), header(1)))
    eventually(lambda: masks and boxes)
    assert masks[0].header == boxes[0].header == header(1)
    assert len(decoded) == 1
    assert segmentation.counts['received'] == detection.counts['received'] == 1
    # The other goes on hearing the camera, over a subscription of its own.
    segmentation.trigger_deactivate()

    def detected() -> bool:
        robot.camera.publish(rgb_to_msg(picture(1), header(2)))
        return len(boxes) > 1

    eventually(detected)
    assert segmentation.counts['received'] == 1


def test_each_camera_gets_its_own_masks_from_one_opened_model(
    robot: Robot, tmp_path: Path
) -> None:
    names = ('front', 'left', 'right')
    nodes = robot.start_all(['segmentation'], names, model=model(tmp_path), engine='fake')
    assert [node.get_fully_qualified_name() for node in nodes] == [
        f'/{name}/segmentation_node' for name in names
    ]
    assert len({id(node.model.engine) for node in nodes}) == 1
    masks = [robot.subscribe(Image, f'{name}/segmentation/mask') for name in names]
    cameras = robot.cameras(*names)
    ready(*nodes)
    for class_id, camera in enumerate(cameras):
        camera.publish(rgb_to_msg(picture(class_id), header(class_id)))
    eventually(lambda: all(masks))
    for class_id, received in enumerate(masks):
        assert [msg.header for msg in received] == [header(class_id)]
        assert np.all(ids_of(received[0]) == class_id)
    # The model stays open for the others.
    nodes[0].trigger_deactivate()
    nodes[0].trigger_cleanup()
    cameras[1].publish(rgb_to_msg(picture(7), header(8)))
    eventually(lambda: len(masks[1]) == 2)


def test_frames_of_several_cameras_go_through_a_model_together(
    robot: Robot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    infer = FakeEngine._infer

    def count(self: FakeEngine, tensors: Any) -> Any:
        sizes.append(len(tensors['image']))
        return infer(self, tensors)

    monkeypatch.setattr(FakeEngine, '_infer', count)
    names = ('front', 'left', 'right')
    nodes = robot.start_all(
        ['segmentation'], names, model=model(tmp_path, 300.0, batch=None), engine='fake'
    )
    masks = [robot.subscribe(Image, f'{name}/segmentation/mask') for name in names]
    cameras = robot.cameras(*names)
    ready(*nodes)
    sizes.clear()
    cameras[0].publish(rgb_to_msg(picture(9), header(0)))
    eventually(lambda: sizes)  # while this one is in work, one of each comes; left's is malformed
    for class_id, camera in enumerate(cameras):
        msg = rgb_to_msg(picture(class_id), header(10 + class_id))
        if class_id == 1:
            msg.encoding = 'of no camera'
        camera.publish(msg)
    eventually(lambda: len(masks[0]) == 2 and masks[2])
    assert sizes == [1, 2]
    assert np.all(ids_of(masks[0][1]) == 0) and np.all(ids_of(masks[2][0]) == 2)
    assert [msg.header for msg in masks[2]] == [header(12)]
    assert nodes[1].counts['rejected'] == 1 and not masks[1]


def test_under_overload_cameras_share_fairly_and_only_the_newest_frame_counts(
    robot: Robot, tmp_path: Path
) -> None:
    names, inference_s = ('front', 'left', 'right'), 0.1
    nodes = robot.start_all(
        ['segmentation'], names, model=model(tmp_path, 1000 * inference_s), engine='fake'
    )
    masks = [robot.subscribe(Image, f'{name}/segmentation/mask') for name in names]
    cameras = robot.cameras(*names)
    ready(*nodes)
    # The first camera is three times as fast as the others.
    for number in range(90):
        for index, camera in enumerate(cameras):
            if index == 0 or number % 3 == 0:
                camera.publish(rgb_to_msg(picture(number), header(number)))
        time.sleep(0.033)
    eventually(lambda: all(
        node.counts['received'] == sum(
            node.counts[name] for name in ('published', 'passed_over', 'rejected')
        ) for node in nodes
    ))
    counts = [len(received) for received in masks]
    assert max(counts) - min(counts) <= 2 and min(counts) >= 5
    for received in masks:  # each content under its own stamp, in order
        stamps = [msg.header.stamp.sec - 1000 for msg in received]
        assert stamps == sorted(set(stamps))
        assert [int(ids_of(msg)[0, 0]) for msg in received] == stamps
    for node in nodes:
        # The frame in work of each camera, and its own; the newest waits for no more.
        assert np.median(node.latencies_ms) < 1000 * inference_s * (len(names) + 0.5)


def test_cameras_share_fairly_where_a_model_has_not_room_for_all(
    robot: Robot, tmp_path: Path
) -> None:
    names = ('front', 'left', 'right')
    nodes = robot.start_all(
        ['segmentation'], names, model=model(tmp_path, 50.0, batch=2), engine='fake'
    )
    cameras = robot.cameras(*names)
    ready(*nodes)
    for number in range(100):
        for camera in cameras:
            camera.publish(rgb_to_msg(picture(1), header(number)))
        time.sleep(0.02)
    counts = [node.counts['published'] for node in nodes]
    assert max(counts) < 1.3 * min(counts)


def test_a_worker_waits_for_one_turn_however_often_its_item_is_taken() -> None:
    taken: list[None] = []

    class Counting(Turns):
        def turn(self, patience_s: float = 5.0, rank: int = 0) -> Any:
            taken.append(None)
            return super().turn(patience_s, rank)

    worked: list[int] = []
    turns = Counting()
    at_work = NewestFrameWorker(worked.append, turns)
    with turns.turn():
        for number in range(10):  # as in a batch that another worker began
            at_work.put(number)
            assert at_work.take() == number
        at_work.put(10)
    at_work.run(lambda: None)
    at_work.put(11)
    at_work.run(lambda: None)
    at_work.close()
    assert worked == [10, 11]
    assert len(taken) == len(['here', 'the ten and 10', '11'])


@pytest.mark.parametrize(('overdue_s', 'order'), [(60.0, ['mask', 'boxes']),
                                                  (0.0, ['boxes', 'mask'])])
def test_masks_go_before_boxes_that_have_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch, overdue_s: float, order: list[str]
) -> None:
    monkeypatch.setattr(worker, 'OVERDUE_S', overdue_s)
    worked: list[str] = []
    turns = Turns()
    boxes = NewestFrameWorker(worked.append, turns, DetectionNode.rank)
    masks = NewestFrameWorker(worked.append, turns, SegmentationNode.rank)
    with turns.turn():
        for each, item in ((boxes, 'boxes'), (masks, 'mask')):
            waiting = len(turns._line)
            each.put(item)
            eventually(lambda count=waiting: len(turns._line) > count)
    for each in (boxes, masks):
        each.run(lambda: None)
        each.close()
    assert worked == order


def test_rules_for_the_process_leave_its_nodes_their_names(stack: ExitStack) -> None:
    robot = stack.enter_context(closing(Robot(args=[
        '--ros-args', '-r', '__ns:=/robot', '-r', '__node:=eyes', '-r', 'image:=camera/image_raw',
    ])))
    own = {'nodes': ['segmentation', 'costmap'], 'cameras': ['front', 'rear']}
    perception, *nodes = robot.create(own, {'autostart': False})
    robot.nodes += [perception, *nodes]
    assert perception.get_fully_qualified_name() == '/robot/eyes'
    assert [node.get_fully_qualified_name() for node in nodes] == [
        f'/robot/{camera}/{name}_node'
        for camera in ('front', 'rear') for name in ('segmentation', 'costmap')
    ]
    assert nodes[2].resolve_topic_name('image') == '/robot/rear/camera/image_raw'


@pytest.mark.parametrize(('own', 'told'), [
    ({'nodes': ['segmentation', 'depth']}, r"'depth'; expected segmentation\|"),
    ({'nodes': ['costmap', 'costmap']}, "'costmap'; expected .* each once"),
    ({'nodes': ['']}, 'nodes is empty, expected some of'),
    ({'cameras': ['front', '2nd']}, "cameras has '2nd'"),
    ({'cameras': ['front/left']}, "cameras has 'front/left'"),
])
def test_a_wrong_name_is_told(robot: Robot, own: dict[str, Any], told: str) -> None:
    with pytest.raises(ParameterError, match=told):
        robot.create(own, {})


def test_nodes_start_and_end_with_their_process(tmp_path: Path) -> None:
    command = [
        sys.executable, '-m', 'mnv2_perception.nodes.perception', '--ros-args',
        '-p', 'nodes:=[segmentation, costmap]', '-p', 'cameras:=[front, rear]',
        '-p', f'model:={model(tmp_path)}', '-p', 'engine:=fake',
    ]
    with subprocess.Popen(
        command, env={**os.environ, **localhost_domain(own_domain_id())}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if sum(each.endswith(': active\n') for each in lines) == 4:
                process.send_signal(signal.SIGINT)
        assert process.wait() == 0, lines
    assert sum('[rear.' in line for line in lines if line.endswith(': active\n')) == 2, lines


def test_a_lifecycle_manager_may_drive_each_node(robot: Robot, tmp_path: Path) -> None:
    own = {'nodes': ['segmentation', 'costmap'], 'cameras': ['']}
    perception, segmentation, costmap = robot.create(
        own, {'autostart': False, 'model': model(tmp_path), 'engine': 'fake'}
    )
    robot.spin(perception, segmentation, costmap)
    # Costmap first: it is to hear the masks of its own process all the same.
    assert robot.transition(Transition.TRANSITION_CONFIGURE)
    assert robot.transition(Transition.TRANSITION_ACTIVATE)
    mask = robot.peer.create_publisher(Image, 'segmentation/mask', 1)
    eventually(mask.get_subscription_count)
    segmentation.trigger_configure()
    segmentation.trigger_activate()
    eventually(lambda: mask.get_subscription_count() == 0)
    eventually(lambda: costmap.inputs.label_info)
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
        assert robot.transition(transition)
