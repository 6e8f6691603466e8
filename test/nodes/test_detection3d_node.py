"""detection3d_node over real DDS: a box before a wall, and a detector that finds it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
import threading
import time
from typing import Any

from camera_scene import draw_before_wall
from fixed_detector import write_detector
import numpy as np
from numpy.typing import NDArray
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
pytest.importorskip('tf2_msgs', reason='no tf2_msgs: run make setup, or source a ROS distro')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from ros_graph import eventually, Graph, header, Robot
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from test_costmap_node import CAMERA, camera_info, depth_msg, POSE
from test_time import Tree
import tf2_stand_in
from vision_msgs.msg import Detection2DArray, Detection3D, Detection3DArray

from mnv2_perception.nodes import poses
from mnv2_perception.nodes.detection3d_node import Detection3DNode, WINDOW
from mnv2_perception.nodes.messages import cloud_to_msg, detections_to_msg, rgb_to_msg, stamp_to_ns
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose
from mnv2_perception.vision.projection import depth_points

pytestmark = pytest.mark.ros

LOW, HIGH = (3.0, 0.2, 0.0), (3.4, 0.8, 1.2)
WALL_X = 4.2
DEPTH_M, FOUND = draw_before_wall(CAMERA, POSE, LOW, HIGH, WALL_X)
PLACED = {
    'camera_x_m': 0.2, 'camera_y_m': -0.1, 'camera_z_m': 1.0, 'camera_pitch_rad': 0.2,
    'pose_source': 'parameters', 'sync_wait_s': 1.0,
}


class Detector(Graph):
    """The node under test; the peer is its detector, cameras and consumer."""

    def __init__(self) -> None:
        super().__init__(Detection3DNode, **PLACED)
        create = self.peer.create_publisher
        self.camera = create(Detection2DArray, 'detections', 1)
        self.calibration = create(CameraInfo, 'camera_info', 1)
        self.depth_calibration = create(CameraInfo, 'depth/camera_info', 1)
        self.depth = create(Image, 'depth/image', 5)
        self.points = create(PointCloud2, 'points', 5)
        self.results = self.subscribe(Detection3DArray, 'detections3d', QoSProfile(depth=50))

    def calibrate(self, node: Detection3DNode, info: CameraInfo | None = None) -> None:
        self.wait_for_topics()
        self.calibration.publish(info or camera_info())
        eventually(lambda: node.inputs.camera_info)
        if node.parameters.source == 'depth':
            self.heard(self.depth)
            self.depth_calibration.publish(camera_info())
            eventually(lambda: node.inputs.depth_info)
        else:
            self.heard(self.points)

    def measure(self, stamp: Header, depth_m: NDArray[np.float32] = DEPTH_M) -> None:
        self.depth.publish(depth_msg(depth_m, stamp, '32FC1'))

    def detect(self, stamp: Header, boxes: NDArray[np.float64] = FOUND) -> None:
        """Publish boxes of class `person`, each with its number as id."""
        count = len(boxes)
        scores = np.linspace(0.9, 0.5, count, dtype=np.float32)
        msg = detections_to_msg(
            boxes.astype(np.float32), scores, np.zeros(count, int), ['person'], stamp
        )
        for number, each in enumerate(msg.detections):
            each.id = str(number)
        self.camera.publish(msg)

    def wait_for(self, stamp: Header) -> Detection3DArray:
        eventually(lambda: self.results and self.results[-1].header.stamp == stamp.stamp)
        return self.results[-1]


@pytest.fixture
def detector() -> Iterator[Detector]:
    detector = Detector()
    yield detector
    detector.close()


def check(found: Detection3D, low: Sequence[float] = LOW, high: Sequence[float] = HIGH) -> None:
    centre, size = found.bbox.center.position, found.bbox.size
    assert centre.x - size.x / 2 == pytest.approx(low[0], abs=0.06)
    assert centre.y == pytest.approx((low[1] + high[1]) / 2, abs=0.06)
    assert centre.z == pytest.approx((low[2] + high[2]) / 2, abs=0.06)
    assert size.y == pytest.approx(high[1] - low[1], abs=0.08)


@pytest.mark.parametrize('source', ['16UC1', '32FC1', 'points'])
def test_a_box_before_a_wall_is_placed_with_its_class_score_id_and_stamp(
    detector: Detector, source: str
) -> None:
    node = detector.start(source='points' if source == 'points' else 'depth')
    detector.calibrate(node)
    if source == 'points':
        detector.points.publish(cloud_to_msg(depth_points(DEPTH_M, CAMERA), header(1)))
    else:
        detector.depth.publish(depth_msg(DEPTH_M, header(1), source))
    detector.detect(header(1))
    msg = detector.wait_for(header(1))
    assert msg.header == Header(stamp=header(1).stamp, frame_id='base_link')
    found, = msg.detections
    check(found)
    assert (found.header, found.id) == (msg.header, '0')
    assert found.results[0].hypothesis.class_id == 'person'
    assert found.results[0].hypothesis.score == pytest.approx(0.9)
    assert found.results[0].pose.pose == found.bbox.center


@pytest.mark.parametrize('source', ['points', 'depth'])
def test_in_the_frame_of_a_cameras_body_clouds_place_boxes_and_depth_is_told(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(poses, 'tf2_ros', poses.tf2_ros or tf2_stand_in)
    tree: Any = Tree(detector)  # type: ignore[arg-type]
    body = POSE @ BODY_FROM_OPTICAL.inverse()
    tree._static.publish(tf2_stand_in.TFMessage(transforms=[
        tf2_stand_in.transform('base_link', 'camera_link', body, 0),
    ]))
    node = detector.start(source=source, pose_source='tf')
    detector.calibrate(node)
    stamp = Header(stamp=header(1).stamp, frame_id='camera_link')
    if source == 'points':  # as Gazebo's
        ahead = BODY_FROM_OPTICAL.apply(depth_points(DEPTH_M, CAMERA))
        detector.points.publish(cloud_to_msg(ahead, stamp))
    else:
        detector.measure(stamp)
    detector.detect(stamp)
    found = detector.wait_for(stamp).detections
    if source == 'points':
        check(found[0])
        assert node.warning() == ''
    else:
        assert node.warning().startswith("in the frame 'camera_link' z points up")


@pytest.mark.parametrize(('focal_px', 'told'), [(250.0, ''), (190.0, 'do not match those')])
def test_a_cloud_whose_pixels_are_not_the_images_is_told(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, focal_px: float, told: str
) -> None:
    monkeypatch.setattr(poses, 'tf2_ros', poses.tf2_ros or tf2_stand_in)
    tree: Any = Tree(detector)  # type: ignore[arg-type]
    tree._static.publish(tf2_stand_in.TFMessage(transforms=[
        tf2_stand_in.transform('base_link', 'camera_optical', POSE, 0),
        tf2_stand_in.transform('base_link', 'depth_optical', POSE, 0),
    ]))
    node = detector.start(source='points', pose_source='tf')
    detector.calibrate(node)
    other = replace(CAMERA, fx=focal_px, fy=focal_px)  # ordered as the depth image
    depth_m, _ = draw_before_wall(other, POSE, LOW, HIGH, WALL_X)
    stamp = Header(stamp=header(1).stamp, frame_id='depth_optical')
    detector.points.publish(cloud_to_msg(depth_points(depth_m, other), stamp))
    detector.detect(header(1))
    detector.wait_for(header(1))
    assert told in node.warning() and bool(told) == bool(node.warning())
    detector.points.publish(cloud_to_msg(depth_points(DEPTH_M, CAMERA), header(2)))
    detector.detect(header(2))
    detector.wait_for(header(2))
    assert node.warning() == ''  # the driver was set right


def test_a_box_that_was_not_measured_is_left_out_and_counted(detector: Detector) -> None:
    node = detector.start()
    detector.calibrate(node)
    sky = [[10.0, 0.0, 60.0, 30.0]]
    nowhere = DEPTH_M.copy()
    nowhere[:30] = np.nan
    detector.measure(header(2), nowhere)
    detector.detect(header(2), np.concatenate([sky, FOUND]))
    found, = detector.wait_for(header(2)).detections
    check(found)
    assert found.id == '1'
    facts = node.describe()
    assert (facts['boxes'], facts['boxes_left_out']) == (2, 1)


def test_every_message_is_answered_also_without_boxes_and_in_order(detector: Detector) -> None:
    node = detector.start()
    detector.calibrate(node)
    for number in range(1, 6):
        detector.measure(header(number))
        detector.detect(header(number), FOUND[:number % 2])
        detector.wait_for(header(number))
    assert [len(msg.detections) for msg in detector.results] == [1, 0, 1, 0, 1]
    assert node.counts['published'] == node.counts['received'] == 5


def test_detections_whose_depth_was_lost_are_counted_and_not_guessed(
    detector: Detector, capfd: pytest.CaptureFixture[str]
) -> None:
    node = detector.start(sync_wait_s=0.1)
    detector.calibrate(node)
    detector.measure(header(5))
    detector.detect(header(1))
    eventually(lambda: node.counts['unpaired'] == 1)
    assert node.counts['published'] == 0 and not detector.results
    assert "detections wait for /depth/image within 0.02 s of the image's stamp" in (
        capfd.readouterr().err
    )
    detector.detect(header(5))
    check(detector.wait_for(header(5)).detections[0])


@pytest.mark.parametrize(('source', 'topic'), [('depth', '/depth/image'), ('points', '/points')])
def test_depth_or_a_cloud_that_nobody_sends_is_named_and_no_tolerance_is_blamed(
    detector: Detector, source: str, topic: str
) -> None:
    node = detector.start(source=source, sync_wait_s=0.1)
    detector.calibrate(node)
    detector.detect(header(1))
    eventually(lambda: node.counts['unpaired'] == 1)
    lack = f'{topic}, on which nothing arrives: start what publishes it, or remap it'
    assert node.describe()['waiting_for'] == node.waiting() == lack


def test_what_has_not_been_heard_is_named(detector: Detector) -> None:
    node = detector.start()
    detector.wait_for_topics()
    detector.detect(header(1))
    eventually(lambda: node.counts['passed_over'] == 1)
    assert node.describe()['waiting_for'] == '/camera_info, /depth/camera_info'


def test_a_camera_info_of_another_image_is_refused_with_the_reason(
    detector: Detector, capfd: pytest.CaptureFixture[str]
) -> None:
    node = detector.start(source='points')
    detector.calibrate(node, camera_info(CAMERA.resized(60, 80)))
    detector.points.publish(cloud_to_msg(depth_points(DEPTH_M, CAMERA), header(1)))
    detector.detect(header(1))
    eventually(lambda: node.counts['rejected'] == 1)
    assert 'is not in the image of 60 × 80 of camera_info' in capfd.readouterr().err


def test_boxes_that_are_never_measured_are_a_warning(detector: Detector) -> None:
    reports = detector.subscribe(DiagnosticArray, '/diagnostics', QoSProfile(depth=10))
    node = detector.start()
    detector.calibrate(node)
    detector.measure(header(1), np.zeros_like(DEPTH_M))
    detector.detect(header(1), np.repeat(FOUND, WINDOW, axis=0))
    assert detector.wait_for(header(1)).detections == []
    text = f'none of the last {WINDOW} boxes could be measured'
    eventually(lambda: reports and text in reports[-1].status[0].message)
    assert reports[-1].status[0].level == DiagnosticStatus.WARN
    detector.measure(header(2))
    detector.detect(header(2))
    eventually(lambda: text not in reports[-1].status[0].message)


@pytest.mark.parametrize('late_ms', [0, 200])
def test_while_the_robot_moves_a_box_stays_where_it_stands_in_odom(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, late_ms: int
) -> None:
    monkeypatch.setattr(poses, 'tf2_ros', poses.tf2_ros or tf2_stand_in)
    tree: Any = Tree(detector)  # type: ignore[arg-type]  # its peer is all that counts
    # On a busy machine, depth and transforms are later than late_ms.
    node = detector.start(pose_source='tf', base_frame='odom', sync_wait_s=5.0)
    detector.calibrate(node)
    tree.wait()
    clock, ended = Clock(), threading.Event()
    began_ns = clock.now().nanoseconds

    def base_at(stamp_ns: int) -> Pose:
        """Ahead at 1 m/s, turning left at 0.3 rad/s."""
        elapsed_s = (stamp_ns - began_ns) * 1e-9
        return Pose.from_rpy(0.5 * elapsed_s, 0.0, 0.0, 0.0, 0.0, 0.15 * elapsed_s)

    def move() -> None:
        told_ns = began_ns - 200_000_000
        while not ended.wait(0.005):  # odometry at 20 Hz
            while told_ns + 50_000_000 < clock.now().nanoseconds - late_ms * 1_000_000:
                told_ns += 50_000_000
                tree.tell(told_ns, base_at(told_ns))

    odometry = threading.Thread(target=move)
    odometry.start()
    try:
        for _ in range(15):
            now = clock.now()
            stamp = Header(stamp=now.to_msg(), frame_id='camera_optical')
            camera = base_at(now.nanoseconds) @ POSE
            depth_m, boxes = draw_before_wall(CAMERA, camera, LOW, HIGH, WALL_X)
            detector.measure(stamp, depth_m)
            detector.detect(stamp, boxes)
            time.sleep(0.1)
        eventually(lambda: len(detector.results) == 15, 20.0)
    finally:
        ended.set()
        odometry.join()
    for msg in detector.results:
        assert msg.header.frame_id == 'odom'
        centre, size = msg.detections[0].bbox.center.position, msg.detections[0].bbox.size
        assert centre.x - size.x / 2 == pytest.approx(LOW[0], abs=0.08)
        assert centre.y == pytest.approx(0.5, abs=0.08)
    stamps = [stamp_to_ns(msg.header.stamp) for msg in detector.results]
    assert stamps == sorted(stamps)


def test_of_zero_stamps_the_depth_counts_that_came_with_the_boxes(detector: Detector) -> None:
    node = detector.start(sync_wait_s=0.2)
    detector.calibrate(node)
    zero = Header(stamp=Time(nanoseconds=0).to_msg(), frame_id='camera_optical')
    detector.measure(zero, np.full_like(DEPTH_M, 0.7))
    eventually(lambda: not node.inputs.measured.is_empty())
    time.sleep(0.1)
    detector.detect(zero)  # what is older may be of any image
    eventually(lambda: node.counts['unpaired'] == 1)
    for number in range(4):
        detector.measure(zero)
        detector.detect(zero)
        eventually(lambda count=number: len(detector.results) == count + 1)
        check(detector.results[-1].detections[0])
    assert 'the stamps of the images are zero' in node.stamps.warning


def test_a_time_that_jumps_back_loses_no_box_of_the_new_time(detector: Detector) -> None:
    node = detector.start()
    detector.calibrate(node)
    for number in (50, 1, 2):
        detector.measure(header(number))
        detector.detect(header(number))
        if number == 1:  # its depth may have been forgotten with the old time
            eventually(lambda: node.counts['received'] == 2)
            detector.measure(header(number))
        check(detector.wait_for(header(number)).detections[0])


def test_results_are_reliable(detector: Detector) -> None:
    detector.start()
    detector.wait_for_topics()
    info, = detector.peer.get_publishers_info_by_topic('/detections3d')
    assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE


def test_boxes_of_the_process_s_own_detector_reach_it_in_memory(tmp_path: Path) -> None:
    height, width = CAMERA.height, CAMERA.width
    x1, y1, x2, y2 = FOUND[0] / np.tile((width, height), 2)
    model = write_detector(tmp_path / 'd.onnx', 64, 64, [(x1, y1, x2, y2, 0.9, 1)])
    robot = Robot()
    try:
        detection, placing = robot.start_all(
            ['detection', 'detection3d'], model=str(model), engine='onnx_runtime', **PLACED
        )
        results = robot.subscribe(Detection3DArray, 'detections3d')
        create = robot.peer.create_publisher
        infos = create(CameraInfo, 'camera_info', 1), create(CameraInfo, 'depth/camera_info', 1)
        depth = create(Image, 'depth/image', 5)
        robot.wait_for_topics()
        robot.heard(depth)
        for publisher in infos:
            robot.heard(publisher)
            publisher.publish(camera_info())
        eventually(lambda: placing.inputs.camera_info and placing.inputs.depth_info)
        assert robot.peer.count_subscribers('detections') == 0
        depth.publish(depth_msg(DEPTH_M, header(1), '32FC1'))
        robot.camera.publish(rgb_to_msg(np.zeros((height, width, 3), np.uint8), header(1)))
        eventually(lambda: results)
        check(results[0].detections[0])
        assert results[0].detections[0].results[0].hypothesis.class_id == 'dog'
        assert detection.counts['published'] == 1
    finally:
        robot.close()


def test_depth_of_another_camera_is_registered_to_the_boxes_image(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poses, 'tf2_ros', poses.tf2_ros or tf2_stand_in)
    tree: Any = Tree(detector)  # type: ignore[arg-type]
    beside = Pose.from_rpy(0.2, -0.04, 1.0, 0.0, 0.1, 0.0) @ BODY_FROM_OPTICAL
    tree._static.publish(tf2_stand_in.TFMessage(transforms=[
        tf2_stand_in.transform('base_link', 'camera_optical', POSE, 0),
        tf2_stand_in.transform('base_link', 'depth_optical', beside, 0),
    ]))
    node = detector.start(pose_source='tf')
    detector.calibrate(node)
    depth_m, _ = draw_before_wall(CAMERA, beside, LOW, HIGH, WALL_X)
    elsewhere = Header(stamp=header(1).stamp, frame_id='depth_optical')
    detector.measure(elsewhere, depth_m)
    detector.detect(header(1))
    check(detector.wait_for(header(1)).detections[0])
