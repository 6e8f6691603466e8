"""What learning buys: `python benchmark/ground.py GROUND/val`, IoU of ground, by place.

Three ways to find the ground in the same pictures, at their size; floor and sidewalk are ground:

* models of the ground, by the names or paths in `--models`.
* the street model, whose road and pavement are taken for ground.
* colour alone: what looks like the strip before the robot and hangs together with it. In Lab, a
  pixel is ground within 3 standard deviations of the strip, at least 6 levels, and lightness
  counts half, because it falls with the distance.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.data.folders import list_pairs, read_pair
from mnv2_perception.evaluation.metrics import ConfusionMatrix
from mnv2_perception.evaluation.parts import prefix_of
from mnv2_perception.tasks.segmenter import Segmenter

GROUND = (0, 1)  # floor and sidewalk, in the labels
UNLABELLED = 255
STREET, STREET_GROUND = 'unet_mobilenetv2_camvid', ('road', 'pavement')
Find = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]


def by_colour(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the pixels that resemble the strip before the robot and are connected to it."""
    lab = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), (0, 0), 2.0).astype(np.float32)
    height, width = lab.shape[:2]
    strip = lab[int(0.9 * height):, width // 3 : width - width // 3].reshape(-1, 3)
    spread = np.maximum(3.0 * strip.std(axis=0), 6.0) * np.array([2.0, 1.0, 1.0])
    near = (np.abs(lab - np.median(strip, axis=0)) < spread).all(axis=2).astype(np.uint8)
    _, parts = cv2.connectedComponents(cv2.morphologyEx(near, cv2.MORPH_OPEN, np.ones((5, 5))))
    below = parts[int(0.9 * height):]
    return np.isin(parts, np.unique(below[below > 0]))


def by_model(name: str, classes: tuple[str, ...]) -> Find:
    """Return a function that finds the pixels of some of a model's classes."""
    segmenter = Segmenter.open(name)
    ids = [index for index, known in enumerate(segmenter.spec.classes) if known in classes]
    return lambda image: np.isin(segmenter(image).class_ids, ids)


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data', type=Path)
    parser.add_argument('--models', nargs='*', default=[
        'unet_mobilenetv2_ground', 'unet_mobilenetv2_ground_fast',
    ])
    parser.add_argument('--json', action='store_true')
    arguments = parser.parse_args()
    ways: dict[str, Find] = {
        **{name: by_model(name, ('floor', 'sidewalk')) for name in arguments.models},
        f'{STREET}: road, pavement': by_model(STREET, STREET_GROUND),
        'colour alone': by_colour,
    }
    found: dict[str, dict[str, ConfusionMatrix]] = {
        name: defaultdict(lambda: ConfusionMatrix(2)) for name in ways
    }
    for image_path, label_path in list_pairs(arguments.data):
        image, label = read_pair(image_path, label_path)
        truth = np.where(label == UNLABELLED, UNLABELLED, np.isin(label, GROUND))
        for name, find in ways.items():
            predicted = find(image).astype(np.uint8)
            found[name][prefix_of(image_path, '_')].add(truth.astype(np.uint8), predicted)
    result = {
        name: {place: round(float(matrix.iou()[1]), 3) for place, matrix in places.items()}
        for name, places in found.items()
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, places in result.items():
        print(f'{name:<44}', *(f'{place} {value:.3f}' for place, value in places.items()))


if __name__ == '__main__':
    main()
