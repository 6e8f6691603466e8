"""Compute the height and tilt of a camera over flat ground from one picture of known marks on it.

A checkerboard on the ground gives height, pitch and roll; lines across the view at known distances
give height and pitch. Neither gives the position of the robot's base, or the camera's heading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import CalibrationError
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, Doubles, Pose

ACROSS_M = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
ALONG_M = (-2.0, -1.0, 0.0, 1.0, 2.0)
LINE = (255, 220, 0)
MAX_ERROR_PX = 2.0
MIN_SQUARE_PX = 7.0
CORNER_PX = 0.2  # corners are never found more precisely than this


@dataclass(frozen=True)
class FloorPose:
    """Height and tilt of a camera over flat ground.

    Attributes:
        height_m: height of the optical centre above the ground.
        pitch_rad: positive: looks down.
        roll_rad: roll about the viewing direction, as camera_roll_rad.
        error_px: root mean square of the reprojection errors, in pixels.
    """

    height_m: float
    pitch_rad: float
    roll_rad: float
    error_px: float

    @property
    def ground_from_camera(self) -> Pose:
        """Pose of the optical frame relative to the point of the ground below it."""
        body = Pose.from_rpy(0.0, 0.0, self.height_m, self.roll_rad, self.pitch_rad, 0.0)
        return body @ BODY_FROM_OPTICAL


def find_board(image: NDArray[np.uint8], columns: int, rows: int) -> Doubles:
    """Find the inner corners of a checkerboard with subpixel precision.

    Args:
        image: (H, W, 3) uint8 RGB.
        columns: number of inner corners in a row, 3 or more: one less than the squares.
        rows: number of rows of inner corners, 3 or more.

    Returns:
        (rows · columns, 2) float64: column and row in the image, row by row.

    Raises:
        CalibrationError: the board is not found, or too small.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    flags = cv2.CALIB_CB_EXHAUSTIVE | cv2.CALIB_CB_ACCURACY | cv2.CALIB_CB_NORMALIZE_IMAGE
    found, corners = cv2.findChessboardCornersSB(gray, (columns, rows), flags=flags)
    if not found:
        raise CalibrationError(
            f'no checkerboard of {columns} × {rows} inner corners found; count the corners where '
            f'four squares meet, show the whole board with its white rim, sharp, without glare, '
            f'and from near'
        )
    grid = np.asarray(corners, np.float64).reshape(rows, columns, 2)
    across, down = np.diff(grid, axis=1)[:-1], np.diff(grid, axis=0)[:, :-1]
    area = np.abs(across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0])
    spacing_px = (area / np.maximum(*(np.hypot(*side.T).T for side in (across, down)))).min()
    if spacing_px < MIN_SQUARE_PX:
        raise CalibrationError(
            f'the squares are only {spacing_px:.1f} pixels high, expected {MIN_SQUARE_PX:g} or '
            f'more; lay the board nearer, or take larger squares'
        )
    half = int(np.clip(spacing_px / 3, 2, 7))  # of a search window that contains only one corner
    criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 50, 1e-3)
    corners = cv2.cornerSubPix(gray, corners, (half, half), (-1, -1), criteria)
    return np.asarray(corners, np.float64).reshape(-1, 2)


def pose_from_board(
    camera: Camera, corners: NDArray[Any], columns: int, rows: int, square_m: float
) -> FloorPose:
    """Compute a camera's pose from a checkerboard that lies flat on the ground.

    Infinitesimal plane-based pose estimation (Collins and Bartoli, 2014), which gives both poses
    that a plane allows, then least squares (Levenberg-Marquardt).

    Args:
        camera: calibration of the camera.
        corners: (rows · columns, 2) from `find_board`, pixels.
        columns: number of inner corners in a row.
        rows: number of rows of inner corners.
        square_m: side length of a square, metres.

    Raises:
        CalibrationError: the corners do not fit a flat board.
    """
    row, column = np.divmod(np.arange(rows * columns), columns)
    board = np.stack([column, row, np.zeros_like(row)], axis=1) * square_m
    seen = np.ascontiguousarray(_rays_at(camera, corners)[:, :2])
    ideal, straight = np.eye(3), np.zeros(4)
    _, turns, shifts, _ = cv2.solvePnPGeneric(
        board, seen, ideal, straight, flags=cv2.SOLVEPNP_IPPE
    )
    poses = []
    for turn, shift in zip(turns, shifts, strict=True):
        turn, shift = cv2.solvePnPRefineLM(board, seen, ideal, straight, turn, shift)
        again = cv2.projectPoints(board, turn, shift, ideal, straight)[0].reshape(-1, 2)
        off_px = (again - seen) * (camera.fx, camera.fy)
        up = cv2.Rodrigues(turn)[0][:, 2]
        if up @ shift.ravel() > 0:  # the order of the corners may turn the board's z axis down
            up = -up
        poses.append(FloorPose(
            -float(up @ shift.ravel()), -math.asin(np.clip(up[2], -1.0, 1.0)),
            math.atan2(-up[0], -up[1]), math.sqrt(np.square(off_px).sum(axis=1).mean()),
        ))
    least_px = min(pose.error_px for pose in poses)
    # From afar, a flat board looks the same from a camera that is turned upside down.
    alike = [pose for pose in poses if pose.error_px < 2 * max(least_px, CORNER_PX)]
    best = min(alike, key=lambda pose: abs(pose.roll_rad))
    if not best.error_px < MAX_ERROR_PX:
        raise CalibrationError(
            f'the corners are {best.error_px:.1f} pixels away from those of a flat board, '
            f"expected less than {MAX_ERROR_PX:g}; lay it flat, and give this camera's own "
            f'calibration'
        )
    return best


def pose_from_lines(
    camera: Camera, rows_px: Sequence[float], distances_m: Sequence[float],
    height_m: float | None = None,
) -> FloorPose:
    """Compute the pose of a camera without roll from lines on the ground across its view.

    For a line at distance d, seen at angle a below the optical axis, tan(pitch + a) = height / d.

    Args:
        camera: calibration of the camera.
        rows_px: row at which each line crosses the middle column of the picture.
        distances_m: distance of each line, along the ground from the point below the camera.
        height_m: measured height of the camera; None: computed from two lines or more. If two
            lines allow two heights, the smaller one is returned, which is below the root of the
            product of their distances; a third line, or the height, decides otherwise.

    Raises:
        CalibrationError: a row is not in the picture, there are too few lines, or they contradict
            each other.
    """
    outside = [row for row in rows_px if not 0 <= row <= camera.height - 1]
    if outside:
        raise CalibrationError(
            f'row {outside[0]:g} is not in the picture, expected 0 to {camera.height - 1}'
        )
    if len(set(distances_m)) < (2 if height_m is None else 1):
        raise CalibrationError(
            'one line does not determine height and pitch; give a second line at another '
            'distance, or the height'
        )
    distances = np.asarray(distances_m, np.float64)
    pixels = np.stack([np.full(len(distances), camera.cx), rows_px], axis=1)
    below_rad = np.arctan(_rays_at(camera, pixels)[:, 1])
    heights = np.geomspace(0.01, 100.0, 40001) if height_m is None else np.array([height_m])
    pitches = (np.arctan2(heights[:, None], distances) - below_rad).mean(axis=1)
    angles = np.arctan2(heights[:, None], distances) - pitches[:, None]
    off_px = (np.tan(angles) - np.tan(below_rad)) * camera.fy
    errors = np.sqrt(np.square(off_px).mean(axis=1))
    beside = np.pad(errors, 1, constant_values=np.inf)
    fits = (errors <= beside[2:]) & (errors <= beside[:-2]) & (errors <= errors.min() + 0.1)
    least = int(np.flatnonzero(fits)[0])
    if not errors[least] < MAX_ERROR_PX:
        raise CalibrationError(
            f'no camera pose fits the lines: they are {errors[least]:.1f} pixels off, expected '
            f'less than {MAX_ERROR_PX:g}; measure distances along the ground from the point below '
            f'the camera, and rows from the top of the picture'
        )
    return FloorPose(float(heights[least]), float(pitches[least]), 0.0, float(errors[least]))


def draw_floor(image: NDArray[Any], camera: Camera, pose: FloorPose) -> NDArray[Any]:
    """Draw lines of the ground over a picture, to be compared with the visible scene.

    Args:
        image: (H, W, 3) uint8 RGB.
        camera: calibration of the camera.
        pose: pose of the camera.

    Returns:
        A new picture, with lines across at `ACROSS_M` ahead, and lines along at `ALONG_M` to the
        left.
    """
    picture: NDArray[Any] = image.copy()
    camera_from_ground = pose.ground_from_camera.inverse()
    lines = [(np.full(200, x), np.linspace(ALONG_M[0], ALONG_M[-1], 200)) for x in ACROSS_M]
    lines += [(np.geomspace(0.05, ACROSS_M[-1], 200), np.full(200, y)) for y in ALONG_M]
    for x, y in lines:
        places = camera.project(camera_from_ground.apply(np.stack([x, y, 0 * x], axis=1)))
        ends = np.rint(np.nan_to_num(places, nan=-1.0)).astype(int)
        seen = np.isfinite(places[:, 0])
        for begin in np.flatnonzero(seen[:-1] & seen[1:]):
            cv2.line(picture, ends[begin].tolist(), ends[begin + 1].tolist(), LINE, 1,
                     cv2.LINE_AA)
    for ahead_m in ACROSS_M:
        place = camera.project(camera_from_ground.apply(np.array([[ahead_m, 0.0, 0.0]])))[0]
        if np.isfinite(place[0]):
            at = int(place[0]) + 3, int(place[1]) - 3
            for colour, thickness in (((0, 0, 0), 3), (LINE, 1)):
                cv2.putText(picture, f'{ahead_m:g} m', at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour,
                            thickness, cv2.LINE_AA)
    return picture


def _rays_at(camera: Camera, pixels: NDArray[Any]) -> Doubles:
    """Return (N, 3) rays, z = 1, of (N, 2) columns and rows, interpolated between pixels.

    Raises:
        CalibrationError: one is where the lens model has no inverse.
    """
    limits = np.array([camera.width, camera.height]) - 2
    corner = np.clip(np.floor(pixels), 0, limits).astype(int)
    (u, v), (right, down) = corner.T, (pixels - corner).T[..., None]
    rays = camera.rays.astype(np.float64)
    found: Doubles = (
        (rays[v, u] * (1 - right) + rays[v, u + 1] * right) * (1 - down)
        + (rays[v + 1, u] * (1 - right) + rays[v + 1, u + 1] * right) * down
    )
    if not np.isfinite(found).all():
        raise CalibrationError(
            'some points lie where the lens model cannot be inverted; bring them nearer to the '
            "picture's middle, or calibrate the camera again"
        )
    return found
