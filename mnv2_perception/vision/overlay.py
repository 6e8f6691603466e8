"""Draw masks, boxes and grids for people."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.vision.costmap import Grid, Scan
from mnv2_perception.vision.labels import place_labels
from mnv2_perception.vision.pose import Pose

FREE, OCCUPIED, UNSEEN = (232, 240, 228), (176, 36, 32), (150, 150, 150)
ROBOT, BEAM, OBSTACLE_POINT, RING, INK = (
    (20, 80, 220), (70, 140, 230), (70, 0, 0), (110, 110, 110), (0, 0, 0)
)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BEHIND = 0.08  # fraction of a grid's picture that is behind the robot

Colours = Sequence[tuple[int, int, int]]


def colour_table(colours: Colours) -> NDArray[np.uint8]:
    """Return the (256, 3) table from id to RGB; ids without a colour are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    return table


def blend_mask(
    image: NDArray[np.uint8], ids: NDArray[np.uint8], colours: Colours, alpha: float = 0.5
) -> NDArray[np.uint8]:
    """Blend a mask's colours with an image; pixels without a class keep the image's colours.

    Args:
        image: (H, W, 3) uint8 RGB.
        ids: (H, W) uint8.
        colours: one (R, G, B) per class id.
        alpha: opacity of the colours, 0 to 1.
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
    """Draw boxes with the class names and scores, the best box on top, labels above all boxes.

    Labels do not cover each other if there is room (`place_labels`); a label away from its box is
    connected to it by a line. Lines and text grow with the image.

    Args:
        image: (H, W, 3) uint8 RGB; only read.
        boxes: (N, 4) x1, y1, x2, y2, px, best first.
        scores: (N,), 0..1.
        class_ids: (N,).
        names: names of the classes.
        colours: one (R, G, B) per class.
    """
    picture = np.array(image, np.uint8)
    times = _times(picture)
    line = round(times)
    said = zip(class_ids, scores, strict=True)
    texts = [f'{names[number]} {score:.2f}' for number, score in said]
    sizes = [cv2.getTextSize(text, _FONT, 0.4 * times, line)[0] for text in texts]
    margins = np.array([4 * line, 6 * line])
    labels = place_labels(
        boxes, np.array(sizes, int).reshape(-1, 2) + margins, *picture.shape[:2]
    )
    for box, label, number in list(zip(boxes, labels, class_ids, strict=True))[::-1]:
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        colour = colours[number]
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, 2 * line)
        # Connects a label that found no place at its box.
        end = np.clip(((x1 + x2) // 2, (y1 + y2) // 2), label[:2], label[2:] - 1)
        start = np.clip(end, (x1, y1), (x2 - 1, y2 - 1))
        cv2.line(picture, start.tolist(), end.tolist(), colour, line, cv2.LINE_AA)
    for label, text, number in zip(labels, texts, class_ids, strict=True):
        (left, top), (right, bottom) = label[:2].tolist(), (label[2:] - 1).tolist()
        ink = ink_on(colours[number])
        cv2.rectangle(picture, (left, top), (right, bottom), colours[number], cv2.FILLED)
        cv2.rectangle(picture, (left, top), (right, bottom), ink, 1)
        cv2.putText(
            picture, text, (left + 2 * line, bottom - 3 * line), _FONT, 0.4 * times, ink, line,
            cv2.LINE_AA,
        )
    return picture


def ink_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return black or white, whichever has more contrast to a colour (WCAG 2.2): 4.5 or more."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in colour)
    ]
    red, green, blue = linear
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def _times(image: NDArray[np.uint8]) -> float:
    """Return the factor by which text is larger than on small images."""
    return max(1.0, float(min(image.shape[:2])) / 480)


def draw_legend(
    image: NDArray[np.uint8],
    names: Sequence[str],
    colours: Colours,
) -> NDArray[np.uint8]:
    """Return the image with a legend of the colours below it, whose text grows with the image."""
    times = _times(image)
    line, size, row = round(times), round(12 * times), round(18 * times)
    widest = max((cv2.getTextSize(name, _FONT, 0.4 * times, line)[0][0] for name in names),
                 default=0)
    columns = max(1, image.shape[1] // round(max(120 * times, widest + 30 * times)))
    rows = -(-len(names) // columns)
    band = np.full((8 + row * rows, image.shape[1], 3), 255, np.uint8)
    for index, (name, colour) in enumerate(zip(names, colours, strict=True)):
        x = 8 + index % columns * (image.shape[1] - 8) // columns
        y = 6 + index // columns * row
        cv2.rectangle(band, (x, y), (x + size, y + size), colour, cv2.FILLED)
        at = x + round(17 * times), y + size - line
        cv2.putText(band, name, at, _FONT, 0.4 * times, INK, line, cv2.LINE_AA)
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

    Free cells are light, occupied ones red, values in between mixed, unseen ones grey. Rings are
    labelled with their distance from the robot, the blue arrow near the lower border.

    Args:
        grid: grid to draw.
        height: height of the picture, pixels.
        width: width of the picture, pixels.
        ahead_m: how far it extends ahead of the robot; None: half the grid's longer side.
        grid_from_base: pose of the robot in the grid's frame, of which x, y and yaw count; None:
            at its origin, looking along x.
        obstacles: (N, 2 or more) points in the base frame, metres, drawn as dots.
        scan: scan in the base frame, whose beams are drawn up to the obstacle that they hit.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    if ahead_m is None:
        ahead_m = max(grid.cells.shape) * grid.resolution_m / 2
    px_per_m = height * (1 - _BEHIND) / ahead_m
    robot = np.array([width / 2, height * (1 - _BEHIND)])  # column and row of the robot

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
        """Return (column, row) of points in the base frame."""
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
        caption: one line; text that is too long for both is cut off.

    Returns:
        A new picture.
    """
    gap = np.full((len(picture), 4, 3), 255, np.uint8)
    return draw_caption(np.hstack([picture, gap, panel]), caption)


def draw_caption(picture: NDArray[np.uint8], caption: str) -> NDArray[np.uint8]:
    """Return the picture with a caption of one line above it; text that is too long is cut off."""
    times = _times(picture)
    line, height = round(times), round(24 * times)
    band = np.full((height, picture.shape[1], 3), 255, np.uint8)
    at = 8, height - 8 * line
    cv2.putText(band, caption, at, _FONT, 0.45 * times, INK, line, cv2.LINE_AA)
    return np.vstack([band, picture])
