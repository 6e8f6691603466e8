"""A robot's drive through one drawn hall: hall, camera and light stay, the view moves."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import count
import math

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.scenes.hall import Bytes, camera_rays, draw_view, Hall, OBSTACLE
from mnv2_perception.scenes.street import check_view

SPEED_M_S = 0.8
ROBOT_HALF_M = 0.45  # with room to spare
START_M, STOP_M = 1.0, 4.0  # from the hall's beginning, and before its end


@dataclass(frozen=True)
class HallDrive:
    """What stays the same over one drive.

    Attributes:
        hall: where it is.
        lane_x_m: on which line along the hall, where nothing stands.
        camera_height_m: above the floor.
        camera_pitch_rad: positive looks down.
        focal: focal length in widths of the picture.
    """

    hall: Hall
    lane_x_m: float
    camera_height_m: float
    camera_pitch_rad: float
    focal: float


@lru_cache(maxsize=8)
def hall_drive_of(seed: int) -> HallDrive:
    """Return one seed's drive, through a hall with things in it and a free lane between them."""
    for attempt in count():
        rng = np.random.default_rng((seed, attempt))
        hall = Hall(rng)
        things = [box for box in hall.boxes if box.class_id == OBSTACLE and box.low == 0.0]
        lanes = [x for x in np.linspace(-0.6, 0.6, 13) * hall.half if _free(hall, x)]
        if hall.end > 12.0 and len(things) >= 3 and lanes:
            return HallDrive(
                hall, min(lanes, key=abs), rng.uniform(0.5, 0.9), rng.uniform(0.05, 0.2),
                0.5 / math.tan(math.radians(rng.uniform(60, 75)) / 2),
            )
    raise AssertionError


def _free(hall: Hall, x: float) -> bool:
    return all(
        abs(x - box.middle[0]) > box.half[0] + ROBOT_HALF_M
        for box in hall.boxes if box.middle[1] - box.half[1] < hall.end - STOP_M + 1.0
    )


def draw_scene(seed: int, time_s: float, height: int, width: int) -> tuple[Bytes, Bytes]:
    """Draw one frame of a drive, and its labels.

    The robot goes to the hall's end and, backwards, to its beginning, and so on.

    Args:
        seed: which drive, 0 or more.
        time_s: seconds since its start, 0 or more.
        height: of the frame, pixels, 64 or more.
        width: of the frame, pixels, 64 or more.

    Returns:
        The image, (height, width, 3) uint8 RGB, and its class ids, (height, width) uint8, indices
        into ``hall.HALL_CLASSES``. Both are new arrays.

    Raises:
        ImageError: the size is too small, or ``seed`` or ``time_s`` is negative or not finite.
    """
    check_view(seed, time_s, height, width)
    drive = hall_drive_of(seed)
    way_m = drive.hall.end - STOP_M - START_M
    gone_m = way_m - abs(SPEED_M_S * time_s % (2 * way_m) - way_m)
    eye = np.array([drive.lane_x_m, drive.camera_height_m, START_M + gone_m])
    rays = camera_rays(height, width, drive.focal * width, 0.0, drive.camera_pitch_rad, 0.0)
    return draw_view(drive.hall, np.random.default_rng((seed, 1)), eye, rays)


def camera_matrix(seed: int, height: int, width: int) -> NDArray[np.float64]:
    """Return the (3, 3) intrinsic matrix of a drive's camera, pixels."""
    focal_px = hall_drive_of(seed).focal * width
    return np.array([
        [focal_px, 0.0, (width - 1) / 2], [0.0, focal_px, (height - 1) / 2], [0.0, 0.0, 1.0],
    ])


def camera_height_m(seed: int) -> float:
    """Return the height of a drive's camera above the floor."""
    return hall_drive_of(seed).camera_height_m


def camera_pitch_rad(seed: int) -> float:
    """Return how far a drive's camera looks down."""
    return hall_drive_of(seed).camera_pitch_rad
