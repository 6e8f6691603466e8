"""Drawn street scenes with exact labels: a seeded drive past houses, trees, cars and people.

A pinhole camera rolls down an endless street that is laid out, block by block, from the seed. The
image and the class ids are one four-channel canvas, filled from far to near without antialiasing,
so a label is exact by construction; blur, light and sensor noise are added to the colours only.

World coordinates are metres: ``x`` to the right of the road's middle, ``y`` up from the road,
``z`` ahead of the camera. ``distance_m`` along the road is ``z`` plus what has been driven.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
import math
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import ImageError

CLASSES = ('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign_symbol', 'fence', 'car',
           'pedestrian', 'bicyclist')
(_SKY, _BUILDING, _POLE, _ROAD, _PAVEMENT, _TREE, _SIGN, _FENCE, _CAR, _PEDESTRIAN,
 _BICYCLIST) = range(len(CLASSES))

MIN_SIDE_PX = 64
SPEED_M_S = 8.0

_NEAR_M = 0.3
_FAR_M = 125.0
_BLOCK_M = 36.0
_FACADE_PX_PER_M = 14
_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 16, endpoint=False)),
                    np.sin(np.linspace(0, 2 * np.pi, 16, endpoint=False))], axis=1)

_Floats: TypeAlias = NDArray[np.float64]
_Bytes: TypeAlias = NDArray[np.uint8]
_Colour: TypeAlias = tuple[float, float, float]
_Task: TypeAlias = tuple[float, Callable[[], None]]
_Part: TypeAlias = tuple[_Floats, Sequence[float]]

_WALL_COLOURS: Sequence[_Colour] = (
    (138, 78, 62), (152, 96, 72), (168, 138, 100), (186, 164, 128), (206, 196, 174),
    (222, 218, 208), (150, 146, 140), (176, 172, 166), (112, 88, 76), (196, 178, 150))
_ROOF_COLOURS: Sequence[_Colour] = ((88, 84, 86), (110, 70, 58), (74, 72, 76), (126, 92, 76))
_SHOP_COLOURS: Sequence[_Colour] = (
    (150, 34, 38), (28, 60, 120), (24, 92, 66), (40, 38, 42), (190, 150, 40), (90, 36, 84))
_CAR_COLOURS: Sequence[_Colour] = (
    (188, 190, 194), (40, 42, 46), (222, 222, 220), (30, 48, 96), (150, 24, 28), (92, 96, 102),
    (46, 82, 62), (128, 132, 140), (170, 150, 110))
_CLOTHES: Sequence[_Colour] = (
    (36, 38, 46), (60, 64, 84), (130, 36, 40), (176, 170, 160), (44, 70, 110), (88, 76, 60),
    (30, 30, 32), (196, 120, 40), (70, 96, 70))
_SKIN: Sequence[_Colour] = ((224, 182, 152), (196, 146, 112), (140, 96, 70), (96, 64, 48))


@dataclass(frozen=True)
class _Drive:
    """What stays the same over one drive; lengths in metres."""

    seed: int
    sunny: bool
    sun_side: int
    drive_side: int
    road_half_m: float
    pavement_m: float
    parking: bool
    lane_x_m: float
    camera_height_m: float
    horizon: float
    focal: float
    curve: float
    haze_m: float
    haze: _Colour
    sky_top: _Colour
    cloud: float
    asphalt: float
    asphalt_tint: _Colour
    slab: _Colour
    gain: _Colour
    gamma: float
    noise: float
    vignette: float
    blur: float
    terrace: float
    greenery: float
    storeys: int
    parked: float
    leaf: _Colour
    yellow_lines: bool
    slab_m: float


@dataclass(frozen=True)
class _Mesh:
    """Polygons one after the other: points (P, 3) in metres, their counts, colours (N, 3)."""

    points: _Floats
    sizes: list[int]
    colours: _Floats


def _mesh(parts: Sequence[_Part]) -> _Mesh:
    """A mesh of polygons of (N, 3) points, or of (N, 2) upright ones at z = 0."""
    points = np.concatenate([outline for outline, _ in parts])
    if points.shape[1] == 2:
        points = np.column_stack([points, np.zeros(len(points))])
    return _Mesh(points, [len(outline) for outline, _ in parts],
                 np.array([colour for _, colour in parts]))


@dataclass(frozen=True)
class _Building:
    start_m: float
    end_m: float
    setback_m: float
    height_m: float
    roof_m: float
    roof: _Colour
    look: int
    storeys: int
    shops: bool
    chimney: float
    shown_m: float  # from this height up the end towards the camera is in view


@dataclass(frozen=True)
class _Thing:
    """A tree, post, sign or parked car: where it stands, and its looks."""

    distance_m: float
    x_m: float
    height_m: float
    kind: int
    look: int


@dataclass(frozen=True)
class _Block:
    buildings: list[_Building] = field(default_factory=list)
    fences: list[tuple[float, float, _Bytes, float]] = field(default_factory=list)
    hedges: list[tuple[float, float]] = field(default_factory=list)
    trees: list[_Thing] = field(default_factory=list)
    posts: list[_Thing] = field(default_factory=list)
    signs: list[_Thing] = field(default_factory=list)
    parked: list[_Thing] = field(default_factory=list)
    side_roads: list[tuple[float, float]] = field(default_factory=list)
    crossings: list[float] = field(default_factory=list)
    shade_m: float = 0.0


def draw_scene(seed: int, time_s: float, height: int, width: int) -> tuple[_Bytes, _Bytes]:
    """One frame of a drawn drive, and its labels.

    The same seed is the same street, weather and camera; ``time_s`` moves along it at 8 m/s.

    Args:
        seed: which drive, 0 or more.
        time_s: seconds since its start, 0 or more.
        height: of the frame, pixels, 64 or more.
        width: of the frame, pixels, 64 or more.

    Returns:
        The image, (height, width, 3) uint8 RGB, and its class ids, (height, width) uint8, indices
        into ``CLASSES``. Both are new arrays.

    Raises:
        ImageError: the size is too small, or ``seed`` or ``time_s`` is negative or not finite.
    """
    if height < MIN_SIDE_PX or width < MIN_SIDE_PX:
        raise ImageError(f'drawn scene: got a size of {height}x{width} (height x width), expected '
                         f'at least {MIN_SIDE_PX}x{MIN_SIDE_PX}; ask for a larger frame')
    if seed < 0 or not math.isfinite(time_s) or time_s < 0:
        raise ImageError(f'drawn scene: got seed {seed} at {time_s} s, expected a seed of 0 or '
                         'more and a finite time of 0 s or more')
    canvas = _Canvas(_drive(seed), time_s, height, width)
    _draw_sky(canvas)
    _draw_ground(canvas)
    _draw_skyline(canvas)
    tasks: list[_Task] = []
    for side in (-1, 1):
        first = int((canvas.driven_m - 12) // _BLOCK_M)
        for index in range(first, int((canvas.driven_m + _FAR_M) // _BLOCK_M) + 1):
            _add_block(tasks, canvas, _block(seed, side, index), side, (index + 1) * _BLOCK_M)
    _add_movers(tasks, canvas)
    for _, draw in sorted(tasks, key=lambda task: -task[0]):
        draw()
    return _expose(canvas), np.ascontiguousarray(canvas.pixels[..., 3])


def camera_matrix(seed: int, height: int, width: int) -> NDArray[np.float64]:
    """Return the (3, 3) intrinsic matrix of a drive's camera, pixels.

    The camera looks straight ahead and level; its principal point lies on the horizon, which the
    suspension moves by 0.3° at most.
    """
    canvas = _Canvas(_drive(seed), 0.0, height, width)
    horizon_px = height * canvas.drive.horizon
    return np.array([
        [canvas.focal_px, 0.0, width / 2], [0.0, canvas.focal_px, horizon_px], [0.0, 0.0, 1.0],
    ])


def camera_height_m(seed: int) -> float:
    """Return the height of a drive's camera above its road, which is flat."""
    return _drive(seed).camera_height_m


class _Canvas:
    """Pixels with labels in the fourth channel, and the camera that projects onto them."""

    def __init__(self, drive: _Drive, time_s: float, height: int, width: int) -> None:
        self.drive = drive
        self.time_s = time_s
        self.driven_m = SPEED_M_S * time_s
        self.height = height
        self.width = width
        self.focal_px = drive.focal * max(width, height * 4 / 3)
        self.centre_px = width * 0.5
        # The suspension: a few tenths of a degree, slow enough to be smooth at 15 Hz.
        pitch = 0.003 * math.sin(2.1 * time_s + drive.seed) + 0.002 * math.sin(3.7 * time_s)
        self.horizon_px = height * drive.horizon + self.focal_px * pitch
        self.pixels: _Bytes = np.zeros((height, width, 4), np.uint8)

    def project(self, points: _Floats) -> _Floats:
        """Pixel coordinates, (N, 2), of world points, (N, 3); z no nearer than the near plane."""
        z = np.maximum(points[:, 2], _NEAR_M)
        scale = self.focal_px / z
        pixels = np.empty((len(points), 2))
        pixels[:, 0] = self.centre_px + scale * (
            points[:, 0] - self.drive.lane_x_m + self.drive.curve * z * z)
        pixels[:, 1] = self.horizon_px + scale * (self.drive.camera_height_m - points[:, 1])
        return pixels

    def fill(self, mesh: _Mesh, x: float, z: float, class_id: int) -> None:
        """Fill a mesh's polygons, one over the other, with its origin at ``x, z`` on the road."""
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

    def figure(self, x: float, z: float, parts: Sequence[_Part], class_id: int) -> None:
        """Upright flat parts, polygons (N, 2) of metres right and up, standing at ``x, z``."""
        self.fill(_mesh(parts), x, z, class_id)

    def shade(self, x: float, z0: float, z1: float, half_m: float, factor: float) -> None:
        """Darken the colours, not the labels, of a rectangle on the ground."""
        points_px = self.project(np.array([[x - half_m, 0, z0], [x + half_m, 0, z0],
                                           [x + half_m, 0, z1], [x - half_m, 0, z1]]))
        box = self._box(points_px)
        if box is not None:
            u0, v0, u1, v1 = box
            region = self.pixels[v0:v1, u0:u1]
            dark = cv2.transform(region, np.diag([factor, factor, factor, 1]))
            cv2.copyTo(dark, _mask(points_px, box), region)

    def surface(self, corners: _Floats, texture: _Bytes, light: float | Sequence[float],
                class_id: int, alpha: _Bytes | None = None) -> None:
        """Stretch a texture over a flat quadrilateral.

        Args:
            corners: (4, 3) world points: top left, top right, bottom right, bottom left of the
                texture.
            texture: (h, w, 3) uint8 RGB.
            light: factor on its colours, one or three.
            class_id: of every pixel that it covers.
            alpha: (h, w) uint8, drawn where 128 or more; everywhere when None.
        """
        corners_px = self.project(corners)
        box = self._box(corners_px)
        if box is None:
            return
        u0, v0, u1, v1 = box
        # Shrink first: sampling a fine texture at a coarse raster would flicker as it moves.
        extent = np.maximum(np.ptp(corners_px, axis=0) * 1.5, 2)
        h = int(min(texture.shape[0], extent[1]))
        w = int(min(texture.shape[1], extent[0]))
        shrunk = (h, w) != texture.shape[:2]
        if shrunk:
            texture = cv2.resize(texture, (w, h), interpolation=cv2.INTER_AREA)
        keep = math.exp(-float(np.maximum(corners[:, 2], _NEAR_M).mean()) / self.drive.haze_m)
        # Light, haze and label at once.
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

    def _box(self, points_px: _Floats) -> tuple[int, int, int, int] | None:
        low = np.floor(points_px.min(axis=0))
        high = np.ceil(points_px.max(axis=0)) + 1
        u0, v0 = max(int(low[0]), 0), max(int(low[1]), 0)
        u1, v1 = min(int(high[0]), self.width), min(int(high[1]), self.height)
        return (u0, v0, u1, v1) if u0 < u1 and v0 < v1 else None


def _mask(points_px: _Floats, box: tuple[int, int, int, int]) -> _Bytes:
    """A polygon's pixels, 255, within a box of the image: left, top, right, bottom."""
    u0, v0, u1, v1 = box
    mask = np.zeros((v1 - v0, u1 - u0), np.uint8)
    cv2.fillPoly(mask, [np.rint((points_px - (u0, v0)) * 16).astype(np.int32)], 255, shift=4)
    return mask


@lru_cache(maxsize=8)
def _drive(seed: int) -> _Drive:
    rng = np.random.default_rng((seed, 1))
    sunny = bool(rng.random() < 0.55)
    lanes = 4 if rng.random() < 0.08 else 2
    parking = bool(rng.random() < 0.45)
    lane_m = float(rng.uniform(2.6, 3.3))
    road_half_m = lane_m * lanes / 2 + (1.9 if parking else 0.3)
    drive_side = int(rng.choice([-1, -1, 1]))
    warm = float(rng.uniform(-1, 1))
    tone = float(rng.uniform(195, 245))
    haze: _Colour = (tone - 4, tone, min(tone + 7, 255)) if sunny else (tone, tone, tone + 4)
    blue = float(rng.uniform(0.5, 1))
    sky_top: _Colour = ((90 + 80 * (1 - blue), 135 + 50 * (1 - blue), 205.0) if sunny else
                        (tone * 0.82, tone * 0.84, tone * 0.88))
    asphalt = float(rng.uniform(84, 128))
    slab = float(rng.uniform(112, 165))
    exposure = float(rng.uniform(0.72, 1.1))
    green = float(rng.uniform(0, 1))
    return _Drive(
        seed=seed, sunny=sunny, sun_side=int(rng.choice([-1, 1])), drive_side=drive_side,
        road_half_m=road_half_m, pavement_m=float(rng.uniform(1.8, 3.4)), parking=parking,
        lane_x_m=drive_side * lane_m * (0.5 if lanes == 2 else float(rng.choice([0.5, 1.5])))
        + float(rng.uniform(-0.25, 0.25)),
        camera_height_m=float(rng.uniform(1.25, 1.6)), horizon=float(rng.uniform(0.43, 0.53)),
        focal=float(rng.uniform(0.72, 0.98)), curve=float(rng.uniform(-1, 1) ** 3 * 1.2e-3),
        haze_m=float(rng.uniform(180, 700)), haze=haze, sky_top=sky_top,
        cloud=float(rng.uniform(0.1, 0.9)), asphalt=asphalt,
        asphalt_tint=(1 + 0.03 * warm, 1.0, 1.02 - 0.03 * warm),
        slab=(slab * (1.02 + 0.03 * warm), slab, slab * (0.96 - 0.03 * warm)),
        gain=(exposure * (1 + 0.06 * warm), exposure, exposure * (1 - 0.06 * warm)),
        gamma=float(rng.uniform(0.85, 1.3)), noise=float(rng.uniform(1.0, 4.5)),
        vignette=float(rng.uniform(0.05, 0.3)), blur=float(rng.uniform(0.45, 0.8)),
        terrace=float(rng.uniform(0.45, 1.0)), greenery=float(rng.uniform(0.1, 0.8)),
        storeys=int(rng.integers(2, 5)), parked=float(rng.uniform(0.15, 0.75)),
        leaf=(64 + 60 * green, 92 + 16 * green, 44 + 10 * green),
        yellow_lines=bool(rng.random() < 0.5), slab_m=float(rng.uniform(0.5, 1.0)))


@lru_cache(maxsize=96)
def _block(seed: int, side: int, index: int) -> _Block:
    """What stands on one side of one stretch of the street."""
    drive = _drive(seed)
    rng = np.random.default_rng((seed, 2, side + 1, index + 1000))
    start, end = index * _BLOCK_M, (index + 1) * _BLOCK_M
    edge = drive.road_half_m + drive.pavement_m
    block = _Block()
    draw = rng.random()
    built = draw < drive.terrace
    park = not built and draw > drive.terrace + (1 - drive.terrace) * 0.5
    built_end = end
    if rng.random() < 0.3:
        built_end = end - float(rng.uniform(6.5, 9))
        block.side_roads.append((built_end + 0.2, end - 0.2))
    if park:
        fence = _fence_texture(rng)
        fence_m = float(rng.uniform(1.0, 1.9))
        block.fences.append((start, built_end, fence, fence_m))
        block.hedges.append((start, built_end))
        for distance in np.arange(start + 2, built_end - 1, rng.uniform(4.5, 8)):
            block.trees.append(_Thing(float(distance + rng.uniform(-1, 1)),
                                      side * (edge + float(rng.uniform(2.5, 5))),
                                      float(rng.uniform(5, 11)), 0, int(rng.integers(12))))
    else:
        at, hidden_m = start, 0.0
        while at < built_end - 4:
            length = float(rng.uniform(6, 15))
            if built_end - at - length < 5:
                length = built_end - at
            storeys = max(1, drive.storeys + int(rng.integers(-1, 2)))
            if not built:
                storeys = min(storeys, 2)
            height = 3.0 * storeys + float(rng.uniform(0.2, 1.2))
            block.buildings.append(_Building(
                at, at + length, 0.0 if built else 4.0, height,
                float(rng.uniform(1.5, 3.2)) if rng.random() < 0.65 else 0.0,
                _pick(rng, _ROOF_COLOURS), int(rng.integers(1 << 30)), storeys, built,
                float(rng.uniform(0.1, 0.9)), hidden_m))
            hidden_m = height if built else 0.0
            at += length + (0.0 if built else float(rng.uniform(1.5, 5)))
        if not built:
            fence = _fence_texture(rng)
            fence_m = float(rng.uniform(0.8, 1.5))
            block.fences.append((start, built_end, fence, fence_m))
            block.trees.extend(
                _Thing(float(rng.uniform(start + 2, built_end - 2)),
                       side * (edge + float(rng.uniform(1.8, 3))), float(rng.uniform(3.5, 7)), 0,
                       int(rng.integers(12))) for _ in range(int(rng.integers(1, 4))))
    if rng.random() < drive.greenery:
        for distance in np.arange(start + rng.uniform(3, 8), built_end - 1, rng.uniform(9, 16)):
            block.trees.append(_Thing(float(distance), side * (drive.road_half_m + 0.9),
                                      float(rng.uniform(4.5, 8)), 1, int(rng.integers(12))))
    lamp_kind = int(np.random.default_rng((seed, 3)).integers(2))
    block.posts.append(_Thing(start + 9.0 + 9 * (side > 0), side * (drive.road_half_m + 0.45),
                              float(6.5 + lamp_kind), lamp_kind, 0))
    block.posts.extend(_Thing(float(rng.uniform(start, built_end)),
                              side * (drive.road_half_m + 0.3), 1.0, 2, 0)
                       for _ in range(int(rng.integers(0, 5))))
    block.signs.extend(_Thing(float(rng.uniform(start, built_end)),
                              side * (drive.road_half_m + 0.55), float(rng.uniform(2.1, 2.8)),
                              int(rng.integers(5)), int(rng.integers(100)))
                       for _ in range(int(rng.integers(1, 4))))
    if drive.parking:
        block.parked.extend(_Thing(float(distance), side * (drive.road_half_m - 1.05), 0.0,
                                   int(rng.integers(0, 8)), int(rng.integers(1 << 30)))
                            for distance in np.arange(start + 2, built_end - 5.5, 5.6)
                            if rng.random() < drive.parked)
    if side > 0 and rng.random() < 0.25:
        block.crossings.append(start + 26.0)
    tallest = max((b.height_m for b in block.buildings), default=2.0)
    return _Block(**{**block.__dict__, 'shade_m': tallest})


def _pick(rng: np.random.Generator, colours: Sequence[_Colour], spread: float = 10) -> _Colour:
    r, g, b = np.array(colours[int(rng.integers(len(colours)))]) + rng.normal(0, spread / 2)
    return float(r), float(g), float(b)


@lru_cache(maxsize=1)
def _grain() -> NDArray[np.float32]:
    """White noise, (512, 512), standard deviation 1."""
    return np.random.default_rng(11).standard_normal((512, 512)).astype(np.float32)


@lru_cache(maxsize=1)
def _clouds() -> NDArray[np.float32]:
    """Smooth fractal noise that tiles, (512, 512), standard deviation 1."""
    total = np.zeros((512, 512), np.float32)
    rng = np.random.default_rng(12)
    for octave, cells in enumerate((4, 8, 16, 32, 64)):
        coarse = np.pad(rng.standard_normal((cells, cells)).astype(np.float32), 2, mode='wrap')
        scale = 512 // cells
        fine = cv2.resize(coarse, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        total += fine[2 * scale:-2 * scale, 2 * scale:-2 * scale] * 0.6 ** octave
    total /= total.std()
    return total


@lru_cache(maxsize=192)
def _facade_texture(look: int, length_m: float, height_m: float, storeys: int, shops: bool,
                    scale: int) -> _Bytes:
    """A wall seen straight on: bays of windows above shops or doors; scale in pixels a metre."""
    rng = np.random.default_rng((15, look))
    h, w = int(height_m * scale), max(int(length_m * scale), 8)
    wall = np.array(_pick(rng, _WALL_COLOURS, 20), np.float32)
    offset = rng.integers(0, 200, 2)
    grain = (_grain()[offset[0]:offset[0] + h, offset[1]:offset[1] + w] * 5
             + _clouds()[offset[0]:offset[0] + h, offset[1]:offset[1] + w] * 6)
    texture: _Bytes = np.clip(cv2.merge([grain + c for c in wall]), 0, 255).astype(np.uint8)
    frame = _pick(rng, ((235, 235, 230), (60, 58, 56), (180, 176, 170)))
    lintel = tuple(np.clip(wall * float(rng.choice([0.75, 1.2])), 0, 255).tolist())
    bays = max(2, round(length_m / float(rng.uniform(2.2, 3.6))))
    bay = w / bays
    window_w = bay * float(rng.uniform(0.36, 0.62))
    window_h = float(rng.uniform(1.3, 1.9)) * scale
    bars = int(rng.integers(0, 3))
    sill, edge = int(0.9 * scale), max(scale // 6, 1)
    left, right = int(bay / 2 - window_w / 2), int(bay / 2 + window_w / 2)
    top, bottom = 3 * scale - sill - int(window_h), 3 * scale - sill
    one = np.zeros((3 * scale, int(bay), 3), np.uint8)
    cv2.rectangle(one, (left - edge, top - edge), (right + edge, bottom + edge), lintel, -1)
    cv2.rectangle(one, (left, top), (right, bottom), frame, -1)
    pane = np.zeros(one.shape[:2], np.float32)
    cv2.rectangle(pane, (left + edge, top + edge), (right - edge, bottom - edge), 1.0, -1)
    cv2.rectangle(pane, (left + edge, top + edge), (right - edge, (top + bottom) // 2), 1.3, -1)
    if bars:
        pane[(top + bottom) // 2] = 0
        if bars > 1:
            pane[:, (left + right) // 2] = 0
    floors = storeys - int(shops)
    if floors:
        glass = np.array((38, 38, 52, 52, 70, 70, 96, 150), np.float32)[
            rng.integers(8, size=(floors, bays))]
        panes = np.kron(glass, pane)
        windows = np.tile(one, (floors, bays, 1))
        tinted = cv2.merge([panes * tint for tint in (0.94, 1.0, 1.1)])
        cv2.copyTo(tinted.astype(np.uint8), (panes > 0).astype(np.uint8), windows)
        windows = cv2.resize(windows, (w, len(windows)), interpolation=cv2.INTER_NEAREST)
        shape = np.tile(cv2.max(cv2.cvtColor(one, cv2.COLOR_RGB2GRAY), pane.astype(np.uint8)),
                        (floors, bays))
        shape = cv2.resize(shape, (w, len(windows)), interpolation=cv2.INTER_NEAREST)
        foot = h - int(shops) * 3 * scale
        above = texture[max(foot - len(windows), 0):foot]
        hidden = len(windows) - len(above)
        cv2.copyTo(windows[hidden:], shape[hidden:], above)
    ground = h - int(2.9 * scale)
    if shops and rng.random() < 0.6:
        front = _pick(rng, _SHOP_COLOURS)
        cv2.rectangle(texture, (0, ground), (w, h), front, -1)
        cv2.rectangle(texture, (edge, ground + edge), (w - edge, ground + int(0.5 * scale)),
                      tuple(min(c * 1.35 + 15, 255) for c in front), -1)
        count = max(2, round(length_m / 2.2))
        for i in range(count):
            left, right = int(i * w / count) + edge, int((i + 1) * w / count) - edge
            dark = float(rng.uniform(30, 90))
            bottom = h - (2 if rng.random() < 0.25 else int(0.6 * scale))
            cv2.rectangle(texture, (left, ground + int(0.7 * scale)), (right, bottom),
                          (dark, dark, dark * 1.08), -1)
            if right - left > 4 * edge:
                x = left + int(rng.random() * (right - left - 2 * edge))
                cv2.rectangle(texture, (x, h - int(1.6 * scale)),
                              (x + 2 * edge, h - int(0.9 * scale)),
                              _pick(rng, _SHOP_COLOURS, 60), -1)
    elif shops:
        for i in range(bays):
            left = int((i + 0.5) * bay - window_w / 2)
            door = rng.random() < 0.35
            colour = _pick(rng, _SHOP_COLOURS) if door else (52.0, 56.0, 62.0)
            cv2.rectangle(texture, (left - edge, ground + int(0.5 * scale)),
                          (int(left + window_w) + edge, h if door else h - int(0.8 * scale)),
                          frame, -1)
            cv2.rectangle(texture, (left, ground + int(0.6 * scale)),
                          (int(left + window_w), h if door else h - int(0.9 * scale)),
                          colour, -1)
    else:
        x = int(rng.uniform(0.2, 0.7) * w)
        cv2.rectangle(texture, (x, h - int(2.1 * scale)), (x + scale, h),
                      _pick(rng, _SHOP_COLOURS), -1)
    cv2.rectangle(texture, (0, 0), (w, edge), lintel, -1)
    cv2.line(texture, (w - 1, 0), (w - 1, h), tuple(float(c) * 0.6 for c in wall), edge)
    return texture


def _fence_texture(rng: np.random.Generator) -> _Bytes:
    """Four metres of fence: palings, railings over a dark hedge, or a mesh."""
    texture = np.zeros((48, 160, 3), np.uint8)
    kind = int(rng.integers(3))
    shade = np.clip(_grain()[:48, :160, None] * 8, -20, 20)
    if kind == 0:
        wood = np.array(_pick(rng, ((136, 104, 76), (160, 146, 124), (96, 74, 58)), 20))
        texture[:] = np.clip(wood + shade, 0, 255)
        texture[:, ::10] = np.clip(wood * 0.5, 0, 255)
        texture[:3] = np.clip(wood * 1.15, 0, 255)
    else:
        back = np.array((62, 74, 48) if kind == 1 else (112, 116, 104))
        texture[:] = np.clip(back + shade, 0, 255)
        rail = _pick(rng, ((34, 36, 38), (210, 210, 206), (40, 66, 52)))
        for x in range(0, 160, 6 if kind == 1 else 40):
            cv2.line(texture, (x, 0), (x, 48), rail, 2 if kind == 1 else 4)
        for y in (4, 42) if kind == 1 else (3, 16, 30):
            cv2.line(texture, (0, y), (160, y), rail, 2)
    fence: _Bytes = np.tile(texture, (1, 8, 1))
    return fence


@lru_cache(maxsize=12)
def _crown(look: int) -> tuple[_Bytes, _Bytes]:
    """A tree's crown before it is tinted: (160, 160, 3) colours and (160, 160) opacity."""
    rng = np.random.default_rng((4, look))
    size = 160
    light = np.full((size, size), 0.5, np.float32)
    solid = np.zeros((size, size), np.float32)
    angle, reach = rng.uniform(0, 2 * math.pi, 46), 0.36 * rng.uniform(0, 1, 46) ** 0.5
    centres = np.stack([0.5 + reach * np.cos(angle), 0.48 + reach * np.sin(angle)], axis=1)
    for cx, cy in centres[np.argsort(-centres[:, 1])]:
        radius = float(rng.uniform(0.06, 0.13))
        cx, cy = np.clip((cx, cy), radius, 1 - radius) * size
        point, r = (int(cx), int(cy)), int(radius * size)
        cv2.circle(solid, point, r, 1.0, -1)
        tone = float(rng.uniform(0.55, 0.95)) * (1.25 - 0.6 * cy / size)
        cv2.circle(light, point, r, tone, -1)
        cv2.circle(light, (point[0] - r // 4, point[1] - r // 3), r // 2, tone * 1.15, -1)
    light = cv2.GaussianBlur(light, (0, 0), 3)
    dx, dy = rng.integers(0, 300, 2)
    leaves = cv2.GaussianBlur(_grain()[dy:dy + size, dx:dx + size], (0, 0), 1.3) * 2.6
    colours = np.clip(160 * light + leaves * 20, 0, 255)
    ragged = cv2.GaussianBlur(solid, (0, 0), 4) + leaves * 0.14
    alpha = np.where(ragged > 0.5, 255, 0).astype(np.uint8)
    alpha[:2] = alpha[-2:] = 0
    alpha[:, :2] = alpha[:, -2:] = 0
    return cv2.merge([colours.astype(np.uint8)] * 3), alpha


@lru_cache(maxsize=48)
def _crown_of_size(look: int, size: int) -> tuple[_Bytes, _Bytes]:
    """``_crown``, shrunk to a side of ``size`` pixels."""
    colours, alpha = _crown(look)
    return (cv2.resize(colours, (size, size), interpolation=cv2.INTER_AREA),
            cv2.resize(alpha, (size, size), interpolation=cv2.INTER_AREA))


def _draw_sky(canvas: _Canvas) -> None:
    drive = canvas.drive
    rows = int(min(max(canvas.horizon_px + 2, 1), canvas.height))
    size = (max(canvas.width // 4, 2), max(rows // 4, 2))  # it is smooth: a quarter will do
    down = np.linspace(0, 1, size[1], dtype=np.float32)[:, None]
    # A slowly drifting layer, stretched towards the horizon as a flat one would be.
    depth = 1 / (1.12 - down)
    across = np.linspace(-0.9, 0.9, size[0], dtype=np.float32)[None]
    u = across * depth * 90 + np.float32(255 + 2 * canvas.time_s)
    v = np.broadcast_to(depth * 60 + np.float32(drive.seed * 37 % 512), u.shape)
    clouds = cv2.remap(_clouds(), u, np.ascontiguousarray(v), cv2.INTER_LINEAR,
                       borderMode=cv2.BORDER_WRAP)[..., None]
    haze = np.array(drive.haze, np.float32)
    sky = np.array(drive.sky_top, np.float32) + (haze - drive.sky_top) * down[..., None] ** 1.3
    if drive.sunny:
        sky = sky + (haze * 1.04 - sky) * np.clip((clouds + 3 * drive.cloud - 1.8) * 0.7, 0, 1)
    else:
        sky = sky + np.clip(clouds, -2, 2) * 9 * drive.cloud
    sky = cv2.resize(np.clip(sky, 0, 255).astype(np.float32), (canvas.width, rows))
    canvas.pixels[:rows, :, :3] = sky


def _draw_skyline(canvas: _Canvas) -> None:
    """What closes the view beyond the last block drawn."""
    drive = canvas.drive
    rng = np.random.default_rng((drive.seed, 5))
    houses: list[_Part] = []
    trees: list[_Part] = []
    across_m = _FAR_M * canvas.width / canvas.focal_px
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
            houses.append((_box(left, 0, right, top), _pick(rng, _WALL_COLOURS)))
    x = drive.lane_x_m - drive.curve * _FAR_M ** 2  # it keeps its place in a bend
    for parts, class_id in ((houses, _BUILDING), (trees, _TREE)):
        if parts:
            canvas.figure(x, _FAR_M, parts, class_id)


def _draw_ground(canvas: _Canvas) -> None:
    """Asphalt, markings, kerb and slabs, pixel by pixel."""
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
        """How much of a pixel a stripe of a half width covers, 0 to 1, at an offset from it."""
        covered: NDArray[np.float32] = np.clip(
            (half_m - np.abs(offset)) / px + np.float32(0.5), 0, 1)
        return covered

    column_texel = (x * 40).astype(np.int32)
    fine = _grain()[(along * 40).astype(np.int32) & 511, column_texel & 511]
    fine *= np.clip(0.05 / (along_px + across_px), 0, 1)
    rough = _clouds()[(along * 9).astype(np.int32) & 511, (column_texel // 3) & 511]
    rough *= np.clip(1.5 / along_px, 0, 1)
    aside = np.abs(x)
    half = np.float32(drive.road_half_m)
    is_road = aside < half
    crossing = np.zeros_like(z)
    for side in (-1, 1):
        shadow_line = np.full_like(z, 1e9)
        for index in range(int(canvas.driven_m // _BLOCK_M),
                           int((canvas.driven_m + _FAR_M) // _BLOCK_M) + 1):
            block = _block(drive.seed, side, index)
            for start, end in block.side_roads:
                is_road |= (along > start) & (along < end) & (x * side > 0)
            for at in block.crossings:
                crossing = np.maximum(crossing, stripe(along - np.float32(at), 1.3, along_px))
            if drive.sunny and side == drive.sun_side:
                edge = drive.road_half_m + drive.pavement_m
                inside = (along >= index * _BLOCK_M) & (along < (index + 1) * _BLOCK_M)
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
    tile = _grain()[(along / size + 0.5).astype(np.int32) & 511,
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
    canvas.pixels[first:, :, 3] = np.where(is_road, _ROAD, _PAVEMENT)


def _add_block(tasks: list[_Task], canvas: _Canvas, block: _Block, side: int,
               end_m: float) -> None:
    """Queue what one block holds, each with the distance that decides who hides whom."""
    driven = canvas.driven_m
    edge = side * (canvas.drive.road_half_m + canvas.drive.pavement_m)

    def seen(near: float, far: float) -> bool:
        return far > _NEAR_M + 0.2 and near < _FAR_M

    # Behind a fence or in a garden, things hide each other in the order they stand in.
    behind: list[_Task] = []
    for b in block.buildings:
        z0, z1 = b.start_m - driven, b.end_m - driven
        if seen(z0, z1):
            (behind if block.fences else tasks).append(
                (z1, partial(_draw_building, canvas, b, edge + side * b.setback_m, z0, z1, side)))
    for tree in block.trees:
        z = tree.distance_m - driven
        if 1.0 < z < _FAR_M:
            (tasks if tree.kind else behind).append((z, partial(_draw_tree, canvas, tree, z)))
    behind.sort(key=lambda task: -task[0])
    for start, end in block.hedges:
        z0, z1 = start - driven, end - driven
        if seen(z0, z1):
            behind.insert(0, (z1, partial(_draw_hedge, canvas, edge + side * 6, z0, z1)))
    for start, end, texture, height in block.fences:
        z0, z1 = start - driven, end - driven
        if seen(z0, z1):
            behind.append((z1, partial(_draw_wall, canvas, edge, z0, z1, height, texture, 0.9,
                                       _FENCE)))
    tasks.extend((end_m - driven, draw) for _, draw in behind)
    for post in block.posts:
        z = post.distance_m - driven
        if 0.8 < z < (60 if post.kind == 2 else 90):
            tasks.append((z, partial(_draw_post, canvas, post, z, side)))
    for sign in block.signs:
        z = sign.distance_m - driven
        if 0.8 < z < 70:
            tasks.append((z, partial(_draw_sign, canvas, sign, z)))
    for car in block.parked:
        z = car.distance_m - driven
        if seen(z, z + 4.2):
            away = side == canvas.drive.drive_side
            tasks.append((z, partial(_draw_car, canvas, car.x_m, z, car.look, away)))


def _draw_wall(canvas: _Canvas, x: float, z0: float, z1: float, height_m: float,
               texture: _Bytes, light: float | Sequence[float], class_id: int) -> None:
    """A textured wall along the road from z0 to z1; what lies behind the camera is cut off."""
    near = max(z0, _NEAR_M + 0.2)
    cut = int((near - z0) / (z1 - z0) * texture.shape[1])
    if cut >= texture.shape[1] - 1:
        return
    corners = np.array([[x, height_m, near], [x, height_m, z1], [x, 0, z1], [x, 0, near]])
    canvas.surface(corners, texture[:, cut:], light, class_id)


def _draw_building(canvas: _Canvas, b: _Building, x: float, z0: float, z1: float,
                   side: int) -> None:
    drive = canvas.drive
    shaded = drive.sunny and side == drive.sun_side
    light = 0.68 if shaded else (1.12 if drive.sunny else 0.92)
    deep, ridge = x + side * 9.0, x + side * 4.5
    top, peak = b.height_m, b.height_m + b.roof_m
    facade = _facade_texture(b.look, b.end_m - b.start_m, b.height_m, b.storeys, b.shops,
                             _FACADE_PX_PER_M if z0 < 40 else _FACADE_PX_PER_M // 2)
    gable = [c * (0.72 if shaded else 0.8) for c in facade[5, 1].tolist()]
    near = max(z0, _NEAR_M + 0.2)
    if z0 > near - 0.01 and b.shown_m < top:
        front = facade[:, :max(int(facade.shape[1] * 0.6), 2)]
        corners = np.array([[x, top, z0], [deep, top, z0], [deep, 0, z0], [x, 0, z0]])
        canvas.surface(corners, front, light * 0.85, _BUILDING)
    if b.roof_m:
        roof = [c * (0.8 if shaded else 1.05) for c in b.roof]
        eaves = x - side * 0.2
        parts: list[_Part] = [
            (np.array([[x, top - 0.2, near], [ridge, peak, near], [deep, top - 0.2, near]]),
             gable),
            (np.array([[eaves, top, near], [ridge, peak, near], [ridge, peak, z1],
                       [eaves, top, z1]]), roof)]
        at = near + b.chimney * (z1 - near) * 0.8
        for z, tone in ((at + 1.2, 0.75), (at, 0.9)):
            parts.append((np.array([[ridge - 0.4, peak - 0.8, z], [ridge - 0.4, peak + 1.1, z],
                                    [ridge + 0.4, peak + 1.1, z], [ridge + 0.4, peak - 0.8, z]]),
                          [c * tone for c in gable]))
        canvas.fill(_mesh(parts), 0, 0, _BUILDING)
    _draw_wall(canvas, x, z0, z1, top, facade, light, _BUILDING)


def _leaf_light(canvas: _Canvas, look: int) -> list[float]:
    tone = (0.8 + 0.12 * (look % 4)) * (1.0 if canvas.drive.sunny else 0.9) / 128
    return [c * tone for c in canvas.drive.leaf]


def _draw_hedge(canvas: _Canvas, x: float, z0: float, z1: float) -> None:
    leaves = np.tile(_crown(0)[0][50:110, 30:130], (1, 6, 1))
    _draw_wall(canvas, x, z0, z1, 2.6, leaves, _leaf_light(canvas, 0), _TREE)


def _draw_tree(canvas: _Canvas, tree: _Thing, z: float) -> None:
    x, h = tree.x_m, tree.height_m
    trunk = 0.09 + 0.018 * h
    if z < 40:
        canvas.shade(x, z - 0.5, z + 1.2, 1.6, 0.8)
    bark: _Colour = (74, 62, 52)
    canvas.figure(x, z, [(np.array([[-trunk, 0], [-trunk * 0.6, h * 0.6], [trunk * 0.6, h * 0.6],
                                    [trunk, 0]]), bark)], _TREE)
    seen_px = canvas.focal_px * h * 0.8 / z
    size = next((side for side in (20, 40, 80) if side >= seen_px), 160)
    colours, alpha = _crown_of_size(tree.look, size)
    half = h * 0.36
    low = h * 0.22 if tree.kind == 0 else max(h * 0.3, 2.0)
    corners = np.array([[x - half, h, z], [x + half, h, z], [x + half, low, z],
                        [x - half, low, z]])
    canvas.surface(corners, colours, _leaf_light(canvas, tree.look), _TREE, alpha)


def _box(x0: float, y0: float, x1: float, y1: float) -> _Floats:
    return np.array([[x0, y0], [x0, y1], [x1, y1], [x1, y0]])


def _disc(x: float, y: float, radius_x: float, radius_y: float | None = None) -> _Floats:
    return _CIRCLE * (radius_x, radius_y or radius_x) + (x, y)


def _draw_post(canvas: _Canvas, post: _Thing, z: float, side: int) -> None:
    steel: _Colour = (106, 110, 112) if post.kind == 0 else (58, 66, 62)
    h = post.height_m
    if post.kind == 2:
        canvas.figure(post.x_m, z, [(_box(-0.07, 0, 0.07, h), (48, 48, 50)),
                                    (_box(-0.075, h * 0.75, 0.075, h * 0.85), (220, 220, 215))],
                      _POLE)
        return
    reach = -side * 1.6
    canvas.figure(post.x_m, z, [
        (_box(-0.1, 0, 0.1, 1.2), steel),
        (np.array([[-0.075, 1.2], [-0.05, h], [0.05, h], [0.075, 1.2]]), steel),
        (np.array([[0, h - 0.08], [0, h + 0.04], [reach, h + 0.34], [reach, h + 0.24]]), steel),
        (np.array([[reach - 0.3, h + 0.2], [reach - 0.3, h + 0.38], [reach + 0.3, h + 0.38],
                   [reach + 0.3, h + 0.2]]), (150, 152, 150))], _POLE)


def _draw_sign(canvas: _Canvas, sign: _Thing, z: float) -> None:
    h = sign.height_m
    red: _Colour = (186, 30, 36)
    white: _Colour = (226, 226, 222)
    blue: _Colour = (28, 76, 158)
    top = h + 0.4 if sign.kind != 4 else h + 0.7
    canvas.figure(sign.x_m, z, [(_box(-0.04, 0, 0.04, top), (120, 122, 122))], _POLE)
    triangle = np.array([[-0.45, -0.3], [0, 0.48], [0.45, -0.3]])
    face: list[_Part]
    if sign.kind == 0:
        face = [(_disc(0, h, 0.38), red), (_disc(0, h, 0.28), white),
                (_box(-0.13, h - 0.12, 0.13, h + 0.12), (40, 40, 42))]
    elif sign.kind == 1:
        face = [(triangle + np.array((0, h)), red), (triangle * 0.62 + np.array((0, h)), white),
                (_box(-0.03, h - 0.1, 0.03, h + 0.12), (40, 40, 42))]
    elif sign.kind == 2:
        face = [(_box(-0.4, h - 0.3, 0.4, h + 0.5), white), (_box(-0.37, h - 0.27, 0.37, h + 0.47),
                                                             blue),
                (_box(-0.1, h - 0.15, 0.1, h + 0.3), white)]
    elif sign.kind == 3:
        face = [(_box(-0.6, h - 0.25, 0.6, h + 0.35), (30, 96, 62)),
                (_box(-0.5, h + 0.12, 0.45, h + 0.2), white),
                (_box(-0.5, h - 0.08, 0.3, h), white)]
    else:
        lit = int(canvas.time_s / 6 + sign.look) % 3
        lamps: Sequence[_Colour] = ((50, 210, 120), (240, 170, 40), (235, 50, 40))
        face = [(_box(-0.19, h - 0.35, 0.19, h + 0.65), (32, 34, 34))]
        face += [(_disc(0, h - 0.18 + 0.3 * i, 0.11),
                  lamp if i == lit else (lamp[0] * 0.25, lamp[1] * 0.25, lamp[2] * 0.25))
                 for i, lamp in enumerate(lamps)]
    canvas.figure(sign.x_m, z, face, _SIGN)


# Outlines of vehicles seen from the side, tail first: (metres from the tail, metres up).
_HATCHBACK = np.array([[0.0, .28], [0.0, .82], [.14, .98], [.55, 1.40], [2.1, 1.46], [2.9, .99],
                       [3.9, .82], [4.1, .62], [4.1, .28]])
_SALOON = np.array([[0.0, .28], [0.0, .88], [.75, .98], [1.35, 1.38], [2.5, 1.42], [3.2, .98],
                    [4.3, .80], [4.5, .62], [4.5, .28]])
_VAN = np.array([[0.0, .34], [0.0, 1.05], [.04, 1.1], [.12, 2.0], [3.3, 2.05], [3.95, 1.2],
                 [4.6, 1.0], [4.75, .8], [4.75, .34]])
_VEHICLES = (_HATCHBACK, _HATCHBACK, _HATCHBACK, _SALOON, _SALOON, _VAN)


@lru_cache(maxsize=1024)
def _car_mesh(look: int, away: bool, side: int, detailed: bool) -> _Mesh:
    """A car whose nearest end is at z = 0: what shows from ahead or behind, and of which side.

    Args:
        look: which car.
        away: its tail is the nearest end, not its nose.
        side: the side that shows: -1 left, 1 right, 0 neither.
        detailed: with the parts that only show from near.
    """
    rng = np.random.default_rng((6, look))
    outline = _VEHICLES[int(rng.integers(len(_VEHICLES)))]
    is_van = outline is _VAN
    paint = np.array(_pick(rng, _CAR_COLOURS, 12))
    glass = np.array((44.0, 52.0, 58.0)) * rng.uniform(0.7, 1.3)
    rubber = np.array((26.0, 26.0, 28.0))
    wide = 0.98 if is_van else 0.85
    long = float(outline[-1, 0])
    parts: list[tuple[_Floats, _Floats]] = []

    def place(points: _Floats, x: _Floats | float) -> _Floats:
        """World points of metres from the tail and up, at ``x`` across."""
        z = points[:, 0] if away else long - points[:, 0]
        return np.column_stack([np.broadcast_to(x, len(z)), points[:, 1], z])

    def strip(z: float, y0: float, y1: float, x0: float, x1: float, colour: _Floats) -> None:
        """An upright rectangle; x in half widths."""
        parts.append((np.column_stack([_box(x0 * wide, y0, x1 * wide, y1), np.full(4, z)]),
                      colour))

    if detailed:
        strip(0.25, 0.0, 0.5, -1.0, -0.68, rubber)
        strip(0.25, 0.0, 0.5, 0.68, 1.0, rubber)
    strip(0.2, 0.16, 0.5, -0.95, 0.95, rubber)
    half = np.where(outline[:, 1] > 1.2, 0.95 if is_van else 0.8, 1.0) * wide
    body = place(outline, 0.0)
    edges = list(range(len(outline) - 1))
    for i in reversed(edges) if away else edges:
        rise, run = body[i + 1, 1:] - body[i, 1:]
        y, z = (body[i + 1, 1:] + body[i, 1:]) / 2
        facing = (run * (1.4 - y) + rise * (z + 6)) * (1 if away else -1)
        if facing <= 0:
            continue
        up = abs(run) / math.hypot(rise, run)
        ends = body[[i, i + 1, i + 1, i]]
        ends[:, 0] = (-half[i], -half[i + 1], half[i + 1], half[i])
        parts.append((ends, paint * (0.78 + 0.3 * up)))
        if i in (2, 4):
            parts.append((ends * 0.84 + ends.mean(axis=0) * 0.16, glass * 0.8 + 42 * up))
    if side:
        parts.append((place(outline, side * half), paint * 0.88))
        inner = outline[2:6] * 0.86 + outline[2:6].mean(axis=0) * 0.14
        if is_van:
            inner = np.array([[2.7, 1.2], [2.7, 1.9], [3.25, 1.9], [3.75, 1.2]])
        slim = np.interp(inner[:, 1], (1.0, 1.4), (1.0, 0.95 if is_van else 0.82))
        parts.append((place(inner, side * wide * slim), glass))
        if not is_van:
            parts.append((place(_box(1.75, 0.95, 1.83, 1.4),
                                side * wide * np.array((1, 0.82, 0.82, 1))), paint * 0.7))
        for axle in (0.75, long - 0.8):
            for radius, colour in ((0.32, rubber), (0.19, np.array((140.0, 142.0, 146.0)))):
                parts.append((place(_disc(axle, 0.32, radius), side * wide * 1.01), colour))
    lamp = np.array((170.0, 24.0, 24.0) if away else (236.0, 236.0, 224.0))
    strip(-0.01, 0.6, 0.82, -0.95, -0.68, lamp)
    strip(-0.01, 0.6, 0.82, 0.68, 0.95, lamp)
    strip(-0.01, 0.28, 0.46, -1, 1, paint * 0.55)
    if detailed:
        if away:
            strip(-0.01, 0.55, 0.68, -0.3, 0.3, np.array((220.0, 200.0, 90.0)))
        else:
            strip(-0.01, 0.5, 0.66, -0.55, 0.55, rubber * 1.4)
            strip(-0.01, 0.36, 0.46, -0.3, 0.3, np.array((225.0, 225.0, 220.0)))
    return _mesh([(points, colour.tolist()) for points, colour in parts])


def _draw_car(canvas: _Canvas, x: float, z: float, look: int, away: bool) -> None:
    """A car whose nearest end is at ``z``, seen from behind when it faces away."""
    beside = canvas.drive.lane_x_m - canvas.drive.curve * z * z - x
    side = 0 if abs(beside) < 0.9 else int(math.copysign(1, beside))
    canvas.shade(x, z - 0.15, z + 4.3, 0.98, 0.42)
    canvas.fill(_car_mesh(look % 64, away, side, z < 45), x, z, _CAR)


def _add_movers(tasks: list[_Task], canvas: _Canvas) -> None:
    """Queue cars, cyclists and people that move by themselves.

    Each runs through a window that travels with the camera: what falls behind comes back far
    ahead as somebody else.
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
        tasks.append((z, partial(_draw_car, canvas, drive.lane_x_m * 1.02, z, look, True)))
    if rng.random() < 0.5:
        z = float(rng.uniform(40, 60)) + 4 * math.sin(0.31 * t)
        look = int(rng.integers(1 << 30))
        tasks.append((z, partial(_draw_car, canvas, drive.lane_x_m, z, look, True)))
    for i in range(int(rng.integers(1, 5))):
        z, look = passing(i, -9.0, 42.0 * i + float(rng.uniform(0, 25)), 168.0)
        x = -drive.drive_side * lane * 0.5
        if z > -4:
            tasks.append((z, partial(_draw_car, canvas, x, z, look, False)))
    for i in range(int(rng.integers(3, 15))):
        side = int(rng.choice([-1, 1]))
        walk = float(rng.choice([-1, 1]) * rng.uniform(0.9, 1.6))
        z, look = passing(20 + i, walk, float(rng.uniform(0, 90)), 90.0)
        x = side * (drive.road_half_m + 0.9 + float(rng.uniform(0, 1)) * (drive.pavement_m - 1.3))
        if z > 0.8:
            tasks.append((z, partial(_draw_person, canvas, x, z, look, walk)))
    for i in range(int(rng.integers(1, 4))):
        z, look = passing(50 + i, 4.5, 6 + float(rng.uniform(0, 70)), 80.0)
        x = drive.drive_side * (lane - 0.45)
        if i == 2:
            z, look = passing(52, -4.5, float(rng.uniform(0, 80)), 80.0)
            x = -x
        if z > 1.2 and abs(x - drive.lane_x_m) > 0.7:
            tasks.append((z, partial(_draw_cyclist, canvas, x, z, look)))


def _limb(x0: float, y0: float, x1: float, y1: float, half: float) -> _Floats:
    return np.array([[x0 - half, y0], [x1 - half, y1], [x1 + half, y1], [x0 + half, y0]])


def _draw_person(canvas: _Canvas, x: float, z: float, look: int, walk: float) -> None:
    rng = np.random.default_rng((9, look))
    tall = float(rng.uniform(0.9, 1.08))
    coat, legs = _pick(rng, _CLOTHES, 24), _pick(rng, _CLOTHES, 16)
    skin = _SKIN[int(rng.integers(len(_SKIN)))]
    hair = _pick(rng, ((40, 30, 24), (92, 66, 40), (150, 140, 130)))
    swing = 0.16 * math.sin(2 * math.pi * 0.9 * canvas.time_s * abs(walk) + look % 7)
    slant = 0.1 * swing
    parts: list[_Part] = [
        (_limb(0.09, 0.85, 0.1 + swing, 0.05 + abs(slant), 0.075), legs),
        (_limb(-0.09, 0.85, -0.1 - swing, 0.05, 0.075), legs),
        (_box(0.02 + swing, 0.0, 0.18 + swing, 0.07), (30, 28, 28)),
        (_box(-0.18 - swing, 0.0, -0.02 - swing, 0.07), (30, 28, 28)),
        (_limb(0.23, 1.4, 0.25 - swing, 0.8, 0.055), (coat[0] * .8, coat[1] * .8, coat[2] * .8)),
        (_limb(-0.23, 1.4, -0.25 + swing, 0.8, 0.055), (coat[0] * .8, coat[1] * .8, coat[2] * .8)),
        (np.array([[-0.17, 0.75], [-0.23, 1.42], [-0.1, 1.5], [0.1, 1.5], [0.23, 1.42],
                   [0.17, 0.75]]), coat),
        (_disc(0, 1.62, 0.1, 0.13), skin),
        (_disc(0, 1.68, 0.1, 0.08) if walk < 0 else _disc(0, 1.64, 0.105, 0.125), hair)]
    if z < 30:
        canvas.shade(x, z - 0.1, z + 0.3, 0.3, 0.6)
    canvas.figure(x, z, [(outline * tall, colour) for outline, colour in parts], _PEDESTRIAN)


def _draw_cyclist(canvas: _Canvas, x: float, z: float, look: int) -> None:
    rng = np.random.default_rng((10, look))
    coat, legs = _pick(rng, (*_CLOTHES, (210, 220, 40), (230, 110, 30)), 20), _pick(rng, _CLOTHES)
    helmet = _pick(rng, ((230, 230, 226), (40, 40, 44), (190, 40, 40)))
    skin = _SKIN[int(rng.integers(len(_SKIN)))]
    pedal = 0.14 * math.sin(2 * math.pi * 1.2 * canvas.time_s + look % 5)
    rubber: _Colour = (28, 28, 30)
    canvas.shade(x, z - 0.2, z + 1.6, 0.35, 0.6)
    canvas.figure(x, z + 1.0, [(_disc(0.04, 0.34, 0.07, 0.34), rubber)], _BICYCLIST)
    canvas.figure(x, z, [
        (_disc(0, 0.34, 0.06, 0.34), rubber),
        (_box(-0.025, 0.4, 0.025, 0.95), (120, 40, 40)),
        (_box(-0.28, 1.0, 0.28, 1.05), (50, 50, 54)),
        (_limb(0.1, 0.98, 0.15, 0.32 + pedal, 0.075), legs),
        (_limb(-0.1, 0.98, -0.15, 0.32 - pedal, 0.075), legs),
        (_limb(0.2, 1.42, 0.28, 1.05, 0.055), coat), (_limb(-0.2, 1.42, -0.28, 1.05, 0.055), coat),
        (np.array([[-0.17, 0.92], [-0.23, 1.46], [-0.1, 1.54], [0.1, 1.54], [0.23, 1.46],
                   [0.17, 0.92]]), coat),
        (_disc(0, 1.66, 0.1, 0.13), skin), (_disc(0, 1.72, 0.115, 0.09), helmet)], _BICYCLIST)


@lru_cache(maxsize=4)
def _vignette(height: int, width: int) -> NDArray[np.float32]:
    """Squared distance from the centre, (height, width, 1), 1 in the corners."""
    v = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    u = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    squared: NDArray[np.float32] = (u * u + v * v) / np.float32(2)
    return squared


@lru_cache(maxsize=4)
def _sensor_noise(height: int, width: int) -> NDArray[np.float32]:
    """White noise, (height + 64, width + 64, 3), to be cropped anew for each frame."""
    return np.random.default_rng(13).standard_normal((height + 64, width + 64, 3),
                                                     dtype=np.float32)


def _expose(canvas: _Canvas) -> _Bytes:
    """The colours as a camera gives them: lens blur, vignetting, exposure, noise."""
    drive, h, w = canvas.drive, canvas.height, canvas.width
    tone = np.arange(256)[:, None] / 255
    curve = 255 * (tone * np.array(drive.gain)) ** drive.gamma
    image = cv2.LUT(np.ascontiguousarray(canvas.pixels[..., :3]),
                    np.clip(curve, 0, 255).astype(np.uint8)[None])
    image = cv2.GaussianBlur(image, (3, 3), drive.blur)
    rng = np.random.default_rng((drive.seed, 14, round(canvas.time_s * 1000)))
    dv, du = rng.integers(0, 64, 2)
    noisy = image * (1 - np.float32(drive.vignette) * _vignette(h, w))
    noisy += _sensor_noise(h, w)[dv:dv + h, du:du + w] * np.float32(drive.noise)
    exposed: _Bytes = np.clip(noisy + np.float32(0.5), 0, 255).astype(np.uint8)
    return exposed
