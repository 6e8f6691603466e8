"""Simulate hard light for training: dark halls, wet floors, views against the sun.

Mild variation (`data.recolour`) does not prepare a network for these: without them it does not
recognise the floor in buildings it has not seen.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def relight(
    image: NDArray[np.uint8], rng: np.random.Generator, mirror: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Return the image in another light, by a random choice of effects.

    Effects: reflections in the floor; glare; uneven and coloured light; a shadow with an edge;
    exposure, white balance, saturation, contrast; darkness; defocus or motion blur; noise; JPEG.

    Args:
        image: (H, W, 3) uint8 RGB.
        rng: random generator.
        mirror: (H, W) bool, True where the floor is; None if not known.
    """
    pixels = np.asarray(image, np.float32) / 255.0
    if mirror is not None and rng.random() < 0.3:
        pixels = reflect(pixels, mirror, rng)
    if rng.random() < 0.25:
        pixels = pixels + glare(image.shape[:2], rng)
    if rng.random() < 0.6:
        pixels = pixels * uneven(image.shape[:2], rng)
    if rng.random() < 0.35:
        pixels = pixels * shadow(image.shape[:2], rng)
    pixels = expose(pixels, rng)
    if rng.random() < 0.3:
        pixels = soften(pixels, rng)
    if rng.random() < 0.4:
        noise = rng.standard_normal(pixels.shape, np.float32) * np.float32(0.5)
        noise += rng.standard_normal((*pixels.shape[:2], 1), np.float32)
        pixels = pixels + noise * np.float32(rng.uniform(0.0, 0.05))
    done = np.clip(pixels * 255.0, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(np.exp(rng.uniform(np.log(12), np.log(90))))
        _, coded = cv2.imencode('.jpg', done, [cv2.IMWRITE_JPEG_QUALITY, quality])
        done = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(done, np.uint8)


def tint(
    image: NDArray[np.uint8], label: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the image with a different light for each class, because floors have many colours.

    Args:
        image: (H, W, 3) uint8 RGB.
        label: (H, W) uint8 class ids.
        rng: random generator.
    """
    gains = 0.35 * rng.standard_normal((256, 1)) + 0.15 * rng.standard_normal((256, 3))
    factors = cv2.blur(np.exp(gains).astype(np.float32)[label], (5, 5))  # sharp edges give it away
    return np.asarray(np.clip(image * factors, 0, 255), np.uint8)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Return a random factor, uniform on a logarithmic scale."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def smooth_field(shape: tuple[int, int], cells: int, rng: np.random.Generator) -> Floats:
    """Return a smooth random field (H, W) float32 with a variance of about 1."""
    coarse = rng.standard_normal((3, cells), np.float32)
    return np.asarray(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def reflect(pixels: Floats, mirror: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """Add to the floor a mirror image of what stands above a random horizon."""
    height = len(pixels)
    horizon = rng.uniform(0.25, 0.7) * height
    rows = np.clip(2 * horizon - np.arange(height), 0, height - 1).astype(np.intp)
    seen = cv2.blur(pixels[rows], (3, 9))
    strength = (mirror * np.float32(rng.uniform(0.1, 0.55)))[..., None]
    return np.asarray(pixels * (1 - 0.5 * strength) + seen * strength, np.float32)


def axes(shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return row (H, 1) and column (1, W) coordinates of an image, 0 to 1."""
    height, width = shape
    rows = np.arange(height, dtype=np.float32)[:, None] / np.float32(height)
    columns = np.arange(width, dtype=np.float32)[None] / np.float32(width)
    return rows.astype(np.float32), columns.astype(np.float32)


def glare(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return bright spots (H, W, 3), most of them tall: lamps and windows on a smooth floor."""
    rows, columns = axes(shape)
    spots = np.zeros(shape, np.float32)
    for _ in range(3):
        tall = (rows - rng.uniform(0.0, 1.1)) / log_uniform(rng, 0.05, 0.5)
        wide = (columns - rng.uniform()) / log_uniform(rng, 0.02, 0.2)
        spots += np.exp(-(tall**2 + wide**2)) * np.float32(rng.uniform(0.0, 0.8))
    return spots[..., None] * rng.uniform(0.8, 1.0, 3).astype(np.float32)


def uneven(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return factors (H, W, 3) for light that varies over the image, sometimes in colour."""
    fall = (smooth_field(shape, 4, rng) * np.float32(rng.uniform(0.0, 0.5)))[..., None]
    if rng.random() < 0.3:
        cast = [smooth_field(shape, 4, rng) for _ in range(3)]
        fall = fall + np.float32(0.2) * np.stack(cast, axis=-1)
    return np.asarray(np.exp(np.clip(fall, -1.5, 0.8)), np.float32)


def shadow(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return factors (H, W, 1) for a band of shadow with a more or less sharp edge."""
    rows, columns = axes(shape)
    angle = rng.uniform(0.0, 2 * math.pi)
    edge = math.cos(angle) * (columns - rng.uniform(0.1, 0.9))
    edge = edge + math.sin(angle) * (rows - rng.uniform(0.1, 0.9))
    edge = edge + np.float32(0.05) * smooth_field(shape, 6, rng)
    near = sigmoid(edge / log_uniform(rng, 0.005, 0.1))
    far = sigmoid((rng.uniform(0.1, 1.5) - edge) / 0.02)
    return np.asarray(1 - rng.uniform(0.2, 0.75) * near * far, np.float32)[..., None]


def sigmoid(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x))."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), np.float32)


def expose(pixels: Floats, rng: np.random.Generator) -> Floats:
    """Vary exposure, white balance, saturation, contrast; over a quarter of images get dark."""
    gain = log_uniform(rng, 0.6, 1.5) * np.exp(rng.uniform(-0.2, 0.2, 3))
    mix = np.diag(gain) @ (np.eye(3) + 0.04 * rng.standard_normal((3, 3)))
    pixels = np.clip(pixels @ mix.astype(np.float32), 0.0, 1.6)
    gray = (pixels @ LUMA)[..., None]
    saturation = 0.0 if rng.random() < 0.1 else rng.uniform(0.3, 1.5)
    pixels = gray + (pixels - gray) * np.float32(saturation)
    mean = gray.mean()
    pixels = mean + (pixels - mean) * np.float32(rng.uniform(0.65, 1.4))
    dark = rng.random() < 0.28
    gamma = rng.uniform(1.2, 2.8) if dark else log_uniform(rng, 0.7, 1.35)
    pixels = np.clip(pixels, 1e-4, 1.15) ** np.float32(gamma)
    if dark:
        pixels = pixels * log_uniform(rng, 0.35, 1.0) - rng.uniform(-0.02, 0.03)
    return np.asarray(pixels, np.float32)


def soften(pixels: Floats, rng: np.random.Generator) -> Floats:
    """Blur with a random, possibly elongated kernel: defocus or motion."""
    angle = rng.uniform(0.0, math.pi)
    short = rng.uniform(0.4, 2.5)
    long = short * rng.uniform(1.0, 3.0)
    v, u = np.mgrid[-6:7, -6:7]
    along = math.cos(angle) * u + math.sin(angle) * v
    across = math.cos(angle) * v - math.sin(angle) * u
    kernel = np.exp(-0.5 * ((along / long) ** 2 + (across / short) ** 2))
    kernel /= kernel.sum()
    return np.asarray(
        cv2.filter2D(pixels, -1, kernel, borderType=cv2.BORDER_REPLICATE), np.float32
    )
