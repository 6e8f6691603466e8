"""Draw the cars of the street."""

from functools import lru_cache
import math

import numpy as np

from mnv2_perception.scenes.canvas import Canvas, disc, Floats, Mesh, mesh_of, rect
from mnv2_perception.scenes.classes import CAR
from mnv2_perception.scenes.colours import CAR_COLOURS, pick

# Outlines of vehicles seen from the side, from the tail: (metres from the tail, metres up).
_HATCHBACK = np.array([[0.0, .28], [0.0, .82], [.14, .98], [.55, 1.40], [2.1, 1.46], [2.9, .99],
                       [3.9, .82], [4.1, .62], [4.1, .28]])
_SALOON = np.array([[0.0, .28], [0.0, .88], [.75, .98], [1.35, 1.38], [2.5, 1.42], [3.2, .98],
                    [4.3, .80], [4.5, .62], [4.5, .28]])
_VAN = np.array([[0.0, .34], [0.0, 1.05], [.04, 1.1], [.12, 2.0], [3.3, 2.05], [3.95, 1.2],
                 [4.6, 1.0], [4.75, .8], [4.75, .34]])
_VEHICLES = (_HATCHBACK, _HATCHBACK, _HATCHBACK, _SALOON, _SALOON, _VAN)


@lru_cache(maxsize=1024)
def _car_mesh(look: int, away: bool, side: int, detailed: bool) -> Mesh:
    """Return a car whose nearest end is at z = 0, as seen from the front or from behind.

    Args:
        look: number of the car's appearance.
        away: whether the nearest end is the tail, not the nose.
        side: the visible side: -1 left, 1 right, 0 neither.
        detailed: whether to include parts that are visible only from near.
    """
    rng = np.random.default_rng((6, look))
    outline = _VEHICLES[int(rng.integers(len(_VEHICLES)))]
    is_van = outline is _VAN
    paint = np.array(pick(rng, CAR_COLOURS, 12))
    glass = np.array((44.0, 52.0, 58.0)) * rng.uniform(0.7, 1.3)
    rubber = np.array((26.0, 26.0, 28.0))
    wide = 0.98 if is_van else 0.85
    long = float(outline[-1, 0])
    parts: list[tuple[Floats, Floats]] = []

    def place(points: Floats, x: Floats | float) -> Floats:
        """Return world points for metres from the tail and up, at ``x`` across."""
        z = points[:, 0] if away else long - points[:, 0]
        return np.column_stack([np.broadcast_to(x, len(z)), points[:, 1], z])

    def strip(z: float, y0: float, y1: float, x0: float, x1: float, colour: Floats) -> None:
        """Add an upright rectangle; x is in units of half the width."""
        parts.append((np.column_stack([rect(x0 * wide, y0, x1 * wide, y1), np.full(4, z)]),
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
            parts.append((place(rect(1.75, 0.95, 1.83, 1.4),
                                side * wide * np.array((1, 0.82, 0.82, 1))), paint * 0.7))
        for axle in (0.75, long - 0.8):
            for radius, colour in ((0.32, rubber), (0.19, np.array((140.0, 142.0, 146.0)))):
                parts.append((place(disc(axle, 0.32, radius), side * wide * 1.01), colour))
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
    return mesh_of([(points, colour.tolist()) for points, colour in parts])


def draw_car(canvas: Canvas, x: float, z: float, look: int, away: bool) -> None:
    """Draw a car whose nearest end is at ``z``; if it faces away, it is seen from behind."""
    beside = canvas.drive.lane_x_m - canvas.drive.curve * z * z - x
    side = 0 if abs(beside) < 0.9 else int(math.copysign(1, beside))
    canvas.shade(x, z - 0.15, z + 4.3, 0.98, 0.42)
    canvas.fill(_car_mesh(look % 64, away, side, z < 45), x, z, CAR)
