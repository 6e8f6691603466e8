"""A camera_info without ROS, and a box on flat ground rendered in closed form."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.pose import Pose

PLUMB_BOB = (-0.32, 0.11, 0.0007, -0.0004, -0.02)
RATIONAL = (0.55, -2.4, 0.0005, -0.0002, 1.45, 0.43, -2.2, 1.38)
FISHEYE = (-0.02, 0.004, -0.003, 0.0006)


@dataclass
class Roi:
    x_offset: int = 0
    y_offset: int = 0
    height: int = 0
    width: int = 0


@dataclass
class Info:
    """A sensor_msgs/CameraInfo without ROS."""

    height: int = 480
    width: int = 640
    distortion_model: str = 'plumb_bob'
    d: tuple[float, ...] = (0.0,) * 5
    k: tuple[float, ...] = (500.0, 0.0, 321.0, 0.0, 505.0, 238.0, 0.0, 0.0, 1.0)
    r: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    p: tuple[float, ...] = (
        450.0, 0.0, 330.0, -20.0, 0.0, 450.0, 240.0, 0.0, 0.0, 0.0, 1.0, 0.0,
    )
    binning_x: int = 0
    binning_y: int = 0
    roi: Roi = field(default_factory=Roi)


SKY, ROAD, BOX = range(3)


def draw_box(
    camera: Camera,
    base_from_camera: Pose,
    low: tuple[float, float, float] = (0.0, 0.0, 0.0),
    high: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Cast a ray through each pixel's middle.

    Args:
        camera: a camera without distortion, or one whose rays other tests verify.
        base_from_camera: pose of its optical frame above the ground z = 0.
        low: corner of the box (metres, base frame); no box if it has no volume.
        high: opposite corner.

    Returns:
        Class ids (H, W) and depth (H, W) along the optical axis, metres, inf for the sky.
    """
    origin = base_from_camera.translation
    rays = camera.rays.astype(np.float64) @ base_from_camera.rotation.T
    with np.errstate(divide='ignore', invalid='ignore'):
        ground = -origin[2] / rays[..., 2]
        planes = np.stack([(np.array(corner) - origin) / rays for corner in (low, high)])
    ground = np.where(ground > 0, ground, np.inf)
    enter, leave = planes.min(axis=0).max(axis=-1), planes.max(axis=0).min(axis=-1)
    hit = (enter < leave) & (enter > 0) & (enter < ground)
    depth = np.where(hit, enter, ground)
    ids = np.where(hit, BOX, np.where(np.isfinite(ground), ROAD, SKY))
    return ids.astype(np.uint8), depth.astype(np.float32)


def draw_before_wall(
    camera: Camera,
    base_from_camera: Pose,
    low: tuple[float, float, float],
    high: tuple[float, float, float],
    wall_x: float,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Draw a box on the ground in front of a wall perpendicular to x.

    Args:
        camera: as in `draw_box`.
        base_from_camera: as in `draw_box`.
        low: corner of the box.
        high: opposite corner.
        wall_x: position of the wall's front, metres.

    Returns:
        Depth (H, W), and a detector's result: (1, 4) x1, y1, x2, y2 around the box, px.
    """
    ids, depth_m = draw_box(camera, base_from_camera, low, high)
    wall = (wall_x, -60.0, -1.0), (wall_x + 1.0, 60.0, 60.0)
    _, wall_m = draw_box(camera, base_from_camera, *wall)
    rows, columns = np.nonzero((ids == BOX) & (depth_m <= wall_m))
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return np.minimum(depth_m, wall_m), np.array([box], np.float64)
