"""Where the labels of boxes go, so that each can be read."""

import cv2
import numpy as np
from numpy.typing import NDArray

Rectangles = NDArray[np.intp]


def place_labels(
    boxes: NDArray[np.floating], sizes: NDArray[np.integer], height: int, width: int
) -> Rectangles:
    """Place a label for each box: none covers another as long as there is room in the image.

    A label stands above its box, else below, in it, or beside it: the first of these where it
    covers no label of a box before. If all are taken it goes to the nearest free place, and where
    there is none, to that one of the first where it covers least.

    Args:
        boxes: (N, 4) x1, y1, x2, y2, px, the one to be served first first.
        sizes: (N, 2) width and height of the labels, px.
        height: of the image, px.
        width: of the image, px.

    Returns:
        (N, 4) x1, y1, x2, y2 of the labels, px, x2 and y2 the first beyond; within the image, save
        those that are larger than it, which begin at its border.
    """
    placed = np.empty((0, 4), np.intp)
    corners = np.rint(np.clip(boxes, -1e6, 1e6)).astype(np.intp)
    for box, size in zip(corners, np.asarray(sizes, np.intp), strict=True):
        room = np.maximum((width, height) - size, 0)
        near = _at(_around(box, size), size, room)
        covered = _overlaps(near, placed).sum(axis=1)
        chosen = near[np.argmin(covered)]
        if covered.min() and (free := _nearest_free(box, size, room, placed)) is not None:
            chosen = free
        placed = np.concatenate([placed, chosen[None]])
    return placed


def _around(box: Rectangles, size: Rectangles) -> Rectangles:
    """Return left and top of a label at a box, in the order in which they are wanted."""
    (x1, y1, x2, y2), (width, height) = box, size
    rows = y1 - height, y2, y1, y2 - height  # above, below, in it at the top, at the bottom
    places = [(x, y) for y in rows for x in (x1, x2 - width)]
    return np.array([*places, (x2, y1), (x1 - width, y1)], np.intp)


def _at(places: Rectangles, size: Rectangles, room: Rectangles) -> Rectangles:
    """Return rectangles (M, 4) at places, moved into the image."""
    inside = np.clip(places, 0, room)
    return np.concatenate([inside, inside + size], axis=1)


def _overlaps(some: Rectangles, others: Rectangles) -> Rectangles:
    """Return (M, N) how many pixels rectangles share with others."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    return np.asarray(np.maximum(high - low, 0).prod(axis=2))


def _nearest_free(
    box: Rectangles, size: Rectangles, room: Rectangles, placed: Rectangles
) -> Rectangles | None:
    """Return the free place nearest to a box, None where there is none.

    Whatever is free can be moved left and up until it meets a label or the border; so only places
    beside those are looked at.
    """
    columns, rows = (
        np.unique(np.clip(np.concatenate([
            [0, box[axis], box[axis + 2] - size[axis]], placed[:, axis + 2],
            placed[:, axis] - size[axis],
        ]), 0, room[axis]))
        for axis in (0, 1)
    )
    width, height = room + size
    taken = np.zeros((height, width), np.uint8)
    for x1, y1, x2, y2 in placed:
        taken[y1:y2, x1:x2] = 1
    before = cv2.integral(taken)  # [y, x]: how many pixels are taken above and left of it
    low, high = (before[np.ix_(rows + below, columns)] for below in (0, size[1]))
    low_right, high_right = (
        before[np.ix_(rows + below, columns + size[0])] for below in (0, size[1])
    )
    free = np.argwhere(high_right - low_right - high + low == 0)
    if not len(free):
        return None
    places = np.stack([columns[free[:, 1]], rows[free[:, 0]]], axis=1)
    gaps = np.maximum(np.maximum(box[:2] - places - size, places - box[2:]), 0)
    nearest = places[np.argmin((gaps**2).sum(axis=1))]
    return np.concatenate([nearest, nearest + size])
