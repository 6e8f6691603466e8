"""Where a camera sits, found in pictures drawn from where it is known to sit."""

import math

from camera_scene import FISHEYE, PLUMB_BOB
import cv2
import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.errors import CalibrationError
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.camera_pose import (
    draw_floor,
    find_board,
    FloorPose,
    LINE,
    pose_from_board,
    pose_from_lines,
)

PINHOLE = Camera.from_fov(480, 640, 1.2)
CAMERAS = {
    'pinhole': PINHOLE,
    'plumb_bob': Camera(480, 640, 500.0, 505.0, 321.0, 238.0, PLUMB_BOB),
    'fisheye': Camera(480, 640, 350.0, 353.0, 321.0, 238.0, FISHEYE, True),
}
FINER = 3  # rays to a side of a pixel


def draw_board(
    camera: Camera, pose: FloorPose, square_m: float, ahead_m: float, turn_rad: float
) -> NDArray[np.uint8]:
    """Draw a board of 8 × 6 inner corners that lies on gray ground, a little noisy."""
    finer = camera.resized(camera.height * FINER, camera.width * FINER)
    place = pose.ground_from_camera
    rays = finer.rays.astype(np.float64) @ place.rotation.T
    with np.errstate(divide='ignore', invalid='ignore'):
        far = np.where(rays[..., 2] < 0, -place.translation[2] / rays[..., 2], np.nan)
    x, y = far * rays[..., 0] - ahead_m, far * rays[..., 1] - 0.05
    cos, sin = math.cos(turn_rad), math.sin(turn_rad)
    across = (cos * x + sin * y) / square_m + 3.5
    along = (cos * y - sin * x) / square_m + 4.5
    gray = np.full(far.shape, 110.0)
    gray[(across > -1) & (across < 8) & (along > -1) & (along < 10)] = 230.0
    squares = (across > 0) & (across < 7) & (along > 0) & (along < 9)
    dark = np.zeros_like(squares)
    dark[squares] = (np.floor(across[squares]) + np.floor(along[squares])) % 2 == 0
    gray[dark] = 25.0
    gray = cv2.resize(gray, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    gray += np.random.default_rng(0).normal(0.0, 3.0, gray.shape)
    return np.repeat(gray.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize('camera', CAMERAS.values(), ids=CAMERAS)
@pytest.mark.parametrize(
    ('height_m', 'pitch_rad', 'roll_rad', 'square_m', 'ahead_m', 'turn_rad'),
    [
        (0.6, 0.5, 0.02, 0.08, 1.0, 0.0), (0.3, 0.35, -0.03, 0.05, 0.55, 0.3),
        (1.2, 0.6, 0.0, 0.1, 1.7, 0.7), (1.5, 0.2, 0.05, 0.2, 2.9, -0.4),
    ],
)
def test_a_board_tells_height_within_one_percent_and_tilt_within_a_third_of_a_degree(
    camera: Camera, height_m: float, pitch_rad: float, roll_rad: float, square_m: float,
    ahead_m: float, turn_rad: float,
) -> None:
    truth = FloorPose(height_m, pitch_rad, roll_rad, 0.0)
    image = draw_board(camera, truth, square_m, ahead_m, turn_rad)
    found = pose_from_board(camera, find_board(image, 8, 6), 8, 6, square_m)
    assert found.height_m == pytest.approx(height_m, rel=0.01)
    assert found.pitch_rad == pytest.approx(pitch_rad, abs=math.radians(0.3))
    assert found.roll_rad == pytest.approx(roll_rad, abs=math.radians(0.3))
    assert found.error_px < 1.0


def test_a_picture_without_the_board_says_how_to_count_it() -> None:
    image = draw_board(PINHOLE, FloorPose(0.6, 0.5, 0.0, 0.0), 0.06, 1.0, 0.0)
    with pytest.raises(CalibrationError, match='no checkerboard of 9 × 7 inner corners'):
        find_board(image, 9, 7)


def test_corners_that_are_of_no_flat_board_are_refused() -> None:
    image = draw_board(PINHOLE, FloorPose(0.6, 0.5, 0.0, 0.0), 0.06, 1.0, 0.0)
    corners = find_board(image, 8, 6)
    corners[::3, 0] += 12.0
    with pytest.raises(CalibrationError, match='pixels away from those of a flat board'):
        pose_from_board(PINHOLE, corners, 8, 6, 0.06)


def test_of_a_board_too_small_to_tell_anything_the_size_is_told() -> None:
    image = draw_board(CAMERAS['fisheye'], FloorPose(0.3, 0.35, 0.0, 0.0), 0.05, 0.72, 0.3)
    with pytest.raises(CalibrationError, match=r'only [0-9.]+ pixels high, expected 7 or more'):
        find_board(image, 8, 6)


@pytest.mark.parametrize('roll_rad', [0.0, 3.1])
def test_a_camera_may_hang_upside_down(roll_rad: float) -> None:
    image = draw_board(PINHOLE, FloorPose(0.6, 0.5, roll_rad, 0.0), 0.06, 0.9, 0.0)
    found = pose_from_board(PINHOLE, find_board(image, 8, 6), 8, 6, 0.06)
    assert found.roll_rad == pytest.approx(roll_rad, abs=0.01)
    assert found.height_m == pytest.approx(0.6, rel=0.01)


def test_of_two_poses_that_explain_a_far_board_the_upright_one_counts() -> None:
    camera = Camera.from_fov(480, 640, 0.05)
    corners = np.stack(np.meshgrid(np.arange(8) * 20.0 + 200, np.arange(6) * 12.0 + 200), -1)
    for seen in (corners, corners[::-1, ::-1]):
        found = pose_from_board(camera, seen.reshape(-1, 2), 8, 6, 0.05)
        assert abs(found.roll_rad) < 0.1


def rows_of(camera: Camera, height_m: float, pitch_rad: float, *distances_m: float) -> list[float]:
    """Return where lines on the ground cross the column of the optical axis."""
    below = FloorPose(height_m, pitch_rad, 0.0, 0.0).ground_from_camera.inverse()
    points = np.array([[x, 0.0, 0.0] for x in distances_m])
    return camera.project(below.apply(points))[:, 1].tolist()


@pytest.mark.parametrize('camera', CAMERAS.values(), ids=CAMERAS)
def test_lines_tell_height_and_pitch(camera: Camera) -> None:
    for distances_m in ((1.0, 3.0), (1.0, 2.0, 4.0)):
        rows = rows_of(camera, 0.5, 0.2, *distances_m)
        found = pose_from_lines(camera, rows, distances_m)
        assert found.height_m == pytest.approx(0.5, rel=0.01)
        assert found.pitch_rad == pytest.approx(0.2, abs=math.radians(0.3))


def test_a_third_line_tells_a_camera_that_is_higher_than_two_allow() -> None:
    rows = rows_of(PINHOLE, 2.5, 0.8, 1.5, 2.0, 4.0)
    found = pose_from_lines(PINHOLE, rows, (1.5, 2.0, 4.0))
    assert found.height_m == pytest.approx(2.5, rel=0.01)


def test_one_line_and_the_height_tell_the_pitch() -> None:
    found = pose_from_lines(PINHOLE, rows_of(PINHOLE, 0.5, -0.1, 2.0), (2.0,), 0.5)
    assert (found.height_m, found.pitch_rad) == (0.5, pytest.approx(-0.1, abs=1e-3))


@pytest.mark.parametrize(
    ('rows', 'distances_m', 'height_m', 'reason'),
    [
        ([300.0], [1.0], None, 'one line does not determine height and pitch'),
        ([300.0, 310.0], [1.0, 1.0], None, 'one line does not determine height and pitch'),
        ([480.0], [1.0], 0.5, 'row 480 is not in the picture, expected 0 to 479'),
        ([300.0, 400.0], [1.0, 3.0], None, 'no camera pose fits the lines'),
        ([400.0, 300.0], [1.0, 3.0], 0.1, 'no camera pose fits the lines'),
    ],
)
def test_lines_that_tell_no_pose_are_refused(
    rows: list[float], distances_m: list[float], height_m: float | None, reason: str
) -> None:
    with pytest.raises(CalibrationError, match=reason):
        pose_from_lines(PINHOLE, rows, distances_m, height_m)


def test_the_floor_is_drawn_where_the_pose_places_it() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    drawn = draw_floor(image, PINHOLE, FloorPose(0.5, 0.2, 0.0, 0.0))
    rows = [round(row) for row in rows_of(PINHOLE, 0.5, 0.2, 1.0, 2.0, 3.0, 5.0)]
    column = drawn[:, 400]  # between the lines along the view
    assert not image.any()
    for row in rows:
        assert (column[row - 1:row + 2] > np.array(LINE) // 3).any(axis=0)[:2].all()
    assert not column[:140].any()  # nothing above the horizon
