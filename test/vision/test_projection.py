"""Pixels to points: by the ground plane and by depth, against closed-form geometry."""

import math

from camera_scene import draw_box, FISHEYE, Info, PLUMB_BOB, RATIONAL
import cv2
import numpy as np
import pytest

from mnv2_perception.errors import CalibrationError
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.decode import resize_ids
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose
from mnv2_perception.vision.projection import (
    depth_points,
    ground_points,
    points_of,
    register_depth,
    resize_points,
)

SIZES = {'k': (250.0, 0.0, 160.0, 0.0, 252.0, 119.0, 0.0, 0.0, 1.0), 'height': 240, 'width': 320}
LENSES = {
    'no lens': Info(**SIZES),
    'plumb_bob': Info(**SIZES, d=PLUMB_BOB),
    'rational': Info(**SIZES, distortion_model='rational_polynomial', d=RATIONAL),
    'equidistant': Info(**SIZES, distortion_model='equidistant', d=FISHEYE),
}
POSES = {  # x, y, z, roll, pitch, yaw
    'level': (0.2, -0.1, 0.8, 0.0, 0.0, 0.0),
    'pitched': (0.2, -0.1, 0.8, 0.0, 0.3, 0.0),
    'rolled': (0.2, -0.1, 0.8, 0.25, 0.1, 0.0),
    'turned': (-0.3, 0.4, 1.2, -0.1, 0.2, 2.5),
    'upright': (0.2, -0.1, 0.8, math.pi / 2, 0.0, 0.0),
}


def pose(name: str) -> Pose:
    return Pose.from_rpy(*POSES[name]) @ BODY_FROM_OPTICAL


def pixel_of(info: Info, base_from_camera: Pose, point: np.ndarray) -> np.ndarray:
    """Project by OpenCV alone."""
    seen = base_from_camera.rotation.T @ (point - base_from_camera.translation)
    k, none = np.reshape(info.k, (3, 3)), np.zeros(3)
    project = cv2.fisheye.projectPoints if len(info.d) == 4 else cv2.projectPoints
    return project(seen.reshape(1, 1, 3), none, none, k, np.array(info.d))[0].ravel()


@pytest.mark.parametrize('lens', LENSES)
@pytest.mark.parametrize('place', POSES)
def test_ground_points_5_m_away_agree_with_closed_form_to_1_cm(lens: str, place: str) -> None:
    info, base_from_camera = LENSES[lens], pose(place)
    points = ground_points(Camera.from_info(info), base_from_camera, 20.0, 5.0)
    x, y, _, _, _, yaw = POSES[place]
    for bearing in (yaw - 0.2, yaw, yaw + 0.2):
        expected = np.array([x + 5.0 * math.cos(bearing), y + 5.0 * math.sin(bearing), 0.0])
        column, row = pixel_of(info, base_from_camera, expected)
        # Between four pixels, where the plane is a homography: by 1 / range, not by range.
        left, top = int(column), int(row)
        around = points[top : top + 2, left : left + 2].astype(np.float64)
        ahead = np.linalg.norm(around[..., :2] - (x, y), axis=-1, keepdims=True)
        weights = np.outer([top + 1 - row, row - top], [left + 1 - column, column - left])
        weights = weights[..., None] / ahead
        found = (around * weights).sum(axis=(0, 1)) / weights.sum()
        assert np.linalg.norm(found - expected) < 0.01


@pytest.mark.parametrize('lens', LENSES)
@pytest.mark.parametrize('place', POSES)
def test_depth_5_m_away_agrees_with_closed_form_to_1_cm(lens: str, place: str) -> None:
    info, base_from_camera = LENSES[lens], pose(place)
    camera = Camera.from_info(info)
    point = base_from_camera.apply(np.array([0.4, 0.3, 5.0]))
    column, row = np.rint(pixel_of(info, base_from_camera, point)).astype(int)
    found = base_from_camera.apply(depth_points(np.full((240, 320), 5.0, np.float32), camera))
    # A pixel is 2 cm wide there: compare at its middle, which projects back on it.
    assert np.linalg.norm(found[row, column] - point) < 0.75 * 5.0 / 250
    again = pixel_of(info, base_from_camera, found[row, column].astype(np.float64))
    assert np.abs(again - (column, row)).max() * 5.0 / 250 < 0.01
    assert np.dot(found[row, column] - base_from_camera.translation,
                  base_from_camera.rotation[:, 2]) == pytest.approx(5.0, abs=1e-3)


def test_pixels_above_the_horizon_and_beyond_the_far_range_are_no_ground() -> None:
    camera = Camera(240, 320, 250.0, 250.0, 160.0, 120.0)
    points = ground_points(camera, pose('level'), 6.0, 100.0)
    assert np.isnan(points[:121]).all()
    assert np.isfinite(points[239]).all()
    distance_m = np.linalg.norm(points[..., :2] - (0.2, -0.1), axis=-1)
    assert 5.8 < np.nanmax(distance_m) <= 6.0


def test_the_far_range_ends_where_a_pixel_covers_too_much_ground() -> None:
    camera = Camera(240, 320, 250.0, 250.0, 160.0, 120.0)
    points = ground_points(camera, pose('level'), 100.0, 0.1)
    # From a row to the next the range changes by range² / (f · height).
    expected_m = math.sqrt(0.1 * 250.0 * 0.8)
    assert np.nanmax(points[:, 160, 0]) - 0.2 == pytest.approx(expected_m, rel=0.03)


def test_a_camera_that_sees_no_ground_is_refused() -> None:
    up = Pose.from_rpy(0, 0, 1, 0, -1.0, 0) @ BODY_FROM_OPTICAL
    with pytest.raises(CalibrationError, match='no pixel sees ground'):
        ground_points(Camera(240, 320, 250.0, 250.0, 160.0, 120.0), up, 10.0, 0.5)


def test_invalid_depth_has_no_point() -> None:
    camera = Camera(1, 5, 100.0, 100.0, 2.0, 0.0)
    depth_m = np.array([[0.0, np.nan, np.inf, -1.0, 2.0]], np.float32)
    points = depth_points(depth_m, camera)
    assert points.dtype == np.float32
    assert np.isnan(points[0, :4]).all()
    np.testing.assert_allclose(points[0, 4], [0.04, 0.0, 2.0], atol=1e-6)


def test_depth_of_another_size_than_its_camera_is_refused() -> None:
    with pytest.raises(CalibrationError, match='1 × 5'):
        depth_points(np.zeros((2, 5), np.float32), Camera(1, 5, 100.0, 100.0, 2.0, 0.0))


def test_registered_depth_is_what_the_colour_camera_would_measure() -> None:
    depth_camera = Camera.from_info(Info())
    colour_camera = Camera.from_info(LENSES['plumb_bob'])
    base_from_colour = Pose.from_rpy(0, 0, 1, 0, 0.2, 0) @ BODY_FROM_OPTICAL
    base_from_depth = Pose.from_rpy(0.01, 0.06, 1.01, 0.01, 0.19, -0.02) @ BODY_FROM_OPTICAL
    box = (2.0, -0.3, 0.0), (2.5, 0.3, 0.6)
    _, depth_m = draw_box(depth_camera, base_from_depth, *box)
    ids, expected_m = draw_box(colour_camera, base_from_colour, *box)
    registered_m = register_depth(
        depth_m, depth_camera, colour_camera, base_from_colour.inverse() @ base_from_depth
    )
    both = np.isfinite(registered_m) & np.isfinite(expected_m)
    assert both[120:190, 40:280].mean() > 0.98
    on_box = both & (cv2.erode(ids, np.ones((5, 5), np.uint8)) == 2)
    assert on_box.sum() > 1000
    off_m = np.abs(registered_m - expected_m)[on_box]
    assert np.median(off_m) < 0.002 and off_m.max() < 0.04  # its top is seen at a grazing angle


def test_where_two_depths_fall_on_one_pixel_the_nearer_counts() -> None:
    wide, coarse = Camera(1, 2, 100.0, 100.0, 0.5, 0.0), Camera(1, 1, 10.0, 10.0, 0.0, 0.0)
    depth_m = np.array([[4.0, 3.0]], np.float32)
    assert register_depth(depth_m, wide, coarse, Pose.from_rpy(0, 0, 0, 0, 0, 0)) == 3.0


def test_depth_on_the_very_border_of_the_other_image_falls_in_it_or_beside() -> None:
    turn = Pose.from_rpy(0.0, 0.0, 0.0, 0.0, 0.001, 0.0).rotation  # as R of a stereo pair's left
    camera = Camera(3, 640, 500.0, 500.0, 319.5, 1.0, rotation=tuple(turn.ravel()))
    x, _, z = turn @ [0.64, 0.0, 1.0]  # column 639.5
    grain = 1e8  # pixels of a depth camera so fine that float32 tells not all of them apart
    depth_camera = Camera(1, 2001, grain, grain, 1000.0 - grain * x / z, 0.0)
    registered_m = register_depth(
        np.full((1, 2001), 2.0, np.float32), depth_camera, camera,
        Pose.from_rpy(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    )
    assert np.argwhere(np.isfinite(registered_m)).tolist() == [[1, 639]]


def test_points_of_classes_are_finite_and_keep_their_shape_when_there_are_none() -> None:
    points = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    points[0, 0] = np.nan
    ids = np.array([[1, 1], [2, 3]], np.uint8)
    wanted = np.zeros(256, np.bool_)
    wanted[1] = True
    np.testing.assert_array_equal(points_of(points, ids, wanted), [[3, 4, 5]])
    wanted[1] = False
    none = points_of(points, ids, wanted)
    assert none.shape == (0, 3) and none.dtype == np.float32


@pytest.mark.parametrize('size', [(240, 424), (120, 160), (97, 131), (480, 640), (360, 480)])
def test_a_cloud_and_a_mask_are_resized_to_the_same_pixels(size: tuple[int, int]) -> None:
    ids = np.random.default_rng(0).integers(0, 256, (480, 640), np.uint8)
    points = np.repeat(ids.astype(np.float32)[..., None], 3, axis=2)
    np.testing.assert_array_equal(resize_points(points, *size)[..., 0], resize_ids(ids, *size))
