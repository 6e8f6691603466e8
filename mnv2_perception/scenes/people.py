"""Draw people on foot and on bicycles."""

import math

import numpy as np

from mnv2_perception.scenes.canvas import Canvas, disc, Floats, Part, rect
from mnv2_perception.scenes.classes import BICYCLIST, PEDESTRIAN
from mnv2_perception.scenes.colours import CLOTHES, Colour, pick, SKIN


def _limb(x0: float, y0: float, x1: float, y1: float, half: float) -> Floats:
    return np.array([[x0 - half, y0], [x1 - half, y1], [x1 + half, y1], [x0 + half, y0]])


def draw_person(canvas: Canvas, x: float, z: float, look: int, walk: float) -> None:
    rng = np.random.default_rng((9, look))
    tall = float(rng.uniform(0.9, 1.08))
    coat, legs = pick(rng, CLOTHES, 24), pick(rng, CLOTHES, 16)
    skin = SKIN[int(rng.integers(len(SKIN)))]
    hair = pick(rng, ((40, 30, 24), (92, 66, 40), (150, 140, 130)))
    swing = 0.16 * math.sin(2 * math.pi * 0.9 * canvas.time_s * abs(walk) + look % 7)
    slant = 0.1 * swing
    parts: list[Part] = [
        (_limb(0.09, 0.85, 0.1 + swing, 0.05 + abs(slant), 0.075), legs),
        (_limb(-0.09, 0.85, -0.1 - swing, 0.05, 0.075), legs),
        (rect(0.02 + swing, 0.0, 0.18 + swing, 0.07), (30, 28, 28)),
        (rect(-0.18 - swing, 0.0, -0.02 - swing, 0.07), (30, 28, 28)),
        (_limb(0.23, 1.4, 0.25 - swing, 0.8, 0.055), (coat[0] * .8, coat[1] * .8, coat[2] * .8)),
        (_limb(-0.23, 1.4, -0.25 + swing, 0.8, 0.055), (coat[0] * .8, coat[1] * .8, coat[2] * .8)),
        (np.array([[-0.17, 0.75], [-0.23, 1.42], [-0.1, 1.5], [0.1, 1.5], [0.23, 1.42],
                   [0.17, 0.75]]), coat),
        (disc(0, 1.62, 0.1, 0.13), skin),
        (disc(0, 1.68, 0.1, 0.08) if walk < 0 else disc(0, 1.64, 0.105, 0.125), hair)]
    if z < 30:
        canvas.shade(x, z - 0.1, z + 0.3, 0.3, 0.6)
    canvas.figure(x, z, [(outline * tall, colour) for outline, colour in parts], PEDESTRIAN)


def draw_cyclist(canvas: Canvas, x: float, z: float, look: int) -> None:
    rng = np.random.default_rng((10, look))
    coat, legs = pick(rng, (*CLOTHES, (210, 220, 40), (230, 110, 30)), 20), pick(rng, CLOTHES)
    helmet = pick(rng, ((230, 230, 226), (40, 40, 44), (190, 40, 40)))
    skin = SKIN[int(rng.integers(len(SKIN)))]
    pedal = 0.14 * math.sin(2 * math.pi * 1.2 * canvas.time_s + look % 5)
    rubber: Colour = (28, 28, 30)
    canvas.shade(x, z - 0.2, z + 1.6, 0.35, 0.6)
    canvas.figure(x, z + 1.0, [(disc(0.04, 0.34, 0.07, 0.34), rubber)], BICYCLIST)
    canvas.figure(x, z, [
        (disc(0, 0.34, 0.06, 0.34), rubber),
        (rect(-0.025, 0.4, 0.025, 0.95), (120, 40, 40)),
        (rect(-0.28, 1.0, 0.28, 1.05), (50, 50, 54)),
        (_limb(0.1, 0.98, 0.15, 0.32 + pedal, 0.075), legs),
        (_limb(-0.1, 0.98, -0.15, 0.32 - pedal, 0.075), legs),
        (_limb(0.2, 1.42, 0.28, 1.05, 0.055), coat), (_limb(-0.2, 1.42, -0.28, 1.05, 0.055), coat),
        (np.array([[-0.17, 0.92], [-0.23, 1.46], [-0.1, 1.54], [0.1, 1.54], [0.23, 1.46],
                   [0.17, 0.92]]), coat),
        (disc(0, 1.66, 0.1, 0.13), skin), (disc(0, 1.72, 0.115, 0.09), helmet)], BICYCLIST)
