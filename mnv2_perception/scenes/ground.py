"""Draw the ground of the street: road, markings, kerb and pavement."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.scenes.canvas import Canvas, FAR_M
from mnv2_perception.scenes.classes import PAVEMENT, ROAD
from mnv2_perception.scenes.layout import BLOCK_M, block_of
from mnv2_perception.scenes.textures import cloud_noise, grain_noise


def draw_ground(canvas: Canvas) -> None:
    """Draw asphalt, markings, kerb and slabs, pixel by pixel."""
    drive, focal = canvas.drive, canvas.focal_px
    first = max(math.ceil(canvas.horizon_px + 0.5), 0)
    if first >= canvas.height:
        return
    row = np.arange(first, canvas.height, dtype=np.float32)[:, None]
    z = np.minimum(focal * drive.camera_height_m / (row - np.float32(canvas.horizon_px)), 400)
    column = np.arange(canvas.width, dtype=np.float32)[None] - np.float32(canvas.centre_px)
    x = (column * z / np.float32(focal) + np.float32(drive.lane_x_m)
         - np.float32(drive.curve) * z * z)
    along = z + np.float32(canvas.driven_m)
    across_px = z / np.float32(focal)
    along_px = z * z / np.float32(focal * drive.camera_height_m)

    def stripe(offset: NDArray[np.float32], half_m: float,
               px: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how much of a pixel a stripe covers, 0 to 1, at this offset from its middle."""
        covered: NDArray[np.float32] = np.clip(
            (half_m - np.abs(offset)) / px + np.float32(0.5), 0, 1)
        return covered

    column_texel = (x * 40).astype(np.int32)
    fine = grain_noise()[(along * 40).astype(np.int32) & 511, column_texel & 511]
    fine *= np.clip(0.05 / (along_px + across_px), 0, 1)
    rough = cloud_noise()[(along * 9).astype(np.int32) & 511, (column_texel // 3) & 511]
    rough *= np.clip(1.5 / along_px, 0, 1)
    aside = np.abs(x)
    half = np.float32(drive.road_half_m)
    is_road = aside < half
    crossing = np.zeros_like(z)
    for side in (-1, 1):
        shadow_line = np.full_like(z, 1e9)
        for index in range(int(canvas.driven_m // BLOCK_M),
                           int((canvas.driven_m + FAR_M) // BLOCK_M) + 1):
            block = block_of(drive.seed, side, index)
            for start, end in block.side_roads:
                is_road |= (along > start) & (along < end) & (x * side > 0)
            for at in block.crossings:
                crossing = np.maximum(crossing, stripe(along - np.float32(at), 1.3, along_px))
            if drive.sunny and side == drive.sun_side:
                edge = drive.road_half_m + drive.pavement_m
                inside = (along >= index * BLOCK_M) & (along < (index + 1) * BLOCK_M)
                shadow_line[inside] = edge - 0.75 * block.shade_m
        if drive.sunny and side == drive.sun_side:
            lit = np.clip((shadow_line - x * side) / 0.25 + 0.5, 0, 1)

    grey = drive.asphalt + 7 * fine + 4 * rough
    lane = np.abs(aside - abs(drive.lane_x_m))
    grey -= 5 * np.clip(1 - np.abs(lane - 0.75) / 0.35, 0, 1)
    grey *= 1 - np.float32(0.35) * stripe(half - aside - 0.1, 0.12, across_px)
    white = stripe(x, 0.07, across_px) * stripe((along % 6) - 2, 1.5, along_px)
    lane_edge = drive.road_half_m - (1.9 if drive.parking else 0.3)
    if drive.parking:
        white = np.maximum(white, stripe(aside - lane_edge, 0.05, across_px)
                           * stripe((along % 2.5) - 0.8, 0.6, along_px))
    if lane_edge > 5:
        white = np.maximum(white, stripe(aside - lane_edge / 2, 0.06, across_px)
                           * stripe((along % 9) - 2, 1.2, along_px))
    if crossing.any():
        white = np.maximum(white * (1 - crossing), crossing * stripe(
            (x % 1.2) - 0.6, 0.3, across_px) * (aside < lane_edge))
    grey += (188 + 10 * rough + 6 * fine - grey) * white * np.float32(0.85)
    colour = cv2.merge([grey * np.float32(tint) for tint in drive.asphalt_tint])
    if drive.yellow_lines and not drive.parking:
        kerbside = half - aside
        yellow = np.maximum(stripe(kerbside - 0.35, 0.05, across_px),
                            stripe(kerbside - 0.6, 0.05, across_px))
        lines = (yellow > 0) & is_road
        colour[lines] += ((np.array((188, 160, 70), np.float32) - colour[lines])
                          * yellow[lines][:, None] * np.float32(0.75))

    beside = ~is_road
    size = drive.slab_m
    aside, fine, rough = aside[beside], fine[beside], rough[beside]
    along, along_px, across_px = (np.broadcast_to(of_row, beside.shape)[beside]
                                  for of_row in (along, along_px, across_px))
    joints = np.maximum(stripe((aside % size) - size / 2, 0.012, across_px),
                        stripe((along % size) - size / 2, 0.012, along_px)
                        * np.clip(size / 3 / along_px, 0, 1))
    tile = grain_noise()[(along / size + 0.5).astype(np.int32) & 511,
                         (aside / size + 0.5).astype(np.int32) & 511]
    tile *= np.clip(size / 2 / along_px, 0, 1)
    slab = (1 + 0.035 * tile + 0.03 * rough + 0.03 * fine - 0.28 * joints)[:, None]
    slab = slab * np.array(drive.slab, np.float32)
    kerb = stripe(aside - half - 0.08, 0.09, across_px)[:, None]
    slab += (np.float32(drive.slab[1] * 1.16) - slab) * kerb
    colour[beside] = slab

    keep = np.exp(-z / np.float32(drive.haze_m))
    colour *= (keep * (0.62 + 0.5 * lit) if drive.sunny else keep)[..., None]
    colour += np.array(drive.haze, np.float32) * (1 - keep)[..., None]
    canvas.pixels[first:, :, :3] = np.clip(colour, 0, 255)
    canvas.pixels[first:, :, 3] = np.where(is_road, ROAD, PAVEMENT)
