"""Whether a first training tells the truth: `python benchmark/first_training.py CAMVID`.

Sixty pictures and 4 classes, 8 epochs; 40 of them; and 60 from random weights. After each epoch
the figure that training reports, and chooses `best.pt` by, stands beside those of the same weights
with batch statistics gathered once more: on other crops of the training pictures, and on the whole
pictures, as they are. They must be near each other, and what is best by one the best by the
others. One thread; half an hour.
"""

import argparse
from collections.abc import Iterator
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
from mnv2_perception.training.task import Measured, network_input

CLASSES = ('sky', 'still', 'ground', 'moving')
# Class for each of CamVid's: sky building pole road pavement tree sign fence car pedestrian
# bicyclist.
FOUR = (0, 1, 1, 2, 2, 1, 1, 1, 3, 3, 3)
COLUMNS = ('reported', 'on other crops', 'on whole pictures')


class Thrice(SegmentationTask):
    """Evaluates each network twice more, with batch statistics that are computed again."""

    figures: list[tuple[float, ...]]
    pretrained: bool

    def evaluate(self, net: nn.Module) -> Measured:
        """Evaluate a network and record all figures."""
        measured = super().evaluate(net)
        crops = loop.calibration(
            self, replace(self.recipe, seed=self.recipe.seed + 1000), torch.device('cpu')
        )
        values = [measured.value]
        for batches in (crops, self.whole(net)):
            again = copy.deepcopy(net)
            names = [
                name for name in gathering_layers(again.train())
                if not (self.pretrained and name.startswith('encoder'))
            ]
            reestimate(again.eval(), names, batches)
            values.append(super().evaluate(again).value)
        self.figures.append(tuple(values))
        return measured

    def whole(self, net: nn.Module) -> Iterator[torch.Tensor]:
        """Yield batches of the training pictures in the form that the model will get."""
        for start in range(0, len(self.samples), self.recipe.batch):
            samples = self.samples[start : start + self.recipe.batch]
            yield torch.cat([network_input(image, self.spec, net) for image, _ in samples])


def write_four(camvid: Path, folder: Path, split: str, every: int, count: int) -> Path:
    """Write every n-th picture of a part of CamVid, with labels of four classes."""
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
    task = Thrice(
        write_four(camvid, folder / 'train', 'train', 6, count), spec, recipe,
        write_four(camvid, folder / 'val', 'val', 3, 34),
    )
    task.figures, task.pretrained = [], weights is not None
    loop.fit(task, folder / 'run', recipe, {}, weights)
    figures = np.array(task.figures)  # (epoch, 3)
    epoch = load_checkpoint(folder / 'run/best.pt').epoch
    kept = figures[epoch - 1]
    return {
        **dict(zip(COLUMNS, figures.T.round(3).tolist(), strict=True)),
        'best_pt_is_epoch': epoch,
        'its_reported_less_re_estimated': (kept[:1] - kept[1:]).round(3).tolist(),
        'its_distance_to_the_best': (figures.max(0) - kept).round(3).tolist(),
    }


def main() -> None:
    """Train the three cases and print what they reported, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('camvid', type=Path, help='folder with train/ and val/')
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
