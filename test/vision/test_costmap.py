"""A mask on the ground: the right cell, point and beam for a known box, and no smear."""

import math
import time
from typing import Any

from camera_scene import BOX, draw_box, FISHEYE, Info, PLUMB_BOB, ROAD, SKY
import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.errors import CalibrationError
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.costmap import (
    FORBIDDEN,
    Grid,
    OBSTACLE,
    Scan,
    scan_of_points,
    TRAVERSABLE,
)
from mnv2_perception.vision.ground_view import GroundView
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose

PLAIN = Info(height=240, width=320, k=(250.0, 0.0, 160.0, 0.0, 250.0, 119.0, 0.0, 0.0, 1.0))
LENS = Info(height=240, width=320, k=PLAIN.k, d=PLUMB_BOB)
FISH = Info(
    height=240, width=320, k=PLAIN.k, distortion_model='equidistant', d=FISHEYE,
)
BOX_AT = (3.0, 0.4, 0.0), (3.6, 0.9, 0.3)  # its face towards the camera is at x = 3
ROLES = np.zeros(256, np.uint8)
ROLES[[ROAD, BOX]] = TRAVERSABLE, OBSTACLE
STANDING = Pose.from_rpy(0, 0, 0, 0, 0, 0)


def camera_pose(roll: float = 0.0, pitch: float = 0.2) -> Pose:
    return Pose.from_rpy(0.2, -0.1, 1.0, roll, pitch, 0.0) @ BODY_FROM_OPTICAL


def view_of(info: Info, base_from_camera: Pose) -> GroundView:
    return GroundView(Camera.from_info(info), base_from_camera, 8.0, 0.5)


def cell(grid: Grid, x: float, y: float) -> int:
    column = math.floor((x - grid.origin_x_m) / grid.resolution_m)
    row = math.floor((y - grid.origin_y_m) / grid.resolution_m)
    return int(grid.cells[row, column])


def beam(scan: Scan, x: float, y: float) -> float:
    return float(scan.ranges_m[round((math.atan2(y, x) - scan.angle_min) / scan.angle_increment)])


def scan_of(view: GroundView, ids: NDArray[np.uint8]) -> Scan:
    return view.scan(view.look(ids, ROLES), -0.5, 0.5, 0.01)


CAMERAS: list[Any] = [
    pytest.param(PLAIN, camera_pose(), id='pitched'),
    pytest.param(PLAIN, camera_pose(pitch=0.0), id='level'),
    pytest.param(PLAIN, camera_pose(roll=0.3), id='rolled'),
    pytest.param(PLAIN, camera_pose(roll=math.pi / 2), id='on its side'),
    pytest.param(PLAIN, camera_pose(roll=math.pi), id='upside down'),
    pytest.param(LENS, camera_pose(), id='distorted'),
    pytest.param(FISH, camera_pose(pitch=0.3), id='fisheye'),
]


KNOWN_TO_FAIL_ONCE = [
    (Camera.from_fov(480, 640, 1.2), 1.2, 0.36),
    (Camera(480, 640, 525.3, 525.3, 319.1, 241.7), 0.75, 0.3305),
]


@pytest.mark.parametrize(('camera', 'z', 'pitch'), KNOWN_TO_FAIL_ONCE)
def test_a_mount_whose_samples_fall_on_the_images_border_has_a_view(
    camera: Camera, z: float, pitch: float
) -> None:
    pose = Pose.from_rpy(0.0, 0.0, z, 0.0, pitch, 0.0) @ BODY_FROM_OPTICAL
    view = GroundView(camera, pose, 10.0, 0.25)
    ids = np.zeros((480, 640), np.uint8)
    assert len(view.look(ids, np.full(256, TRAVERSABLE, np.uint8)).clear) > 500


def test_any_mount_has_a_view_or_is_refused_as_one_that_sees_no_ground() -> None:
    rng = np.random.default_rng(1)
    views = 0
    for _ in range(2000):
        camera = Camera.from_fov(48, 64, round(rng.uniform(0.5, 2.0), 2))
        z, pitch = round(rng.uniform(0.2, 2.0), 2), round(rng.uniform(-0.3, 1.5), 2)
        pose = Pose.from_rpy(0.0, 0.0, z, 0.0, pitch, 0.0) @ BODY_FROM_OPTICAL
        try:
            views += GroundView(camera, pose, 10.0, 2.0).range_max_m > 0
        except CalibrationError as exc:
            assert 'no pixel sees ground' in str(exc)
    assert views > 1000


@pytest.mark.parametrize(('height', 'width', 'pitch'), [(1000, 10, 0.9), (480, 640, 1.57)])
def test_a_view_stays_small_however_the_camera_magnifies(
    height: int, width: int, pitch: float
) -> None:
    camera = Camera(height, width, 2400.0, 600.0, (width - 1) / 2, (height - 1) / 2)
    pose = Pose.from_rpy(0.0, 0.0, 1.0, 0.0, pitch, 0.0) @ BODY_FROM_OPTICAL
    view = GroundView(camera, pose, 100.0, 100.0)
    beams, samples = view._pixels.shape[:2]
    assert samples <= 2 * (height + width) + 1 and beams <= 4097


def test_a_camera_of_more_pixels_than_indices_is_refused() -> None:
    pose = Pose.from_rpy(0.0, 0.0, 1.0, 0.0, 0.5, 0.0) @ BODY_FROM_OPTICAL
    with pytest.raises(CalibrationError, match='at most 32766'):
        GroundView(Camera.from_fov(2, 40000, 1.0), pose, 10.0, 1.0)


@pytest.mark.parametrize(('info', 'base_from_camera'), CAMERAS)
def test_the_samples_of_a_view_are_where_the_camera_sees_them_to_1_cm(
    info: Info, base_from_camera: Pose
) -> None:
    view = view_of(info, base_from_camera)
    column, row, footprint_m = view._pixels_of_samples()
    ground = view._ground(*np.mgrid[:view._beams, :view._samples])
    exact = view.camera.project(base_from_camera.inverse().apply(ground.astype(np.float64)))
    seen = np.isfinite(exact[..., 0])
    off = np.hypot(column - exact[..., 0], row - exact[..., 1])[seen]
    assert seen.sum() > 20_000 and off.max() < 0.1  # no NaN, at the image's border neither
    distance_m = np.linalg.norm(ground[seen] - [0.2, -0.1, 0.0], axis=-1)
    assert (off * footprint_m[seen])[distance_m < 5.0].max() < 0.01


def test_the_view_of_a_camera_that_nods_costs_little_more_than_a_mask() -> None:
    camera = Camera.from_info(LENS).resized(480, 640)
    ids = draw_box(camera, camera_pose(), *BOX_AT)[0]
    place_ms, view_ms = [], []
    for number in range(8):  # the first works out what holds for any pose
        begin_s = time.perf_counter()
        view = GroundView(camera, camera_pose(pitch=0.2 + 0.002 * number), 10.0, 0.25)
        viewed_s = time.perf_counter()
        scene = view.look(ids, ROLES)
        view.grid(scene, STANDING, 10.0, 0.05)
        view.scan(scene, -1.57, 1.57, 0.01)
        place_ms.append((time.perf_counter() - viewed_s) * 1e3)
        view_ms.append((viewed_s - begin_s) * 1e3)
    assert np.median(view_ms) < 10 * np.median(place_ms)  # 2 on a quiet machine; it was 200


@pytest.mark.parametrize(('info', 'base_from_camera'), CAMERAS)
def test_a_box_at_a_known_place_gives_the_right_point_cell_and_beam(
    info: Info, base_from_camera: Pose
) -> None:
    view = view_of(info, base_from_camera)
    ids, _ = draw_box(view.camera, base_from_camera, *BOX_AT)
    scene = view.look(ids, ROLES)
    # A pixel covers 4 cm of ground there, and 1.3 cm across.
    x, y, z = scene.edges.T
    on_face = (y > 0.45) & (y < 0.85)
    assert on_face.sum() > 20
    np.testing.assert_allclose(x[on_face], 3.0, atol=0.04)
    assert abs(np.median(x[on_face]) - 3.0) < 0.02
    # The others lie at its corners and along the other side that the camera sees.
    aside = np.minimum(np.abs(y - 0.4), np.abs(y - 0.9))[~on_face]
    assert aside.max() < 0.1  # two pixels, where they fall well apart
    assert x.max() < 3.85 and not z.any()

    grid = view.grid(scene, STANDING, 10.0, 0.1)
    assert {cell(grid, 2.98, 0.65), cell(grid, 3.02, 0.65)} >= {100}
    assert cell(grid, 2.75, 0.65) == 0
    assert cell(grid, 3.05, 0.0) == 0
    scan = view.scan(scene, -0.5, 0.5, 0.01)
    assert beam(scan, 3.0, 0.65) == pytest.approx(math.hypot(3.0, 0.65), abs=0.04)


@pytest.mark.parametrize(('info', 'base_from_camera'), CAMERAS)
def test_nothing_is_marked_behind_the_box(info: Info, base_from_camera: Pose) -> None:
    view = view_of(info, base_from_camera)
    ids, _ = draw_box(view.camera, base_from_camera, *BOX_AT)
    grid = view.grid(view.look(ids, ROLES), STANDING, 14.0, 0.1)
    y, x = (np.argwhere(grid.cells == 100) + 0.5).T * 0.1 - 7.0
    assert len(x)
    assert x.max() < 3.85 and y.min() > 0.3 and y.max() < 1.0
    # The ground that the box hides is unseen. The shadow ends where the view over its top does:
    # the camera's height over that above the box, times the distance of its far top edge.
    assert cell(grid, 4.5, 0.9) == -1
    assert cell(grid, 0.2 + 1.06 * 3.4 / 0.7, -0.1 + 1.06 * 0.8 / 0.7) == 0


def test_the_box_gone_its_cells_and_beams_are_free_again() -> None:
    base_from_camera = camera_pose()
    view = view_of(PLAIN, base_from_camera)
    with_box, _ = draw_box(view.camera, base_from_camera, *BOX_AT)
    without, _ = draw_box(view.camera, base_from_camera)
    view.look(with_box, ROLES)
    scene = view.look(without, ROLES)
    assert scene.edges.shape == (0, 3) and scene.edges.dtype == np.float32
    grid = view.grid(scene, STANDING, 10.0, 0.1)
    assert not (grid.cells == 100).any()
    assert cell(grid, 3.05, 0.65) == 0 and cell(grid, 4.5, 0.9) == 0
    assert beam(scan_of(view, without), 3.0, 0.65) == math.inf


def test_of_a_rotating_robot_the_grid_stays_put_in_odom() -> None:
    base_from_camera = camera_pose()
    view = view_of(PLAIN, base_from_camera)
    odom_box = np.array([[12.0, -4.0, 0.0], [12.4, -3.6, 0.4]])
    robot = np.array([9.03, -3.87])
    origins, middles, frees = set(), [], []
    for yaw in np.linspace(-0.3, 0.3, 7):
        odom_from_base = Pose.from_rpy(*robot, 0.0, 0.0, 0.0, yaw)
        # The box is turned in the base frame: draw it from odom instead.
        ids, _ = draw_box(view.camera, odom_from_base @ base_from_camera, *odom_box)
        grid = view.grid(view.look(ids, ROLES), odom_from_base, 10.0, 0.05)
        origins.add((grid.origin_x_m, grid.origin_y_m))
        rows, columns = np.nonzero(grid.cells == 100)
        x = grid.origin_x_m + (columns + 0.5) * 0.05
        y = grid.origin_y_m + (rows + 0.5) * 0.05
        assert x.min() > 11.9 and x.max() < 12.5 and y.min() > -4.1 and y.max() < -3.5
        front = np.abs(y + 3.8) < 0.12
        middles.append(float(x[front].mean()))
        frees.append(cell(grid, 11.5, -3.8))
    assert len(origins) == 1
    origin = np.array(origins.pop()) / 0.05
    np.testing.assert_allclose(origin, np.rint(origin), atol=1e-6)
    np.testing.assert_allclose(middles, 12.0, atol=0.05)
    assert set(frees) == {0}


def test_the_grid_moves_with_the_robot_by_whole_cells() -> None:
    first = Grid.around(Pose.from_rpy(0.52, 0, 0, 0, 0, 0), 4.0, 0.1)
    assert first.origin_x_m == pytest.approx(-1.5)
    assert Grid.around(Pose.from_rpy(0.54, 0, 0, 0, 0, 0), 4.0, 0.1).origin_x_m == first.origin_x_m
    moved = Grid.around(Pose.from_rpy(0.62, 0, 0, 0, 0, 0), 4.0, 0.1).origin_x_m
    assert moved == pytest.approx(-1.4)
    assert first.cells.shape == (40, 40) and first.cells.dtype == np.int8


def test_far_away_where_pixels_are_larger_than_cells_the_grid_has_no_holes() -> None:
    base_from_camera = camera_pose(pitch=0.1)
    view = view_of(PLAIN, base_from_camera)
    ids, _ = draw_box(view.camera, base_from_camera)
    grid = view.grid(view.look(ids, ROLES), STANDING, 20.0, 0.05)
    ahead = grid.cells[200 - 20 : 200 + 10, 260:355]  # 3 to 7.7 m ahead
    assert (ahead == 0).all()
    assert cell(grid, 9.0, 0.0) == -1  # beyond the far range
    assert cell(grid, -1.0, 0.0) == -1  # behind


def test_a_forbidden_surface_is_marked_where_it_is_seen_and_not_beyond() -> None:
    base_from_camera = camera_pose()
    view = view_of(PLAIN, base_from_camera)
    ids, _ = draw_box(view.camera, base_from_camera)
    x = view.points[..., 0]
    ids[(x > 3.0) & (x < 4.0)] = 7  # a lawn across the way
    roles = ROLES.copy()
    roles[7] = FORBIDDEN
    scene = view.look(ids, roles)
    grid = view.grid(scene, STANDING, 12.0, 0.1)
    assert [cell(grid, at, 0.05) for at in (2.85, 3.15, 3.55, 3.85, 4.15)] == [0, 100, 100, 100, 0]
    np.testing.assert_allclose(view.scan(scene, -0.1, 0.1, 0.1).ranges_m, 3.0, atol=0.06)


def test_an_unsure_border_between_two_obstacles_makes_no_second_edge() -> None:
    view = view_of(PLAIN, camera_pose())
    ids = np.full((240, 320), ROAD, np.uint8)
    ids[:200] = BOX
    ids[150:160] = 255
    ids[200:203] = 255  # nor does one between ground and obstacle hide the edge
    scene = view.look(ids, ROLES)
    row_200 = view.points[199, :, 0]
    assert len(scene.edges) > 200
    np.testing.assert_allclose(scene.edges[:, 0], np.nanmean(row_200), atol=0.02)


def test_what_sticks_out_of_an_obstacle_is_not_marked_behind_it() -> None:
    view = view_of(PLAIN, camera_pose())
    ids = np.full((240, 320), ROAD, np.uint8)
    ids[100:180, 150:170] = BOX
    ids[120:130, 144:176] = BOX  # elbows, 50 pixels above the feet
    edges = view.look(ids, ROLES).edges
    base_m = view.points[179, 160, 0]
    assert len(edges) > 20
    assert edges[:, 0].max() < base_m + 0.25


def test_the_base_of_a_wall_that_recedes_is_marked_all_along() -> None:
    base_from_camera = camera_pose()
    view = view_of(PLAIN, base_from_camera)
    ids, _ = draw_box(view.camera, base_from_camera, (1.0, 0.5, 0.0), (8.0, 1.5, 2.0))
    edges = view.look(ids, ROLES).edges
    edges = edges[edges[:, 0] > 1.7]  # nearer, its base is below the image
    np.testing.assert_allclose(edges[:, 1], 0.5, atol=0.03)
    along = np.histogram(edges[:, 0], np.arange(1.75, 6.1, 0.25))[0]
    assert (along > 0).all()


def test_an_obstacle_at_the_end_of_the_view_is_where_it_begins_to_be_seen() -> None:
    view = view_of(PLAIN, camera_pose())
    scene = view.look(np.full((240, 320), BOX, np.uint8), ROLES)
    nearest = np.nanmin(view.points[..., 0])
    assert len(scene.edges) > 200
    np.testing.assert_allclose(scene.edges[:, 0], nearest, atol=0.02)
    assert scene.clear.shape == (0, 3) and scene.clear.dtype == np.float32


def test_clear_ground_ends_before_the_obstacle() -> None:
    base_from_camera = camera_pose()
    view = view_of(PLAIN, base_from_camera)
    ids, _ = draw_box(view.camera, base_from_camera, *BOX_AT)
    clear = view.look(ids, ROLES).clear
    towards_box = (clear[:, 1] > 0.42) & (clear[:, 1] < 0.88) & (clear[:, 0] < 3.5)
    assert towards_box.sum() > 20
    assert clear[towards_box, 0].max() < 3.0
    aside = np.abs(clear[:, 1]) < 0.1
    assert clear[aside, 0].max() > 7.5


def test_a_beam_into_the_unknown_is_neither_free_nor_an_obstacle() -> None:
    base_from_camera = camera_pose()
    view = view_of(PLAIN, base_from_camera)
    ids, _ = draw_box(view.camera, base_from_camera, *BOX_AT)
    ids[ids == BOX] = 255
    ids[ids == SKY] = 255
    scan = view.scan(view.look(ids, ROLES), -1.5, 0.5, 0.01)
    assert beam(scan, 3.0, 0.0) == math.inf
    assert math.isnan(beam(scan, 0.3, -1.0))  # outside of the view
    ids[:] = 255
    scene = view.look(ids, ROLES)
    assert np.isnan(view.scan(scene, -0.5, 0.5, 0.01).ranges_m).all()
    assert (view.grid(scene, STANDING, 10.0, 0.1).cells == -1).all()


def test_a_scan_takes_the_nearest_point_of_each_beam() -> None:
    obstacles = np.array([[2.0, 0.0, 0.25], [1.5, 0.0, 0.25], [0.0, 3.0, 0.25], [9.0, 9.0, 0.0]])
    free = np.array([[4.0, 4.0], [0.0, -4.0]])
    unknown = np.array([[0.0, -2.0], [3.0, 0.0]])
    right = math.pi / 2
    scan = scan_of_points(obstacles, free, unknown, -right, right, math.pi / 4, 5.0)
    np.testing.assert_array_equal(scan.ranges_m, [math.nan, math.nan, 1.5, math.inf, 3.0])
    assert scan.ranges_m.dtype == np.float32
    none = np.empty((0, 3), np.float32)
    assert np.isnan(scan_of_points(none, none, none, -1.0, 1.0, 0.5, 5.0).ranges_m).all()


def test_a_mask_of_another_size_is_refused() -> None:
    view = view_of(PLAIN, camera_pose())
    with pytest.raises(CalibrationError, match='240 × 320, got one of 480 × 640'):
        view.look(np.zeros((480, 640), np.uint8), ROLES)


def test_a_camera_below_the_ground_is_refused() -> None:
    with pytest.raises(CalibrationError, match='height 0'):
        view_of(PLAIN, Pose.from_rpy(0, 0, 0, 0, 0.2, 0) @ BODY_FROM_OPTICAL)


def test_a_camera_that_looks_straight_down_sees_all_around() -> None:
    down = Pose.from_rpy(0.0, 0.0, 1.5, 0.0, math.pi / 2, 0.0) @ BODY_FROM_OPTICAL
    view = view_of(PLAIN, down)
    ids, _ = draw_box(view.camera, down, (0.3, 0.3, 0.0), (0.5, 0.5, 0.2))
    grid = view.grid(view.look(ids, ROLES), STANDING, 4.0, 0.05)
    assert cell(grid, -0.2, 0.3) == 0 and cell(grid, 0.2, -0.3) == 0
    assert {cell(grid, 0.28, 0.4), cell(grid, 0.32, 0.4)} == {100, -1}
    rows, columns = np.nonzero(grid.cells == 100)
    assert min(rows.min(), columns.min()) >= 45 and max(rows.max(), columns.max()) <= 51
