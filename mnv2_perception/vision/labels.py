"""Place the labels of boxes so that each can be read."""

import cv2
import numpy as np
from numpy.typing import NDArray

Rectangles = NDArray[np.intp]


def place_labels(
    boxes: NDArray[np.floating], sizes: NDArray[np.integer], height: int, width: int
) -> Rectangles:
    """Place a label for each box, so that none covers another as long as there is room.

    A label is above its box, below, in it, or beside it: at the first of these places where it
    covers no label of an earlier box. If all are taken, it goes to the nearest free place; if
    there is none, to the first of these places where it covers least.

    Args:
        boxes: (N, 4) x1, y1, x2, y2, px, in the order in which they are served.
        sizes: (N, 2) width and height of the labels, px.
        height: height of the image, px.
        width: width of the image, px.

    Returns:
        (N, 4) x1, y1, x2, y2 of the labels, px; x2 and y2 are exclusive. They are in the image,
        except those that are larger, which begin at its border.
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
    """Return left and top of the places of a label at its box, in order of preference."""
    (x1, y1, x2, y2), (width, height) = box, size
    rows = y1 - height, y2, y1, y2 - height  # above, below, in it at the top, in it at the bottom
    places = [(x, y) for y in rows for x in (x1, x2 - width)]
    return np.array([*places, (x2, y1), (x1 - width, y1)], np.intp)


def _at(places: Rectangles, size: Rectangles, room: Rectangles) -> Rectangles:
    """Return rectangles (M, 4) at places, moved into the image."""
    inside = np.clip(places, 0, room)
    return np.concatenate([inside, inside + size], axis=1)


def _overlaps(some: Rectangles, others: Rectangles) -> Rectangles:
    """Return (M, N) the number of pixels that rectangles share with others."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    return np.asarray(np.maximum(high - low, 0).prod(axis=2))


def _nearest_free(
    box: Rectangles, size: Rectangles, room: Rectangles, placed: Rectangles
) -> Rectangles | None:
    """Return the free place nearest to a box, None if there is none.

    Any free place can be moved left and up until it meets a label or the border; so only places
    beside those are examined.
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
    before = cv2.integral(taken)  # [y, x]: number of taken pixels above and left of it
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
