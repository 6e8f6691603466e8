"""What is told of measurements that cannot be true, and of slopes and stairs, which can."""

import sys
import threading

from camera_scene import BOX, draw_box, ROAD, SKY
import numpy as np
import pytest

from mnv2_perception.errors import CalibrationError
from mnv2_perception.vision.camera import Camera, Floats
from mnv2_perception.vision.ground_watch import GroundWatch
from mnv2_perception.vision.optical import looks_up, require_optical, view_axis
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose
from mnv2_perception.vision.projection import depth_points
from mnv2_perception.vision.roles import roles_of

CAMERA = Camera(240, 320, 250.0, 250.0, 160.0, 119.0)
BODY = Pose.from_rpy(0.2, 0.0, 1.0, 0.0, 0.2, 0.0)
POSE = BODY @ BODY_FROM_OPTICAL
IDS, DEPTH_M = draw_box(CAMERA, POSE, (3.0, 0.4, 0.0), (3.6, 0.9, 0.3))
ROLES = roles_of({'sky': SKY, 'road': ROAD, 'box': BOX}, ['road'], [], [], ['sky'])


def warning(points: Floats, masks: int = 10, lowest_m: float = 0.0) -> str:
    watch = GroundWatch()
    for _ in range(masks):
        watch.take(points, IDS, ROLES, lowest_m)
    return watch.warning


@pytest.mark.parametrize(('unit', 'pose', 'told'), [
    (1.0, BODY, 'm above'),
    (10.0, POSE, 'm below'),
    (1.0, Pose.from_rpy(0.2, 0.0, 1.0, 0.0, -0.5, 0.0) @ BODY_FROM_OPTICAL, 'm above'),
], ids=['body frame', 'tenths of a millimetre', 'pitch of the wrong sign'])
def test_ground_that_is_measured_where_none_can_be_is_told(
    unit: float, pose: Pose, told: str
) -> None:
    points = pose.apply(depth_points(np.float32(unit) * DEPTH_M, CAMERA))
    assert told in warning(points)
    assert warning(points, 9) == ''


def test_of_ground_slopes_and_the_stairs_behind_it_nothing_is_told() -> None:
    points = POSE.apply(depth_points(DEPTH_M, CAMERA))
    assert warning(points) == ''
    ramp, stairs = points.copy(), points.copy()
    ramp[..., 2] += 0.27 * points[..., 0]
    stairs[..., 2] -= np.where(points[..., 0] > 4.0, np.float32(3.0), np.float32(0.0))
    assert warning(ramp) == warning(stairs) == ''


def test_ground_below_a_base_frame_in_the_body_is_not_told_where_min_height_says_so() -> None:
    points = POSE.apply(depth_points(DEPTH_M, CAMERA))
    points[..., 2] -= np.float32(1.6)
    assert 'm below' in warning(points)
    assert 'm below' in warning(points, lowest_m=-0.4)
    assert warning(points, lowest_m=-1.55) == warning(points, lowest_m=-10.0) == ''
    points[..., 2] += np.float32(3.2)
    assert 'm above' in warning(points, lowest_m=-10.0)


def test_one_line_of_measurements_is_not_told_as_none() -> None:
    points = np.full((240, 320, 3), np.nan, np.float32)
    points[121] = 1.0
    assert warning(points) == ''


def test_the_ground_watch_is_asked_by_one_thread_while_another_gives_it_masks() -> None:
    watch, done = GroundWatch(), threading.Event()
    points = np.full((8, 8, 3), np.nan, np.float32)

    def give() -> None:
        while not done.is_set():
            watch.take(points, IDS[:8, :8], ROLES)

    thread, interval_s = threading.Thread(target=give), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        told = {watch.warning[:8] for _ in range(50_000)}
    finally:
        sys.setswitchinterval(interval_s)
        done.set()
        thread.join()
    assert told <= {'', 'the last'}


def test_measurements_without_a_value_are_told() -> None:
    assert 'have no valid value' in warning(np.full((240, 320, 3), np.nan, np.float32))


def test_points_along_x_of_a_frame_that_is_called_optical_are_refused() -> None:
    optical = depth_points(DEPTH_M, CAMERA)
    body = BODY_FROM_OPTICAL.apply(optical)
    require_optical(optical, 'camera_optical_frame')
    require_optical(body, 'camera_link')
    with pytest.raises(CalibrationError, match="'camera_optical_frame', whose z is ahead"):
        require_optical(body, 'camera_optical_frame')


def test_a_camera_sees_along_z_of_its_optical_frame_and_x_of_its_bodys() -> None:
    assert looks_up(BODY) and not looks_up(POSE)
    points = POSE.apply(depth_points(DEPTH_M, CAMERA))
    for pose in (BODY, POSE):
        np.testing.assert_allclose(view_axis(points, pose), BODY.rotation[:, 0], atol=1e-12)
