"""Measure how different colours look, also to the colour-blind; as a script: search a palette."""

from collections.abc import Sequence
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
BLOCKS = 8, 4, 4, 8, 8

# Matrices for dichromats, in linear RGB: G. M. Machado, M. M. Oliveira, L. A. F. Fernandes, "A
# physiologically-based model for simulation of color vision deficiency", IEEE Transactions on
# Visualization and Computer Graphics 15(6), 2009, severity 1.0.
VISIONS: dict[str, Floats] = {
    'normal': np.eye(3),
    'protanopia': np.array([
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
    'deuteranopia': np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]),
    'tritanopia': np.array([
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ]),
}
# Linear sRGB to XYZ, D65 (IEC 61966-2-1).
XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
])


def lab(colours: Sequence[Sequence[int]] | Floats, vision: str = 'normal') -> Floats:
    """Return CIE L*a*b* (N, 3) of sRGB colours (N, 3), 0 to 255, as seen with a type of vision."""
    values = np.asarray(colours, np.float64) / 255.0
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ VISIONS[vision].T, 0.0, 1.0)
    xyz = seen @ XYZ.T / XYZ.sum(axis=1)
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def ciede2000(one: Floats, other: Floats) -> Floats:
    """Return the CIEDE2000 difference of L*a*b* colours (…, 3).

    G. Sharma, W. Wu, E. N. Dalal, "The CIEDE2000 color-difference formula", Color Research and
    Application 30(1), 2005.
    """
    (l1, a1, b1), (l2, a2, b2) = (np.moveaxis(each, -1, 0) for each in (one, other))
    c7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    g = 1.5 - 0.5 * np.sqrt(c7 / (c7 + 25.0**7))
    a1, a2 = a1 * g, a2 * g
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    gray = c1 * c2 == 0
    dh = np.where(gray, 0.0, (h2 - h1 + 180) % 360 - 180)
    dhue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(dh / 2))
    hue = np.where(gray, h1 + h2, (h1 + dh / 2) % 360)
    low, c = (l1 + l2) / 2, (c1 + c2) / 2
    t = (
        1 - 0.17 * np.cos(np.radians(hue - 30)) + 0.24 * np.cos(np.radians(2 * hue))
        + 0.32 * np.cos(np.radians(3 * hue + 6)) - 0.20 * np.cos(np.radians(4 * hue - 63))
    )
    sl = 1 + 0.015 * (low - 50) ** 2 / np.sqrt(20 + (low - 50) ** 2)
    sc, sh = 1 + 0.045 * c, 1 + 0.015 * c * t
    turn = np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2)))
    rt = -2 * np.sqrt(c**7 / (c**7 + 25.0**7)) * np.sin(turn)
    dl, dc, dhue = (l2 - l1) / sl, (c2 - c1) / sc, dhue / sh
    return np.asarray(np.sqrt(dl**2 + dc**2 + dhue**2 + rt * dc * dhue))


def differences(
    colours: Sequence[Sequence[int]] | Floats, others: Sequence[Sequence[int]] | Floats
) -> Floats:
    """Return (N, M) the CIEDE2000 between colours and others, the smallest over all VISIONS."""
    return np.asarray(np.min([
        ciede2000(lab(colours, vision)[:, None], lab(others, vision)[None]) for vision in VISIONS
    ], axis=0))


def smallest(colours: Sequence[Sequence[int]]) -> float:
    """Return the difference of the two most similar colours."""
    return float((differences(colours, colours) + 1e9 * np.eye(len(colours))).min())


def search(fixed: Sequence[tuple[int, int, int]], blocks: Sequence[int], seed: int) -> Floats:
    """Search a palette whose first colours, and first blocks, are as different as possible.

    Block by block, colours are exchanged for better ones until there are none; then each block is
    sorted so that neighbours differ most.

    Args:
        fixed: further colours from which the palette must differ.
        blocks: number of colours in each block.
        seed: seed of the random start.
    """
    rng = np.random.default_rng(seed)
    steps = np.arange(0, 256, 15)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    light = lab(grid)[:, 0]
    grid = grid[(light > 25) & (light < 88)]  # neither shadow nor sky
    seen = np.array(fixed)
    palette = np.empty((0, 3), int)
    for count in blocks:
        block = [int(each) for each in rng.choice(len(grid), count, replace=False)]
        to_seen = differences(grid, seen).min(axis=1)
        to_block = differences(grid, grid[block])
        best, idle = -1.0, 0
        while idle < count:
            # Replace the colour that differs least from the others by the best candidate.
            inner = to_block[block] + 1e9 * np.eye(count)
            margins = np.minimum(inner.min(axis=1), to_seen[block])
            place = int(np.argsort(margins)[idle])
            rest = np.delete(to_block, place, axis=1).min(axis=1, initial=1e9)
            chosen = int(np.argmax(np.minimum(rest, to_seen)))
            old = block[place]
            block[place] = chosen
            to_block[:, place] = differences(grid, grid[[chosen]])[:, 0]
            inner = to_block[block] + 1e9 * np.eye(count)
            margins = np.sort(np.minimum(inner.min(axis=1), to_seen[block]))
            score = float(margins[0] + 1e-3 * margins.sum())
            if chosen != old and score > best + 1e-9:
                best, idle = score, 0
            else:
                block[place] = old
                to_block[:, place] = differences(grid, grid[[old]])[:, 0]
                idle += 1
        ordered = _ordered(grid[block], palette[-1:])
        palette = np.concatenate([palette, ordered])
        seen = np.concatenate([seen, ordered])
    return palette


def _ordered(block: Floats, before: Floats) -> Floats:
    """Order colours so that neighbours differ most, by swaps as long as they help."""
    apart = differences(block, block)
    first = differences(block, before)[:, 0] if len(before) else np.full(len(block), 1e9)
    order = np.arange(len(block))

    def score(order: Floats) -> tuple[float, float]:
        steps = apart[order[:-1], order[1:]]
        return float(min(steps.min(initial=1e9), first[order[0]])), float(steps.sum())

    swapped = True
    while swapped:
        swapped = False
        for i in range(len(order)):
            for j in range(i + 1, len(order)):
                other = order.copy()
                other[[i, j]] = other[[j, i]]
                if score(other) > score(order):
                    order, swapped = other, True
    return block[order]


def margins(palette: Sequence[Sequence[int]], background: Sequence[int]) -> dict[str, float]:
    """Return the smallest difference among background and first colours, and of neighbours."""
    apart = {
        str(count): smallest([background, *palette[:count]]) for count in np.cumsum(BLOCKS)
    }
    steps = np.diag(differences(palette, palette), 1)
    return {**apart, 'neighbours': float(steps.min())}


if __name__ == '__main__':
    from mnv2_perception.model_spec import BACKGROUND

    palettes = [search([BACKGROUND], BLOCKS, seed).tolist() for seed in range(int(sys.argv[1]))]
    found = max(palettes, key=lambda palette: sum(margins(palette, BACKGROUND).values()))
    print(' '.join('{:02x}{:02x}{:02x}'.format(*colour) for colour in found))
    print(margins(found, BACKGROUND))
