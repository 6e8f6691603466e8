"""What a mask marks, on flat ground and by measured points: a box at a known place."""

from dataclasses import replace

from camera_scene import BOX, draw_box, ROAD
import numpy as np
import pytest

from mnv2_perception.errors import ImageError
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.costmap import (
    FORBIDDEN,
    FREE_CELL,
    Grid,
    OCCUPIED_CELL,
    UNSEEN_CELL,
)
from mnv2_perception.vision.ground_view import GroundView
from mnv2_perception.vision.marks import (
    Limits,
    Marks,
    marks_of_points,
    marks_on_ground,
    points_of_depth,
    require_one_image,
)
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Pose
from mnv2_perception.vision.roles import roles_of

CAMERA = Camera(240, 320, 200.0, 200.0, 159.5, 119.5)
BODY = Pose.from_rpy(0.0, 0.0, 1.0, 0.0, 0.2, 0.0)
POSE = BODY @ BODY_FROM_OPTICAL
IN_PLACE = Pose.from_rpy(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
LIMITS = Limits(
    max_range_m=10.0, obstacle_height_m=0.25, min_height_m=0.05, max_height_m=2.0,
    grid_size_m=20.0, grid_resolution_m=0.1, scan_angle_min_rad=-1.57, scan_angle_max_rad=1.57,
    scan_angle_increment_rad=0.01,
)
ROLES = roles_of({'sky': 0, 'road': ROAD, 'box': BOX}, ['road'], [], [], ['sky'])
LAWN = 3
LOW, HIGH = (3.0, 0.4, 0.0), (3.5, 0.9, 0.6)  # corners of the box


def cell(grid: Grid, x: float, y: float) -> int:
    row = int((y - grid.origin_y_m) / grid.resolution_m)
    column = int((x - grid.origin_x_m) / grid.resolution_m)
    return int(grid.cells[row, column])


def check_box(marks: Marks, height_m: float | None) -> None:
    """Check that the front of the box, and nothing before it, is marked."""
    x, y, z = marks.obstacles.T
    front = (y > 0.5) & (y < 0.8)
    assert np.median(x[front]) == pytest.approx(3.0, abs=0.05)
    assert height_m is None or np.all(z[front] == np.float32(height_m))
    assert OCCUPIED_CELL in (cell(marks.grid, 2.98, 0.65), cell(marks.grid, 3.02, 0.65))
    assert cell(marks.grid, 2.75, 0.65) == FREE_CELL
    assert cell(marks.grid, -5.0, 0.0) == UNSEEN_CELL
    beam = round((np.arctan2(0.65, 3.0) + 1.57) / 0.01)
    assert marks.scan.ranges_m[beam] == pytest.approx(np.hypot(3.0, 0.65), abs=0.05)


def test_on_flat_ground_a_box_is_marked_at_its_base() -> None:
    ids, _ = draw_box(CAMERA, POSE, LOW, HIGH)
    view = GroundView(CAMERA, POSE, 10.0, 0.25)
    marks = marks_on_ground(view, ids, ROLES, IN_PLACE, LIMITS)
    check_box(marks, 0.25)
    assert marks.points().shape == (240, 320, 3)


def test_measured_points_mark_the_box_itself_within_height_and_range() -> None:
    ids, depth_m = draw_box(CAMERA, POSE, LOW, HIGH)
    points = points_of_depth(depth_m, CAMERA, CAMERA, (240, 320), POSE)
    marks = marks_of_points(points, ids, ROLES, IN_PLACE, LIMITS)
    check_box(marks, None)
    z = marks.obstacles[:, 2]
    assert z.min() >= 0.05 and z.max() == pytest.approx(0.6, abs=0.02)
    low = marks_of_points(points, ids, ROLES, IN_PLACE, replace(LIMITS, max_height_m=0.3))
    assert low.obstacles[:, 2].max() <= 0.3
    near = marks_of_points(points, ids, ROLES, IN_PLACE, replace(LIMITS, max_range_m=2.0))
    assert len(near.obstacles) == 0
    points = near.points()
    seen = points[np.isfinite(points[..., 0])]
    assert np.hypot(seen[:, 0], seen[:, 1]).max() <= 2.0


def test_measured_forbidden_ground_is_lifted_so_that_layers_mark_it() -> None:
    ids, depth_m = draw_box(CAMERA, POSE, LOW, HIGH)
    roles = ROLES.copy()
    roles[BOX] = FORBIDDEN
    points = points_of_depth(depth_m, CAMERA, CAMERA, (240, 320), POSE)
    marks = marks_of_points(points, ids, roles, IN_PLACE, LIMITS)
    assert set(marks.obstacles[:, 2]) == {np.float32(0.25)}


def test_the_grid_lies_in_its_own_frame_and_all_else_in_the_base_s() -> None:
    ids, _ = draw_box(CAMERA, POSE, LOW, HIGH)
    view = GroundView(CAMERA, POSE, 10.0, 0.25)
    moved = Pose.from_rpy(4.0, -2.0, 0.0, 0.0, 0.0, 0.0)
    marks = marks_on_ground(view, ids, ROLES, moved, LIMITS)
    assert OCCUPIED_CELL in (cell(marks.grid, 6.98, -1.35), cell(marks.grid, 7.02, -1.35))
    x, y, _ = marks.obstacles.T
    assert np.median(x[(y > 0.5) & (y < 0.8)]) == pytest.approx(3.0, abs=0.05)


def test_depth_of_another_camera_is_registered_to_the_mask_s_pixels() -> None:
    beside = Camera(300, 360, 210.0, 210.0, 180.0, 150.0)
    pose = Pose.from_rpy(0.0, 0.06, 1.0, 0.0, 0.2, 0.0) @ BODY_FROM_OPTICAL
    _, depth_m = draw_box(beside, pose, LOW, HIGH)
    points = points_of_depth(depth_m, beside, CAMERA, (120, 160), POSE, pose)
    assert points.shape == (120, 160, 3)
    ids, _ = draw_box(CAMERA.resized(120, 160), POSE, LOW, HIGH)
    check_box(marks_of_points(points, ids, ROLES, IN_PLACE, LIMITS), None)


def test_registered_depth_keeps_its_own_size() -> None:
    half = CAMERA.resized(120, 160)
    _, depth_m = draw_box(half, POSE, LOW, HIGH)
    assert points_of_depth(depth_m, half, CAMERA, (60, 80), POSE).shape == (120, 160, 3)


def test_a_cloud_of_other_proportions_than_the_mask_is_refused() -> None:
    require_one_image((240, 320), (480, 640))
    require_one_image((239, 320), (480, 640))
    for cloud in ((1, 76800), (240, 240), (0, 0)):
        with pytest.raises(ImageError, match='do not belong to the same image'):
            require_one_image(cloud, (480, 640))


@pytest.mark.parametrize('measured', [False, True])
def test_the_obstacles_of_each_class_are_those_of_all_classes(measured: bool) -> None:
    ids, depth_m = draw_box(CAMERA, POSE, LOW, HIGH)
    lawn = (np.arange(320) < 100) & (ids == ROAD)
    ids[lawn] = LAWN
    roles = roles_of({'sky': 0, 'road': ROAD, 'box': BOX, 'lawn': LAWN}, ['road'], ['lawn'], [],
                     ['sky'])
    if measured:
        points = points_of_depth(depth_m, CAMERA, CAMERA, (240, 320), POSE)
        marks = marks_of_points(points, ids, roles, IN_PLACE, LIMITS)
    else:
        view = GroundView(CAMERA, POSE, 10.0, 0.25)
        marks = marks_on_ground(view, ids, roles, IN_PLACE, LIMITS)
    of_box, of_lawn = marks.obstacles_of(BOX), marks.obstacles_of(LAWN)
    assert len(of_box) > 20 and len(of_lawn) > 20
    assert np.all((of_box[:, 1] > 0.35) & (of_box[:, 1] < 0.95))
    assert set(of_lawn[:, 2]) == {np.float32(0.25)}
    together = np.concatenate([of_box, of_lawn])
    np.testing.assert_array_equal(
        together[np.lexsort(together.T)], marks.obstacles[np.lexsort(marks.obstacles.T)]
    )
    for none in (0, ROAD, 77, 255):
        assert marks.obstacles_of(none).shape == (0, 3)
