"""Boxes in space: for each box in an image, the nearest thing that was measured in its middle.

Nothing is guessed: a box extends as far as points were measured. So it has no depth behind the
visible side of an object, and if nothing was measured in its middle, or nothing stands out there,
it is not placed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import CalibrationError
from mnv2_perception.vision.camera import Floats
from mnv2_perception.vision.optical import view_axis
from mnv2_perception.vision.pose import Doubles, Pose

# As a fraction of the box's sides: the object is in its middle, the background at its rim.
_MIDDLE = 0.5
# As a fraction of the middle's points: an object has at least this many, a thin pole fewer.
_SHARE = 0.2
# Resolution of depth, relative to the depth, because a stereo camera's noise grows with it.
_RESOLUTION = 0.03
# As a fraction of the middle's points: fewer at one depth are mixed pixels between two things.
_DENSE = 0.02
# The rest of the object is at most this much nearer or farther than its middle, or half as deep.
_MARGIN_M = 0.1
# Percentage of the points on either side that do not count for its size.
_TRIM = 2.0
_MOST_POINTS = 5000  # per box; of a larger one, only every second or third row and column


@dataclass(frozen=True, eq=False)
class Box3D:
    """A box that is aligned with the axes of its frame.

    Attributes:
        centre: (3,) float64, metres.
        size: (3,) float64, metres along x, y and z.
    """

    centre: Doubles
    size: Doubles


def place_boxes(
    points: Floats,
    base_from_camera: Pose,
    boxes: Doubles,
    image: tuple[int, int],
    min_height_m: float,
    min_points: int,
) -> list[Box3D | None]:
    """Find where the objects in boxes are.

    Args:
        points: (H, W, 3) in the base frame, NaN where nothing was measured; their pixels are those
            of the image, resized.
        base_from_camera: pose of the image's camera.
        boxes: (N, 4) x1, y1, x2, y2 in pixels of the image; x2 and y2 are exclusive.
        image: height and width of the image.
        min_height_m: lower points are left out.
        min_points: number of points needed in the middle of a box, and on the object.

    Returns:
        For each box, that of the nearest object in its middle, along the base frame's axes; None
        if there is none.

    Raises:
        CalibrationError: a box is not in this image.
    """
    with np.errstate(invalid='ignore', over='ignore'):  # boxes that are not finite are not placed
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    outside = ((middles < 0) | (middles > image[::-1])) & np.isfinite(middles)
    if outside.any():
        x, y = middles[outside.any(axis=1)][0]
        raise CalibrationError(
            f'a box around ({x:.0f}, {y:.0f}) is not in the image of {image[0]} × {image[1]} of '
            f"camera_info; remap camera_info to that of the detector's image"
        )
    ahead = view_axis(points, base_from_camera)
    scale = np.array([points.shape[1] / image[1], points.shape[0] / image[0]] * 2)
    return [
        _place(points, base_from_camera.translation, ahead, box, min_height_m, min_points)
        for box in boxes * scale
    ]


def _place(
    points: Floats, camera: Doubles, ahead: Doubles, box: Doubles, min_height_m: float,
    min_points: int,
) -> Box3D | None:
    if not np.isfinite(box).all():
        return None
    inside = _cut(points, box)
    step = max(1, math.ceil(math.sqrt(inside.shape[0] * inside.shape[1] / _MOST_POINTS)))
    inside = inside[::step, ::step]
    with np.errstate(invalid='ignore'):  # some points are not finite
        depth_m = (inside - camera) @ ahead
    counts = (inside[..., 2] >= min_height_m) & (depth_m > 0) & (depth_m < np.inf)
    depth_m[~counts] = np.nan
    middle = _cut(depth_m, _shrunk(depth_m.shape))
    middle = middle[np.isfinite(middle)]
    if len(middle) < min_points:
        return None
    thing = _nearest_thing(middle)
    if len(thing) < min_points:
        return None
    near, far = thing.min(), thing.max()
    margin = max(_MARGIN_M, (far - near) / 2)
    of_thing = inside[(depth_m >= near - margin) & (depth_m <= far + margin)]
    low, high = np.percentile(of_thing.astype(np.float64), (_TRIM, 100.0 - _TRIM), axis=0)
    return Box3D((low + high) / 2, high - low)


def _cut(pixels: NDArray[Any], box: Sequence[float] | Doubles) -> NDArray[Any]:
    """Return the pixels (h, w, …) whose centres are in a box."""
    height, width = pixels.shape[:2]
    x1, x2 = np.ceil(np.clip((box[0], box[2]), 0, width) - 0.5).astype(int)
    y1, y2 = np.ceil(np.clip((box[1], box[3]), 0, height) - 0.5).astype(int)
    inside: NDArray[Any] = pixels[y1:y2, x1:x2]
    return inside


def _shrunk(shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Return the middle of a whole image (H, W) as a box."""
    height, width = shape
    left, top = (1 - _MIDDLE) / 2 * width, (1 - _MIDDLE) / 2 * height
    return left, top, width - left, height - top


def _nearest_thing(depth_m: NDArray[Any]) -> NDArray[Any]:
    """Return the depths (N,) of the nearest object among these depths; N may be 0."""
    level = np.floor(np.log(depth_m) / _RESOLUTION).astype(int)
    level -= level.min()
    dense = np.bincount(level) >= max(2.0, _DENSE * len(level))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], dense, [False]]).astype(np.int8)))
    for first, end in edges.reshape(-1, 2):
        thing: NDArray[Any] = depth_m[(level >= first) & (level < end)]
        if len(thing) >= _SHARE * len(depth_m):
            return thing
    return np.empty(0)
