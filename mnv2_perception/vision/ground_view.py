"""Project a mask onto flat ground: obstacles at their base, clear ground, a scan and a grid."""

from dataclasses import dataclass
from functools import cached_property
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import CalibrationError
from mnv2_perception.vision.camera import Camera, Floats
from mnv2_perception.vision.costmap import (
    FREE_CELL,
    Grid,
    OBSTACLE,
    OCCUPIED_CELL,
    Scan,
    scan_of_points,
    TRAVERSABLE,
    UNKNOWN,
    UNSEEN_CELL,
)
from mnv2_perception.vision.pose import Doubles, Pose
from mnv2_perception.vision.projection import ground_points, no_ground

_CELL_OF_ROLE = np.array([UNSEEN_CELL, FREE_CELL, UNSEEN_CELL, OCCUPIED_CELL], np.int8)

# A camera that looks straight down has beams all around; more beams would take gigabytes.
_MAX_BEAMS = 4096
_MAX_SIDE_PX = 32766  # pixels are numbered in 16 bits, with one number more for no pixel
_LATTICE = 8  # only every eighth sample and beam is projected; those between are interpolated

# Number of beams to the side at which to look for an overhang; and by how many samples (pixels)
# per beam a base may recede.
_OFFSETS = (-16, -8, -4, -2, -1, 1, 2, 4, 8, 16)
_STEEPEST = 6


@dataclass(frozen=True)
class GroundScene:
    """One mask on the ground, in the base frame, float32 metres.

    Attributes:
        samples: (beams, samples) uint8, roles from near to far.
        edges: (N, 3) points where something begins that is not traversable.
        edge_pixels: (N, 2) int16, columns and rows of the mask's pixels at these points.
        clear: (N, 3) the farthest traversable ground of each beam before its first edge.
        free_ends: (N, 3) ends of beams without an edge that end on traversable ground.
        unknown_ends: (N, 3) ends of the other beams without an edge.
    """

    samples: NDArray[np.uint8]
    edges: Floats
    edge_pixels: NDArray[np.int16]
    clear: Floats
    free_ends: Floats
    unknown_ends: Floats


class GroundView:
    """One camera's view of the ground: the geometry, computed once for many masks.

    The ground is sampled along beams from the camera's foot, in steps of one pixel, so that
    "behind" means "further along the beam", however the camera is turned and whatever its lens.

    Args:
        camera: camera of the masks.
        base_from_camera: pose of its optical frame in a frame with z up and its origin on the
            ground.
        max_range_m: largest distance from the camera's foot.
        max_footprint_m: largest size of a pixel on the ground, see `ground_points`.

    Attributes:
        range_max_m: median distance of the beams' ends from the base's origin.

    Raises:
        CalibrationError: the camera is not above the ground or does not see it, or its images are
            too large.
    """

    def __init__(
        self, camera: Camera, base_from_camera: Pose, max_range_m: float, max_footprint_m: float
    ) -> None:
        self.camera = camera
        self._height_m = float(base_from_camera.translation[2])
        self._foot = base_from_camera.translation[:2]
        if self._height_m <= 0:
            raise CalibrationError(
                f'camera at height {self._height_m:.2f} m, expected it above the ground: z in the '
                f'base frame, whose origin lies on the ground (base_footprint)'
            )
        if max(camera.height, camera.width) > _MAX_SIDE_PX:
            raise CalibrationError(
                f'camera of {camera.height} × {camera.width}, expected at most {_MAX_SIDE_PX} '
                f'pixels a side; resize its images'
            )
        self._limits_m = max_range_m, max_footprint_m
        self._pose = base_from_camera
        self._aim(max_range_m)
        column, row, footprint_m = self._pixels_of_samples()
        invalid = ~(footprint_m <= max_footprint_m)
        for place, length in ((column, camera.width), (row, camera.height)):
            invalid |= ~(np.abs(place - (length - 1) / 2) < length / 2)
        valid = ~invalid
        in_view = np.flatnonzero(valid.any(axis=1))
        if not in_view.size:
            raise no_ground(base_from_camera, max_range_m, max_footprint_m)
        np.copyto(column, -2.0, where=invalid)
        np.copyto(row, 0.0, where=invalid)  # NaN cannot be converted to an integer
        self._pixels, _ = cv2.convertMaps(column, row, cv2.CV_16SC2, nninterpolation=True)
        last = valid.shape[1] - 1 - valid[in_view, ::-1].argmax(axis=1)
        self._ends = in_view, last
        end_points = self._ground(in_view, last)
        self.range_max_m = float(np.median(np.linalg.norm(end_points[:, :2], axis=1)))

    @cached_property
    def points(self) -> Floats:
        """(H, W, 3) float32, the organised cloud of the ground."""
        return ground_points(self.camera, self._pose, *self._limits_m)

    def _aim(self, max_range_m: float) -> None:
        """Compute which bearings and depressions the image covers, from some of its pixels."""
        camera = self.camera
        rays = camera.rays[_some(camera.height)][:, _some(camera.width)].reshape(-1, 3)
        x, y, z = self._pose.rotation @ rays[np.isfinite(rays[:, 0])].T
        depression = np.arctan2(np.hypot(x, y), -z)  # angle from straight down
        farthest = math.atan(max_range_m / self._height_m)
        seen = depression <= farthest
        if not seen.any():
            raise no_ground(self._pose, *self._limits_m)
        x, y, depression = x[seen], y[seen], depression[seen]
        away = np.maximum(np.hypot(x, y), 1e-9)
        self._heading = math.atan2((y / away).sum(), (x / away).sum())
        bearing = np.mod(np.arctan2(y, x) - self._heading + np.pi, 2 * np.pi) - np.pi
        step = 1.0 / max(camera.fx, camera.fy)  # size of a pixel where pixels are densest
        margin = _LATTICE * step  # the pixels in between
        first, last = max(0.0, depression.min() - margin), min(farthest, depression.max() + margin)
        left, right = max(-np.pi, bearing.min() - margin), min(np.pi, bearing.max() + margin)
        # No line across the image has more pixels than this, however the lens magnifies.
        most = 2 * (camera.height + camera.width)
        self._first_depression, self._first_bearing = float(first), float(left)
        self._depression_step = max(step, float(last - first) / most)
        self._bearing_step = max(step, float(right - left) / _MAX_BEAMS)
        self._samples = 1 + math.floor((last - first) / self._depression_step)
        self._beams = 1 + math.ceil((right - left) / self._bearing_step)

    def _pixels_of_samples(self) -> list[Floats]:
        """Find each sample's place in the image, and the size of its pixel on the ground.

        A camera that nods needs it for each image, so only a lattice of samples is projected.

        Returns:
            (beams, samples) columns, rows and metres; NaN where the camera does not look.
        """
        # Placed so that OpenCV's resizing, which aligns corners and not centres, hits the samples.
        beam = _LATTICE * np.arange(-1, -(-self._beams // _LATTICE) + 1) + (_LATTICE - 1) / 2
        sample = _LATTICE * np.arange(-1, -(-self._samples // _LATTICE) + 1) + (_LATTICE - 1) / 2
        bearing = self._heading + self._first_bearing + beam[:, None] * self._bearing_step
        depression = self._first_depression + sample * self._depression_step
        down, away = np.cos(depression), np.sin(depression)
        looks = np.empty((len(beam), len(sample), 3))  # directions: finite and smooth
        looks[..., 0] = away * np.cos(bearing)
        looks[..., 1] = away * np.sin(bearing)
        looks[..., 2] = -down
        pixels = self.camera.project(looks @ self._pose.rotation, 4.0 * _LATTICE)
        # A pixel's size on the ground, from one step along the beam and one to the next beam.
        ahead = np.gradient(pixels, _LATTICE, axis=1)
        aside = np.gradient(pixels, _LATTICE, axis=0)
        down = np.maximum(down, 1e-3)
        ahead_m = self._height_m * self._depression_step / (down * down)
        aside_m = self._height_m * np.abs(away) / down * self._bearing_step
        area = np.abs(ahead[..., 0] * aside[..., 1] - ahead[..., 1] * aside[..., 0])
        with np.errstate(divide='ignore', invalid='ignore'):
            steps = [
                np.hypot(aside[..., axis] * ahead_m, ahead[..., axis] * aside_m) / area
                for axis in (0, 1)
            ]
        size = len(sample) * _LATTICE, len(beam) * _LATTICE
        inside = np.s_[_LATTICE:_LATTICE + self._beams, _LATTICE:_LATTICE + self._samples]
        planes = pixels[..., 0], pixels[..., 1], np.maximum(*steps).astype(np.float32)
        return [
            cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)[inside].copy()
            for plane in planes
        ]

    def _ground(self, beam: NDArray[Any], sample: NDArray[Any]) -> Floats:
        """Return the (..., 3) points on the ground of samples."""
        distance_m = self._height_m * np.tan(
            self._first_depression + sample * self._depression_step
        )
        bearing = self._heading + self._first_bearing + beam * self._bearing_step
        points = np.zeros((*np.shape(distance_m), 3), np.float32)
        points[..., 0] = self._foot[0] + distance_m * np.cos(bearing)
        points[..., 1] = self._foot[1] + distance_m * np.sin(bearing)
        return points

    def look(self, ids: NDArray[np.uint8], role_of_id: NDArray[np.uint8]) -> GroundScene:
        """Project a mask onto the ground.

        Args:
            ids: (H, W) class ids.
            role_of_id: (256,) UNKNOWN, TRAVERSABLE, OBSTACLE or FORBIDDEN for each id.

        Raises:
            CalibrationError: the mask does not have the camera's size.
        """
        self.camera.require_size(*ids.shape)
        samples = np.asarray(
            cv2.remap(
                cv2.LUT(ids, role_of_id), self._pixels, None, cv2.INTER_NEAREST,
                borderMode=cv2.BORDER_CONSTANT, borderValue=UNKNOWN,
            ),
            np.uint8,
        )  # (beams, samples)
        beams, length = samples.shape
        begins = np.ones(samples.shape, np.bool_)
        np.not_equal(samples[:, 1:], samples[:, :-1], out=begins[:, 1:])
        run = np.flatnonzero(begins)
        role = samples.ravel()[run]
        # Unknown samples neither begin nor end anything: masks are uncertain at their borders.
        run, role = run[role != UNKNOWN], role[role != UNKNOWN]
        beam, sample = np.divmod(run, length)
        new = np.ones(len(run), np.bool_)
        new[1:] = (beam[1:] != beam[:-1]) | (role[1:] != role[:-1])
        is_edge = new & (role != TRAVERSABLE)
        beam, sample, role = beam[is_edge], sample[is_edge], role[is_edge]
        first_edge = np.full(beams, length)
        np.minimum.at(first_edge, beam, sample)
        kept = (role != OBSTACLE) | ~_overhangs(samples, beam, sample)
        beam, sample = beam[kept], sample[kept]
        has_edge = np.zeros(beams, np.bool_)
        has_edge[beam] = True
        edges = self._ground(beam, sample - 0.5)  # between this sample and the one before

        clear = (samples == TRAVERSABLE) & (np.arange(length) < first_edge[:, None])
        farthest = length - 1 - clear[:, ::-1].argmax(axis=1)
        has_clear = np.flatnonzero(clear[np.arange(beams), farthest])

        end_beam, end = self._ends
        is_open = ~has_edge[end_beam]
        is_free = (first_edge[end_beam] == length) & (samples[end_beam, end] == TRAVERSABLE)
        ends = self._ground(end_beam, end)
        return GroundScene(
            samples=samples,
            edges=edges,
            edge_pixels=self._pixels[beam, sample],
            clear=self._ground(has_clear, farthest[has_clear]),
            free_ends=ends[is_free],
            unknown_ends=ends[is_open & ~is_free],
        )

    def grid(
        self, scene: GroundScene, grid_from_base: Pose, size_m: float, resolution_m: float
    ) -> Grid:
        """Draw a scene into a grid around the robot.

        Each cell takes the role that was seen at its centre, so that no cell is left out far away,
        where pixels are larger than cells; edges are marked one by one, so that none is missed
        nearby.

        Args:
            scene: result of `look` of this view.
            grid_from_base: pose of the base in the grid's frame; only x, y and yaw count.
            size_m: side length of the square.
            resolution_m: side length of a cell.
        """
        grid = Grid.around(grid_from_base, size_m, resolution_m)
        yaw, place = grid_from_base.yaw, grid_from_base.translation[:2]
        foot = _turned(self._foot, yaw) + place
        count = len(grid.cells)
        middles = (np.arange(count) + 0.5) * resolution_m
        x = (middles + (grid.origin_x_m - foot[0])).astype(np.float32)[None, :]
        y = (middles + (grid.origin_y_m - foot[1])).astype(np.float32)[:, None]
        turn = -(yaw + self._heading)
        c, s = np.float32(math.cos(turn)), np.float32(math.sin(turn))
        ahead, left = c * x - s * y, s * x + c * y
        depression = np.arctan(np.sqrt(x * x + y * y) / np.float32(self._height_m))
        bearing = np.arctan2(left, ahead)
        sample = (depression - np.float32(self._first_depression)) / self._depression_step
        beam = (bearing - np.float32(self._first_bearing)) / self._bearing_step
        roles = cv2.remap(
            scene.samples, sample.astype(np.float32), beam.astype(np.float32), cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT, borderValue=UNKNOWN,
        )
        np.take(_CELL_OF_ROLE, roles, out=grid.cells)
        grid.mark(_turned(scene.edges[:, :2], yaw) + place, OCCUPIED_CELL)
        return grid

    def scan(
        self, scene: GroundScene, angle_min: float, angle_max: float, angle_increment: float
    ) -> Scan:
        """Make a scan of a scene, see `scan_of_points`."""
        return scan_of_points(
            scene.edges, scene.free_ends, scene.unknown_ends, angle_min, angle_max,
            angle_increment, self.range_max_m,
        )


def _overhangs(
    samples: NDArray[np.uint8], beam: NDArray[np.intp], sample: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Tell which obstacle edges are not a base, because something sticks out from what is nearer.

    The upright side of an obstacle runs along a beam, so an elbow, or a mask's ragged side, would
    put an edge metres behind it. The base of a wall may recede from beam to beam, too, but not as
    fast: by more than `_STEEPEST` only if its line passes the camera within a fraction of the
    camera's height.

    Args:
        samples: (beams, samples) uint8, roles.
        beam: (N,) beam of each edge, ascending.
        sample: (N,) sample of each edge, ascending within a beam.

    Returns:
        (N,) bool.
    """
    beams, length = samples.shape
    edge = beam * length + sample  # ascending
    overhangs = np.zeros(len(edge), np.bool_)
    for offset in _OFFSETS:
        beside = beam + offset
        inside = (beside >= 0) & (beside < beams)
        at = edge[inside] + offset * length
        # The edge where the thing at this sample begins. Some are of forbidden ground: no harm.
        begin = edge[np.searchsorted(edge, at, side='right') - 1]
        same_beam = begin // length == at // length
        recedes = at - begin > _STEEPEST * abs(offset)
        overhangs[inside] |= same_beam & recedes & (samples.ravel()[at] == OBSTACLE)
    return overhangs


def _some(length: int) -> NDArray[np.intp]:
    """Return the indices of every `_LATTICE`-th row or column, and of the last one."""
    return np.append(np.arange(0, length - 1, _LATTICE), length - 1)


def _turned(xy: NDArray[Any], angle: float) -> Doubles:
    """Rotate (..., 2) by an angle, radians."""
    c, s = math.cos(angle), math.sin(angle)
    turned: Doubles = xy @ np.array([[c, s], [-s, c]])
    return turned
