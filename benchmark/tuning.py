"""Draw what right and wrong parameters of costmap_node look like: `python benchmark/tuning.py`.

A drawn street with its exact mask, so that all that is wrong in a grid comes from the parameter
that is named above it. Writes docs/tuning.png.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.scenes.street import camera_height_m, camera_matrix, CLASSES, draw_scene
from mnv2_perception.vision.camera import Camera
from mnv2_perception.vision.ground_view import GroundView
from mnv2_perception.vision.marks import Limits, marks_on_ground
from mnv2_perception.vision.overlay import draw_beside, draw_grid
from mnv2_perception.vision.pose import BODY_FROM_OPTICAL, IN_PLACE, Pose
from mnv2_perception.vision.roles import roles_of

OUT = Path(__file__).resolve().parents[1] / 'docs/tuning.png'
SEED, TIME_S, HEIGHT, WIDTH = 7, 0.0, 480, 640
AHEAD_M, SIDE_PX, COLUMNS = 16.0, 300, 4
RIGHT = {
    'camera_z_m': camera_height_m(SEED), 'camera_pitch_rad': 0.0, 'max_range_m': 13.0,
    'max_footprint_m': 0.25,
}
# The title of each picture, and the parameters that it changes.
PICTURES: list[tuple[str, dict[str, float]]] = [
    ('right', {}),
    ('pitch 2 deg too small', {'camera_pitch_rad': np.radians(-2.0)}),
    ('pitch 2 deg too large', {'camera_pitch_rad': np.radians(2.0)}),
    ('height 20 % too large', {'camera_z_m': 1.2 * camera_height_m(SEED)}),
    ('max_range_m 6', {'max_range_m': 6.0}),
    ('max_range_m 40, max_footprint_m 2', {'max_range_m': 40.0, 'max_footprint_m': 2.0}),
    ('max_footprint_m 0.03', {'max_footprint_m': 0.03}),
]


def draw_panel(title: str, changes: dict[str, float]) -> NDArray[np.uint8]:
    """Draw the grid for one set of parameters, (H, W, 3) uint8 RGB."""
    values = RIGHT | changes
    _, ids = draw_scene(SEED, TIME_S, HEIGHT, WIDTH)
    matrix = camera_matrix(SEED, HEIGHT, WIDTH)
    camera = Camera(
        height=HEIGHT, width=WIDTH, fx=matrix[0, 0], fy=matrix[1, 1], cx=matrix[0, 2],
        cy=matrix[1, 2],
    )
    body = Pose.from_rpy(0.0, 0.0, values['camera_z_m'], 0.0, values['camera_pitch_rad'], 0.0)
    view = GroundView(
        camera, body @ BODY_FROM_OPTICAL, values['max_range_m'], values['max_footprint_m'],
    )
    roles = roles_of(
        {name: class_id for class_id, name in enumerate(CLASSES)},
        ['road'], ['pavement'], [], ['sky'],
    )
    limits = Limits(
        max_range_m=values['max_range_m'], obstacle_height_m=0.25, min_height_m=0.05,
        max_height_m=2.0, grid_size_m=40.0, grid_resolution_m=0.1, scan_angle_min_rad=-1.57,
        scan_angle_max_rad=1.57, scan_angle_increment_rad=0.01,
    )
    marks = marks_on_ground(view, ids, roles, IN_PLACE, limits)
    return titled(draw_grid(marks.grid, SIDE_PX, SIDE_PX, AHEAD_M), title)


def titled(panel: NDArray[np.uint8], title: str) -> NDArray[np.uint8]:
    """Return a panel with a title above it and a white margin on its right."""
    named = draw_beside(panel, np.empty((len(panel), 0, 3), np.uint8), title)
    return np.hstack([named, np.full((len(named), 6, 3), 255, np.uint8)])


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=OUT)
    out = parser.parse_args().out
    image, _ = draw_scene(SEED, TIME_S, HEIGHT, WIDTH)
    scene = np.full((SIDE_PX, SIDE_PX, 3), 255, np.uint8)
    height = SIDE_PX * HEIGHT // WIDTH
    scene[:height] = cv2.resize(image, (SIDE_PX, height), interpolation=cv2.INTER_AREA)
    panels = [titled(scene, 'the picture')]
    panels += [draw_panel(title, changes) for title, changes in PICTURES]
    rows = [np.hstack(panels[first:first + COLUMNS]) for first in range(0, len(panels), COLUMNS)]
    cv2.imwrite(str(out), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    print(out)


if __name__ == '__main__':
    main()
