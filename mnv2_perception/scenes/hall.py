"""Draw halls and corridors with exact labels, by casting a ray for each pixel.

A hall is a box with a patterned and more or less shiny floor, lamps, windows or doors, pillars,
tables, chairs and other objects, all chosen at random; the camera is low above the floor.

World coordinates are metres: ``x`` to the right of the hall's middle, ``y`` up, ``z`` along it.
"""

from dataclasses import dataclass, field
import math

import cv2
import numpy as np
from numpy.typing import NDArray

HALL_CLASSES = ('floor', 'obstacle', 'background')
FLOOR, OBSTACLE, BACKGROUND = range(3)
FLOORS = ('plain', 'tiles', 'tiles', 'tiles', 'checks', 'boards', 'bands')

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]


def draw_hall(seed: int, height: int, width: int) -> tuple[Bytes, Bytes]:
    """Draw one hall and its labels.

    Args:
        seed: number of the hall, 0 or more.
        height: height of the picture, pixels.
        width: width of the picture, pixels.

    Returns:
        The image, (height, width, 3) uint8 RGB, and its class ids, (height, width) uint8, indices
        into ``HALL_CLASSES``.
    """
    rng = np.random.default_rng(seed)
    hall = Hall(rng)
    eye = np.array([rng.uniform(-0.6, 0.6) * hall.half, rng.uniform(0.15, 1.3), rng.uniform(0, 4)])
    rays = camera_rays(rng, height, width)
    image, label, far = hall.trace(np.broadcast_to(eye, rays.shape), rays)
    points = eye + rays * far[..., None]
    floor = label == FLOOR
    grain = cv2.resize(
        rng.standard_normal((24, 24)), (width, height), interpolation=cv2.INTER_CUBIC
    )[..., None]
    shine = rng.uniform(0.0, 0.5) if rng.random() < 0.75 else 0.0
    if shine:
        mirrored = rays * [1.0, -1.0, 1.0] + rng.uniform(0.0, 0.02) * grain
        seen, _, _ = hall.trace(points[floor] + [0.0, 1e-3, 0.0], mirrored[floor])
        steep = np.abs(rays[..., 1]) / np.linalg.norm(rays, axis=-1)
        fresnel = ((1 - steep) ** 3)[floor][:, None]  # reflections are strongest at flat angles
        image[floor] = image[floor] * (1 - 0.6 * shine * fresnel) + shine * fresnel * seen
    for box in hall.boxes:
        if box.low == 0.0:  # a contact shadow
            away = np.maximum(np.abs(points[..., [0, 2]] - box.middle) - box.half, 0.0)
            gap = np.hypot(away[..., 0], away[..., 1])[floor]
            image[floor] *= (1 - 0.35 * np.exp(-gap / 0.12))[:, None]
    image *= rng.uniform(0.5, 1.0) * np.exp(-rng.uniform(0.0, 0.08) * far)[..., None]
    image *= 1 + 0.025 * grain
    done = np.clip(image * 255.0, 0, 255).astype(np.uint8)
    return (np.asarray(cv2.blur(done, (3, 3)), np.uint8) if rng.random() < 0.7 else done), label


def camera_rays(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return the direction of each pixel's ray, (height, width, 3), not normalised."""
    focal = width / 2 / math.tan(math.radians(rng.uniform(50, 95)) / 2)
    yaw, pitch, roll = np.radians([rng.uniform(-40, 40), rng.uniform(-8, 18), rng.uniform(-3, 3)])
    y, x = np.mgrid[:height, :width] + 0.5
    a, b = (x - width / 2) / focal, (height / 2 - y) / focal
    a, b = a * np.cos(roll) - b * np.sin(roll), a * np.sin(roll) + b * np.cos(roll)
    ahead, up = np.cos(pitch) + b * np.sin(pitch), b * np.cos(pitch) - np.sin(pitch)
    rays = np.stack(
        [a * np.cos(yaw) + ahead * np.sin(yaw), up, ahead * np.cos(yaw) - a * np.sin(yaw)], axis=-1
    )
    return np.asarray(np.where(np.abs(rays) < 1e-5, 1e-5, rays))


@dataclass(frozen=True)
class Box:
    """An object with vertical sides: middle and half size in x and z, from `low` to `high`."""

    middle: tuple[float, float]
    half: tuple[float, float]
    low: float
    high: float
    class_id: int
    colour: Floats


@dataclass
class Hall:
    """A hall with random properties; colours are RGB from 0 to 1."""

    rng: np.random.Generator
    half: float = 0.0  # half the width, metres
    boxes: list[Box] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng
        self.half, self.end = rng.uniform(1.2, 7.0), rng.uniform(6.0, 40.0)
        self.top = rng.uniform(2.4, 5.0)
        self.kind = str(rng.choice(FLOORS))
        self.tile, self.joint = rng.uniform(0.3, 1.2), rng.uniform(0.004, 0.02)
        self.skew = float(rng.choice([0.0, 0.0, math.pi / 4, rng.uniform(0, math.pi / 2)]))
        self.floor, self.second = self.colour(0.2, 0.85), self.colour(0.15, 0.85)
        self.dark, self.wall = self.colour(0.1, 0.5), self.colour(0.4, 0.95)
        self.skirting, self.skirt = self.colour(0.05, 0.6), rng.uniform(0.0, 0.25)
        self.ceiling, self.lamp_step = self.colour(0.6, 0.95), rng.uniform(1.5, 4)
        self.windows, self.step = rng.random() < 0.5, rng.uniform(1.5, 4)
        self.sill, self.lintel = rng.uniform(0, 1.2), rng.uniform(1.9, 2.8)
        self.pane, self.door = self.colour(0.1, 1.0), self.colour(0.1, 0.7)
        for _ in range(int(rng.integers(0, 7))):
            self.furnish()
        for index in range(int(rng.choice([0, 0, 2, 4]))):  # pillars
            side = rng.choice([-1, 1]) * self.half * rng.uniform(0.4, 0.8)
            thick = rng.uniform(0.15, 0.4)
            self.add((side, 2 + 3.5 * index + rng.random()), (thick, thick), 0.0, self.top,
                     self.wall * 0.95, BACKGROUND)
        if rng.random() < 0.6:  # a projecting part of a wall
            self.add((rng.choice([-1, 1]) * self.half, rng.uniform(2, 12)),
                     (rng.uniform(0.2, 0.6 * self.half), rng.uniform(0.3, 3)), 0.0, self.top,
                     self.colour(0.3, 0.95), BACKGROUND)

    def colour(self, low: float, high: float) -> Floats:
        """Return a random colour that is nearly gray."""
        return np.clip(self.rng.uniform(low, high) + self.rng.uniform(-0.08, 0.08, 3), 0.02, 1.0)

    def add(self, middle: tuple[float, float], half: tuple[float, float], low: float, high: float,
            colour: Floats, class_id: int = OBSTACLE) -> None:
        """Add a box."""
        self.boxes.append(Box(middle, half, low, high, class_id, colour))

    def furnish(self) -> None:
        """Put an object on the floor: a table or chair with four legs, or a box."""
        rng = self.rng
        size, z = rng.uniform(0.08, 0.6), rng.uniform(1.0, min(self.end, 18))
        by_wall = rng.choice([-1, 1]) * (self.half - size)
        x = by_wall if rng.random() < 0.5 else rng.uniform(-self.half, self.half)
        paint = rng.uniform(0.02, 0.9, 3)
        if rng.random() >= 0.35:
            self.add((x, z), (size, rng.uniform(0.08, 0.5)), 0.0, rng.uniform(0.25, 2.0), paint)
            return
        deep, board = rng.uniform(0.15, 0.5), rng.uniform(0.35, 0.8)
        for i, j in ((-0.9, -0.9), (-0.9, 0.9), (0.9, -0.9), (0.9, 0.9)):
            self.add((x + i * size, z + j * deep), (0.02, 0.02), 0.0, board, paint * 0.6)
        self.add((x, z), (size, deep), board, board + 0.05, paint)
        if rng.random() < 0.6:
            self.add((x, z + deep), (size, 0.03), board, board + 0.45, paint)

    def trace(self, origin: Floats, rays: Floats) -> tuple[Floats, Bytes, Floats]:
        """Return colour (..., 3), class id and distance of what each ray hits first.

        Distances are in units of the ray's length.
        """
        rays = np.where(np.abs(rays) < 1e-5, 1e-5, rays)
        x, y, z = np.moveaxis(rays, -1, 0)
        px, py, pz = np.moveaxis(origin, -1, 0)
        planes = np.stack([
            np.where(y < 0, -py / y, np.inf), np.where(y > 0, (self.top - py) / y, np.inf),
            (np.copysign(self.half, x) - px) / x, (np.where(z > 0, self.end, -6.0) - pz) / z,
        ])
        surface = np.maximum(planes, 1e-4).argmin(axis=0)
        far = np.maximum(planes, 1e-4).min(axis=0)
        points = origin + rays * far[..., None]
        colour = np.where(
            (surface == 0)[..., None], self.floor_colour(points, far),
            np.where((surface == 1)[..., None], self.ceiling_colour(points),
                     self.wall_colour(points, surface == 2)),
        )
        label = np.where(surface == 0, FLOOR, BACKGROUND).astype(np.uint8)
        for box in self.boxes:
            corner = np.array([box.middle[0], (box.low + box.high) / 2, box.middle[1]])
            half = np.array([box.half[0], (box.high - box.low) / 2, box.half[1]])
            first, last = (corner - half - origin) / rays, (corner + half - origin) / rays
            into, out = np.minimum(first, last), np.maximum(first, last).min(axis=-1)
            near, side = into.max(axis=-1), into.argmax(axis=-1)
            hit = (near < out) & (near > 0.02) & (near < far)
            shade = np.array([0.8, 1.0, 0.65])[side]
            colour = np.where(hit[..., None], box.colour * shade[..., None], colour)
            label = np.where(hit, box.class_id, label).astype(np.uint8)
            far = np.where(hit, near, far)
        return colour, label, far

    def floor_colour(self, points: Floats, far: Floats) -> Floats:
        """Return the floor's colours; its pattern blurs with distance."""
        along = points[..., 0] * math.cos(self.skew) + points[..., 2] * math.sin(self.skew)
        across = points[..., 2] * math.cos(self.skew) - points[..., 0] * math.sin(self.skew)
        out: Floats = np.broadcast_to(self.floor, points.shape).copy()
        if self.kind == 'bands':
            out[along / 2.2 % 1 < 0.25] = self.second
        elif self.kind == 'boards':
            tone = np.sin(np.floor(along / 0.14) * 12.9) * 43758.5 % 1
            out *= (0.8 + 0.4 * tone)[..., None]
        elif self.kind != 'plain':
            rows, columns = np.floor(along / self.tile), np.floor(across / self.tile)
            if self.kind == 'checks':
                out[(rows + columns) % 2 == 1] = self.second
            tone = np.sin(rows * 12.9 + columns * 78.2) * 43758.5 % 1
            out *= (1 + 0.08 * (tone - 0.5))[..., None]
            blur = np.minimum(0.003 * far, self.tile / 3)
            off = np.minimum(
                np.abs((along / self.tile + 0.5) % 1 - 0.5),
                np.abs((across / self.tile + 0.5) % 1 - 0.5),
            ) * self.tile
            joint = np.clip((self.joint + blur - off) / (blur + 1e-3), 0, 1)
            joint = (joint * self.joint / (self.joint + blur))[..., None]
            out = np.asarray(out * (1 - joint) + self.dark * joint)
        return out

    def ceiling_colour(self, points: Floats) -> Floats:
        """Return the ceiling's colours: plain, with lamps."""
        x, z = points[..., 0], points[..., 2]
        lamp = (z / self.lamp_step % 1 < 0.3) & (np.abs(x) < 0.5 * self.half) & (x / 1.2 % 1 < 0.6)
        return np.asarray(np.where(lamp[..., None], 1.2, self.ceiling))

    def wall_colour(self, points: Floats, beside: NDArray[np.bool_]) -> Floats:
        """Return the walls' colours: skirting, and windows or doors."""
        high = points[..., 1]
        slot = np.where(beside, points[..., 2], points[..., 0]) / self.step % 1
        out = self.wall * np.where(beside, 1.0, 0.85)[..., None]
        if self.windows:
            hole = (slot > 0.25) & (slot < 0.85) & (high > self.sill) & (high < self.lintel)
            out[hole] = self.pane
            out[hole & (((slot - 0.25) * 10 % 1 < 0.12) | (high < self.sill + 0.06))] = (
                self.wall * 0.6
            )
        else:
            out[(slot > 0.4) & (slot < 0.4 + 0.9 / self.step) & (high < 2.05)] = self.door
        out[high < self.skirt] = self.skirting
        return np.asarray(out)
