"""Colour palettes of the drawn street, RGB from 0 to 255."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

Colour: TypeAlias = tuple[float, float, float]

WALL_COLOURS: Sequence[Colour] = (
    (138, 78, 62), (152, 96, 72), (168, 138, 100), (186, 164, 128), (206, 196, 174),
    (222, 218, 208), (150, 146, 140), (176, 172, 166), (112, 88, 76), (196, 178, 150))
ROOF_COLOURS: Sequence[Colour] = ((88, 84, 86), (110, 70, 58), (74, 72, 76), (126, 92, 76))
SHOP_COLOURS: Sequence[Colour] = (
    (150, 34, 38), (28, 60, 120), (24, 92, 66), (40, 38, 42), (190, 150, 40), (90, 36, 84))
CAR_COLOURS: Sequence[Colour] = (
    (188, 190, 194), (40, 42, 46), (222, 222, 220), (30, 48, 96), (150, 24, 28), (92, 96, 102),
    (46, 82, 62), (128, 132, 140), (170, 150, 110))
CLOTHES: Sequence[Colour] = (
    (36, 38, 46), (60, 64, 84), (130, 36, 40), (176, 170, 160), (44, 70, 110), (88, 76, 60),
    (30, 30, 32), (196, 120, 40), (70, 96, 70))
SKIN: Sequence[Colour] = ((224, 182, 152), (196, 146, 112), (140, 96, 70), (96, 64, 48))


def pick(rng: np.random.Generator, colours: Sequence[Colour], spread: float = 10) -> Colour:
    r, g, b = np.array(colours[int(rng.integers(len(colours)))]) + rng.normal(0, spread / 2)
    return float(r), float(g), float(b)
