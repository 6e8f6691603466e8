"""Textures of the drawn street's surfaces: noise, walls, fences and leaves."""

from functools import lru_cache
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.scenes.canvas import Bytes
from mnv2_perception.scenes.colours import pick, SHOP_COLOURS, WALL_COLOURS


@lru_cache(maxsize=1)
def grain_noise() -> NDArray[np.float32]:
    """Return white noise, (512, 512) float32, standard deviation 1."""
    return np.random.default_rng(11).standard_normal((512, 512)).astype(np.float32)


@lru_cache(maxsize=1)
def cloud_noise() -> NDArray[np.float32]:
    """Return smooth fractal noise that can be tiled, (512, 512) float32, standard deviation 1."""
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
def facade_texture(look: int, length_m: float, height_m: float, storeys: int, shops: bool,
                   scale: int) -> Bytes:
    """Return a wall seen straight on: bays of windows above shops or doors.

    The scale is in pixels per metre.
    """
    rng = np.random.default_rng((15, look))
    h, w = int(height_m * scale), max(int(length_m * scale), 8)
    wall = np.array(pick(rng, WALL_COLOURS, 20), np.float32)
    offset = rng.integers(0, 200, 2)
    grain = (grain_noise()[offset[0]:offset[0] + h, offset[1]:offset[1] + w] * 5
             + cloud_noise()[offset[0]:offset[0] + h, offset[1]:offset[1] + w] * 6)
    texture: Bytes = np.clip(cv2.merge([grain + c for c in wall]), 0, 255).astype(np.uint8)
    frame = pick(rng, ((235, 235, 230), (60, 58, 56), (180, 176, 170)))
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
        front = pick(rng, SHOP_COLOURS)
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
                              pick(rng, SHOP_COLOURS, 60), -1)
    elif shops:
        for i in range(bays):
            left = int((i + 0.5) * bay - window_w / 2)
            door = rng.random() < 0.35
            colour = pick(rng, SHOP_COLOURS) if door else (52.0, 56.0, 62.0)
            cv2.rectangle(texture, (left - edge, ground + int(0.5 * scale)),
                          (int(left + window_w) + edge, h if door else h - int(0.8 * scale)),
                          frame, -1)
            cv2.rectangle(texture, (left, ground + int(0.6 * scale)),
                          (int(left + window_w), h if door else h - int(0.9 * scale)),
                          colour, -1)
    else:
        x = int(rng.uniform(0.2, 0.7) * w)
        cv2.rectangle(texture, (x, h - int(2.1 * scale)), (x + scale, h),
                      pick(rng, SHOP_COLOURS), -1)
    cv2.rectangle(texture, (0, 0), (w, edge), lintel, -1)
    cv2.line(texture, (w - 1, 0), (w - 1, h), tuple(float(c) * 0.6 for c in wall), edge)
    return texture


def fence_texture(rng: np.random.Generator) -> Bytes:
    """Return a fence: palings, railings in front of a dark hedge, or a mesh."""
    texture = np.zeros((48, 160, 3), np.uint8)
    kind = int(rng.integers(3))
    shade = np.clip(grain_noise()[:48, :160, None] * 8, -20, 20)
    if kind == 0:
        wood = np.array(pick(rng, ((136, 104, 76), (160, 146, 124), (96, 74, 58)), 20))
        texture[:] = np.clip(wood + shade, 0, 255)
        texture[:, ::10] = np.clip(wood * 0.5, 0, 255)
        texture[:3] = np.clip(wood * 1.15, 0, 255)
    else:
        back = np.array((62, 74, 48) if kind == 1 else (112, 116, 104))
        texture[:] = np.clip(back + shade, 0, 255)
        rail = pick(rng, ((34, 36, 38), (210, 210, 206), (40, 66, 52)))
        for x in range(0, 160, 6 if kind == 1 else 40):
            cv2.line(texture, (x, 0), (x, 48), rail, 2 if kind == 1 else 4)
        for y in (4, 42) if kind == 1 else (3, 16, 30):
            cv2.line(texture, (0, y), (160, y), rail, 2)
    fence: Bytes = np.tile(texture, (1, 8, 1))
    return fence


@lru_cache(maxsize=12)
def crown(look: int) -> tuple[Bytes, Bytes]:
    """Return a tree's crown before it is tinted: (160, 160, 3) colours and (160, 160) opacity."""
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
    leaves = cv2.GaussianBlur(grain_noise()[dy:dy + size, dx:dx + size], (0, 0), 1.3) * 2.6
    colours = np.clip(160 * light + leaves * 20, 0, 255)
    ragged = cv2.GaussianBlur(solid, (0, 0), 4) + leaves * 0.14
    alpha = np.where(ragged > 0.5, 255, 0).astype(np.uint8)
    alpha[:2] = alpha[-2:] = 0
    alpha[:, :2] = alpha[:, -2:] = 0
    return cv2.merge([colours.astype(np.uint8)] * 3), alpha


@lru_cache(maxsize=48)
def crown_of_size(look: int, size: int) -> tuple[Bytes, Bytes]:
    """Return ``crown``, shrunk to ``size`` × ``size`` pixels."""
    colours, alpha = crown(look)
    return (cv2.resize(colours, (size, size), interpolation=cv2.INTER_AREA),
            cv2.resize(alpha, (size, size), interpolation=cv2.INTER_AREA))
