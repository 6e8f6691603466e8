"""Compute what one mask marks and clears: on flat ground, or where its pixels were measured."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import ImageError
from mnv2_perception.vision.camera import Camera, Floats
from mnv2_perception.vision.costmap import (
    FORBIDDEN,
    FREE_CELL,
    Grid,
    OBSTACLE,
    OCCUPIED_CELL,
    Scan,
    scan_of_points,
    TRAVERSABLE,
)
from mnv2_perception.vision.ground_view import GroundView
from mnv2_perception.vision.pose import Pose
from mnv2_perception.vision.projection import depth_points, points_of, register_depth


@dataclass(frozen=True)
class Limits:
    """How far and how high things are marked, and the size of scan and grid.

    Attributes:
        max_range_m: largest distance of measured points.
        obstacle_height_m: height of points that are placed on flat ground.
        min_height_m: lower measured obstacle points are left out.
        max_height_m: higher measured obstacle points are left out.
        grid_size_m: side length of the grid.
        grid_resolution_m: side length of a cell.
        scan_angle_min_rad: bearing of the scan's first beam.
        scan_angle_max_rad: bearing of the scan's last beam.
        scan_angle_increment_rad: angle between two beams.
    """

    max_range_m: float
    obstacle_height_m: float
    min_height_m: float
    max_height_m: float
    grid_size_m: float
    grid_resolution_m: float
    scan_angle_min_rad: float
    scan_angle_max_rad: float
    scan_angle_increment_rad: float


@dataclass(frozen=True)
class Marks:
    """What one mask marks and clears.

    Attributes:
        points: returns (H, W, 3) float32 in the base frame, organised; NaN where nothing is known.
        obstacles: (N, 3) float32 in the base frame.
        ground: (N, 3) float32 in the base frame, traversable.
        scan: scan in the base frame.
        grid: grid in its own frame.
        obstacles_of: returns the points of `obstacles` of one class, given its id.
    """

    points: Callable[[], Floats]
    obstacles: Floats
    ground: Floats
    scan: Scan
    grid: Grid
    obstacles_of: Callable[[int], Floats]


def marks_on_ground(
    view: GroundView,
    ids: NDArray[np.uint8],
    roles: NDArray[np.uint8],
    grid_from_base: Pose,
    limits: Limits,
) -> Marks:
    """Place a mask on flat ground.

    Args:
        view: the mask camera's view of the ground.
        ids: (H, W) class ids, of the camera's size.
        roles: (256,) role of each id, see `roles_of`.
        grid_from_base: pose of the base in the grid's frame.
        limits: limits of what is marked; the range is that of the view.

    Raises:
        CalibrationError: the mask does not have the camera's size.
    """
    scene = view.look(ids, roles)
    obstacles = scene.edges.copy()
    obstacles[:, 2] = limits.obstacle_height_m
    columns, rows = scene.edge_pixels.T
    return Marks(
        points=lambda: view.points,
        obstacles=obstacles,
        ground=scene.clear,
        scan=view.scan(
            scene, limits.scan_angle_min_rad, limits.scan_angle_max_rad,
            limits.scan_angle_increment_rad,
        ),
        grid=view.grid(scene, grid_from_base, limits.grid_size_m, limits.grid_resolution_m),
        obstacles_of=lambda class_id: obstacles[ids[rows, columns] == class_id],
    )


def marks_of_points(
    points: Floats,
    ids: NDArray[np.uint8],
    roles: NDArray[np.uint8],
    grid_from_base: Pose,
    limits: Limits,
) -> Marks:
    """Place a mask where its pixels were measured.

    Args:
        points: (H, W, 3) in the base frame, NaN where nothing was measured.
        ids: (H, W) class ids of the same pixels.
        roles: (256,) role of each id, see `roles_of`.
        grid_from_base: pose of the base in the grid's frame.
        limits: limits of what is marked.
    """
    near = np.hypot(points[..., 0], points[..., 1]) <= limits.max_range_m
    points = np.where(near[..., None], points, np.float32(np.nan))

    def blocking(classes: NDArray[np.bool_]) -> Floats:
        standing = points_of(points, ids, classes & (roles == OBSTACLE))
        height_m = standing[:, 2]
        tall = (height_m >= limits.min_height_m) & (height_m <= limits.max_height_m)
        forbidden = points_of(points, ids, classes & (roles == FORBIDDEN))
        forbidden[:, 2] = limits.obstacle_height_m
        return np.concatenate([standing[tall], forbidden])

    ground = points_of(points, ids, roles == TRAVERSABLE)
    obstacles = blocking(np.ones(256, np.bool_))
    grid = Grid.around(grid_from_base, limits.grid_size_m, limits.grid_resolution_m)
    grid.mark(grid_from_base.apply(ground), FREE_CELL)
    grid.mark(grid_from_base.apply(obstacles), OCCUPIED_CELL)
    far = np.hypot(ground[:, 0], ground[:, 1]) > 0.9 * limits.max_range_m
    scan = scan_of_points(
        obstacles, ground[far], ground[:0], limits.scan_angle_min_rad, limits.scan_angle_max_rad,
        limits.scan_angle_increment_rad, limits.max_range_m,
    )
    return Marks(
        lambda: points, obstacles, ground, scan, grid,
        lambda class_id: blocking(np.arange(256) == class_id),
    )


def points_of_depth(
    depth_m: Floats,
    depth_camera: Camera,
    camera: Camera,
    size: tuple[int, int],
    base_from_camera: Pose,
    base_from_depth: Pose | None = None,
) -> Floats:
    """Place depth in the base frame, with the pixels of the mask's camera.

    Args:
        depth_m: (H, W) float32, see `depth_points`.
        depth_camera: camera that measured it.
        camera: camera of the mask.
        size: largest height and width to register to, if depth is not registered yet.
        base_from_camera: pose of the mask's camera.
        base_from_depth: pose of the depth camera; None if its frame is that of the mask.

    Returns:
        (h, w, 3) float32, of depth's size if it is registered; NaN where nothing was measured.

    Raises:
        CalibrationError: depth and its camera differ in size.
    """
    if base_from_depth is None and depth_camera.same_view(camera):
        return base_from_camera.apply(depth_points(depth_m, depth_camera))
    seen_by = camera.resized(*np.minimum(size, depth_m.shape).tolist())
    camera_from_depth = base_from_camera.inverse() @ (base_from_depth or base_from_camera)
    registered_m = register_depth(depth_m, depth_camera, seen_by, camera_from_depth)
    return base_from_camera.apply(depth_points(registered_m, seen_by))


def require_one_image(cloud: tuple[int, int], mask: tuple[int, int]) -> None:
    """Raise ImageError unless a cloud and a mask, each (height, width), can be of one image.

    Either may have fewer pixels; the aspect ratios must agree within 2 %.
    """
    if abs(cloud[1] * mask[0] / (cloud[0] * mask[1] or 1) - 1) > 0.02:
        raise ImageError(
            f'cloud of {cloud[0]} × {cloud[1]}, mask of {mask[0]} × {mask[1]}: they do not belong '
            f"to the same image; remap points to this camera's registered, organised cloud"
        )
