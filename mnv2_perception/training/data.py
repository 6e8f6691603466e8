"""Samples to train on: drawn scenes, class balance, augmentation."""

from collections.abc import Iterable
import hashlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.dataset import Sample
from mnv2_perception.errors import DataError
from mnv2_perception.model_spec import UNLABELLED
from mnv2_perception.vision.preprocess import resize_image
from mnv2_perception.vision.scenes import draw_scene


def draw_samples(count: int, seed: int, height: int, width: int) -> list[Sample]:
    """Draw `count` street scenes, each from a drive of its own."""
    return [
        draw_scene(1000 * seed + index, time_s=2.5 * (index % 9), height=height, width=width)
        for index in range(count)
    ]


def class_weights(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return loss weights 1 / ln(1.1 + share of a class), mean 1 (ENet, arXiv:1606.02147, §5.2).

    ENet's 1.02 weighs rare classes up to 50 times; 1.1 keeps it below 11.

    Args:
        counts: (C,) how many pixels or images each class has.
    """
    shares = counts / max(1, counts.sum())
    weights = 1.0 / np.log(1.1 + shares)
    return np.asarray(weights / weights.mean(), np.float32)


def check_disjoint(trained: Iterable[Path], measured: Iterable[Path]) -> None:
    """Raise DataError if an image to measure on is also trained on."""
    hashes = {hashlib.sha256(image.read_bytes()).digest() for image in trained}
    for image in measured:
        if hashlib.sha256(image.read_bytes()).digest() in hashes:
            raise DataError(f'{image} is also in the training set; measure on other images')


def augment(
    sample: Sample,
    height: int,
    width: int,
    rng: np.random.Generator,
    scales: tuple[float, float] = (0.6, 1.8),
) -> Sample:
    """Return a random (height, width) crop: scaled, mirrored, recoloured, sometimes gray or soft.

    Where the scaled image is smaller than the crop, the rest is black and unlabelled.
    """
    image, label = sample
    scale = np.exp(rng.uniform(*np.log(scales)))
    aspect = np.exp(rng.uniform(-0.15, 0.15))
    size = (round(image.shape[1] * scale * aspect), round(image.shape[0] * scale / aspect))
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR))
    label = np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT))

    below, right = max(0, height - size[1]), max(0, width - size[0])
    if below or right:
        image = np.pad(image, ((0, below), (0, right), (0, 0)))
        label = np.pad(label, ((0, below), (0, right)), constant_values=UNLABELLED)
    top = rng.integers(0, image.shape[0] - height + 1)
    left = rng.integers(0, image.shape[1] - width + 1)
    image = image[top : top + height, left : left + width]
    label = label[top : top + height, left : left + width]
    if rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    return recolour(np.ascontiguousarray(image), rng), np.ascontiguousarray(label)


def augment_picture(
    image: NDArray[np.uint8], height: int, width: int, min_crop: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return a random crop stretched to (height, width), mirrored and recoloured."""
    rows, columns = (round(side * rng.uniform(min_crop, 1.0)) for side in image.shape[:2])
    top = rng.integers(0, image.shape[0] - rows + 1)
    left = rng.integers(0, image.shape[1] - columns + 1)
    image = resize_image(image[top : top + rows, left : left + columns], height, width)
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    return recolour(image, rng)


def recolour(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Vary exposure, contrast, white balance and saturation; sometimes gray, soft or noisy."""
    gain = rng.uniform(0.65, 1.4) * rng.uniform(0.9, 1.1, 3)
    pixels = image.astype(np.float32) * gain.astype(np.float32)
    gray = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    saturation = 0.0 if rng.random() < 0.1 else rng.uniform(0.6, 1.4)
    pixels = gray[..., None] + (pixels - gray[..., None]) * np.float32(saturation)
    mean = np.float32(gray.mean())
    pixels = mean + (pixels - mean) * np.float32(rng.uniform(0.75, 1.3))
    kind = rng.random()
    if kind < 0.15:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 1.5)))
    elif kind < 0.3:
        noise = rng.standard_normal(pixels.shape[:2], np.float32)[..., None]
        pixels = pixels + noise * np.float32(rng.uniform(2.0, 10.0))
    return np.clip(pixels, 0, 255).astype(np.uint8)
