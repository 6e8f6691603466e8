"""Write a run as a video: frames with masks, boxes and grid; two runs are shown side by side."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.data.files import replacing
from mnv2_perception.errors import SetupError
from mnv2_perception.evaluation.pictures import side_by_side
from mnv2_perception.model_spec import default_colours
from mnv2_perception.report.pictures import (
    grid_ids,
    in_robot_frame,
    Said,
    Scene,
    size_of,
)
from mnv2_perception.report.report import Report
from mnv2_perception.report.results import Results
from mnv2_perception.vision.decode import resize_ids
from mnv2_perception.vision.overlay import (
    blend_mask,
    colour_table,
    draw_boxes,
    draw_caption,
    draw_grid,
    draw_legend,
    UNSEEN,
)
from mnv2_perception.vision.preprocess import resize_image

FOURCC = 'mp4v'  # MPEG-4 part 2, which OpenCV's own FFmpeg encodes everywhere
SLOWEST_FPS, FASTEST_FPS = 1.0, 60.0
Picture = NDArray[np.uint8]


def write_video(
    report: Report, out: Path, tell: Callable[[int, int], None] = lambda *_: None
) -> None:
    """Write all frames of a report as a video, at their median rate.

    Args:
        report: report of one or two runs.
        out: the .mp4 file.
        tell: called with the number of frames written and their total.

    Raises:
        SetupError: OpenCV cannot encode a video here.
    """
    steps = np.diff(report.times_s)
    middle = float(np.median(steps)) if len(steps) else 0.0
    fps = min(max(1.0 / middle if middle > 0.0 else SLOWEST_FPS, SLOWEST_FPS), FASTEST_FPS)
    writer, size = None, (0, 0)
    with replacing(out) as partial:
        try:
            for index, scene in enumerate(report.scenes(range(len(report.frames)))):
                picture = draw_scene(report, scene, report.times_s[index])
                if writer is None:
                    size = picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2
                    writer = cv2.VideoWriter(
                        str(partial), cv2.VideoWriter.fourcc(*FOURCC), fps, size
                    )
                    if not writer.isOpened():
                        raise SetupError(
                            f'{out}: this OpenCV cannot write {FOURCC} into .mp4: it was built '
                            f'without FFmpeg; pip install opencv-python-headless provides it'
                        )
                if picture.shape[1::-1] != size:
                    picture = np.asarray(cv2.resize(picture, size), np.uint8)
                writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                tell(index + 1, len(report.frames))
        finally:
            if writer is not None:
                writer.release()
        if not partial.is_file():
            raise SetupError(f'{out}: OpenCV wrote nothing; see its messages above')


def draw_scene(report: Report, scene: Scene, time_s: float) -> Picture:
    """Draw a frame with the results of all runs, a caption and a legend."""
    height, width = size_of(scene)
    height, width = (height, width) if height and width else (360, 480)
    panels = []
    for run, said in zip(report.runs, scene.said, strict=True):
        panels.append(_draw(report, run, said, scene, height, width))
        if 'grid' in run.topics:
            panels.append(_grid(said, in_robot_frame(run), height))
    caption = f'{time_s:.2f} s' + ('   left: A, right: B' if len(report.runs) == 2 else '')
    return draw_legend(
        draw_caption(side_by_side(panels), caption), report.names,
        [report.colours[name] for name in report.names],
    )


def _grid(said: Said, robot_frame: bool, side: int) -> Picture:
    """Return a grid as a square picture: from the robot's view, or as it lies in its frame."""
    seen = None if said.grid is None else grid_ids(said.grid, robot_frame)
    if said.grid is None or seen is None:
        return np.full((side, side, 3), UNSEEN, np.uint8)
    if robot_frame:
        return draw_grid(said.grid, side, side)
    return colour_table(seen[1])[resize_ids(seen[0], side, side)]


def _draw(
    report: Report, run: Results, said: Said, scene: Scene, height: int, width: int
) -> Picture:
    picture = np.full((height, width, 3), 32, np.uint8)
    if scene.image is not None:
        picture = resize_image(scene.image, height, width)
    if said.ids is not None and said.ids.size:
        palette = [report.colours[name] for name in run.classes]
        picture = blend_mask(picture, resize_ids(said.ids, height, width), palette)
    if said.boxes is not None and np.isfinite(said.boxes.boxes).all():
        shown = scene.image if scene.image is not None else said.ids
        scale = width / shown.shape[1] if shown is not None else 1.0
        names = list(dict.fromkeys(said.boxes.names))
        ids = np.array([names.index(name) for name in said.boxes.names], np.int64)
        picture = draw_boxes(
            picture, said.boxes.boxes * scale, said.boxes.scores, ids, names,
            default_colours(names),
        )
    return picture
