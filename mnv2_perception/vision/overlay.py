"""Pictures of masks and boxes for people."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Colours = Sequence[tuple[int, int, int]]


def colour_table(colours: Colours) -> NDArray[np.uint8]:
    """Return the (256, 3) table from id to RGB; ids without a colour are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    return table


def blend_mask(
    image: NDArray[np.uint8], ids: NDArray[np.uint8], colours: Colours, alpha: float = 0.5
) -> NDArray[np.uint8]:
    """Lay a mask's colours over an image; pixels without a class keep the image's.

    Args:
        image: (H, W, 3) uint8 RGB.
        ids: (H, W) uint8.
        colours: one (R, G, B) for each class id.
        alpha: weight of the colours, 0 to 1.
    """
    coloured = colour_table(colours)[ids]  # (H, W, 3)
    blended = np.asarray(cv2.addWeighted(coloured, alpha, image, 1.0 - alpha, 0.0), np.uint8)
    without_class = ids >= len(colours)
    blended[without_class] = image[without_class]
    return blended


def draw_boxes(
    image: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.integer],
    names: Sequence[str],
    colours: Colours,
) -> NDArray[np.uint8]:
    """Draw boxes with the names and scores of their classes, the best on top.

    Args:
        image: (H, W, 3) uint8 RGB; only read.
        boxes: (N, 4) x1, y1, x2, y2, px, best first.
        scores: (N,), 0..1.
        class_ids: (N,).
        names: of the classes.
        colours: one (R, G, B) for each class.
    """
    picture = np.array(image, np.uint8)
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.4
    for box, score, class_id in list(zip(boxes, scores, class_ids, strict=True))[::-1]:
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        colour = colours[class_id]
        text = f'{names[class_id]} {score:.2f}'
        (width, height), _ = cv2.getTextSize(text, font, scale, 1)
        top = max(0, y1 - height - 6)  # above the box, or in it where there is no room
        # Black on bright colours and white on dark ones (ITU-R BT.601 luma).
        ink = (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 128 else (255, 255, 255)
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, 2)
        cv2.rectangle(picture, (x1, top), (x1 + width + 4, top + height + 6), colour, cv2.FILLED)
        cv2.putText(picture, text, (x1 + 2, top + height + 2), font, scale, ink, 1, cv2.LINE_AA)
    return picture


def draw_legend(
    image: NDArray[np.uint8],
    names: Sequence[str],
    colours: Colours,
) -> NDArray[np.uint8]:
    """Return the image with a band below it that names the colours."""
    columns = max(1, image.shape[1] // 120)
    rows = -(-len(names) // columns)
    band = np.full((8 + 18 * rows, image.shape[1], 3), 255, np.uint8)
    for index, (name, colour) in enumerate(zip(names, colours, strict=True)):
        x = 8 + index % columns * (image.shape[1] - 8) // columns
        y = 6 + index // columns * 18
        cv2.rectangle(band, (x, y), (x + 12, y + 12), colour, cv2.FILLED)
        cv2.putText(
            band, name, (x + 17, y + 11), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA
        )
    return np.vstack([image, band])
