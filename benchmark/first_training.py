"""Whether a first training tells the truth: `python benchmark/first_training.py CAMVID`.

Sixty pictures and 4 classes, 8 epochs; 40 of them; and 60 from random weights. After each epoch
the figure that training reports, and chooses `best.pt` by, stands beside that of the same weights
with batch statistics gathered once more, on other crops of the training pictures. The two must be
near each other, and the best by one the best by the other. One thread; a quarter of an hour.
"""

import argparse
import copy
from dataclasses import replace
import json
from pathlib import Path
import shutil
import tempfile
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.checkpoint import load_checkpoint
from mnv2_perception.training import loop
from mnv2_perception.training.batch_norm import gathering_layers, reestimate
from mnv2_perception.training.recipe import SegmentationRecipe
from mnv2_perception.training.segmentation import SegmentationTask
from mnv2_perception.training.task import Measured

CLASSES = ('sky', 'still', 'ground', 'moving')
# Of CamVid's sky building pole road pavement tree sign fence car pedestrian bicyclist.
FOUR = (0, 1, 1, 2, 2, 1, 1, 1, 3, 3, 3)


class Twice(SegmentationTask):
    """Measures each network once more, with batch statistics that are gathered anew."""

    pairs_of_figures: list[tuple[float, float]]
    pretrained: bool

    def evaluate(self, net: nn.Module) -> Measured:
        """Measure, and note both figures."""
        measured = super().evaluate(net)
        again = copy.deepcopy(net)
        names = [
            name for name in gathering_layers(again.train())
            if not (self.pretrained and name.startswith('encoder'))
        ]
        reestimate(
            again.eval(), names,
            loop.calibration(self, replace(self.recipe, seed=self.recipe.seed + 1000),
                             next(net.parameters()).device),
        )
        self.pairs_of_figures.append((measured.value, super().evaluate(again).value))
        return measured


def write_four(camvid: Path, folder: Path, split: str, every: int, count: int) -> Path:
    """Write every so many pictures of a part of CamVid with labels of four classes."""
    table = np.full(256, 255, np.uint8)
    table[: len(FOUR)] = FOUR
    for name in ('images', 'labels'):
        (folder / name).mkdir(parents=True)
    for image in sorted((camvid / split / 'images').iterdir())[::every][:count]:
        shutil.copy(image, folder / 'images')
        label = cv2.imread(str(camvid / split / 'labels' / f'{image.stem}.png'), -1)
        cv2.imwrite(str(folder / 'labels' / f'{image.stem}.png'), table[label])
    return folder


def measure(
    camvid: Path, folder: Path, count: int, weights: Path | None, size: tuple[int, int],
    epochs: int,
) -> dict[str, Any]:
    """Train one case and compare its figures."""
    spec = ModelSpec.from_dict(
        {'name': 'four', 'task': 'segmentation', 'height': size[0], 'width': size[1],
         'classes': CLASSES, 'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375]},
        'the benchmark',
    )
    recipe = SegmentationRecipe(
        epochs=epochs, evaluate_every=1, drawn=0, jaccard=1.0,
        crop_height=size[0] * 4 // 5 // 32 * 32, crop_width=size[1] * 4 // 5 // 32 * 32,
    )
    task = Twice(
        write_four(camvid, folder / 'train', 'train', 6, count), spec, recipe,
        write_four(camvid, folder / 'val', 'val', 3, 34),
    )
    task.pairs_of_figures, task.pretrained = [], weights is not None
    best = loop.fit(task, folder / 'run', recipe, {}, weights)
    reported, again = np.array(task.pairs_of_figures).T
    kept = load_checkpoint(folder / 'run/best.pt').epoch
    return {
        'reported': reported.round(3).tolist(),
        're-estimated': again.round(3).tolist(),
        'best': round(best, 3),
        'farthest_apart': round(float(np.abs(reported - again).max()), 3),
        'best_pt_is_epoch': kept,
        'best_pt_below_the_best': round(float(again.max() - again[kept - 1]), 3),
    }


def main() -> None:
    """Train the three cases and print what they reported, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('camvid', type=Path, help='holds train/ and val/')
    parser.add_argument('--weights', type=Path, required=True, help='ImageNet features, .pth')
    parser.add_argument('--height', type=int, default=192)
    parser.add_argument('--width', type=int, default=256)
    parser.add_argument('--epochs', type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {}
    for name, count, weights in (
        ('60 pictures', 60, arguments.weights), ('40 pictures', 40, arguments.weights),
        ('60 pictures, random start', 60, None),
    ):
        with tempfile.TemporaryDirectory() as folder:
            result[name] = measure(
                arguments.camvid, Path(folder), count, weights,
                (arguments.height, arguments.width), arguments.epochs,
            )
        print(json.dumps({name: result[name]}), flush=True)


if __name__ == '__main__':
    main()
