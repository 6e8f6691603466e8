"""Pictures of masks, boxes and grids for people."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.vision.costmap import Grid, Scan
from mnv2_perception.vision.pose import Pose

FREE, OCCUPIED, UNSEEN = (232, 240, 228), (176, 36, 32), (150, 150, 150)
ROBOT, BEAM, OBSTACLE_POINT, RING, INK = (
    (20, 80, 220), (70, 140, 230), (70, 0, 0), (110, 110, 110), (0, 0, 0)
)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CAPTION_PX = 24
_BEHIND = 0.08  # share of a grid's picture that lies behind the robot

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
    font, scale = _FONT, 0.4
    for box, score, class_id in list(zip(boxes, scores, class_ids, strict=True))[::-1]:
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        colour = colours[class_id]
        text = f'{names[class_id]} {score:.2f}'
        (width, height), _ = cv2.getTextSize(text, font, scale, 1)
        top = max(0, y1 - height - 6)  # above the box, or in it where there is no room
        left = max(0, min(x1, picture.shape[1] - width - 4))
        # Black on bright colours and white on dark ones (ITU-R BT.601 luma).
        ink = (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 128 else (255, 255, 255)
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, 2)
        corner = left + width + 4, top + height + 6
        cv2.rectangle(picture, (left, top), corner, colour, cv2.FILLED)
        cv2.putText(picture, text, (left + 2, top + height + 2), font, scale, ink, 1, cv2.LINE_AA)
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
            band, name, (x + 17, y + 11), _FONT, 0.4, INK, 1, cv2.LINE_AA
        )
    return np.vstack([image, band])


def draw_grid(
    grid: Grid,
    height: int,
    width: int,
    ahead_m: float | None = None,
    grid_from_base: Pose | None = None,
    obstacles: NDArray[Any] | None = None,
    scan: Scan | None = None,
) -> NDArray[np.uint8]:
    """Draw an occupancy grid from above as the robot sees it: ahead is up, left is left.

    Free cells are light, occupied ones red, those between mixed, unseen ones grey; rings are
    labelled with their distance from the robot, the blue arrow near the lower border.

    Args:
        grid: what to draw.
        height: of the picture, pixels.
        width: of the picture, pixels.
        ahead_m: how far it reaches ahead of the robot; half the grid's longer side when None.
        grid_from_base: where the robot is in the grid's frame, of which x, y and yaw count; at
            its origin, looking along x, when None.
        obstacles: (N, 2 or more) points in the base frame, metres, drawn as dots.
        scan: beams in the base frame, drawn as far as they reach an obstacle.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    if ahead_m is None:
        ahead_m = max(grid.cells.shape) * grid.resolution_m / 2
    px_per_m = height * (1 - _BEHIND) / ahead_m
    robot = np.array([width / 2, height * (1 - _BEHIND)])  # column and row of its place

    row, column = np.mgrid[:height, :width] + 0.5
    base = np.stack([robot[1] - row, robot[0] - column, np.zeros_like(row)], axis=-1) / px_per_m
    place = base if grid_from_base is None else grid_from_base.apply(base)
    y, x = ((place[..., axis] - origin) / grid.resolution_m for axis, origin in (
        (1, grid.origin_y_m), (0, grid.origin_x_m)
    ))
    rows, columns = grid.cells.shape
    inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
    cells = np.full((height, width), -1, np.int8)
    cells[inside] = grid.cells[y[inside].astype(np.intp), x[inside].astype(np.intp)]
    table = np.tile(np.array(UNSEEN, np.uint8), (256, 1))
    table[:101] = np.linspace(FREE, OCCUPIED, 101)
    picture: NDArray[np.uint8] = table[cells.view(np.uint8)]

    def pixels(points: NDArray[Any]) -> list[tuple[int, int]]:
        """(column, row) of points of the base frame."""
        found = robot - points[:, 1::-1] * px_per_m
        return [(int(u), int(v)) for u, v in np.floor(found).clip(-9999, 9999)]

    if scan is not None:
        angles = scan.angle_min + np.arange(len(scan.ranges_m)) * scan.angle_increment
        ends = np.stack([np.cos(angles), np.sin(angles)], axis=1) * scan.ranges_m[:, None]
        lines = picture.copy()
        for end in pixels(ends[np.isfinite(scan.ranges_m)]):
            cv2.line(lines, pixels(np.zeros((1, 2)))[0], end, BEAM, 1, cv2.LINE_AA)
        picture = np.asarray(cv2.addWeighted(lines, 0.4, picture, 0.6, 0.0), np.uint8)
    if obstacles is not None:
        for point in pixels(obstacles):
            cv2.circle(picture, point, 1, OBSTACLE_POINT, cv2.FILLED)
    _draw_rings(picture, robot, px_per_m, ahead_m)
    arrow = robot + np.array([[0, -11], [-6, 6], [0, 2], [6, 6]])
    cv2.fillPoly(picture, [np.rint(arrow).astype(np.int32)], ROBOT, cv2.LINE_AA)
    return picture


def _draw_rings(
    picture: NDArray[np.uint8], robot: NDArray[np.float64], px_per_m: float, ahead_m: float
) -> None:
    """Draw up to five rings around the robot at round distances, labelled straight ahead."""
    steps = (digit * 10.0 ** power for power in range(-2, 4) for digit in (1, 2, 5))
    step_m = next((step for step in steps if ahead_m / step <= 5), 1000.0)
    centre = tuple(np.rint(robot).astype(int).tolist())
    for number in range(1, int(ahead_m / step_m) + 1):
        radius_px = round(number * step_m * px_per_m)
        cv2.circle(picture, centre, radius_px, RING, 1, cv2.LINE_AA)
        at = centre[0] + 3, max(12, centre[1] - radius_px + 12)
        text = f'{number * step_m:g} m'
        cv2.putText(picture, text, at, _FONT, 0.4, (255, 255, 255), 3, cv2.LINE_AA)
        cv2.putText(picture, text, at, _FONT, 0.4, INK, 1, cv2.LINE_AA)


def draw_beside(
    picture: NDArray[np.uint8], panel: NDArray[np.uint8], caption: str
) -> NDArray[np.uint8]:
    """Put a panel to the right of a picture of the same height, and a caption above both.

    Args:
        picture: (H, W, 3) uint8 RGB.
        panel: (H, any, 3) uint8 RGB.
        caption: one line; what is too long for both is cut off.

    Returns:
        A new picture.
    """
    gap = np.full((len(picture), 4, 3), 255, np.uint8)
    return draw_caption(np.hstack([picture, gap, panel]), caption)


def draw_caption(picture: NDArray[np.uint8], caption: str) -> NDArray[np.uint8]:
    """Return the picture with one line above it; what is too long for it is cut off."""
    band = np.full((_CAPTION_PX, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(band, caption, (8, _CAPTION_PX - 8), _FONT, 0.45, INK, 1, cv2.LINE_AA)
    return np.vstack([band, picture])
