"""Properties that stay constant during a drive: camera, weather, road, style of the street."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mnv2_perception.scenes.colours import Colour

SPEED_M_S = 8.0


@dataclass(frozen=True)
class Drive:
    """Properties that stay constant during a drive; lengths in metres."""

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
    haze: Colour
    sky_top: Colour
    cloud: float
    asphalt: float
    asphalt_tint: Colour
    slab: Colour
    gain: Colour
    gamma: float
    noise: float
    vignette: float
    blur: float
    terrace: float
    greenery: float
    storeys: int
    parked: float
    leaf: Colour
    yellow_lines: bool
    slab_m: float


@lru_cache(maxsize=8)
def drive_of(seed: int) -> Drive:
    rng = np.random.default_rng((seed, 1))
    sunny = bool(rng.random() < 0.55)
    lanes = 4 if rng.random() < 0.08 else 2
    parking = bool(rng.random() < 0.45)
    lane_m = float(rng.uniform(2.6, 3.3))
    road_half_m = lane_m * lanes / 2 + (1.9 if parking else 0.3)
    drive_side = int(rng.choice([-1, -1, 1]))
    warm = float(rng.uniform(-1, 1))
    tone = float(rng.uniform(195, 245))
    haze: Colour = (tone - 4, tone, min(tone + 7, 255)) if sunny else (tone, tone, tone + 4)
    blue = float(rng.uniform(0.5, 1))
    sky_top: Colour = ((90 + 80 * (1 - blue), 135 + 50 * (1 - blue), 205.0) if sunny else
                       (tone * 0.82, tone * 0.84, tone * 0.88))
    asphalt = float(rng.uniform(84, 128))
    slab = float(rng.uniform(112, 165))
    exposure = float(rng.uniform(0.72, 1.1))
    green = float(rng.uniform(0, 1))
    return Drive(
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
