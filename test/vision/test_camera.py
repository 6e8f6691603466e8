"""Calibrated cameras: what camera_info says is what pixels and rays do."""

import math
from typing import Any

from camera_scene import FISHEYE, Info, PLUMB_BOB, RATIONAL, Roi
import cv2
import numpy as np
import pytest

from mnv2_perception.errors import CalibrationError
from mnv2_perception.vision.camera import Camera, named_rectified, oddity, scaled_matrices
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose


@pytest.mark.parametrize(
    ('model', 'd'),
    [('plumb_bob', PLUMB_BOB), ('rational_polynomial', RATIONAL), ('equidistant', FISHEYE)],
)
def test_rays_of_a_distorted_camera_project_back_onto_their_pixels(
    model: str, d: tuple[float, ...]
) -> None:
    info = Info(distortion_model=model, d=d)
    camera = Camera.from_info(info)
    rays = camera.rays.reshape(-1, 1, 3).astype(np.float64)
    assert np.isfinite(rays).all()
    k, zero = np.reshape(info.k, (3, 3)), np.zeros(3)
    project = cv2.fisheye.projectPoints if model == 'equidistant' else cv2.projectPoints
    expected, _ = project(rays, zero, zero, k, np.array(d))
    v, u = np.mgrid[:480, :640]
    pixels = np.stack([u, v], -1)
    assert np.abs(expected.reshape(480, 640, 2) - pixels).max() < 0.1
    assert np.abs(camera.project(3.0 * camera.rays) - pixels).max() < 0.1
    plain = Camera.from_info(Info()).rays
    assert np.abs(plain - camera.rays)[0, 0].max() > 0.005  # the lens was not left out


def test_a_point_that_the_lens_model_folds_into_the_image_is_not_in_it() -> None:
    camera = Camera.from_info(Info(d=(-0.3, 0.0, 0.0, 0.0, 0.0)))
    far_aside = np.array([1.6, 0.0, 1.0])  # the polynomial brings it back
    pixels, _ = cv2.projectPoints(
        far_aside, np.zeros(3), np.zeros(3), camera.matrix, np.array(camera.distortion)
    )
    assert 0 < pixels[0, 0, 0] < 640
    assert np.isnan(camera.project(far_aside)).all()


def test_pixels_that_the_lens_model_does_not_reach_have_no_ray() -> None:
    camera = Camera.from_info(Info(d=(-0.9, 0.0, 0.0, 0.0, 0.0)))
    assert np.isnan(camera.rays[0, 0]).all()
    assert np.isfinite(camera.rays[240, 320]).all()


def test_points_behind_or_beside_the_image_have_no_pixel() -> None:
    camera = Camera.from_info(Info())
    points = np.array([[0.0, 0.0, -1.0], [0.0, 0.0, 0.0], [5.0, 0.0, 1.0], [np.nan, 0.0, 1.0]])
    assert np.isnan(camera.project(points)).all()


def test_what_is_in_the_image_has_a_pixel_of_it_after_rounding_too() -> None:
    camera = Camera.from_fov(48, 64, 1.0)
    border = camera.width - 0.5
    columns = np.concatenate([border - np.geomspace(1e-9, 1e-3, 200), [border]])
    x = (columns - camera.cx) / camera.fx
    pixels = camera.project(np.stack([x, 0 * x, 0 * x + 1], axis=1))
    seen = np.isfinite(pixels[:, 0])
    assert seen.any() and np.rint(pixels[seen, 0]).max() == camera.width - 1


def test_focal_lengths_that_no_lens_has_are_refused() -> None:
    k = (60000.0, 0.0, 320.0, 0.0, 525.0, 240.0, 0.0, 0.0, 1.0)
    with pytest.raises(CalibrationError, match=r'fx 60000.0 and fy 525.0, expected nearly equal'):
        Camera.from_info(Info(k=k))


@pytest.mark.parametrize('rectified', [False, True])
def test_an_identity_matrix_is_no_calibration(rectified: bool) -> None:
    identity = {
        'k': tuple(np.eye(3).ravel()), 'p': tuple(np.eye(3, 4).ravel())  # points would lie far off
    }
    with pytest.raises(CalibrationError, match=r'focal length of 1 pixels.* is not calibrated'):
        Camera.from_info(Info(**identity), rectified)
    widest = tuple(np.diag([13.0, 13.0, 1.0]).ravel())
    assert Camera.from_info(Info(k=widest)).fx == 13.0


@pytest.mark.parametrize('rectified', [False, True])
def test_p_alone_calibrates_a_rectified_image_and_no_other(rectified: bool) -> None:
    info = Info(k=(0.0,) * 9)
    if rectified:
        assert Camera.from_info(info, rectified=True) == Camera.from_info(Info(), rectified=True)
    else:
        with pytest.raises(CalibrationError, match=r'only P is given.*rectified to true'):
            Camera.from_info(info)
    with pytest.raises(CalibrationError, match='K and P are zero, so the camera is not calibr'):
        Camera.from_info(Info(k=(0.0,) * 9, p=(0.0,) * 12), rectified)


def test_a_size_that_no_camera_has_is_refused() -> None:
    with pytest.raises(CalibrationError, match='size 60000 × 60000, expected at most 16 mega'):
        Camera.from_info(Info(height=60000, width=60000))


def test_a_distortion_model_is_quoted_on_one_line() -> None:
    info = Info(d=PLUMB_BOB, distortion_model='a\nb' + 'c' * 10**6)
    with pytest.raises(CalibrationError, match=r"model 'a\\nbc+' … with 5") as caught:
        Camera.from_info(info)
    assert len(str(caught.value)) < 500


def test_a_rectified_image_goes_by_p_alone() -> None:
    camera = Camera.from_info(Info(d=PLUMB_BOB, r=(0, -1, 0, 1, 0, 0, 0, 0, 1)), rectified=True)
    np.testing.assert_allclose(camera.rays[240, 330 + 45], [0.1, 0.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(camera.project(np.array([0.2, 0.1, 2.0])), [375, 262.5], atol=1e-4)


def test_rays_of_an_unrectified_image_are_turned_by_r() -> None:
    turn = Pose.from_rpy(0, 0, 0, 0.0, 0.05, 0.0).rotation
    camera = Camera.from_info(Info(r=tuple(turn.ravel())))
    ray = turn @ [0.0, 0.0, 1.0]
    np.testing.assert_allclose(camera.rays[238, 321], ray / ray[2], atol=1e-6)
    np.testing.assert_allclose(camera.project(ray), [321, 238], atol=1e-3)


@pytest.mark.parametrize('fov_rad', [0.5, 1.2, 3.1])
def test_a_field_of_view_reaches_from_the_left_edge_to_the_right_one(fov_rad: float) -> None:
    camera = Camera.from_fov(48, 64, fov_rad)
    left, right = camera.rays[24, 0], camera.rays[24, -1]
    half_pixel = 0.5 / camera.fx
    assert -left[0] + half_pixel == pytest.approx(math.tan(fov_rad / 2))
    assert right[0] == pytest.approx(-left[0])
    assert camera.rays[0, 3, 1] == pytest.approx(-camera.rays[-1, 3, 1])
    assert camera.fx == camera.fy and not camera.distortion


@pytest.mark.parametrize('fov_rad', [0.0, -1.0, math.pi, math.nan])
def test_a_field_of_view_that_no_pinhole_has_is_refused(fov_rad: float) -> None:
    with pytest.raises(CalibrationError, match='more than 0 and less than π'):
        Camera.from_fov(48, 64, fov_rad)


def test_resizing_keeps_where_the_corners_of_the_image_look() -> None:
    camera = Camera.from_info(Info())
    small = camera.resized(240, 424)
    assert small.rays.shape == (240, 424, 3)
    corner = np.array([(-0.5 - camera.cx) / camera.fx, (-0.5 - camera.cy) / camera.fy])
    expected = np.array([(-0.5 - small.cx) / small.fx, (-0.5 - small.cy) / small.fy])
    np.testing.assert_allclose(corner, expected)


def test_a_registered_depth_camera_has_the_same_view_at_another_size() -> None:
    camera = Camera.from_info(Info())
    assert camera.resized(240, 424).same_view(camera)
    assert not Camera.from_info(Info(), rectified=True).same_view(camera)
    assert not camera.same_view(Camera.from_info(Info(d=PLUMB_BOB)))


def test_scaled_matrices_agree_with_the_resized_camera() -> None:
    info = Info()
    k, p = scaled_matrices(info, 120, 320)
    np.testing.assert_allclose(k, Camera.from_info(info).resized(120, 320).matrix)
    np.testing.assert_allclose(
        p[:, :3], Camera.from_info(info, rectified=True).resized(120, 320).matrix
    )
    assert p[0, 3] == -10.0  # the baseline's pixels, of half the focal length


def test_binning_and_window_look_where_the_whole_image_does() -> None:
    whole = Camera.from_info(Info())
    part = Camera.from_info(Info(binning_x=2, binning_y=2, roi=Roi(100, 60, 200, 400)))
    assert (part.height, part.width) == (100, 200)
    between = whole.rays[60:62, 100:102].mean(axis=(0, 1))
    np.testing.assert_allclose(part.rays[0, 0], between, atol=1e-6)


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'k': (0.0,) * 9, 'p': (0.0,) * 12}, 'not calibrated'),
        ({'k': (math.nan,) * 9}, 'K is'),
        ({'p': (-1.0, *Info.p[1:])}, 'P is'),
        ({'distortion_model': 'ftheta', 'd': (0.1,) * 4}, "'ftheta' with 4"),
        ({'distortion_model': 'rational_polynomial', 'd': (0.1,) * 14}, 'with 14'),
        ({'d': (0.1,) * 3}, "'plumb_bob' with 3"),
        ({'d': (math.nan,) * 5}, 'not finite'),
        ({'height': 0}, 'size 0 × 640'),
        ({'d': (0.0,) * 1000}, '1000 coefficients of .* expected at most 100'),
        ({'d': (), 'distortion_model': 'a' * 1000}, 'expected at most 100, and as many letters'),
    ],
)
def test_a_camera_info_that_cannot_be_used_is_refused(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CalibrationError, match=reason):
        Camera.from_info(Info(**changes))


def test_a_camera_without_distortion_needs_no_model() -> None:
    assert Camera.from_info(Info(distortion_model='', d=())).distortion == ()


@pytest.mark.parametrize(('model', 'd'), [
    ('rational_polynomial', RATIONAL), ('plumb_bob', PLUMB_BOB), ('equidistant', FISHEYE),
])
def test_coefficients_that_are_padded_with_zeros_are_taken(
    model: str, d: tuple[float, ...]
) -> None:
    for count in (8, 12, 14):
        info = Info(distortion_model=model, d=d + (0.0,) * (count - len(d)))
        assert Camera.from_info(info).distortion == d


def test_the_name_of_a_topic_says_that_its_images_are_rectified() -> None:
    for topic in ('/camera/image_rect', '/left/image_rect_color', '/zed/rgb/color/rect/image',
                  '/camera/image_rect/compressed', '/rectified/image'):
        assert named_rectified(topic)
    for topic in ('/camera/image_raw', '/direct/image', '/camera/rectangle', '/unrect/image', ''):
        assert not named_rectified(topic)


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(CalibrationError, match='480 × 640, got one of 720 × 1280'):
        Camera.from_info(Info()).require_size(720, 1280)


def test_the_optical_axis_of_a_camera_that_is_pitched_down_meets_the_ground() -> None:
    pose = Pose.from_rpy(1.0, 2.0, 3.0, 0.0, math.pi / 4, math.pi / 2) @ BODY_FROM_OPTICAL
    np.testing.assert_allclose(pose.apply(np.array([0, 0, 3 * math.sqrt(2)])), [1, 5, 0])
    np.testing.assert_allclose(pose.apply(np.array([1.0, 0, 0])), [2, 2, 3])  # image's right


def test_a_quaternion_gives_the_rotation_of_its_angles() -> None:
    roll, pitch, yaw = 0.3, -0.2, 1.1
    half = [(math.cos(a / 2), math.sin(a / 2)) for a in (roll, pitch, yaw)]
    (cr, sr), (cp, sp), (cy, sy) = half
    quaternion = (
        sr * cp * cy - cr * sp * sy, cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy, cr * cp * cy + sr * sp * sy,
    )
    pose = Pose.from_quaternion((1, 2, 3), [2.0 * value for value in quaternion])
    np.testing.assert_allclose(pose.rotation, Pose.from_rpy(0, 0, 0, roll, pitch, yaw).rotation)
    assert pose.yaw == pytest.approx(yaw)


def test_a_quaternion_without_length_is_refused() -> None:
    with pytest.raises(CalibrationError, match='length 1'):
        Pose.from_quaternion((0, 0, 0), (0, 0, 0, 0))


def test_inverse_and_product_of_poses() -> None:
    a, b = Pose.from_rpy(1, 2, 3, 0.1, 0.2, 0.3), Pose.from_rpy(-1, 0, 2, 1.0, -0.4, 2.0)
    point = np.array([0.3, -2.0, 5.0])
    np.testing.assert_allclose((a @ b).apply(point), a.apply(b.apply(point)))
    assert (a @ a.inverse()).is_close(Pose.from_rpy(0, 0, 0, 0, 0, 0))
    assert not a.is_close(b)


@pytest.mark.parametrize('changes', [
    {'k': (900.0, 0.0, 640.0, 0.0, 900.0, 360.0, 0.0, 0.0, 1.0)},  # of 720 × 1280
    {'k': (300.0, 0.0, 321.0, 0.0, 300.0, 238.0, 0.0, 0.0, 1.0),  # of what was binned already
     'height': 1920, 'width': 2560, 'binning_x': 4, 'binning_y': 4},
    {'k': (1500.0, 0.0, 963.0, 0.0, 1500.0, 714.0, 0.0, 0.0, 1.0)},  # scaled twice
    {'k': (500.0, 0.0, 321.0, 0.0, 505.0, -2.0, 0.0, 0.0, 1.0)},  # cropped without a word
])
def test_a_matrix_of_another_image_size_is_told(changes: dict[str, Any]) -> None:
    info = Info(**changes)
    told = oddity(info, Camera.from_info(info))
    assert told.startswith('the principal point is (')
    assert 'was the camera calibrated at another size' in told


@pytest.mark.parametrize('changes', [
    {},
    {'k': (500.0, 0.0, 420.0, 0.0, 505.0, 180.0, 0.0, 0.0, 1.0)},  # a lens off its middle
    {'binning_x': 2, 'binning_y': 2},
    {'roi': Roi(0, 240, 240, 640)},  # the lower half, whose matrix moves with it
])
def test_of_a_matrix_that_may_be_right_nothing_is_told(changes: dict[str, Any]) -> None:
    info = Info(**changes)
    assert oddity(info, Camera.from_info(info)) == ''
