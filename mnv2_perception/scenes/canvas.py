"""The canvas: labelled pixels, the camera that projects onto them, and flat shapes in metres."""

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.scenes.drive import Drive, SPEED_M_S

NEAR_M = 0.3
FAR_M = 125.0
_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 16, endpoint=False)),
                    np.sin(np.linspace(0, 2 * np.pi, 16, endpoint=False))], axis=1)

Floats: TypeAlias = NDArray[np.float64]
Bytes: TypeAlias = NDArray[np.uint8]
Part: TypeAlias = tuple[Floats, Sequence[float]]


@dataclass(frozen=True)
class Mesh:
    """Consecutive polygons: all points (P, 3) in metres, points per polygon, RGB (N, 3)."""

    points: Floats
    sizes: list[int]
    colours: Floats


def mesh_of(parts: Sequence[Part]) -> Mesh:
    """Return a mesh of polygons with (N, 3) points, or with (N, 2) points in the plane z = 0."""
    points = np.concatenate([outline for outline, _ in parts])
    if points.shape[1] == 2:
        points = np.column_stack([points, np.zeros(len(points))])
    return Mesh(points, [len(outline) for outline, _ in parts],
                np.array([colour for _, colour in parts]))


def rect(x0: float, y0: float, x1: float, y1: float) -> Floats:
    return np.array([[x0, y0], [x0, y1], [x1, y1], [x1, y0]])


def disc(x: float, y: float, radius_x: float, radius_y: float | None = None) -> Floats:
    return _CIRCLE * (radius_x, radius_y or radius_x) + (x, y)


class Canvas:
    """RGB pixels with class ids as fourth channel, and the camera that projects onto them."""

    def __init__(self, drive: Drive, time_s: float, height: int, width: int) -> None:
        self.drive = drive
        self.time_s = time_s
        self.driven_m = SPEED_M_S * time_s
        self.height = height
        self.width = width
        self.focal_px = drive.focal * max(width, height * 4 / 3)
        self.centre_px = width * 0.5
        # Movement of the suspension: a few tenths of a degree, slow enough to be smooth at 15 Hz.
        pitch = 0.003 * math.sin(2.1 * time_s + drive.seed) + 0.002 * math.sin(3.7 * time_s)
        self.horizon_px = height * drive.horizon + self.focal_px * pitch
        self.pixels: Bytes = np.zeros((height, width, 4), np.uint8)

    def project(self, points: Floats) -> Floats:
        """Return pixel coordinates, (N, 2), of world points, (N, 3); z is clipped at NEAR_M."""
        z = np.maximum(points[:, 2], NEAR_M)
        scale = self.focal_px / z
        pixels = np.empty((len(points), 2))
        pixels[:, 0] = self.centre_px + scale * (
            points[:, 0] - self.drive.lane_x_m + self.drive.curve * z * z)
        pixels[:, 1] = self.horizon_px + scale * (self.drive.camera_height_m - points[:, 1])
        return pixels

    def fill(self, mesh: Mesh, x: float, z: float, class_id: int) -> None:
        """Draw a mesh's polygons, one over the other; its origin is at ``x, z`` on the road."""
        points = mesh.points + np.array((x, 0.0, z))
        points_px = self.project(points)
        if self._box(points_px) is None:
            return
        keep = math.exp(-max(float(points[:, 2].min()), 0) / self.drive.haze_m)
        colours = np.clip(mesh.colours * keep + np.multiply(self.drive.haze, 1 - keep), 0, 255)
        fixed = np.rint(points_px * 16).astype(np.int32)
        at = 0
        for size, colour in zip(mesh.sizes, colours.tolist(), strict=True):
            cv2.fillPoly(self.pixels, [fixed[at:at + size]], (*colour, class_id), shift=4)
            at += size

    def figure(self, x: float, z: float, parts: Sequence[Part], class_id: int) -> None:
        """Draw upright flat polygons, (N, 2) metres right and up, that stand at ``x, z``."""
        self.fill(mesh_of(parts), x, z, class_id)

    def shade(self, x: float, z0: float, z1: float, half_m: float, factor: float) -> None:
        """Darken the colours of a rectangle on the ground; labels do not change."""
        points_px = self.project(np.array([[x - half_m, 0, z0], [x + half_m, 0, z0],
                                           [x + half_m, 0, z1], [x - half_m, 0, z1]]))
        box = self._box(points_px)
        if box is not None:
            u0, v0, u1, v1 = box
            region = self.pixels[v0:v1, u0:u1]
            dark = cv2.transform(region, np.diag([factor, factor, factor, 1]))
            cv2.copyTo(dark, _mask(points_px, box), region)

    def surface(self, corners: Floats, texture: Bytes, light: float | Sequence[float],
                class_id: int, alpha: Bytes | None = None) -> None:
        """Stretch a texture over a flat quadrilateral.

        Args:
            corners: (4, 3) world points: top left, top right, bottom right, bottom left of the
                texture.
            texture: (h, w, 3) uint8 RGB.
            light: factor for its colours: one, or one for each channel.
            class_id: class of all pixels that it covers.
            alpha: (h, w) uint8; drawn where it is 128 or more. None draws everywhere.
        """
        corners_px = self.project(corners)
        box = self._box(corners_px)
        if box is None:
            return
        u0, v0, u1, v1 = box
        # Shrink first: a fine texture sampled at few pixels would flicker when it moves.
        extent = np.maximum(np.ptp(corners_px, axis=0) * 1.5, 2)
        h = int(min(texture.shape[0], extent[1]))
        w = int(min(texture.shape[1], extent[0]))
        shrunk = (h, w) != texture.shape[:2]
        if shrunk:
            texture = cv2.resize(texture, (w, h), interpolation=cv2.INTER_AREA)
        keep = math.exp(-float(np.maximum(corners[:, 2], NEAR_M).mean()) / self.drive.haze_m)
        # Applies light, haze and label in one transform.
        paint = np.zeros((4, 4))
        np.fill_diagonal(paint[:3, :3], np.multiply(light, keep))
        paint[:3, 3] = np.multiply(self.drive.haze, 1 - keep)
        paint[3, 3] = class_id
        labelled = cv2.transform(texture, paint)
        source = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
        matrix = cv2.getPerspectiveTransform(
            source, (corners_px - (u0, v0)).astype(np.float32))
        size = (u1 - u0, v1 - v0)
        patch = cv2.warpPerspective(labelled, matrix, size, flags=cv2.INTER_LINEAR,
                                    borderMode=cv2.BORDER_REPLICATE)
        if alpha is None:
            mask = _mask(corners_px, box)
        else:
            if shrunk:
                alpha = cv2.resize(alpha, (w, h), interpolation=cv2.INTER_AREA)
            mask = cv2.warpPerspective(alpha, matrix, size, flags=cv2.INTER_LINEAR)
            mask = cv2.threshold(mask, 127, 255, cv2.THRESH_BINARY)[1]
        cv2.copyTo(patch, mask, self.pixels[v0:v1, u0:u1])

    def _box(self, points_px: Floats) -> tuple[int, int, int, int] | None:
        low = np.floor(points_px.min(axis=0))
        high = np.ceil(points_px.max(axis=0)) + 1
        u0, v0 = max(int(low[0]), 0), max(int(low[1]), 0)
        u1, v1 = min(int(high[0]), self.width), min(int(high[1]), self.height)
        return (u0, v0, u1, v1) if u0 < u1 and v0 < v1 else None


def _mask(points_px: Floats, box: tuple[int, int, int, int]) -> Bytes:
    """Return a mask, 255 inside a polygon, for a box of the image: left, top, right, bottom."""
    u0, v0, u1, v1 = box
    mask = np.zeros((v1 - v0, u1 - u0), np.uint8)
    cv2.fillPoly(mask, [np.rint((points_px - (u0, v0)) * 16).astype(np.int32)], 255, shift=4)
    return mask
