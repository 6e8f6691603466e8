"""Which camera_info a mask is placed with: its own, the last usable one, or none."""

from collections.abc import Callable, Iterator
import time

from camera_scene import draw_box
import pytest

pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import QoSProfile
from ros_graph import eventually, header
from sensor_msgs.msg import CameraInfo, Image
from test_costmap_node import (
    BOX_AT,
    CAMERA,
    camera_info,
    check_box,
    depth_msg,
    FOV_RAD,
    PINHOLE,
    POSE,
    Scene,
)

from mnv2_perception.errors import CalibrationError
from mnv2_perception.nodes.calibrations import Calibrations, KEPT, OF
from mnv2_perception.nodes.diagnostics import TICK_S
from mnv2_perception.nodes.messages import mask_to_msg
from mnv2_perception.nodes.qos import LATCHED_QOS
from mnv2_perception.vision.camera import Camera

pytestmark = pytest.mark.ros

ZOOMED = Camera(CAMERA.height, CAMERA.width, 330.0, 330.0, 160.0, 119.0)


def info_of(number: int, camera: Camera | None = CAMERA) -> CameraInfo:
    """Return the camera_info of a frame, an unusable one for no camera."""
    info = camera_info(camera) if camera else CameraInfo(height=240, width=320)
    info.header = header(number)
    return info


def stamp_ns(number: int) -> int:
    return (1000 + number) * 10**9 + 7


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


def found(infos: Calibrations, number: int) -> Camera | None:
    both = infos.of(stamp_ns(number), time.monotonic())
    return both[0] if both else None


def test_an_image_has_the_camera_info_of_its_stamp_and_else_the_last() -> None:
    infos = Calibrations('camera_info', False, lambda text: None)
    assert not infos and found(infos, 1) is None
    infos.put(info_of(1, ZOOMED))
    infos.put(info_of(2))
    assert infos and (found(infos, 1), found(infos, 2), found(infos, 3)) == (
        ZOOMED, CAMERA, CAMERA
    )
    for number in range(3, 3 + KEPT):  # a mask comes late, but not for ever
        infos.put(info_of(number))
    assert found(infos, 1) == CAMERA


def test_an_unusable_camera_info_displaces_none_and_is_told_once() -> None:
    told: list[str] = []
    infos = Calibrations('depth/camera_info', False, told.append)
    assert not infos.put(info_of(1, None))
    with pytest.raises(CalibrationError, match='depth/camera_info: K and P are zero'):
        found(infos, 2)
    assert infos.put(info_of(2)) and not infos.put(info_of(3))
    for _ in range(3):
        infos.put(info_of(4, None))
    assert found(infos, 5) == CAMERA
    assert len(told) == 2 and told[1] == infos.refusal
    assert told[1] == f'{told[0]}; the last usable one is used for images without their own'
    # What the camera says of an image itself is not passed over.
    with pytest.raises(CalibrationError, match='depth/camera_info: K and P are zero'):
        found(infos, 4)
    infos.put(info_of(5))
    assert infos.refusal == ''


def test_a_camera_info_of_another_image_size_is_told_once_and_used() -> None:
    told: list[str] = []
    infos = Calibrations('depth/camera_info', False, told.append)
    twice = Camera(CAMERA.height, CAMERA.width, 500.0, 500.0, 320.0, 238.0)
    for number in (1, 2, 3):
        infos.put(info_of(number, twice))
    assert found(infos, 3) == twice
    assert len(told) == 1
    assert told[0].startswith('depth/camera_info: the principal point is (320, 238) in an image')


@pytest.mark.parametrize(('sends', 'waits'), [
    (lambda number: True, True),
    (lambda number: number % 12 != 5, True),  # some are lost
    (lambda number: number == 1, False),
    (lambda number: number % 2 == 0, False),
    (lambda number: number % 3 != 0, False),
], ids=['with each image', 'lossy', 'once', 'each second', 'two of three'])
@pytest.mark.parametrize('late', [False, True])
def test_only_of_a_camera_that_sends_one_with_each_image_is_an_image_s_own_waited_for(
    sends: Callable[[int], bool], waits: bool, late: bool
) -> None:
    infos = Calibrations('camera_info', False, lambda text: None)
    infos.put(info_of(0))
    waited = []
    for number in range(1, 4 * OF):
        if sends(number) and not late:
            infos.put(info_of(number))
        waited.append(infos.awaits(stamp_ns(number), time.monotonic()))
        found(infos, number)
        if sends(number) and late:
            infos.put(info_of(number))
    assert infos.awaits(stamp_ns(10 * OF), time.monotonic()) == waits
    assert not any(waited[:OF // 2])
    if not waits:
        assert not any(waited)


@pytest.mark.parametrize('source', ['ground', 'depth'])
def test_each_mask_of_a_zoom_camera_is_placed_with_its_own_camera_info_though_that_comes_later(
    scene: Scene, source: str
) -> None:
    depth = scene.peer.create_publisher(Image, 'depth/image', 1)
    depth_info = scene.peer.create_publisher(CameraInfo, 'depth/camera_info', 1)
    node = scene.start(source=source, sync_wait_s=3.0)
    scene.calibrate(node)
    if source == 'depth':
        scene.heard(depth)
        scene.heard(depth_info)
        depth_info.publish(camera_info())
        eventually(lambda: node.inputs.depth_info)
    for number in range(1, OF + 7):
        camera = CAMERA if number < OF or number % 2 else ZOOMED
        ids, depth_m = draw_box(camera, POSE, *BOX_AT)
        depth.publish(depth_msg(depth_m, header(number), '32FC1'))
        scene.camera.publish(mask_to_msg(ids, header(number)))
        time.sleep(0.05)  # topics have no order among themselves
        scene.calibration.publish(info_of(number, camera))
        depth_info.publish(info_of(number, camera))
        results = scene.wait_for_results(number)
        if number > OF:
            check_box(results, height_m=0.25 if source == 'ground' else None)
    assert node.counts['published'] == node.counts['received'] == OF + 6


def test_a_mask_whose_own_camera_info_never_comes_goes_with_the_last_and_that_is_told(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    node = scene.start(sync_wait_s=0.3)
    scene.calibrate(node)
    for number in range(1, OF + 1):
        scene.calibration.publish(info_of(number))
        scene.show(number, *BOX_AT)
    begin_s = time.monotonic()
    check_box(scene.show(OF + 1, *BOX_AT), height_m=0.25)
    assert time.monotonic() - begin_s >= 0.3
    lack = "camera_info with the image's own stamp, as earlier images had; meanwhile the"
    eventually(lambda: node.counts['published'] == OF + 1)
    assert lack in node.describe()['waiting_for']
    assert f'masks wait for {lack}' in capfd.readouterr().err


def test_a_camera_info_that_is_sent_once_is_never_waited_for(scene: Scene) -> None:
    node = scene.start(sync_wait_s=10.0)
    scene.calibrate(node, info_of(1))
    for number in range(1, OF + 5):
        scene.show(number, *BOX_AT)
    assert max(node.latencies_ms) < 5000.0
    assert node.describe()['waiting_for'] == ''


def test_an_unusable_camera_info_is_a_warning_and_masks_go_on_with_the_last_good_one(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    reports = scene.subscribe(DiagnosticArray, '/diagnostics', QoSProfile(depth=10))
    node = scene.start()
    scene.calibrate(node)
    for number in range(1, 4):
        scene.calibration.publish(info_of(90 + number, None))
        eventually(lambda: node.inputs.camera_info.refusal)
        check_box(scene.show(number, *BOX_AT), height_m=0.25)
    warning = (
        'camera_info: K and P are zero, so the camera is not calibrated; calibrate it '
        '(camera_calibration) and have the driver load the result; the last usable one is used '
        'for images without their own'
    )
    eventually(lambda: reports and reports[-1].status[0].message == warning)
    assert reports[-1].status[0].level == DiagnosticStatus.WARN
    assert capfd.readouterr().err.count(warning) == 1
    scene.calibration.publish(info_of(99, CAMERA.resized(480, 640)))  # usable, and of no mask
    eventually(lambda: node.inputs.camera_info.refusal == '')
    ids, _ = draw_box(CAMERA, POSE)
    scene.camera.publish(mask_to_msg(ids, header(5)))
    eventually(lambda: node.counts['rejected'] == 1)
    assert '480 × 640, got one of 240 × 320' in capfd.readouterr().err


def test_a_camera_without_calibration_is_placed_by_the_assumed_field_of_view(
    scene: Scene
) -> None:
    reports = scene.subscribe(DiagnosticArray, '/diagnostics', QoSProfile(depth=10))
    node = scene.start(horizontal_fov_rad=FOV_RAD)
    scene.name_classes(node)
    scene.calibration.publish(info_of(1, None))  # as usb_cam does with each image
    eventually(lambda: node.inputs.camera_info)
    check_box(scene.show(1, *BOX_AT, camera=PINHOLE), height_m=0.25)
    assert node.describe()['camera'] == 'horizontal_fov_rad'
    eventually(lambda: reports and reports[-1].status[0].message == 'working')


def test_a_camera_info_that_was_sent_once_before_the_node_began_is_fetched(scene: Scene) -> None:
    scene.peer.destroy_publisher(scene.calibration)
    kept = scene.peer.create_publisher(CameraInfo, 'camera_info', LATCHED_QOS)
    kept.publish(info_of(1))
    node = scene.start()
    eventually(lambda: node.inputs.camera_info)
    eventually(lambda: kept.get_subscription_count() == 1)  # that for what is to come
    scene.name_classes(node)
    assert scene.show(2)['grid'].header.stamp == header(2).stamp
    kept.publish(info_of(3, ZOOMED))
    eventually(lambda: found(node.inputs.camera_info, 3) == ZOOMED)


@pytest.mark.parametrize('kept', [False, True])
def test_only_who_keeps_a_camera_info_has_a_second_subscription_and_none_when_it_is_off(
    scene: Scene, kept: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    scene.peer.destroy_publisher(scene.calibration)
    publisher = scene.peer.create_publisher(CameraInfo, 'camera_info', LATCHED_QOS if kept else 5)
    node = scene.start()
    eventually(lambda: publisher.get_subscription_count() == 1 + kept)
    time.sleep(3 * TICK_S)
    assert publisher.get_subscription_count() == 1 + kept
    assert node._switch._set(False)[0]
    eventually(lambda: publisher.get_subscription_count() == 0)
    assert node._switch._set(True)[0]
    eventually(lambda: publisher.get_subscription_count() == 1 + kept)
    assert 'incompatible' not in capfd.readouterr().err


def test_what_changed_while_the_node_was_off_is_fetched_and_so_is_a_new_publishers(
    scene: Scene
) -> None:
    scene.peer.destroy_publisher(scene.calibration)
    kept = scene.peer.create_publisher(CameraInfo, 'camera_info', LATCHED_QOS)
    kept.publish(info_of(1))
    node = scene.start()
    eventually(lambda: found(node.inputs.camera_info, 0) == CAMERA)
    assert node._switch._set(False)[0]
    eventually(lambda: kept.get_subscription_count() == 0)
    kept.publish(info_of(2, ZOOMED))
    assert node._switch._set(True)[0]
    eventually(lambda: found(node.inputs.camera_info, 0) == ZOOMED)
    eventually(lambda: kept.get_subscription_count() == 1)
    scene.peer.destroy_publisher(kept)  # the driver starts again, and may send before it is heard
    again = scene.peer.create_publisher(CameraInfo, 'camera_info', LATCHED_QOS)
    eventually(lambda: again.get_subscription_count() == 2)
    again.publish(info_of(3))
    eventually(lambda: found(node.inputs.camera_info, 0) == CAMERA)
    eventually(lambda: again.get_subscription_count() == 1)
