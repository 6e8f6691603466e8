"""costmap_node where time is not kind: late transforms, loops, stamps that stand still."""

from collections.abc import Iterator
from dataclasses import replace
import itertools
import math
import threading
import time
from typing import Any

from camera_scene import BOX, draw_box
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
pytest.importorskip('tf2_msgs', reason='no tf2_msgs: run make setup, or source a ROS distro')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import OccupancyGrid
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from ros_graph import eventually, header
from rosgraph_msgs.msg import Clock as ClockMsg
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from test_costmap_node import (
    BOX_AT,
    CAMERA,
    camera_info,
    check_box,
    depth_msg,
    POSE,
    Scene,
    xyz,
)
from tf2_msgs.msg import TFMessage
import tf2_stand_in
from tf2_stand_in import transform

from mnv2_perception.nodes import poses
from mnv2_perception.nodes.costmap_inputs import CostmapInputs
from mnv2_perception.nodes.measurements import ONE_CLOCK
from mnv2_perception.nodes.messages import mask_to_msg, stamp_to_ns
from mnv2_perception.nodes.parameters import CostmapParameters
from mnv2_perception.nodes.sync import StampedQueue, StampWatch
from mnv2_perception.nodes.worker import Frame
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose

pytestmark = pytest.mark.ros

IDS = draw_box(CAMERA, POSE, *BOX_AT)[0]
STANDING = Pose.from_rpy(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


class Tree:
    """A robot's transforms: the camera's, which stands still, and odometry, told when asked."""

    def __init__(self, scene: Scene) -> None:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._moving = scene.peer.create_publisher(TFMessage, '/tf', 100)
        self._static = scene.peer.create_publisher(TFMessage, '/tf_static', latched)
        mount = transform('base_link', 'camera_optical', POSE, 0)
        self._static.publish(TFMessage(transforms=[mount]))

    def wait(self) -> None:
        eventually(self._moving.get_subscription_count)
        eventually(self._static.get_subscription_count)
        time.sleep(0.2)

    def tell(self, stamp_ns: int, pose: Pose = STANDING) -> None:
        msg = transform('odom', 'base_link', pose, stamp_ns)
        self._moving.publish(TFMessage(transforms=[msg]))


@pytest.fixture
def tree(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Tree:
    monkeypatch.setattr(poses, 'tf2_ros', poses.tf2_ros or tf2_stand_in)
    return Tree(scene)


def mask(stamp_ns: int) -> Image:
    stamp = Time(nanoseconds=stamp_ns).to_msg()
    return mask_to_msg(IDS, Header(stamp=stamp, frame_id='camera_optical'))


def stamps(messages: list[Any]) -> list[int]:
    return [stamp_to_ns(msg.header.stamp) for msg in messages]


@pytest.mark.parametrize('late_ms', [0, 50, 200])
def test_every_mask_is_placed_however_late_its_transforms_are(
    scene: Scene, tree: Tree, monkeypatch: pytest.MonkeyPatch, late_ms: int
) -> None:
    assert poses.WAIT_S >= 0.5  # of odometry at 5 Hz
    monkeypatch.setattr(poses, 'WAIT_S', 5.0)  # of a busy machine
    node = scene.start(pose_source='tf', sync_wait_s=0.05)
    grids = scene.subscribe(OccupancyGrid, 'grid', QoSProfile(depth=50))
    scene.calibrate(node)
    tree.wait()
    clock = Clock()
    ended = threading.Event()
    began_ns = clock.now().nanoseconds

    def move() -> None:
        told_ns = began_ns - 200_000_000
        while not ended.wait(0.005):  # odometry at 20 Hz
            while told_ns + 50_000_000 < clock.now().nanoseconds - late_ms * 1_000_000:
                told_ns += 50_000_000
                tree.tell(told_ns)

    odometry = threading.Thread(target=move)
    odometry.start()
    try:
        shown = []
        for _ in range(20):
            shown.append(clock.now().nanoseconds)
            scene.camera.publish(mask(shown[-1]))
            time.sleep(0.1)
            # Taken, though not placed: a newer one would be in its place.
            eventually(lambda: node.counts['received'] == len(shown))
            eventually(lambda: node._worker._waiting is None)
        eventually(lambda: len(grids) == 20, 10.0)
    finally:
        ended.set()
        odometry.join()
    assert stamps(grids) == shown
    assert node.counts['published'] == 20 and node.describe()['waiting_for'] == ''


def test_a_mask_whose_transform_never_comes_holds_up_no_newer_one_and_says_what_it_lacks(
    scene: Scene, tree: Tree, capfd: pytest.CaptureFixture[str]
) -> None:
    node = scene.start(pose_source='tf', sync_wait_s=3.0)
    scene.calibrate(node)
    tree.wait()
    second = 10**9
    scene.camera.publish(mask(1000 * second))  # before odometry began
    eventually(lambda: len(node._room._frames) == 1)
    tree.tell(1001 * second)
    begin_s = time.monotonic()
    scene.camera.publish(mask(1001 * second))
    eventually(lambda: node.counts['published'] == 1)
    assert time.monotonic() - begin_s < 1.5
    assert node.counts['rejected'] == 1  # results never go back in time
    assert 'the oldest one is newer' in capfd.readouterr().err
    # Later than all that comes:
    node.set_parameters([Parameter('sync_wait_s', value=0.6)])
    scene.camera.publish(mask(1001 * second + second // 2))
    eventually(lambda: node.counts['rejected'] == 2)
    expected = 'the newest one is 0.50 s older; raise sync_wait_s above that (0.6 s now)'
    assert expected in node.describe()['waiting_for']
    tree.tell(1002 * second)
    scene.camera.publish(mask(1002 * second))
    eventually(lambda: node.counts['published'] == 2)
    assert node.describe()['waiting_for'] == ''


def test_a_transform_that_nobody_tells_is_what_the_diagnostics_wait_for(
    scene: Scene, tree: Tree
) -> None:
    node = scene.start(pose_source='tf', grid_frame='map')
    scene.calibrate(node)
    tree.wait()
    scene.camera.publish(mask(1000 * 10**9))
    eventually(lambda: node.counts['rejected'] == 1)
    waiting = node.describe()['waiting_for']
    assert waiting.startswith("transform from 'base_link' to 'map': tf does not have it")


def test_masks_whose_transform_nobody_tells_are_an_error_that_names_it(
    scene: Scene, tree: Tree
) -> None:
    reports = scene.subscribe(DiagnosticArray, '/diagnostics', QoSProfile(depth=50))
    node = scene.start(pose_source='tf', grid_frame='map')
    scene.calibrate(node)
    tree.wait()
    sent = itertools.count()

    def error() -> str:
        scene.camera.publish(mask((1000 + next(sent)) * 10**8))
        time.sleep(0.1)
        status = reports[-1].status[0] if reports else None
        return status.message if status and status.level == DiagnosticStatus.ERROR else ''

    eventually(error, 20.0)
    text = error()
    assert text.startswith('no result of ')
    assert "transform from 'base_link' to 'map': tf does not have it; publish it" in text


def test_of_images_without_a_frame_id_that_is_told(scene: Scene, tree: Tree) -> None:
    node = scene.start(pose_source='tf', grid_frame='base_link')
    scene.calibrate(node)
    tree.wait()
    msg = mask(1000 * 10**9)
    msg.header.frame_id = ''
    scene.camera.publish(msg)
    eventually(lambda: node.counts['rejected'] == 1)
    assert 'the frame_id of the images, of depth or of the cloud is empty' in node._rejection


def test_a_mask_whose_stamp_is_negative_is_rejected_and_the_next_one_placed(
    scene: Scene, tree: Tree
) -> None:
    node = scene.start(pose_source='tf', grid_frame='base_link')
    scene.calibrate(node)
    tree.wait()
    msg = mask(1000 * 10**9)
    msg.header.stamp.sec = -1
    scene.camera.publish(msg)
    eventually(lambda: node.counts['rejected'] == 1)
    assert node._rejection.startswith("the image's stamp is -1 s, expected 0 or more")
    scene.camera.publish(mask(1000 * 10**9))
    eventually(lambda: node.counts['published'] == 1)


def test_depth_of_another_clock_asks_for_one_clock_and_not_for_tolerance(scene: Scene) -> None:
    depth, node = start_with_depth(scene, sync_wait_s=0.05)
    _, depth_m = draw_box(CAMERA, POSE, *BOX_AT)
    for off_ns, told in (
        (1000 * 10**9, '(the nearest is 1000.000 s away); let both drivers use the same clock'),
        (30_000_000, '(the nearest is 0.030 s away); raise sync_tolerance_s'),
    ):
        stamp = Time(nanoseconds=2000 * 10**9 - off_ns).to_msg()
        depth.publish(depth_msg(depth_m, Header(stamp=stamp, frame_id='camera_optical'), '32FC1'))
        eventually(lambda ns=off_ns: node.inputs.measured.apart_s(2000 * 10**9) == ns * 1e-9)
        scene.camera.publish(mask(2000 * 10**9))
        eventually(lambda text=told: text in node.describe()['waiting_for'])


def test_depth_that_has_just_stopped_is_not_told_as_of_another_clock(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    depth, node = start_with_depth(scene, sync_wait_s=0.05)
    monkeypatch.setattr(StampedQueue, 'silent_s', lambda self: 7.0)
    depth.publish(depth_msg(np.ones(IDS.shape, np.float32), header(1), '32FC1'))
    eventually(lambda: not node.inputs.measured.is_empty())
    scene.camera.publish(mask(1008 * 10**9))
    eventually(lambda: 'away' in node.describe()['waiting_for'])
    assert ONE_CLOCK not in node.describe()['waiting_for']


def start_with_depth(scene: Scene, **parameters: Any) -> tuple[Any, Any]:
    depth = scene.peer.create_publisher(Image, 'depth/image', 1)
    infos = scene.peer.create_publisher(CameraInfo, 'depth/camera_info', 1)
    node = scene.start(source='depth', **parameters)
    scene.calibrate(node)
    scene.heard(depth)
    scene.heard(infos)
    infos.publish(camera_info())
    eventually(lambda: node.inputs.depth_info)
    return depth, node


def test_depth_in_the_frame_of_the_cameras_body_is_refused(scene: Scene, tree: Tree) -> None:
    body = POSE @ BODY_FROM_OPTICAL.inverse()
    tree._static.publish(TFMessage(transforms=[transform('base_link', 'camera_link', body, 0)]))
    depth, node = start_with_depth(scene, pose_source='tf', grid_frame='base_link')
    tree.wait()
    _, depth_m = draw_box(CAMERA, POSE, *BOX_AT)
    msg = mask(1000 * 10**9)
    msg.header.frame_id = 'camera_link'
    depth.publish(depth_msg(depth_m, msg.header, '32FC1'))
    scene.camera.publish(msg)
    eventually(lambda: node.counts['rejected'] == 1)
    assert node._rejection.startswith("in the frame 'camera_link' z points up")


@pytest.mark.parametrize(('base_frame', 'told'), [
    ('base_link', True), ('camera_optical', False),
])
def test_a_camera_that_does_look_up_places_what_hangs_over_the_robot(
    scene: Scene, tree: Tree, base_frame: str, told: bool
) -> None:
    up = Pose.from_rpy(0.2, -0.1, 1.0, 0.0, -math.pi / 2, 0.0) @ BODY_FROM_OPTICAL
    tree._static.publish(TFMessage(transforms=[transform('base_link', 'camera_optical', up, 0)]))
    depth, node = start_with_depth(
        scene, pose_source='tf', base_frame=base_frame, grid_frame=base_frame
    )
    tree.wait()
    msg = mask_to_msg(np.full_like(IDS, BOX), header(1))
    depth.publish(depth_msg(np.full(IDS.shape, 0.5, np.float32), msg.header, '32FC1'))
    scene.camera.publish(msg)
    eventually(lambda: node.counts['published'] == 1)
    assert ('z points up' in node.warning()) == told and bool(node.warning()) == told


def test_aligned_depth_with_the_camera_info_of_the_unaligned_is_refused(scene: Scene) -> None:
    depth, node = start_with_depth(scene)
    infos = scene.peer.create_publisher(CameraInfo, 'depth/camera_info', 1)
    scene.heard(infos)
    _, depth_m = draw_box(CAMERA, POSE, *BOX_AT)
    before = node.inputs.depth_info.last_info
    for number, camera in enumerate([CAMERA, replace(CAMERA, fx=200.0, fy=200.0)]):
        infos.publish(camera_info(camera, 'depth_optical'))
        eventually(lambda last=before: node.inputs.depth_info.last_info is not last)
        before = node.inputs.depth_info.last_info
        msg = mask((1000 + number) * 10**9)
        depth.publish(depth_msg(depth_m, msg.header, '16UC1'))
        scene.camera.publish(msg)
        eventually(lambda count=number + 1: node.counts['published'] + node.counts['rejected']
                   == count)
    assert (node.counts['published'], node.counts['rejected']) == (1, 1)
    assert "depth/camera_info is in 'depth_optical' and has another matrix" in node._rejection


def test_depth_of_one_place_and_another_lens_than_the_image_is_placed(scene: Scene) -> None:
    depth, node = start_with_depth(scene)  # as a simulator's, whose camera_info has its own name
    infos = scene.peer.create_publisher(CameraInfo, 'depth/camera_info', 1)
    scene.heard(infos)
    wide = Camera(150, 200, 120.0, 120.0, 100.0, 75.0)
    before = node.inputs.depth_info.last_info
    infos.publish(camera_info(wide, 'camera/depth_optical'))
    eventually(lambda: node.inputs.depth_info.last_info is not before)
    depth.publish(depth_msg(draw_box(wide, POSE, *BOX_AT)[1], header(1), '16UC1'))
    check_box(scene.show(1, *BOX_AT), height_m=None)


def test_depth_without_a_value_is_told(scene: Scene) -> None:
    depth, node = start_with_depth(scene)
    for number in range(10):
        msg = mask((1000 + number) * 10**9)
        depth.publish(depth_msg(np.zeros(IDS.shape, np.float32), msg.header, '16UC1'))
        scene.camera.publish(msg)
        eventually(lambda count=number + 1: node.counts['published'] == count)
    assert 'the last 10 depth images or clouds have no valid value' in node.warning()


@pytest.mark.parametrize('source', ['ground', 'depth'])
def test_masks_whose_frame_begins_with_a_slash_as_in_ros_1_are_placed(
    scene: Scene, tree: Tree, source: str
) -> None:
    node = scene.start(pose_source='tf', grid_frame='base_link', source=source)
    scene.calibrate(node)
    tree.wait()
    msg = mask(1000 * 10**9)
    msg.header.frame_id = '/camera_optical'
    if source == 'depth':
        depth = scene.peer.create_publisher(Image, 'depth/image', 1)
        infos = scene.peer.create_publisher(CameraInfo, 'depth/camera_info', 1)
        scene.heard(depth)
        scene.heard(infos)
        infos.publish(camera_info())
        eventually(lambda: node.inputs.depth_info)
        _, depth_m = draw_box(CAMERA, POSE, *BOX_AT)
        depth.publish(depth_msg(depth_m, Header(stamp=msg.header.stamp, frame_id='camera_optical'),
                                '32FC1'))
    scene.camera.publish(msg)
    eventually(lambda: scene.results['obstacles'] or node.counts['rejected'])
    assert node.counts['rejected'] == 0, node._rejection


def test_a_frame_of_a_megabyte_is_cut_and_cannot_forge_a_line_of_the_log(
    scene: Scene, tree: Tree
) -> None:
    node = scene.start(pose_source='tf', grid_frame='base_link')
    scene.calibrate(node)
    tree.wait()
    msg = mask(1000 * 10**9)
    msg.header.frame_id = 'camera\n[ERROR] forged' + 'x' * 1_000_000
    scene.camera.publish(msg)
    eventually(lambda: node.counts['rejected'] == 1)
    for text in (node._rejection, str(node.describe()['waiting_for'])):
        assert r"'camera\n[ERROR] forgedx" in text and len(text) < 1200 and '\n' not in text


@pytest.mark.parametrize('sim_time', [True, False], ids=['with /clock', 'by stamps'])
def test_a_bag_that_loops_keeps_its_grid(scene: Scene, tree: Tree, sim_time: bool) -> None:
    node = scene.start(pose_source='tf', use_sim_time=sim_time)
    clock = scene.peer.create_publisher(ClockMsg, '/clock', 1)
    grids = scene.subscribe(OccupancyGrid, 'grid', QoSProfile(depth=50))
    scene.calibrate(node)
    tree.wait()
    assert not sim_time or clock.get_subscription_count()
    for loop in range(3):
        grids.clear()
        for number in range(15):  # a second each: beyond what tf2 keeps
            now_ns = (1000 + number) * 10**9
            clock.publish(ClockMsg(clock=Time(nanoseconds=now_ns).to_msg()))
            if sim_time:
                eventually(lambda ns=now_ns: node.get_clock().now().nanoseconds == ns)
            tree.tell(now_ns - 10**8)
            scene.camera.publish(mask(now_ns))
            time.sleep(0.05)
            tree.tell(now_ns + 10**8)
            if number:  # of the first, the transform may be forgotten with those of before
                eventually(lambda ns=now_ns: stamps(grids)[-1:] == [ns])
        assert len(grids) >= 14, f'loop {loop}'
    assert node.counts['rejected'] <= 2


def test_what_is_of_before_a_jump_and_comes_after_it_costs_no_grid(
    scene: Scene, tree: Tree, capfd: pytest.CaptureFixture[str]
) -> None:
    node = scene.start(pose_source='tf', use_sim_time=True)
    clock = scene.peer.create_publisher(ClockMsg, '/clock', 1)
    grids = scene.subscribe(OccupancyGrid, 'grid', QoSProfile(depth=50))
    scene.calibrate(node)
    tree.wait()
    second = 10**9

    def tick(now_ns: int) -> None:
        clock.publish(ClockMsg(clock=Time(nanoseconds=now_ns).to_msg()))
        eventually(lambda: node.get_clock().now().nanoseconds == now_ns)

    for now_s in (1000, 1020, 1001):
        tick(now_s * second)
        if now_s == 1001:  # the end of the first turn, which was on its way
            tree.tell(1020 * second)
            scene.camera.publish(mask(1020 * second))
            eventually(lambda: node.counts['received'] == 3)
        tree.tell(now_s * second - second // 2)
        tree.tell(now_s * second + second // 2)
        scene.camera.publish(mask(now_s * second))
        eventually(lambda now_s=now_s: stamps(grids)[-1:] == [now_s * second])
    assert node.counts['rejected'] == 0
    printed = capfd.readouterr().err
    assert 'TF_OLD_DATA' not in printed and 'use one clock' not in printed


def test_the_first_mask_after_a_jump_back_keeps_the_depth_that_came_before_it(
    scene: Scene
) -> None:
    depth = scene.peer.create_publisher(Image, 'depth/image', 1)
    depth_info = scene.peer.create_publisher(CameraInfo, 'depth/camera_info', 1)
    node = scene.start(source='depth', sync_wait_s=0.2)
    scene.calibrate(node)
    depth_info.publish(camera_info())
    eventually(lambda: node.inputs.depth_info)
    ids, depth_m = draw_box(CAMERA, POSE, *BOX_AT)
    for number in (30, 1):
        depth.publish(depth_msg(depth_m, header(number), '32FC1'))
        eventually(lambda n=number: node.inputs.measured.find(
            (1000 + n) * 10**9 + 7, 0.0, 0.0
        ))
        scene.camera.publish(mask_to_msg(ids, header(number)))
        scene.wait_for_results(number)
    assert node.counts['unpaired'] == 0


@pytest.mark.parametrize('sim_time', [True, False], ids=['with /clock', 'by stamps'])
def test_depth_of_before_a_jump_places_no_mask_of_after_it(scene: Scene, sim_time: bool) -> None:
    depth = scene.peer.create_publisher(Image, 'depth/image', 1)
    depth_info = scene.peer.create_publisher(CameraInfo, 'depth/camera_info', 1)
    clock = scene.peer.create_publisher(ClockMsg, '/clock', 1)
    node = scene.start(source='depth', use_sim_time=sim_time, sync_wait_s=0.2)
    scene.calibrate(node)
    scene.heard(depth)
    depth_info.publish(camera_info())
    eventually(lambda: node.inputs.depth_info)
    obstacles = scene.results['obstacles']
    near, far = (draw_box(CAMERA, POSE, (x, -3.0, 0.0), (x + 0.5, 3.0, 1.0)) for x in (3.0, 5.0))

    def show(second: int, ids: Any, depth_m: Any = None) -> None:
        stamp = Header(stamp=Time(seconds=second).to_msg(), frame_id='camera_optical')
        if sim_time:
            clock.publish(ClockMsg(clock=stamp.stamp))
            eventually(lambda: node.get_clock().now().nanoseconds == second * 10**9)
        if depth_m is not None:
            heard = len(node.inputs.measured._messages)
            depth.publish(depth_msg(depth_m, stamp, '32FC1'))
            eventually(lambda: len(node.inputs.measured._messages) > heard)
        scene.camera.publish(mask_to_msg(ids, stamp))

    for number, second in enumerate((1000, 1010), 1):
        show(second, *far)
        eventually(lambda number=number: node.counts['published'] == number)
    eventually(lambda: len(obstacles) == 2)
    obstacles.clear()
    show(1000, near[0])  # time begins again, and this mask's depth has not come
    eventually(lambda: node.counts['unpaired'] == 1)
    assert not obstacles
    show(1001, *near)
    eventually(lambda: obstacles)
    assert xyz(obstacles[0])[:, 0].min() == pytest.approx(3.0, abs=0.05)


@pytest.mark.parametrize('stamp_s', [0, 36], ids=['zero stamps', 'a stamp that stands still'])
def test_where_stamps_cannot_decide_a_mask_goes_with_the_depth_that_came_with_it(
    scene: Scene, stamp_s: int
) -> None:
    depth = scene.peer.create_publisher(Image, 'depth/image', 1)
    depth_info = scene.peer.create_publisher(CameraInfo, 'depth/camera_info', 1)
    reports = scene.subscribe(DiagnosticArray, '/diagnostics', QoSProfile(depth=10))
    node = scene.start(source='depth', sync_tolerance_s=2.0, sync_wait_s=0.1)
    scene.calibrate(node)
    depth_info.publish(camera_info())
    eventually(lambda: node.inputs.depth_info)
    stamp = Header(stamp=Time(seconds=stamp_s).to_msg(), frame_id='camera_optical')
    obstacles = scene.results['obstacles']
    for number in range(8):  # a wall comes nearer
        x = 5.6 - 0.4 * number
        ids, depth_m = draw_box(CAMERA, POSE, (x, -3.0, 0.0), (x + 0.5, 3.0, 1.0))
        heard = len(node.inputs.measured._messages)
        depth.publish(depth_msg(depth_m, stamp, '32FC1'))
        eventually(lambda n=heard: len(node.inputs.measured._messages) > n or n == 10)
        obstacles.clear()
        scene.camera.publish(mask_to_msg(ids, stamp))
        eventually(lambda: obstacles)
        assert xyz(obstacles[0])[:, 0].min() == pytest.approx(x, abs=0.05)
    assert x == pytest.approx(2.8)
    warned = 'are zero' if stamp_s == 0 else 'stay at 36.000'

    def told() -> list[Any]:
        return [msg.status[0] for msg in reports if warned in msg.status[0].message]

    eventually(told)  # although each mask had its depth
    assert node.counts['unpaired'] == 0
    assert told()[0].level == DiagnosticStatus.WARN
    assert "make the camera's driver stamp its images" in told()[0].message
    time.sleep(2.1)  # without depth of its own time, nothing is guessed
    scene.camera.publish(mask_to_msg(ids, stamp))
    eventually(lambda: node.counts['unpaired'] == 1)


def test_of_equal_stamps_the_queue_gives_what_came_with_the_mask() -> None:
    queue: StampedQueue[Image] = StampedQueue(10)
    messages = [Image(width=number) for number in range(3)]
    came_s = []
    for msg in messages:
        queue.put(msg)
        came_s.append(time.monotonic())
        time.sleep(0.02)
    assert [queue.find(0, 0.02, at_s) for at_s in came_s] == messages
    assert queue.find(0, 0.02, came_s[2] + 1.0) is messages[2]
    assert queue.find(0, 0.02, came_s[2] + 1.0, max_age_s=0.5) is None


def test_without_stamps_a_mask_whose_confidence_is_lost_gets_no_older_one() -> None:
    values, stamps, inputs = CostmapParameters(), StampWatch(), CostmapInputs(10)
    stamps.take(0)
    inputs.confidences.put(Image(width=1))
    now_s = time.monotonic()
    own, later = (Frame(Image(), now_s + after_s) for after_s in (0.01, 0.2))
    assert inputs.confidence_of(own, values, stamps) == Image(width=1)
    assert inputs.confidence_of(later, values, stamps) is None


def test_when_time_jumps_back_what_has_come_of_the_new_time_stays() -> None:
    queue: StampedQueue[Image] = StampedQueue(10)
    for stamp_s in (1, 5, 9, 2):  # 1 is of the loop before
        queue.put(mask(stamp_s * 10**9))
    queue.forget(3 * 10**9)
    assert [queue.find(s * 10**9, 0.0, 0.0) is not None for s in (1, 5, 9, 2)] == [
        False, False, False, True
    ]


def test_a_stamp_that_comes_twice_by_accident_is_no_warning() -> None:
    watch = StampWatch()
    for stamp_ns in (5, 6, 6, 7):
        watch.take(stamp_ns)
    assert watch.warning == '' and watch.undecided(6) and not watch.undecided(7)
    for _ in range(3):
        watch.take(7)
    assert 'stay at' in watch.warning
    watch.take(8)
    assert watch.warning == ''


@pytest.mark.parametrize('tf2', [
    pytest.param(tf2_stand_in, id='stand-in'),
    pytest.param(poses.tf2_ros, id='tf2_ros', marks=pytest.mark.skipif(
        poses.tf2_ros is None, reason='needs tf2_ros: source a ROS distro'
    )),
])
@pytest.mark.parametrize('node', [True, False], ids=['node=', 'without'])
def test_the_stand_in_refuses_interpolates_and_forgets_as_tf2_does(
    scene: Scene, tf2: Any, node: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = scene.peer.get_clock()
    clock._set_ros_time_is_active(True)
    clock.set_ros_time_override(Time(seconds=100, clock_type=ClockType.ROS_TIME))
    buffer = tf2.Buffer(node=scene.peer if node else None)
    second = 10**9

    def known(at_s: float) -> bool:
        return bool(buffer.can_transform('odom', 'base_link', Time(nanoseconds=round(at_s * 1e9))))

    for at_s in (98, 100, 80, 91):
        pose = Pose.from_rpy(at_s / 2, 0.0, 0.0, 0.0, 0.0, 0.0)
        buffer.set_transform(transform('odom', 'base_link', pose, at_s * second), '')
    assert capfd.readouterr().err.count('TF_OLD_DATA') == 1
    assert [at_s for at_s in (80, 90, 91, 99, 100, 101) if known(at_s)] == [91, 99, 100]
    assert buffer.get_latest_common_time('odom', 'base_link').nanoseconds == 100 * second
    turned = Pose.from_rpy(1.0, 2.0, 3.0, 0.1, -0.2, 2.5)
    buffer.set_transform_static(transform('base_link', 'camera', turned, 0), '')
    found = tf2_stand_in._values(buffer.lookup_transform('odom', 'camera', Time(seconds=99)))
    np.testing.assert_allclose(
        Pose.from_quaternion(found[:3], found[3:]).rotation, turned.rotation, atol=1e-9
    )
    np.testing.assert_allclose(found[:3], (50.5, 2.0, 3.0))
    clock.set_ros_time_override(Time(seconds=50, clock_type=ClockType.ROS_TIME))
    assert known(99) != node
    assert buffer.can_transform('base_link', 'camera', Time(seconds=99))


def test_obstacles_do_not_wait_for_a_confidence_that_nobody_publishes(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    scene.subscribe(Image, 'semantic/mask')
    node = scene.start(sync_wait_s=5.0)
    scene.calibrate(node)
    eventually(lambda: not node.greeting.holding())
    begin_s = time.monotonic()
    scene.camera.publish(mask(1000 * 10**9))
    eventually(lambda: scene.results['obstacles'])
    assert time.monotonic() - begin_s < 2.0
    eventually(lambda: node.counts['unpaired'] == 1)
    assert "masks wait for segmentation/confidence with the mask's stamp" in capfd.readouterr().err
