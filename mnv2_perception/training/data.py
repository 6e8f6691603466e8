"""Prepare training samples: drawn scenes, class weights, augmentation."""

from collections.abc import Sequence
from dataclasses import dataclass
import hashlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.data.coco import BoxSample
from mnv2_perception.data.folders import Sample
from mnv2_perception.errors import DataError
from mnv2_perception.model_spec import ModelSpec, UNLABELLED
from mnv2_perception.scenes import street
from mnv2_perception.scenes.hall import draw_hall, HALL_CLASSES
from mnv2_perception.training.light import relight, tint
from mnv2_perception.training.recipe import TINTED
from mnv2_perception.vision.decode import resize_ids
from mnv2_perception.vision.preprocess import place_image, resize_image

Pad = tuple[int, int, int]
MIN_VISIBLE = 0.4  # minimum share of a box's area that must be in the crop
MIN_SIDE = 3.0  # px, of a box


def can_draw(classes: Sequence[str]) -> bool:
    """Return whether scenes can be drawn for these classes: exactly CamVid's, or a hall's."""
    return tuple(classes) == street.CLASSES or set(HALL_CLASSES) <= set(classes)


def draw_samples(
    count: int, seed: int, height: int, width: int, classes: Sequence[str]
) -> list[Sample]:
    """Draw `count` street scenes, each from a different drive, or halls for other classes."""
    if tuple(classes) == street.CLASSES:
        return [
            street.draw_scene(1000 * seed + index, 2.5 * (index % 9), height, width)
            for index in range(count)
        ]
    if not count:
        return []
    ids = np.array([classes.index(name) for name in HALL_CLASSES], np.uint8)
    halls = [draw_hall(100_003 * seed + index, height, width) for index in range(count)]
    return [(image, ids[label]) for image, label in halls]


def class_weights(counts: NDArray[np.int64], balance: float = 1.0) -> NDArray[np.float32]:
    """Return loss weights 1 / ln(1.1 + share of the class), scaled to mean 1.

    As in ENet (arXiv:1606.02147, section 5.2), but with 1.1 instead of 1.02: rare classes weigh up
    to 11 times as much, not up to 50 times.

    Args:
        counts: (C,) number of pixels or images of each class.
        balance: exponent of the weights; 0 makes them equal.

    Returns:
        (C,) float32.
    """
    shares = counts / max(1, counts.sum())
    weights = np.log(1.1 + shares) ** -balance
    return np.asarray(weights / weights.mean(), np.float32)


def check_disjoint(trained: Sequence[Path], measured: Sequence[Path]) -> None:
    """Check that no validation image is also a training image.

    Raises:
        DataError: one is, byte for byte.
    """
    if not measured:
        return
    hashes = {hashlib.sha256(image.read_bytes()).digest() for image in trained}
    for image in measured:
        if hashlib.sha256(image.read_bytes()).digest() in hashes:
            raise DataError(f'{image} is also in the training set; measure on other images')


def whole_image(image: NDArray[np.uint8], spec: ModelSpec) -> tuple[int, int]:
    """Return the height and width that the whole image has in the network's input."""
    placed = place_image(image.shape, spec.height, spec.width, spec.fit)
    return placed.height, placed.width


def padding(spec: ModelSpec) -> Pad | None:
    """Return the colour around a letterboxed image; None for other ways to fit images."""
    return spec.pad if spec.fit == 'letterbox' else None


@dataclass(frozen=True)
class View:
    """A crop of an image, which is scaled before and possibly mirrored after.

    Attributes:
        scaled: (width, height) to which the image is scaled.
        top: first row of the crop in the scaled image.
        left: first column of the crop.
        height: height of the crop; may exceed the scaled image.
        width: width of the crop.
        mirrored: whether the crop is flipped horizontally.
    """

    scaled: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    mirrored: bool

    def cut(self, image: NDArray[np.uint8], pad: Pad | None = None) -> NDArray[np.uint8]:
        """Return the crop of an image (H, W, 3) or of ids (H, W).

        Beyond the scaled image, ids are unlabelled, and pixels black or `pad`. With `pad` (a
        letterbox), images are resized as `fit_image` does for letterboxes.
        """
        if image.ndim == 3:
            image = resize_image(image, self.scaled[1], self.scaled[0], averaged=pad is None)
        else:
            image = resize_ids(image, self.scaled[1], self.scaled[0])
        image = image[self.top : self.top + self.height, self.left : self.left + self.width]
        if image.shape[:2] != (self.height, self.width):
            view = np.empty((self.height, self.width, *image.shape[2:]), np.uint8)
            view[:] = UNLABELLED if image.ndim == 2 else pad or 0
            view[: image.shape[0], : image.shape[1]] = image
            image = view
        return np.ascontiguousarray(image[:, ::-1] if self.mirrored else image)

    def move(self, boxes: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        """Return the positions in the view of boxes (N, 4), px, of an image of this size.

        Boxes are not clipped at the borders.
        """
        x1, y1, x2, y2 = (boxes * ([*self.scaled] * 2) / ([width, height] * 2)).T
        x1, x2 = x1 - self.left, x2 - self.left
        if self.mirrored:
            x1, x2 = self.width - x2, self.width - x1
        moved = np.stack([x1, y1 - self.top, x2, y2 - self.top], axis=1)
        return moved.astype(np.float32)


def choose_view(
    whole: tuple[int, int],
    height: int,
    width: int,
    rng: np.random.Generator,
    scales: tuple[float, float],
) -> View:
    """Choose a random crop and scale.

    Args:
        whole: (height, width) of the whole image in the network's input at run time. Scales are
            relative to it, so that objects get their later size at any camera resolution.
        height: height of the crop, pixels.
        width: width of the crop, pixels.
        rng: random generator.
        scales: smallest and largest scale.
    """
    scale = np.exp(rng.uniform(*np.log(scales)))
    aspect = np.exp(rng.uniform(-0.15, 0.15))
    scaled = (round(whole[1] * scale * aspect), round(whole[0] * scale / aspect))
    top = int(rng.integers(0, max(0, scaled[1] - height) + 1))
    left = int(rng.integers(0, max(0, scaled[0] - width) + 1))
    return View(scaled, top, left, height, width, bool(rng.random() < 0.5))


def augment(
    sample: Sample,
    whole: tuple[int, int],
    height: int,
    width: int,
    rng: np.random.Generator,
    scales: tuple[float, float] = (0.6, 1.8),
    light: float = 0.0,
    floor: int = UNLABELLED,
    pad: Pad | None = None,
    above: Sample | None = None,
) -> Sample:
    """Return a random (height, width) crop: scaled, mirrored, with varied light.

    If the scaled image is smaller than the crop, the rest is `pad` (or black) and unlabelled. See
    `choose_view` and `vary_light` for the arguments; `floor` is the id of the class that may
    reflect what stands on it; for `above` see `paste`.
    """
    image, label = random_crop(sample, whole, height, width, rng, scales, pad)
    if above is not None:
        image, label = paste(above, image, label)
    if light and rng.random() < TINTED:
        image = tint(image, label, rng)
    mirror = label == floor if floor != UNLABELLED else None
    return vary_light(image, rng, light, mirror), label


def random_crop(
    sample: Sample,
    whole: tuple[int, int],
    height: int,
    width: int,
    rng: np.random.Generator,
    scales: tuple[float, float],
    pad: Pad | None,
) -> Sample:
    """Return a random (height, width) crop without change of light; see `augment`."""
    view = choose_view(whole, height, width, rng, scales)
    return view.cut(sample[0], pad), view.cut(sample[1])


def paste(above: Sample, image: NDArray[np.uint8], label: NDArray[np.uint8]) -> Sample:
    """Return an image and its ids, covered by the labelled pixels of `above` (of equal size).

    Olsson et al., "ClassMix: Segmentation-Based Data Augmentation for Semi-Supervised Learning",
    WACV 2021, https://arxiv.org/abs/2007.07936, here with true labels.
    """
    thing = above[1] != UNLABELLED
    return np.where(thing[..., None], above[0], image), np.where(thing, above[1], label)


def augment_boxes(
    image: NDArray[np.uint8],
    sample: BoxSample,
    whole: tuple[int, int],
    height: int,
    width: int,
    rng: np.random.Generator,
    scales: tuple[float, float] = (0.6, 1.8),
    light: float = 0.0,
    pad: Pad | None = None,
) -> tuple[NDArray[np.uint8], BoxSample]:
    """Return a random (height, width) crop as `augment` does, and the boxes in it.

    Boxes are clipped at the crop's borders. If less than MIN_VISIBLE of a box is left, or a side
    is below MIN_SIDE pixels, it becomes an ignored region: neither object nor background.
    """
    view = choose_view(whole, height, width, rng, scales)
    crop = vary_light(view.cut(image, pad), rng, light)
    count = len(sample.boxes)
    boxes = np.concatenate([sample.boxes, sample.ignored])
    moved = view.move(boxes, image.shape[0], image.shape[1])
    ids = np.concatenate([sample.class_ids, sample.ignored_ids])
    cut = np.clip(moved, 0, [width, height] * 2).astype(np.float32)
    sides, uncut = cut[:, 2:] - cut[:, :2], moved[:, 2:] - moved[:, :2]
    shown = (sides > 0).all(axis=1)
    clear = (sides.prod(axis=1) >= MIN_VISIBLE * uncut.prod(axis=1)) & (sides >= MIN_SIDE).all(1)
    clear[count:] = False
    kept, ignored = shown & clear, shown & ~clear
    return crop, BoxSample(sample.image, cut[kept], ids[kept], cut[ignored], ids[ignored])


def augment_picture(
    image: NDArray[np.uint8], height: int, width: int, min_crop: float, rng: np.random.Generator,
    light: float = 0.0,
) -> NDArray[np.uint8]:
    """Return a random crop, stretched to (height, width), mirrored, with varied light."""
    rows, columns = (round(side * rng.uniform(min_crop, 1.0)) for side in image.shape[:2])
    top = rng.integers(0, image.shape[0] - rows + 1)
    left = rng.integers(0, image.shape[1] - columns + 1)
    image = resize_image(image[top : top + rows, left : left + columns], height, width)
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    return vary_light(image, rng, light)


def vary_light(
    image: NDArray[np.uint8],
    rng: np.random.Generator,
    light: float,
    mirror: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Return the image in hard light with probability `light`, otherwise mildly recoloured."""
    if light and rng.random() < light:
        return relight(image, rng, mirror)
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
