"""Draw street scenes with exact labels: a seeded drive past houses, trees, cars and people.

A pinhole camera moves along an endless street, which is laid out block by block from the seed.
Image and class ids are one four-channel canvas, filled from far to near without antialiasing, so
labels are exact by construction; blur, light and sensor noise are added only to the colours.

World coordinates are metres: ``x`` to the right of the road's middle, ``y`` up from the road,
``z`` ahead of the camera. ``distance_m`` along the road is ``z`` plus the distance driven.
"""

from collections.abc import Callable
from functools import partial
import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import ImageError
from mnv2_perception.scenes.canvas import Bytes, Canvas, FAR_M, NEAR_M
from mnv2_perception.scenes.classes import CLASSES, FENCE
from mnv2_perception.scenes.drive import drive_of, SPEED_M_S
from mnv2_perception.scenes.exposure import expose
from mnv2_perception.scenes.ground import draw_ground
from mnv2_perception.scenes.layout import Block, BLOCK_M, block_of
from mnv2_perception.scenes.people import draw_cyclist, draw_person
from mnv2_perception.scenes.roadside import (
    draw_building,
    draw_hedge,
    draw_post,
    draw_sign,
    draw_tree,
    draw_wall,
)
from mnv2_perception.scenes.sky import draw_sky, draw_skyline
from mnv2_perception.scenes.vehicles import draw_car

__all__ = ['CLASSES', 'MIN_SIDE_PX', 'camera_height_m', 'camera_matrix', 'draw_scene']

MIN_SIDE_PX = 64

_Task: TypeAlias = tuple[float, Callable[[], None]]


def draw_scene(seed: int, time_s: float, height: int, width: int) -> tuple[Bytes, Bytes]:
    """Draw one frame of a drive and its labels.

    The same seed gives the same street, weather and camera; ``time_s`` moves along it at 8 m/s.

    Args:
        seed: number of the drive, 0 or more.
        time_s: seconds since its start, 0 or more.
        height: height of the frame, pixels, 64 or more.
        width: width of the frame, pixels, 64 or more.

    Returns:
        The image, (height, width, 3) uint8 RGB, and its class ids, (height, width) uint8, indices
        into ``CLASSES``. Both are new arrays.

    Raises:
        ImageError: the size is too small, ``seed`` or ``time_s`` is negative, or ``time_s`` is not
            finite.
    """
    if height < MIN_SIDE_PX or width < MIN_SIDE_PX:
        raise ImageError(f'drawn scene: got a size of {height}x{width} (height x width), expected '
                         f'at least {MIN_SIDE_PX}x{MIN_SIDE_PX}; ask for a larger frame')
    if seed < 0 or not math.isfinite(time_s) or time_s < 0:
        raise ImageError(f'drawn scene: got seed {seed} at {time_s} s, expected a seed of 0 or '
                         'more and a finite time of 0 s or more')
    canvas = Canvas(drive_of(seed), time_s, height, width)
    draw_sky(canvas)
    draw_ground(canvas)
    draw_skyline(canvas)
    tasks: list[_Task] = []
    for side in (-1, 1):
        first = int((canvas.driven_m - 12) // BLOCK_M)
        for index in range(first, int((canvas.driven_m + FAR_M) // BLOCK_M) + 1):
            _add_block(tasks, canvas, block_of(seed, side, index), side, (index + 1) * BLOCK_M)
    _add_movers(tasks, canvas)
    for _, draw in sorted(tasks, key=lambda task: -task[0]):
        draw()
    return expose(canvas), np.ascontiguousarray(canvas.pixels[..., 3])


def camera_matrix(seed: int, height: int, width: int) -> NDArray[np.float64]:
    """Return the (3, 3) float64 intrinsic matrix of a drive's camera, pixels.

    The camera looks straight ahead and level. Its principal point is on the horizon, which the
    suspension moves by at most 0.3°.
    """
    canvas = Canvas(drive_of(seed), 0.0, height, width)
    horizon_px = height * canvas.drive.horizon
    return np.array([
        [canvas.focal_px, 0.0, width / 2], [0.0, canvas.focal_px, horizon_px], [0.0, 0.0, 1.0],
    ])


def camera_height_m(seed: int) -> float:
    """Return the height in metres of a drive's camera above the flat road."""
    return drive_of(seed).camera_height_m


def _add_block(tasks: list[_Task], canvas: Canvas, block: Block, side: int,
               end_m: float) -> None:
    """Queue the objects of a block, each with the distance by which drawing is ordered."""
    driven = canvas.driven_m
    edge = side * (canvas.drive.road_half_m + canvas.drive.pavement_m)

    def seen(near: float, far: float) -> bool:
        return far > NEAR_M + 0.2 and near < FAR_M

    # Objects behind a fence or in a garden are drawn in the order of their own distances.
    behind: list[_Task] = []
    for b in block.buildings:
        z0, z1 = b.start_m - driven, b.end_m - driven
        if seen(z0, z1):
            (behind if block.fences else tasks).append(
                (z1, partial(draw_building, canvas, b, edge + side * b.setback_m, z0, z1, side)))
    for tree in block.trees:
        z = tree.distance_m - driven
        if 1.0 < z < FAR_M:
            (tasks if tree.kind else behind).append((z, partial(draw_tree, canvas, tree, z)))
    behind.sort(key=lambda task: -task[0])
    for start, end in block.hedges:
        z0, z1 = start - driven, end - driven
        if seen(z0, z1):
            behind.insert(0, (z1, partial(draw_hedge, canvas, edge + side * 6, z0, z1)))
    for start, end, texture, height in block.fences:
        z0, z1 = start - driven, end - driven
        if seen(z0, z1):
            behind.append((z1, partial(draw_wall, canvas, edge, z0, z1, height, texture, 0.9,
                                       FENCE)))
    tasks.extend((end_m - driven, draw) for _, draw in behind)
    for post in block.posts:
        z = post.distance_m - driven
        if 0.8 < z < (60 if post.kind == 2 else 90):
            tasks.append((z, partial(draw_post, canvas, post, z, side)))
    for sign in block.signs:
        z = sign.distance_m - driven
        if 0.8 < z < 70:
            tasks.append((z, partial(draw_sign, canvas, sign, z)))
    for car in block.parked:
        z = car.distance_m - driven
        if seen(z, z + 4.2):
            away = side == canvas.drive.drive_side
            tasks.append((z, partial(draw_car, canvas, car.x_m, z, car.look, away)))


def _add_movers(tasks: list[_Task], canvas: Canvas) -> None:
    """Queue moving cars, cyclists and people.

    Each moves through a window that travels with the camera: those that fall behind it reappear
    far ahead with another look.
    """
    drive, t = canvas.drive, canvas.time_s
    rng = np.random.default_rng((drive.seed, 7))
    lane = drive.road_half_m - (1.9 if drive.parking else 0.3)

    def passing(index: int, speed_m_s: float, start_m: float,
                window_m: float) -> tuple[float, int]:
        moved = start_m + (speed_m_s - SPEED_M_S) * t
        lap = math.floor(moved / window_m)
        look = int(np.random.default_rng((drive.seed, 8, index, lap + 10000)).integers(1 << 30))
        return moved - lap * window_m - 8.0, look

    if rng.random() < 0.7:
        gap = float(rng.uniform(9, 26))
        z = gap * (1 + 0.25 * math.sin(0.23 * t + gap))
        look = int(rng.integers(1 << 30))
        tasks.append((z, partial(draw_car, canvas, drive.lane_x_m * 1.02, z, look, True)))
    if rng.random() < 0.5:
        z = float(rng.uniform(40, 60)) + 4 * math.sin(0.31 * t)
        look = int(rng.integers(1 << 30))
        tasks.append((z, partial(draw_car, canvas, drive.lane_x_m, z, look, True)))
    for i in range(int(rng.integers(1, 5))):
        z, look = passing(i, -9.0, 42.0 * i + float(rng.uniform(0, 25)), 168.0)
        x = -drive.drive_side * lane * 0.5
        if z > -4:
            tasks.append((z, partial(draw_car, canvas, x, z, look, False)))
    for i in range(int(rng.integers(3, 15))):
        side = int(rng.choice([-1, 1]))
        walk = float(rng.choice([-1, 1]) * rng.uniform(0.9, 1.6))
        z, look = passing(20 + i, walk, float(rng.uniform(0, 90)), 90.0)
        x = side * (drive.road_half_m + 0.9 + float(rng.uniform(0, 1)) * (drive.pavement_m - 1.3))
        if z > 0.8:
            tasks.append((z, partial(draw_person, canvas, x, z, look, walk)))
    for i in range(int(rng.integers(1, 4))):
        z, look = passing(50 + i, 4.5, 6 + float(rng.uniform(0, 70)), 80.0)
        x = drive.drive_side * (lane - 0.45)
        if i == 2:
            z, look = passing(52, -4.5, float(rng.uniform(0, 80)), 80.0)
            x = -x
        if z > 1.2 and abs(x - drive.lane_x_m) > 0.7:
            tasks.append((z, partial(draw_cyclist, canvas, x, z, look)))
