"""Turn pixels into points: on the ground plane, or by measured depth.

Clouds are organised: (H, W, 3) float32, metres, NaN where nothing is known; pixel i is point i.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import CalibrationError
from mnv2_perception.vision.camera import Camera, Floats
from mnv2_perception.vision.optical import looks_up, NOT_OPTICAL
from mnv2_perception.vision.pose import Pose


def ground_points(
    camera: Camera, base_from_camera: Pose, max_range_m: float, max_footprint_m: float
) -> Floats:
    """Find where each pixel's ray meets the ground, the plane z = 0 of the base frame.

    Args:
        camera: camera of the image.
        base_from_camera: pose of its optical frame in a base frame with z up.
        max_range_m: largest distance from the camera's foot.
        max_footprint_m: largest distance on the ground between neighbouring pixels. It grows with
            the square of the distance: far away, a mask that is off by one pixel is off by metres.

    Returns:
        (H, W, 3) float32 in the base frame; NaN above the horizon and beyond the two limits.

    Raises:
        CalibrationError: no pixel sees the ground.
    """
    x, y, z = cv2.split(cv2.transform(camera.rays, base_from_camera.rotation))  # (H, W) each
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        scale = np.float32(-base_from_camera.translation[2]) / z
        scale[scale <= 0] = np.nan
        x, y = x * scale, y * scale  # relative to the camera's foot
        steps = np.zeros_like(x)
        for axis in (0, 1):
            step = cv2.magnitude(np.diff(x, axis=axis), np.diff(y, axis=axis))
            # At the end of the image, take the step from the previous pixel.
            last = step[-1:] if axis == 0 else step[:, -1:]
            steps = np.maximum(steps, np.concatenate([step, last], axis=axis))
        valid = (cv2.magnitude(x, y) <= max_range_m) & (steps <= max_footprint_m)
    if not valid.any():
        raise no_ground(base_from_camera, max_range_m, max_footprint_m)
    lost = np.where(valid, np.float32(0), np.float32(np.nan))
    place = base_from_camera.translation.astype(np.float32)
    points: Floats = cv2.merge([x + (place[0] + lost), y + (place[1] + lost), lost])
    return points


def no_ground(
    base_from_camera: Pose, max_range_m: float, max_footprint_m: float
) -> CalibrationError:
    """Return the error for a camera that sees no ground within the limits of `ground_points`."""
    cure = 'correct its pose (a positive pitch looks down) or raise these limits'
    if looks_up(base_from_camera):
        cure += f'; in its frame {NOT_OPTICAL}'
    return CalibrationError(
        f'camera at height {base_from_camera.translation[2]:.2f} m, looking along '
        f'{np.round(base_from_camera.rotation[:, 2], 2).tolist()} (x ahead, y left, z up): no '
        f'pixel sees ground within {max_range_m} m and {max_footprint_m} m a pixel; {cure}'
    )


def depth_points(depth_m: Floats, camera: Camera) -> Floats:
    """Convert depth to points.

    Args:
        depth_m: (H, W) float32, along the optical axis; values that are not positive and finite
            are invalid.
        camera: camera that measured it, or that it was registered to.

    Returns:
        (H, W, 3) float32 in the camera's optical frame; NaN where depth is invalid.

    Raises:
        CalibrationError: depth and camera differ in size.
    """
    camera.require_size(*depth_m.shape)
    valid = (depth_m > 0) & (depth_m < np.inf)
    points: Floats = camera.rays * np.where(valid, depth_m, np.float32(np.nan))[..., None]
    return points


def register_depth(
    depth_m: Floats, depth_camera: Camera, camera: Camera, camera_from_depth: Pose
) -> Floats:
    """Convert a depth camera's image to what another camera would measure.

    Each depth pixel falls on one pixel of the other camera, and the nearest wins. So if that
    camera has more pixels than the depth camera, holes remain: resize it to fewer.

    Args:
        depth_m: (H, W) float32, as in `depth_points`.
        depth_camera: camera that measured it.
        camera: the other camera, usually the colour camera.
        camera_from_depth: pose of the depth camera's optical frame in that of the other.

    Returns:
        Depth (camera.height, camera.width) float32 along the other camera's optical axis, NaN
        where nothing was measured.
    """
    points = depth_points(depth_m, depth_camera).reshape(-1, 3)
    points = camera_from_depth.apply(points[np.isfinite(points[:, 0])])
    pixels = camera.project(points)
    seen = np.isfinite(pixels[:, 0])
    column, row = np.rint(pixels[seen]).astype(np.intp).T
    registered = np.full(camera.height * camera.width, np.inf, np.float32)
    np.minimum.at(registered, row * camera.width + column, points[seen, 2])
    registered[np.isinf(registered)] = np.nan
    return registered.reshape(camera.height, camera.width)


def pixel_offset(points: Floats, camera: Camera, camera_from_points: Pose) -> float:
    """Return how far the pixels of an organised cloud are from those of a camera's image.

    Args:
        points: (H, W, 3), NaN where nothing was measured.
        camera: camera of the image.
        camera_from_points: pose of the cloud's frame in the camera's optical frame.

    Returns:
        The median, as a fraction of the image's width; 0 if too few points are in the image.
    """
    rows, columns = (slice(None, None, max(1, size // 32)) for size in points.shape[:2])
    at = np.moveaxis(np.mgrid[:points.shape[0], :points.shape[1]], 0, -1)[rows, columns, ::-1]
    scale = np.array([camera.width / points.shape[1], camera.height / points.shape[0]])
    pixels = camera.project(camera_from_points.apply(points[rows, columns]))
    off = np.linalg.norm(pixels - ((at + 0.5) * scale - 0.5), axis=-1)
    off = off[np.isfinite(off)]
    return float(np.median(off)) / camera.width if len(off) > 50 else 0.0


def points_of(
    points: NDArray[Any], ids: NDArray[np.uint8], wanted: NDArray[np.bool_]
) -> Floats:
    """Return the finite points of some classes.

    Args:
        points: (H, W, 3).
        ids: (H, W) class ids.
        wanted: (256,) bool by class id.

    Returns:
        (N, 3) float32, N may be 0.
    """
    picked = points[cv2.LUT(ids, wanted.astype(np.uint8)).view(np.bool_)]
    x, y, z = picked.T
    return np.asarray(picked[np.isfinite(x + y + z)], np.float32)


def resize_points(points: Floats, height: int, width: int) -> Floats:
    """Resize an organised cloud to (height, width, 3) without interpolation, like `resize_ids`."""
    if points.shape[:2] == (height, width):
        return points
    size = (width, height)
    return np.asarray(cv2.resize(points, size, interpolation=cv2.INTER_NEAREST_EXACT), np.float32)
