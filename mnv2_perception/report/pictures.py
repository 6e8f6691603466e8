"""The pictures of a report: photo, masks, errors and grid, each as a layer of its own."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.results import NamedBoxes
from mnv2_perception.evaluation.labels import renumbering
from mnv2_perception.evaluation.pictures import WRONG
from mnv2_perception.evaluation.recording import Key, Keyed
from mnv2_perception.evaluation.truth import Truth
from mnv2_perception.report.results import Images, MASK, Results
from mnv2_perception.vision.costmap import Grid
from mnv2_perception.vision.decode import resize_ids
from mnv2_perception.vision.overlay import Colours, FREE, OCCUPIED, UNSEEN
from mnv2_perception.vision.png import indexed_png
from mnv2_perception.vision.preprocess import resize_image

SIDE_PX = 640  # longest side of a picture
QUALITY = 72  # of JPEG
BEHIND_M = 1.0  # part of a grid that is shown behind the robot
MOST_BOXES = 40
UNSEEN_ID = 101


@dataclass
class Said:
    """The results of one run for a frame; None where it has none."""

    ids: NDArray[np.uint8] | None = None
    label: NDArray[np.uint8] | None = None
    boxes: NamedBoxes | None = None
    grid: Grid | None = None


@dataclass
class Scene:
    """A frame with its image and the results of all runs."""

    key: Key
    image: NDArray[np.uint8] | None
    said: list[Said] = field(default_factory=list)


def scenes(
    frames: Sequence[Key], images: Images | None, runs: Sequence[Results],
    truths: Sequence[Truth | None],
) -> Iterator[Scene]:
    """Yield frames in their order with image and results.

    Args:
        frames: keys of the frames.
        images: the camera's images; None if there are none.
        runs: one or more runs.
        truths: labels for each run; None for a run without.
    """
    wanted = set(frames)

    def of(run: Results, name: str) -> Keyed[Any]:
        return Keyed(((each.key, each.value) for each in run.stream(name, wanted)), wanted)

    photos = Keyed(iter(images.read(wanted)) if images else iter(()), wanted)
    streams = [{name: of(run, name) for name in (MASK, 'detections', 'grid')} for run in runs]
    for key in frames:
        scene = Scene(key, photos.get(key))
        for stream, truth in zip(streams, truths, strict=True):
            ids = stream[MASK].get(key)
            label = truth.label(key, ids.shape) if truth and ids is not None else None
            scene.said.append(
                Said(ids, label, stream['detections'].get(key), stream['grid'].get(key))
            )
        yield scene


def size_of(scene: Scene) -> tuple[int, int]:
    """Return (height, width) in which a scene is shown; (0, 0) if it has no picture."""
    shown = [scene.image, *(said.ids for said in scene.said)]
    height, width = next((each.shape[:2] for each in shown if each is not None), (0, 0))
    scale = min(1.0, SIDE_PX / max(1, height, width))
    if not (height and width):
        return 0, 0
    return max(1, round(height * scale)), max(1, round(width * scale))


def layers(
    scene: Scene, runs: Sequence[Results], colours: Mapping[str, tuple[int, int, int]]
) -> dict[str, Any]:
    """Return the pictures of a scene as data URIs, and its boxes, for the page.

    Args:
        scene: the frame.
        runs: the runs whose results are in the scene.
        colours: RGB colours by class name.
    """
    height, width = size_of(scene)
    photo = None
    if scene.image is not None and height and width:
        small = cv2.cvtColor(resize_image(scene.image, height, width), cv2.COLOR_RGB2BGR)
        done, data = cv2.imencode('.jpg', small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        photo = uri('jpeg', data.tobytes()) if done else None
    shown = []
    for run, said in zip(runs, scene.said, strict=True):
        palette = [colours[name] for name in run.classes]
        ids = None if said.ids is None or not said.ids.size else said.ids
        shown.append({
            'mask': None if ids is None else layer(resize_ids(ids, height, width), palette),
            'wrong': _wrong(said, len(run.classes), height, width),
            'boxes': _boxes(said.boxes, scene) if said.boxes is not None else [],
            'grid': grid_picture(said.grid, in_robot_frame(run)) if said.grid else None,
        })
    if len(runs) == 2 and not any(each['wrong'] for each in shown):
        shown[1]['wrong'] = _differs(scene, runs, height, width)
    return {'photo': photo, 'height': height, 'width': width, 'runs': shown}


def uri(kind: str, data: bytes) -> str:
    """Return an encoded picture as a data URI."""
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def layer(ids: NDArray[np.uint8], palette: Colours) -> str:
    """Return ids as a picture that is transparent where an id has no colour."""
    return uri('png', indexed_png(ids, palette, transparent=True))


def _wrong(said: Said, classes: int, height: int, width: int) -> str | None:
    """Return a layer of the pixels where a mask differs from its label; None without a label."""
    if said.ids is None or said.label is None:
        return None
    wrong = (said.label != said.ids) & (said.label < classes)
    return layer(resize_ids(1 - wrong.astype(np.uint8), height, width), [WRONG])


def _differs(
    scene: Scene, runs: Sequence[Results], height: int, width: int
) -> str | None:
    """Return a layer of the pixels where two masks differ; None if they cannot be compared."""
    ours, theirs = (said.ids for said in scene.said)
    table, _ = renumbering(runs[1].mask, dict(enumerate(runs[1].classes)), runs[0].classes)
    if ours is None or theirs is None or table is None or ours.shape != theirs.shape:
        return None
    same = (table[theirs] == ours).astype(np.uint8)
    return layer(resize_ids(same, height, width), [WRONG])


def _boxes(found: NamedBoxes, scene: Scene) -> list[list[Any]]:
    """Return the boxes of highest score as shares of the image's sides, with score and name."""
    shown = [scene.image, *(said.ids for said in scene.said)]
    height, width = next((each.shape[:2] for each in shown if each is not None), (0, 0))
    if not (height and width):
        return []
    known = np.isfinite(found.boxes).all(axis=1) & np.isfinite(found.scores)
    order = [i for i in np.argsort(-found.scores, kind='stable') if known[i]][:MOST_BOXES]
    scaled = (found.boxes / np.array([width, height, width, height])).clip(0.0, 1.0)
    return [
        [*(round(float(value), 4) for value in scaled[i]), round(float(found.scores[i]), 2),
         found.names[i]]
        for i in order
    ]


def in_robot_frame(run: Results) -> bool:
    """Return whether a run's grids have the robot at their origin, looking along x."""
    return run.grid_frame == (run.robot_frame or 'base_link')


def grid_ids(
    grid: Grid, robot_frame: bool
) -> tuple[NDArray[np.uint8], Colours, tuple[float, float]] | None:
    """Return a grid seen from above, x up and y to the left; None if it is invalid or empty.

    Args:
        grid: the grid, in any frame.
        robot_frame: whether the robot is at the grid's origin; then cells more than BEHIND_M
            behind it are left out. Otherwise it is taken to be in the grid's middle, as
            costmap_node makes rolling grids.

    Returns:
        (rows, columns) uint8 ids, one pixel per cell; their colours; column and row of the robot.
    """
    placed = grid.origin_x_m, grid.origin_y_m, grid.resolution_m
    if not grid.cells.size or not np.isfinite(placed).all() or not grid.resolution_m > 0.0:
        return None
    height, width = grid.cells.shape
    robot_x, robot_y, first = width / 2, height / 2, 0  # cells
    if robot_frame:
        robot_x, robot_y = (-origin / grid.resolution_m for origin in placed[:2])
        first = min(max(0, int(robot_x - BEHIND_M / grid.resolution_m)), width - 1)
    seen = grid.cells.T[first:][::-1, ::-1]  # (along −x, along −y)
    ids = np.where((seen >= 0) & (seen <= 100), seen, UNSEEN_ID).astype(np.uint8)
    levels = [
        (int(r), int(g), int(b)) for r, g, b in np.linspace(FREE, OCCUPIED, 101).round()
    ]
    return ids, [*levels, UNSEEN], (len(ids[0]) - robot_y, len(ids) - (robot_x - first))


def grid_picture(grid: Grid, robot_frame: bool) -> dict[str, Any] | None:
    """Return a grid for the page, see `grid_ids`; None if it is invalid or empty.

    Returns:
        `picture`, a data URI with one pixel per cell, or fewer for a very large grid; `rows` and
        `columns`; `metres` per cell; `x` and `y` of the robot in cells from the upper left corner;
        `ahead`, whether the robot looks up.
    """
    seen = grid_ids(grid, robot_frame)
    if seen is None:
        return None
    ids, colours, (x, y) = seen
    step = -(-max(ids.shape) // SIDE_PX)
    return {
        'picture': layer(np.ascontiguousarray(ids[::step, ::step]), colours),
        'rows': ids.shape[0], 'columns': ids.shape[1], 'metres': grid.resolution_m,
        'x': round(x, 2), 'y': round(y, 2), 'ahead': robot_frame,
    }
