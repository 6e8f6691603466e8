"""Pictures of all that was said of one image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.results import NamedBoxes
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.vision.costmap import Grid
from mnv2_perception.vision.overlay import (
    blend_mask,
    draw_beside,
    draw_boxes,
    draw_grid,
    draw_legend,
    FREE,
    OCCUPIED,
    UNSEEN,
)


@dataclass(frozen=True)
class Results:
    """What was said of one image; None where nothing was.

    Attributes:
        time_s: when it was taken.
        image: (H, W, 3) uint8 RGB.
        ids: (H, W) uint8 class ids.
        boxes: the objects in it.
        classes: name and score of its classes, best first.
        grid: around the robot, in the base frame.
        note: what else the caption is to say.
    """

    time_s: float
    image: NDArray[np.uint8]
    ids: NDArray[np.uint8] | None = None
    boxes: NamedBoxes | None = None
    classes: Sequence[tuple[str, float]] | None = None
    grid: Grid | None = None
    note: str = ''


def draw_results(
    results: Results, spec: ModelSpec, box_colours: Mapping[str, tuple[int, int, int]]
) -> NDArray[np.uint8]:
    """Draw all that was said of one image, the grid beside it, with a caption and a legend.

    Args:
        results: of one image.
        spec: of the segmentation model, for names and colours.
        box_colours: (R, G, B) for each class of boxes; white for those that it lacks.

    Returns:
        (H, W, 3) uint8 RGB, larger than the image.
    """
    picture = results.image
    names, colours = list(spec.classes), list(spec.colours)
    if results.ids is not None:
        picture = blend_mask(picture, results.ids, spec.colours)
    if results.boxes is not None:
        found = results.boxes
        picture = draw_boxes(
            picture, found.boxes, found.scores, np.arange(len(found.names)), found.names,
            [box_colours.get(name, (255, 255, 255)) for name in found.names],
        )
    height = len(picture)
    panel = np.empty((height, 0, 3), np.uint8)
    if results.grid is not None:
        panel = draw_grid(results.grid, height, height)
        names += ['grid: free', 'grid: occupied', 'grid: unseen']
        colours += [FREE, OCCUPIED, UNSEEN]
    caption = f'{results.time_s:.2f} s'
    if results.classes:
        name, score = results.classes[0]
        caption += f'   ahead: {name} {score:.2f}'
    if results.note:
        caption += f'   {results.note}'
    return draw_legend(draw_beside(picture, panel, caption), names, colours)
