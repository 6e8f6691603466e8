"""Draw the sky, and the skyline at the end of the street."""

import cv2
import numpy as np

from mnv2_perception.scenes.canvas import Canvas, FAR_M, Part, rect
from mnv2_perception.scenes.classes import BUILDING, TREE
from mnv2_perception.scenes.colours import pick, WALL_COLOURS
from mnv2_perception.scenes.textures import cloud_noise


def draw_sky(canvas: Canvas) -> None:
    drive = canvas.drive
    rows = int(min(max(canvas.horizon_px + 2, 1), canvas.height))
    size = (max(canvas.width // 4, 2), max(rows // 4, 2))  # smooth, so a quarter suffices
    down = np.linspace(0, 1, size[1], dtype=np.float32)[:, None]
    # A slowly drifting layer of clouds, with the perspective of a flat layer.
    depth = 1 / (1.12 - down)
    across = np.linspace(-0.9, 0.9, size[0], dtype=np.float32)[None]
    u = across * depth * 90 + np.float32(255 + 2 * canvas.time_s)
    v = np.broadcast_to(depth * 60 + np.float32(drive.seed * 37 % 512), u.shape)
    clouds = cv2.remap(cloud_noise(), u, np.ascontiguousarray(v), cv2.INTER_LINEAR,
                       borderMode=cv2.BORDER_WRAP)[..., None]
    haze = np.array(drive.haze, np.float32)
    sky = np.array(drive.sky_top, np.float32) + (haze - drive.sky_top) * down[..., None] ** 1.3
    if drive.sunny:
        sky = sky + (haze * 1.04 - sky) * np.clip((clouds + 3 * drive.cloud - 1.8) * 0.7, 0, 1)
    else:
        sky = sky + np.clip(clouds, -2, 2) * 9 * drive.cloud
    sky = cv2.resize(np.clip(sky, 0, 255).astype(np.float32), (canvas.width, rows))
    canvas.pixels[:rows, :, :3] = sky


def draw_skyline(canvas: Canvas) -> None:
    """Draw houses and trees that close the view behind the last block."""
    drive = canvas.drive
    rng = np.random.default_rng((drive.seed, 5))
    houses: list[Part] = []
    trees: list[Part] = []
    across_m = FAR_M * canvas.width / canvas.focal_px
    for i in range(27):
        left = (i / 26 - 0.52) * across_m
        right = left + across_m / 26 * float(rng.uniform(1, 1.6))
        top = float(rng.uniform(4, 12))
        if rng.random() < 0.4:
            bend = (right - left) * 0.25
            trees.append((np.array([[left, 0], [left, top - bend], [left + bend, top],
                                    [right - bend, top], [right, top - bend], [right, 0]]),
                          drive.leaf))
        else:
            houses.append((rect(left, 0, right, top), pick(rng, WALL_COLOURS)))
    x = drive.lane_x_m - drive.curve * FAR_M ** 2  # stays in the middle also in a bend
    for parts, class_id in ((houses, BUILDING), (trees, TREE)):
        if parts:
            canvas.figure(x, FAR_M, parts, class_id)
