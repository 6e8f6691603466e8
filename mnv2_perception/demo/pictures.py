"""Draw pictures of a recorded run: the results of all nodes on and beside each image."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.camera import CameraTopics, read_ids, read_images, read_stamps
from mnv2_perception.bags.read import BagReader
from mnv2_perception.bags.results import (
    NamedBoxes,
    read_classifications,
    read_detections,
    read_grids,
)
from mnv2_perception.data.images import write_image
from mnv2_perception.demo.topics import CLASSIFICATION, DETECTIONS, GRID, MASK
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.report.figures import spread
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

PICTURES = 6


@dataclass(frozen=True)
class Results:
    """All results for one image; None where there is none.

    Attributes:
        time_s: time since the first image.
        image: (H, W, 3) uint8 RGB.
        ids: (H, W) uint8 class ids.
        boxes: the detected objects.
        classes: names and scores of its classes, best first.
        grid: grid around the robot, in the base frame.
        note: further text for the caption.
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
    """Draw all results of one image, with the grid beside it, a caption and a legend.

    Args:
        results: results of one image.
        spec: spec of the segmentation model, for names and colours.
        box_colours: (R, G, B) for each class of boxes; others are white.

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


def draw_pictures(
    out: Path, bag: Path, camera: CameraTopics, spec: ModelSpec, detector: ModelSpec, note: str
) -> None:
    """Write a few frames with the results of all nodes, `out/frame_00.png` and so on.

    Not every node processes every frame: frames with results of all nodes are chosen, if there are
    any.

    Args:
        out: folder with the recording, which also gets the pictures.
        bag: the bag that was played.
        camera: topics of the camera.
        spec: spec of the segmentation model.
        detector: spec of the detection model.
        note: further text for the captions.
    """
    recording = out / 'recording'
    with BagReader(recording) as reader:
        spoke = {topic.name for topic in reader.topics if topic.message_count}
    stamps = [
        {stamp_ns for _, stamp_ns in read_stamps(recording, topic)}
        for topic in (MASK, DETECTIONS, CLASSIFICATION, GRID) if topic in spoke
    ]
    known = sorted(set.intersection(*stamps) or stamps[0])
    chosen = {known[index] for index in spread(len(known), PICTURES)}

    def read(
        results: Callable[[Path, str], Iterable[tuple[int, Any]]], topic: str
    ) -> dict[int, Any]:
        pairs = results(recording, topic) if topic in spoke else ()
        return {stamp_ns: result for stamp_ns, result in pairs if stamp_ns in chosen}

    ids, boxes = read(read_ids, MASK), read(read_detections, DETECTIONS)
    classes = read(read_classifications, CLASSIFICATION)
    grids = read(read_grids, GRID)
    colours = dict(zip(detector.classes, detector.colours, strict=True))
    start_ns, drawn = None, 0
    for stamp_ns, image in read_images(bag, camera.image, skip_broken=True):
        start_ns = stamp_ns if start_ns is None else start_ns
        if stamp_ns not in chosen:
            continue
        chosen.remove(stamp_ns)  # draw it once, even if all images have the same stamp
        results = Results(
            (stamp_ns - start_ns) / 1e9, image, ids[stamp_ns], boxes.get(stamp_ns),
            classes.get(stamp_ns), grids.get(stamp_ns), note,
        )
        picture = draw_results(results, spec, colours)
        write_image(out / f'frame_{drawn:02d}.png', picture)
        drawn += 1
