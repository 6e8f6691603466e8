"""Lay out the street block by block from the seed."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from mnv2_perception.scenes.canvas import Bytes
from mnv2_perception.scenes.colours import Colour, pick, ROOF_COLOURS
from mnv2_perception.scenes.drive import drive_of
from mnv2_perception.scenes.textures import fence_texture

BLOCK_M = 36.0


@dataclass(frozen=True)
class Building:
    start_m: float
    end_m: float
    setback_m: float
    height_m: float
    roof_m: float
    roof: Colour
    look: int
    storeys: int
    shops: bool
    chimney: float
    shown_m: float  # the end wall towards the camera is visible above this height


@dataclass(frozen=True)
class Thing:
    """The position and appearance of a tree, post, sign or parked car."""

    distance_m: float
    x_m: float
    height_m: float
    kind: int
    look: int


@dataclass(frozen=True)
class Block:
    buildings: list[Building] = field(default_factory=list)
    fences: list[tuple[float, float, Bytes, float]] = field(default_factory=list)
    hedges: list[tuple[float, float]] = field(default_factory=list)
    trees: list[Thing] = field(default_factory=list)
    posts: list[Thing] = field(default_factory=list)
    signs: list[Thing] = field(default_factory=list)
    parked: list[Thing] = field(default_factory=list)
    side_roads: list[tuple[float, float]] = field(default_factory=list)
    crossings: list[float] = field(default_factory=list)
    shade_m: float = 0.0


@lru_cache(maxsize=96)
def block_of(seed: int, side: int, index: int) -> Block:
    """Return the objects on one side of one stretch of the street."""
    drive = drive_of(seed)
    rng = np.random.default_rng((seed, 2, side + 1, index + 1000))
    start, end = index * BLOCK_M, (index + 1) * BLOCK_M
    edge = drive.road_half_m + drive.pavement_m
    block = Block()
    draw = rng.random()
    built = draw < drive.terrace
    park = not built and draw > drive.terrace + (1 - drive.terrace) * 0.5
    built_end = end
    if rng.random() < 0.3:
        built_end = end - float(rng.uniform(6.5, 9))
        block.side_roads.append((built_end + 0.2, end - 0.2))
    if park:
        fence = fence_texture(rng)
        fence_m = float(rng.uniform(1.0, 1.9))
        block.fences.append((start, built_end, fence, fence_m))
        block.hedges.append((start, built_end))
        for distance in np.arange(start + 2, built_end - 1, rng.uniform(4.5, 8)):
            block.trees.append(Thing(float(distance + rng.uniform(-1, 1)),
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
            block.buildings.append(Building(
                at, at + length, 0.0 if built else 4.0, height,
                float(rng.uniform(1.5, 3.2)) if rng.random() < 0.65 else 0.0,
                pick(rng, ROOF_COLOURS), int(rng.integers(1 << 30)), storeys, built,
                float(rng.uniform(0.1, 0.9)), hidden_m))
            hidden_m = height if built else 0.0
            at += length + (0.0 if built else float(rng.uniform(1.5, 5)))
        if not built:
            fence = fence_texture(rng)
            fence_m = float(rng.uniform(0.8, 1.5))
            block.fences.append((start, built_end, fence, fence_m))
            block.trees.extend(
                Thing(float(rng.uniform(start + 2, built_end - 2)),
                      side * (edge + float(rng.uniform(1.8, 3))), float(rng.uniform(3.5, 7)), 0,
                      int(rng.integers(12))) for _ in range(int(rng.integers(1, 4))))
    if rng.random() < drive.greenery:
        for distance in np.arange(start + rng.uniform(3, 8), built_end - 1, rng.uniform(9, 16)):
            block.trees.append(Thing(float(distance), side * (drive.road_half_m + 0.9),
                                     float(rng.uniform(4.5, 8)), 1, int(rng.integers(12))))
    lamp_kind = int(np.random.default_rng((seed, 3)).integers(2))
    block.posts.append(Thing(start + 9.0 + 9 * (side > 0), side * (drive.road_half_m + 0.45),
                             float(6.5 + lamp_kind), lamp_kind, 0))
    block.posts.extend(Thing(float(rng.uniform(start, built_end)),
                             side * (drive.road_half_m + 0.3), 1.0, 2, 0)
                       for _ in range(int(rng.integers(0, 5))))
    block.signs.extend(Thing(float(rng.uniform(start, built_end)),
                             side * (drive.road_half_m + 0.55), float(rng.uniform(2.1, 2.8)),
                             int(rng.integers(5)), int(rng.integers(100)))
                       for _ in range(int(rng.integers(1, 4))))
    if drive.parking:
        block.parked.extend(Thing(float(distance), side * (drive.road_half_m - 1.05), 0.0,
                                  int(rng.integers(0, 8)), int(rng.integers(1 << 30)))
                            for distance in np.arange(start + 2, built_end - 5.5, 5.6)
                            if rng.random() < drive.parked)
    if side > 0 and rng.random() < 0.25:
        block.crossings.append(start + 26.0)
    tallest = max((b.height_m for b in block.buildings), default=2.0)
    return Block(**{**block.__dict__, 'shade_m': tallest})
