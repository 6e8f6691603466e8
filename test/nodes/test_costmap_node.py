"""costmap_node over real DDS: a box at a known place, and what Nav2's layers read of it."""

from collections.abc import Iterator
from dataclasses import replace
import math
from typing import Any

from camera_scene import BOX, draw_box, ROAD, SKY
import numpy as np
from numpy.typing import NDArray
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from lifecycle_msgs.msg import Transition
from nav_msgs.msg import OccupancyGrid
import rclpy
from rclpy.context import Context
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from ros_graph import eventually, Graph, header
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, LaserScan, PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo, VisionClass

from mnv2_perception.nodes import costmap_node, poses
from mnv2_perception.nodes.advice import image_topic_behind
from mnv2_perception.nodes.costmap_node import CostmapNode
from mnv2_perception.nodes.messages import (
    cloud_to_msg,
    label_info_to_msg,
    labels_from_msg,
    mask_to_msg,
    points_from_msg,
)
from mnv2_perception.nodes.qos import LATCHED_QOS
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.marks import Marks
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose
from mnv2_perception.vision.projection import depth_points

pytestmark = pytest.mark.ros

HEIGHT, WIDTH = 240, 320
CAMERA = Camera(HEIGHT, WIDTH, 250.0, 250.0, 160.0, 119.0)
POSE = Pose.from_rpy(0.2, -0.1, 1.0, 0.0, 0.2, 0.0) @ BODY_FROM_OPTICAL
FOV_RAD = 1.1
PINHOLE = Camera.from_fov(HEIGHT, WIDTH, FOV_RAD)  # what the node assumes without camera_info
BOX_AT = (3.0, 0.4, 0.0), (3.6, 0.9, 0.3)
PLACED = {
    'camera_x_m': 0.2, 'camera_y_m': -0.1, 'camera_z_m': 1.0, 'camera_pitch_rad': 0.2,
    'pose_source': 'parameters', 'traversable_classes': ['road'], 'max_footprint_m': 0.5,
    'forbidden_classes': [''], 'ignored_classes': ['sky'], 'sync_wait_s': 1.0,
    'grid_resolution_m': 0.1, 'max_range_m': 8.0,
}


def camera_info(camera: Camera = CAMERA, frame_id: str = 'camera_optical') -> CameraInfo:
    k = camera.matrix.ravel().tolist()
    p = np.hstack([camera.matrix, np.zeros((3, 1))]).ravel().tolist()
    return CameraInfo(
        header=Header(frame_id=frame_id), height=camera.height, width=camera.width,
        distortion_model='plumb_bob', d=[0.0] * 5, k=k, r=np.eye(3).ravel().tolist(), p=p,
    )


def depth_msg(depth_m: NDArray[np.float32], stamp: Header, encoding: str) -> Image:
    if encoding == '16UC1':
        values = (np.where(np.isfinite(depth_m), depth_m, 0) * 1000 + 0.5).astype('<u2')
    else:
        values = depth_m.astype('<f4')
    height, width = depth_m.shape
    return Image(
        header=stamp, height=height, width=width, encoding=encoding,
        step=values.itemsize * width, data=values.tobytes(),
    )


class Scene(Graph):
    """The node under test; the peer is camera, segmentation_node and costmap."""

    def __init__(self) -> None:
        super().__init__(CostmapNode, **PLACED)
        create = self.peer.create_publisher
        self.infos = create(LabelInfo, 'segmentation/label_info', LATCHED_QOS)
        self.calibration = create(CameraInfo, 'camera_info', 1)
        self.confidence = create(Image, 'segmentation/confidence', 1)
        self.camera = create(Image, 'segmentation/mask', 1)
        self.results = {
            name: self.subscribe(kind, name) for name, kind in {
                'obstacles': PointCloud2, 'ground': PointCloud2, 'scan': LaserScan,
                'grid': OccupancyGrid,
            }.items()
        }

    def name_classes(self, node: CostmapNode) -> None:
        self.wait_for_topics()
        self.infos.publish(label_info_to_msg(['sky', 'road', 'box'], Header(), 0.0))
        eventually(lambda: node.inputs.label_info)

    def calibrate(self, node: CostmapNode, info: CameraInfo | None = None) -> None:
        self.name_classes(node)
        self.calibration.publish(info or camera_info())
        eventually(lambda: node.inputs.camera_info)

    def show(
        self, number: int, *box: tuple[float, float, float], camera: Camera = CAMERA
    ) -> dict[str, Any]:
        """Publish a mask; return the results of its stamp."""
        ids, _ = draw_box(camera, POSE, *box)
        self.confidence.publish(mask_to_msg(np.full_like(ids, 200), header(number)))
        self.camera.publish(mask_to_msg(ids, header(number)))
        return self.wait_for_results(number)

    def wait_for_results(self, number: int) -> dict[str, Any]:
        stamp = header(number).stamp
        for messages in self.results.values():
            eventually(lambda m=messages: m and m[-1].header.stamp == stamp)
        return {name: messages[-1] for name, messages in self.results.items()}


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


def xyz(msg: PointCloud2) -> NDArray[np.float32]:
    return np.frombuffer(msg.data, '<f4').reshape(-1, 3)


def cell(msg: OccupancyGrid, x: float, y: float) -> int:
    cells = np.asarray(msg.data).reshape(msg.info.height, msg.info.width)
    corner = msg.info.origin.position
    return int(cells[
        math.floor((y - corner.y) / msg.info.resolution),
        math.floor((x - corner.x) / msg.info.resolution),
    ])


def beam(msg: LaserScan, x: float, y: float) -> float:
    return float(msg.ranges[round((math.atan2(y, x) - msg.angle_min) / msg.angle_increment)])


def check_box(found: dict[str, Any], height_m: float | None) -> None:
    x, y, z = xyz(found['obstacles']).T
    face = (y > 0.45) & (y < 0.85) & (z < 0.28)  # not the top
    assert face.sum() > 20
    np.testing.assert_allclose(x[face], 3.0, atol=0.05)
    if height_m is not None:
        assert np.all(z == np.float32(height_m))
    assert {cell(found['grid'], 2.98, 0.65), cell(found['grid'], 3.02, 0.65)} >= {100}
    assert cell(found['grid'], 2.75, 0.65) == 0
    assert beam(found['scan'], 3.0, 0.65) == pytest.approx(math.hypot(3.0, 0.65), abs=0.05)
    assert beam(found['scan'], 3.0, 0.0) == math.inf
    assert xyz(found['ground']).shape[0] > 100


def test_a_box_on_the_ground_is_marked_and_its_absence_clears(scene: Scene) -> None:
    node = scene.start()
    scene.calibrate(node)
    found = scene.show(1, *BOX_AT)
    check_box(found, height_m=0.25)
    for name in ('obstacles', 'ground', 'scan', 'grid'):
        assert found[name].header == Header(stamp=header(1).stamp, frame_id='base_link')
    assert np.isfinite(xyz(found['obstacles'])).all()
    found = scene.show(2)
    assert found['obstacles'].width == 0 and len(found['obstacles'].fields) == 3
    assert cell(found['grid'], 3.02, 0.65) == 0
    assert beam(found['scan'], 3.0, 0.65) == math.inf


@pytest.mark.parametrize('encoding', ['16UC1', '32FC1'])
def test_a_box_is_placed_by_registered_depth(scene: Scene, encoding: str) -> None:
    depth = scene.peer.create_publisher(Image, 'depth/image', 1)
    depth_info = scene.peer.create_publisher(CameraInfo, 'depth/camera_info', 1)
    node = scene.start(source='depth')
    scene.calibrate(node)
    depth_info.publish(camera_info())
    eventually(lambda: node.inputs.depth_info)
    _, depth_m = draw_box(CAMERA, POSE, *BOX_AT)
    depth.publish(depth_msg(depth_m, header(1), encoding))
    check_box(scene.show(1, *BOX_AT), height_m=None)


def test_depth_of_another_camera_without_tf_is_refused_with_the_reason(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    depth = scene.peer.create_publisher(Image, 'depth/image', 1)
    depth_info = scene.peer.create_publisher(CameraInfo, 'depth/camera_info', 1)
    node = scene.start(source='depth')
    scene.calibrate(node)
    depth_info.publish(camera_info(CAMERA.resized(120, 160), 'depth_optical'))
    eventually(lambda: node.inputs.depth_info)
    elsewhere = Header(stamp=header(1).stamp, frame_id='depth_optical')
    depth.publish(depth_msg(np.ones((120, 160), np.float32), elsewhere, '32FC1'))
    ids, _ = draw_box(CAMERA, POSE)
    scene.camera.publish(mask_to_msg(ids, header(1)))
    eventually(lambda: node.counts['rejected'] == 1)
    assert "'depth_optical' is not the frame of the image" in capfd.readouterr().err


def test_a_box_is_placed_by_an_organised_cloud(scene: Scene) -> None:
    clouds = scene.peer.create_publisher(PointCloud2, 'points', 1)
    node = scene.start(source='points')
    scene.calibrate(node)
    _, depth_m = draw_box(CAMERA, POSE, *BOX_AT)
    clouds.publish(cloud_to_msg(depth_points(depth_m, CAMERA), header(1)))
    check_box(scene.show(1, *BOX_AT), height_m=None)


def test_a_mask_without_its_depth_is_counted_not_guessed(scene: Scene) -> None:
    depth = scene.peer.create_publisher(Image, 'depth/image', 1)
    depth_info = scene.peer.create_publisher(CameraInfo, 'depth/camera_info', 1)
    node = scene.start(source='depth', sync_wait_s=0.1)
    scene.calibrate(node)
    depth_info.publish(camera_info())
    eventually(lambda: node.inputs.depth_info)
    _, depth_m = draw_box(CAMERA, POSE)
    depth.publish(depth_msg(depth_m, header(5), '32FC1'))
    ids, _ = draw_box(CAMERA, POSE)
    scene.camera.publish(mask_to_msg(ids, header(1)))
    eventually(lambda: node.counts['unpaired'] == 1)
    assert node.counts['published'] == 0 and not scene.results['obstacles']


def test_the_semantic_layer_gets_one_set_of_one_size_and_stamp(scene: Scene) -> None:
    kinds = {'mask': Image, 'confidence': Image, 'points': PointCloud2, 'camera_info': CameraInfo}
    sets = {name: scene.subscribe(kind, f'semantic/{name}') for name, kind in kinds.items()}
    names = scene.subscribe(LabelInfo, 'semantic/label_info', LATCHED_QOS)
    node = scene.start(semantic_height=120)
    scene.calibrate(node)
    eventually(lambda: names)  # before any mask
    eventually(lambda: not node.greeting.holding())
    scene.show(1, *BOX_AT)
    eventually(lambda: all(sets.values()))
    mask, confidence, points, info = (sets[name][0] for name in kinds)
    assert {(m.height, m.width) for m in (mask, confidence, points, info)} == {(120, 160)}
    assert {m.header.stamp.sec for m in (mask, confidence, points, info)} == {1001}
    assert mask.header == header(1) and points.header.frame_id == 'base_link'
    assert mask.step == 160 and set(labels_from_msg(confidence).ravel()) == {200}
    assert info.k[0] == pytest.approx(125.0)
    ids, cloud = labels_from_msg(mask), points_from_msg(points)
    assert set(np.unique(ids)) == {SKY, ROAD, BOX}
    assert np.isnan(cloud[ids == SKY]).all()
    on_road = cloud[(ids == ROAD) & np.isfinite(cloud[..., 0])]
    # Pixel i is point i: it projects back on it.
    rows, columns = np.nonzero((ids == ROAD) & np.isfinite(cloud[..., 0]))
    pixels = CAMERA.resized(120, 160).project(POSE.inverse().apply(on_road))
    assert np.nanmax(np.abs(pixels - np.stack([columns, rows], -1))) < 0.51


def test_a_damaged_confidence_costs_the_semantic_set_alone(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    sets = scene.subscribe(Image, 'semantic/mask')
    node = scene.start()
    scene.calibrate(node)
    eventually(lambda: node._has_semantic())
    ids, _ = draw_box(CAMERA, POSE, *BOX_AT)
    damaged = mask_to_msg(np.full_like(ids, 200), header(1))
    damaged.data = damaged.data[:100]
    scene.confidence.publish(damaged)
    eventually(lambda: not node.inputs.confidences.is_empty())
    scene.camera.publish(mask_to_msg(ids, header(1)))
    check_box(scene.wait_for_results(1), height_m=0.25)
    eventually(lambda: node.counts['published'] == 1)
    assert (node.counts['rejected'], node.counts['unpaired']) == (0, 1) and not sets
    told = 'masks wait for a usable segmentation/confidence: '
    eventually(lambda: told in capfd.readouterr().err)
    assert node.describe()['waiting_for'].startswith('a usable segmentation/confidence: ')
    scene.show(2)
    eventually(lambda: sets)
    assert node.missing() == ''


def test_without_camera_info_a_box_is_placed_by_the_assumed_field_of_view(scene: Scene) -> None:
    node = scene.start(horizontal_fov_rad=FOV_RAD)
    assert node.describe()['camera'] == 'horizontal_fov_rad'
    scene.name_classes(node)
    check_box(scene.show(1, *BOX_AT, camera=PINHOLE), height_m=0.25)


def test_the_semantic_layer_is_told_the_assumed_camera(scene: Scene) -> None:
    infos = scene.subscribe(CameraInfo, 'semantic/camera_info')
    masks = scene.subscribe(Image, 'semantic/mask')
    node = scene.start(horizontal_fov_rad=FOV_RAD, semantic_height=120)
    scene.name_classes(node)
    eventually(lambda: not node.greeting.holding())
    scene.show(1, *BOX_AT, camera=PINHOLE)
    eventually(lambda: infos and masks)
    assert infos[0].header == masks[0].header == header(1)
    told = Camera.from_info(infos[0])
    assert (told.height, told.width) == (masks[0].height, masks[0].width) == (120, 160)
    np.testing.assert_allclose(told.matrix, Camera.from_fov(120, 160, FOV_RAD).matrix)


def test_a_camera_info_that_comes_beats_the_assumed_field_of_view(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    node = scene.start(horizontal_fov_rad=2.0)
    scene.name_classes(node)
    scene.calibration.publish(camera_info())
    scene.calibration.publish(camera_info())
    eventually(lambda: node.describe()['camera'] == 'camera_info')
    check_box(scene.show(1, *BOX_AT), height_m=0.25)
    assert capfd.readouterr().err.count('horizontal_fov_rad is no longer used') == 1


def test_depth_with_an_assumed_field_of_view_fails_to_configure(scene: Scene) -> None:
    node = scene.start(wait=False, autostart=False, source='depth', horizontal_fov_rad=FOV_RAD)
    assert not scene.transition(Transition.TRANSITION_CONFIGURE)
    assert 'remap camera_info' in node._failure


def test_ids_that_no_mask_can_hold_are_not_told_to_the_semantic_layer(scene: Scene) -> None:
    names = scene.subscribe(LabelInfo, 'semantic/label_info', LATCHED_QOS)
    scene.start()
    scene.wait_for_topics()
    msg = label_info_to_msg(['sky', 'road', 'box'], Header(), 0.0)
    msg.class_map += [VisionClass(class_id=i, class_name=f'class {i}') for i in (255, 258)]
    scene.infos.publish(msg)
    eventually(lambda: names)
    assert [item.class_id for item in names[0].class_map] == [0, 1, 2]


def test_results_are_reliable_and_what_is_told_once_is_latched(scene: Scene) -> None:
    scene.start()
    scene.wait_for_topics()
    latched = {'/grid', '/semantic/label_info'}
    for topic in (
        *latched, '/obstacles', '/ground', '/scan', '/semantic/mask', '/semantic/confidence',
        '/semantic/points', '/semantic/camera_info',
    ):
        (info,) = scene.peer.get_publishers_info_by_topic(topic)
        assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE, topic
        expected = DurabilityPolicy.TRANSIENT_LOCAL if topic in latched else (
            DurabilityPolicy.VOLATILE
        )
        assert info.qos_profile.durability == expected, topic


class Tf2:
    """A stand-in for tf2_ros, which PyPI lacks: base_link stands turned in odom."""

    asked: list[Any] = []

    class Buffer:
        def clear(self) -> None: ...

        def can_transform(self, target_frame: str, source_frame: str, time: Time) -> bool:
            try:
                return bool(self.lookup_transform(target_frame, source_frame, time))
            except LookupError:
                return False

        def get_latest_common_time(self, target_frame: str, source_frame: str) -> Time:
            raise LookupError

        def lookup_transform(
            self, target_frame: str, source_frame: str, time: Time
        ) -> TransformStamped:
            Tf2.asked.append((target_frame, source_frame, time.nanoseconds))
            if (target_frame, source_frame) == ('odom', 'base_link'):
                found, half = (10.0, 20.0, 0.0), (0.0, 0.0, math.sin(0.5), math.cos(0.5))
            elif (target_frame, source_frame) == ('base_link', 'camera_optical'):
                # URDF's usual optical joint (rpy −π/2, 0, −π/2), then pitched down.
                found, c, s = (0.2, -0.1, 1.0), math.cos(0.1), math.sin(0.1)
                half = (-(c + s) / 2, (c + s) / 2, -(c - s) / 2, (c - s) / 2)
            elif (target_frame, source_frame) == ('base_link', 'depth_optical'):
                # Six centimetres to the left of the other camera, and level.
                found, half = (0.2, -0.04, 1.0), (-0.5, 0.5, -0.5, 0.5)
            else:
                raise LookupError(f'{source_frame} does not exist')
            msg = TransformStamped()
            place, turn = msg.transform.translation, msg.transform.rotation
            place.x, place.y, place.z = found
            turn.x, turn.y, turn.z, turn.w = half
            return msg

    class TransformListener:
        def __init__(self, buffer: Any, node: Any) -> None: ...

        def unregister(self) -> None: ...


def test_with_tf_the_grid_lies_in_odom_at_the_images_stamp(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poses, 'tf2_ros', Tf2)
    Tf2.asked.clear()
    node = scene.start(pose_source='tf', camera_z_m=5.0)
    scene.calibrate(node)
    found = scene.show(1, *BOX_AT)
    assert {asked[2] for asked in Tf2.asked} == {1001 * 10**9 + 7}
    assert found['grid'].header == Header(stamp=header(1).stamp, frame_id='odom')
    assert found['obstacles'].header.frame_id == 'base_link'
    place = Pose.from_rpy(10.0, 20.0, 0.0, 0.0, 0.0, 1.0)
    x, y, _ = place.apply(np.array([3.0, 0.65, 0.0]))
    around = [cell(found['grid'], x + dx, y + dy) for dx in (-0.06, 0.06) for dy in (-0.06, 0.06)]
    assert 100 in around
    x, y, _ = place.apply(np.array([2.7, 0.65, 0.0]))
    assert cell(found['grid'], x, y) == 0
    assert beam(found['scan'], 3.0, 0.65) == pytest.approx(math.hypot(3.0, 0.65), abs=0.05)


@pytest.mark.parametrize(('topic', 'rectified', 'lens', 'told'), [
    ('/camera/image_rect', False, True, 'set rectified to true'),
    ('/camera/image_raw', True, True, 'rectified is true, but'),
    ('/camera/image_rect', True, True, ''),
    ('/camera/image_raw', False, True, ''),
    ('/zed/rgb/color/rect/image', False, False, ''),
])
def test_a_topic_whose_name_says_other_than_the_parameter_rectified_is_told(
    scene: Scene, topic: str, rectified: bool, lens: bool, told: str
) -> None:
    node = scene.start(rectified=rectified)
    info = camera_info()
    if lens:
        info.d = [-0.32, 0.11, 0.0007, -0.0004, -0.02]
    scene.calibrate(node, info)
    scene.peer.create_subscription(Image, topic, lambda msg: None, 1)  # whose masks these are
    eventually(lambda: image_topic_behind(node, '/segmentation/mask', []) == topic)
    node.look_around()
    assert told in node.warning() and bool(told) == bool(node.warning())


def test_depth_of_another_camera_is_registered_through_tf_and_both_camera_infos(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poses, 'tf2_ros', Tf2)
    depth = scene.peer.create_publisher(Image, 'depth/image', 1)
    depth_info = scene.peer.create_publisher(CameraInfo, 'depth/camera_info', 1)
    node = scene.start(source='depth', pose_source='tf', grid_frame='base_link')
    scene.calibrate(node)
    beside = Camera(300, 360, 210.0, 210.0, 180.0, 100.0)
    pose = Pose.from_rpy(0.2, -0.04, 1.0, 0.0, 0.0, 0.0) @ BODY_FROM_OPTICAL
    depth_info.publish(camera_info(beside, 'depth_optical'))
    eventually(lambda: node.inputs.depth_info)
    _, depth_m = draw_box(beside, pose, *BOX_AT)
    elsewhere = Header(stamp=header(1).stamp, frame_id='depth_optical')
    depth.publish(depth_msg(depth_m, elsewhere, '16UC1'))
    check_box(scene.show(1, *BOX_AT), height_m=None)


@pytest.mark.parametrize('source', ['ground', 'depth', 'points'])
def test_a_class_has_a_cloud_of_its_own_while_somebody_listens(
    scene: Scene, source: str
) -> None:
    of_box = scene.subscribe(PointCloud2, 'obstacles/box')
    node = scene.start(source=source, cloud_classes=['box', 'low wall'])
    scene.calibrate(node)
    if source == 'depth':
        depth = scene.peer.create_publisher(Image, 'depth/image', 1)
        depth_info = scene.peer.create_publisher(CameraInfo, 'depth/camera_info', 1)
        scene.heard(depth_info)
        depth_info.publish(camera_info())
        eventually(lambda: node.inputs.depth_info)
    clouds = scene.peer.create_publisher(PointCloud2, 'points', 1)
    for number, box in ((1, BOX_AT), (2, ())):
        _, depth_m = draw_box(CAMERA, POSE, *box)
        if source == 'depth':
            scene.heard(depth)
            depth.publish(depth_msg(depth_m, header(number), '32FC1'))
        elif source == 'points':
            scene.heard(clouds)
            clouds.publish(cloud_to_msg(depth_points(depth_m, CAMERA), header(number)))
        obstacles = scene.show(number, *box)['obstacles']
        eventually(lambda count=number: len(of_box) == count)
        # The box is all that blocks in this scene.
        assert (of_box[-1].header, of_box[-1].fields) == (obstacles.header, obstacles.fields)
        np.testing.assert_array_equal(xyz(of_box[-1]), xyz(obstacles))
        assert (len(xyz(obstacles)) > 20) == (number == 1)


def test_clouds_of_classes_are_there_before_the_names_and_made_only_for_listeners(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    marks_on_ground = costmap_node.marks_on_ground

    def counting(*args: Any) -> Marks:
        marks = marks_on_ground(*args)

        def obstacles_of(class_id: int) -> Any:
            made.append(class_id)
            return marks.obstacles_of(class_id)

        return replace(marks, obstacles_of=obstacles_of)

    monkeypatch.setattr(costmap_node, 'marks_on_ground', counting)
    node = scene.start(cloud_classes=['box', '2-wheeler'], autostart=False, wait=False)
    assert scene.transition(Transition.TRANSITION_CONFIGURE)
    for topic in ('/obstacles/box', '/obstacles/class_2_wheeler'):
        eventually(lambda name=topic: scene.peer.count_publishers(name) == 1)
    assert scene.transition(Transition.TRANSITION_ACTIVATE)
    scene.calibrate(node)
    scene.show(1, *BOX_AT)
    assert made == []
    heard = scene.subscribe(PointCloud2, 'obstacles/box')
    publisher = node._results._of_classes['box']
    eventually(publisher.get_subscription_count)
    scene.show(2, *BOX_AT)
    eventually(lambda: heard)
    assert made == [BOX]


def test_a_class_that_the_masks_lack_is_silent_and_told(scene: Scene) -> None:
    reports = scene.subscribe(DiagnosticArray, '/diagnostics', QoSProfile(depth=10))
    clouds = scene.subscribe(PointCloud2, 'obstacles/traffic_light')
    node = scene.start(cloud_classes=['traffic light'])
    scene.calibrate(node)
    scene.show(1, *BOX_AT)
    told = "no class 'traffic light' of cloud_classes: nothing is published on obstacles/traffic_l"
    eventually(lambda: reports and told in reports[-1].status[0].message)
    assert reports[-1].status[0].level == DiagnosticStatus.WARN
    assert clouds == []  # an empty one would say that none is there


def test_what_the_lists_make_of_each_class_is_logged_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, told = scene.start(), []
    monkeypatch.setattr(node.get_logger(), 'info', lambda text, **_: told.append(text))
    scene.name_classes(node)
    node.on_label_info(node.inputs.label_info)
    roles = "free: 'road'; forbidden: none; obstacles: 'box'; neither: 'sky'"
    assert told == [f'classes of the masks that are {roles}']


def test_obstacle_classes_of_which_the_masks_have_none_are_a_warning(scene: Scene) -> None:
    node = scene.start(obstacle_classes=['human'])
    assert node.warning() == ''  # nobody has named the classes yet
    scene.name_classes(node)
    assert (
        "the masks have none of these classes, so nothing is an obstacle; name some of ['box'"
    ) in node.warning()


def test_a_misspelt_class_of_a_cloud_is_an_error_that_names_the_nearest(scene: Scene) -> None:
    node = scene.start(cloud_classes=['boxx'], obstacle_classes=['box', 'boxx'])
    scene.name_classes(node)
    assert "no class 'boxx', did you mean 'box'?" in node.fault()


@pytest.mark.parametrize(
    ('lists', 'reason'),
    [
        ({'cloud_classes': ['low wall', 'low-wall']}, 'both be published on obstacles/low_wall'),
        ({'cloud_classes': ['box', 'box']}, "'box' is 2 times in cloud_classes"),
        ({'cloud_classes': ['road']}, "'road', which the other lists"),
        ({'cloud_classes': ['box'], 'obstacle_classes': ['car']}, "'box', which the other lists"),
        ({'cloud_classes': ['人']}, 'makes no valid topic name'),
    ],
)
def test_clouds_of_classes_that_cannot_be_fail_to_configure(
    scene: Scene, lists: dict[str, list[str]], reason: str
) -> None:
    node = scene.start(wait=False, autostart=False, **lists)
    assert not scene.transition(Transition.TRANSITION_CONFIGURE)
    assert reason in node._failure


def test_a_missing_transform_is_refused_with_the_reason(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(poses, 'tf2_ros', Tf2)
    node = scene.start(pose_source='tf', grid_frame='map')
    scene.calibrate(node)
    ids, _ = draw_box(CAMERA, POSE)
    scene.camera.publish(mask_to_msg(ids, header(1)))
    eventually(lambda: node.counts['rejected'] == 1)
    assert "no transform from 'base_link' to 'map'" in capfd.readouterr().err


def test_auto_without_tf2_says_once_that_the_parameters_place_the_camera(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(poses, 'tf2_ros', None)
    reports = scene.subscribe(DiagnosticArray, '/diagnostics', QoSProfile(depth=10))
    node = scene.start(pose_source='auto')
    scene.calibrate(node)
    for number in (1, 2):
        check_box(scene.show(number, *BOX_AT), height_m=0.25)

    def told() -> list[Any]:
        statuses = [msg.status[0] for msg in reports]
        return [status for status in statuses if 'tf2_ros is not installed' in status.message]

    eventually(told)
    assert told()[0].level == DiagnosticStatus.WARN
    assert {item.key: item.value for item in told()[0].values}['pose_source'] == 'parameters'
    assert capfd.readouterr().err.count('tf2_ros is not installed') == 1


def test_parameters_that_place_the_camera_by_choice_are_no_warning(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(poses, 'tf2_ros', None)
    node = scene.start(pose_source='parameters')
    assert node.warning() == ''
    assert 'tf2_ros' not in capfd.readouterr().err


@pytest.mark.skipif(poses.tf2_ros is not None, reason='tf2_ros is installed here')
def test_asking_for_tf_where_there_is_none_fails_to_configure(scene: Scene) -> None:
    node = scene.start(wait=False, autostart=False, pose_source='tf')
    assert not scene.transition(Transition.TRANSITION_CONFIGURE)
    assert 'tf2_ros is not installed' in node._failure


@pytest.mark.parametrize(
    ('info', 'reason'),
    [
        (CameraInfo(height=HEIGHT, width=WIDTH), 'not calibrated'),
        (camera_info(CAMERA.resized(480, 640)), '480 × 640, got one of 240 × 320'),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused_with_the_reason(
    scene: Scene, capfd: pytest.CaptureFixture[str], info: CameraInfo, reason: str
) -> None:
    node = scene.start()
    scene.calibrate(node, info)
    ids, _ = draw_box(CAMERA, POSE)
    scene.camera.publish(mask_to_msg(ids, header(1)))
    eventually(lambda: node.counts['rejected'] == 1)
    assert reason in capfd.readouterr().err


def test_masks_wait_for_the_names_of_their_classes(scene: Scene) -> None:
    node = scene.start()
    scene.wait_for_topics()
    ids, _ = draw_box(CAMERA, POSE)
    scene.camera.publish(mask_to_msg(ids, header(1)))
    eventually(lambda: node.counts['passed_over'] == 1)
    assert node.describe()['waiting_for'] == '/segmentation/label_info, /camera_info'


def test_topics_of_another_type_are_named(scene: Scene) -> None:
    scene.peer.destroy_publisher(scene.camera)
    node = scene.start(source='points')
    context = Context()  # one participant has one type for each topic
    rclpy.init(context=context, domain_id=scene.domain_id)
    try:
        stranger = rclpy.create_node('stranger', context=context)
        for topic in ('points', 'segmentation/mask'):
            stranger.create_publisher(CompressedImage, topic, 1)
        said = "/points carries 'sensor_msgs/msg/CompressedImage', expected sensor_msgs/msg/Point"
        eventually(lambda: said in node.waiting())
        eventually(lambda: '/segmentation/mask carries' in node.explain_silence())
    finally:
        context.shutdown()


def test_no_traversable_class_of_the_mask_is_refused_with_the_names(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    node = scene.start(traversable_classes=['street'])
    scene.calibrate(node)
    ids, _ = draw_box(CAMERA, POSE)
    scene.camera.publish(mask_to_msg(ids, header(1)))
    eventually(lambda: node.counts['rejected'] == 1)
    assert "['box', 'road', 'sky']" in capfd.readouterr().err


def test_a_range_that_was_set_while_the_node_was_not_configured_counts(scene: Scene) -> None:
    node = scene.start()
    scene.calibrate(node)
    assert xyz(scene.show(1)['ground'])[:, 0].max() > 6.0
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
        assert scene.transition(transition)
    node.set_parameters([Parameter('max_range_m', value=4.0)])
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        assert scene.transition(transition)
    scene.calibrate(node)
    assert xyz(scene.show(2)['ground'])[:, 0].max() < 4.5
