"""Scans and grids as costmaps take them, and the roles of classes.

A class has one of four roles. Traversable and forbidden classes (road, lawn) lie on the ground and
are drawn where they are seen. Obstacles stand on it and hide what is behind them: only their
nearest edge is marked, because a higher pixel would be projected metres behind them. The others
are unknown.
"""

from dataclasses import dataclass
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.vision.camera import Floats
from mnv2_perception.vision.pose import Pose

UNKNOWN, TRAVERSABLE, OBSTACLE, FORBIDDEN = range(4)

FREE_CELL, OCCUPIED_CELL, UNSEEN_CELL = 0, 100, -1  # nav_msgs/OccupancyGrid


@dataclass(frozen=True)
class Scan:
    """The content of a sensor_msgs/LaserScan, in the base frame.

    Attributes:
        ranges_m: (N,) float32: distance to the nearest obstacle; +inf where traversable ground was
            seen up to `range_max_m`; NaN where nothing is known (REP 117).
        angle_min: bearing of the first beam, radians.
        angle_increment: angle between two beams, radians.
        range_max_m: distance up to which +inf holds.
    """

    ranges_m: Floats
    angle_min: float
    angle_increment: float
    range_max_m: float


@dataclass(frozen=True)
class Grid:
    """The content of a nav_msgs/OccupancyGrid, aligned with the axes of its frame.

    Attributes:
        cells: (rows along y, columns along x) int8: 0 free, 100 occupied, −1 unseen.
        origin_x_m: x of the corner of cell (0, 0), a multiple of the resolution.
        origin_y_m: y of that corner, a multiple of the resolution.
        resolution_m: side length of a cell.
    """

    cells: NDArray[np.int8]
    origin_x_m: float
    origin_y_m: float
    resolution_m: float

    @classmethod
    def around(cls, grid_from_base: Pose, size_m: float, resolution_m: float) -> 'Grid':
        """Return an unseen square around the robot that moves by whole cells."""
        count = max(1, round(size_m / resolution_m))
        x, y = np.rint(grid_from_base.translation[:2] / resolution_m - count / 2) * resolution_m
        cells = np.full((count, count), UNSEEN_CELL, np.int8)
        return cls(cells, float(x), float(y), resolution_m)

    def mark(self, points: NDArray[Any], value: int) -> None:
        """Set the cells of points (N, 2 or more) in the grid's frame; ignore points outside."""
        origin = np.array([self.origin_x_m, self.origin_y_m])
        columns, rows = np.floor((points[:, :2] - origin) / self.resolution_m).astype(np.intp).T
        height, width = self.cells.shape
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        self.cells[rows[inside], columns[inside]] = value


def scan_of_points(
    obstacles: NDArray[Any],
    free: NDArray[Any],
    unknown: NDArray[Any],
    angle_min: float,
    angle_max: float,
    angle_increment: float,
    range_max_m: float,
) -> Scan:
    """Make a scan from points in the base frame.

    Args:
        obstacles: (N, 2 or more) the nearest one in each beam counts.
        free: (N, 2 or more) a beam with one of these, and none of the others, is free.
        unknown: (N, 2 or more) a beam with one of these, and no obstacle, is unknown.
        angle_min: bearing of the first beam, radians, positive to the left of x.
        angle_max: bearing of the last beam, radians.
        angle_increment: angle between two beams, radians.
        range_max_m: obstacles beyond it are left out.
    """
    count = 1 + math.floor((angle_max - angle_min) / angle_increment + 1e-6)
    ranges_m = np.full(count, np.nan, np.float32)

    def beams(points: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[Any]]:
        x, y = points[:, 0], points[:, 1]
        turn = np.mod(np.arctan2(y, x) - angle_min + angle_increment / 2, 2 * np.pi)
        beam = np.floor(turn / angle_increment).astype(np.intp)
        distance_m = np.hypot(x, y)
        inside = beam < count
        return beam[inside], distance_m[inside]

    ranges_m[beams(free)[0]] = np.inf
    ranges_m[beams(unknown)[0]] = np.nan
    hit, distance_m = beams(obstacles)
    near = distance_m <= range_max_m
    nearest_m = np.full(count, np.inf, np.float32)
    np.minimum.at(nearest_m, hit[near], distance_m[near])
    np.copyto(ranges_m, nearest_m, where=nearest_m < np.inf)
    return Scan(ranges_m, angle_min, angle_increment, range_max_m)
