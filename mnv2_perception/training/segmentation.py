"""Train a UNet for segmentation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn, Tensor
from torch.nn import functional

from mnv2_perception.data.folders import (
    hash_list,
    LabelCounts,
    list_pairs,
    read_folder,
    read_pair,
)
from mnv2_perception.errors import DataError
from mnv2_perception.evaluation.metrics import by_class, ConfusionMatrix
from mnv2_perception.model_spec import ModelSpec, UNLABELLED
from mnv2_perception.nets.unet import check_divisible, UNet
from mnv2_perception.scenes import street
from mnv2_perception.scenes.hall import HALL_CLASSES
from mnv2_perception.training import data
from mnv2_perception.training.loop import fit
from mnv2_perception.training.recipe import PASTED, SegmentationRecipe
from mnv2_perception.training.task import Arrays, Measured, network_input, Task
from mnv2_perception.vision.decode import ids_on_image
from mnv2_perception.vision.preprocess import normalise, place_image

FLOOR = 'floor'  # the class that reflects objects in hard light


class SegmentationTask(Task):
    """Segmentation; measured by mIoU.

    Args:
        folder: data set, see `data.folders.list_pairs`.
        spec: spec of the exported model.
        recipe: see SegmentationRecipe.
        val: validation data set; None for none.

    Raises:
        DataError: a data set cannot be used.
        ModelError: the crop size is not divisible by the encoder's stride.
    """

    metric = 'miou'

    def __init__(
        self, folder: Path, spec: ModelSpec, recipe: SegmentationRecipe, val: Path | None
    ) -> None:
        check_divisible(recipe.crop_height, recipe.crop_width, 2**recipe.encoder_depth)
        if recipe.drawn and not data.can_draw(spec.classes):
            raise DataError(
                f'drawn scenes have the classes {", ".join(street.CLASSES)}, or '
                f'{", ".join(HALL_CLASSES)}; the spec has {", ".join(spec.classes)}: '
                'give --drawn 0'
            )
        self.spec = spec
        self.recipe = recipe
        known = FLOOR in spec.classes
        self.floor = spec.classes.index(FLOOR) if known else UNLABELLED
        self.pasted = read_classes(recipe.paste, spec.classes)
        self.pairs = list_pairs(folder)
        self.samples = read_folder(folder, spec.classes)
        self.val_pairs = list_pairs(val) if val else []
        data.check_disjoint(
            [image for image, _ in self.pairs], [image for image, _ in self.val_pairs]
        )
        if val:  # report faults now, not after the first epochs
            val_counts = LabelCounts(spec.classes)
            for pair in self.val_pairs:
                val_counts.add(read_pair(*pair)[1])
            val_counts.check(f'{val}/labels')
        counts = np.zeros(256, np.int64)
        for _, label in self.samples:
            counts += np.bincount(label.ravel(), minlength=256)
        weights = data.class_weights(counts[: len(spec.classes)], recipe.balance)
        self.class_weights = torch.from_numpy(weights)
        height, width = self.samples[0][0].shape[:2]
        self.samples += data.draw_samples(
            recipe.drawn, recipe.seed, height, width, spec.classes
        )
        torch.manual_seed(recipe.seed)
        self.architecture = {
            'width_mult': recipe.width_mult,
            'decoder': recipe.decoder,
            'encoder': recipe.encoder,
            'encoder_depth': recipe.encoder_depth,
            'decoder_channels': read_channels(recipe.decoder_channels),
            'shuffle': recipe.head == 'shuffle',
        }
        self.net = UNet(len(spec.classes), **self.architecture)
        self.encoder = self.net.encoder

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int, rng: np.random.Generator) -> Arrays:
        """Return an image tensor (3, H, W) float32 and class ids (H, W) int64."""
        recipe, spec = self.recipe, self.spec
        size = recipe.crop_height, recipe.crop_width
        scales, pad = (recipe.min_scale, recipe.max_scale), data.padding(spec)
        above = None
        if self.pasted and rng.random() < PASTED:
            other = self.samples[rng.integers(len(self.samples))]
            whole = data.whole_image(other[0], spec)
            picture, ids = data.random_crop(other, whole, *size, rng, scales, pad)
            shown = [each for each in self.pasted if rng.random() < 0.5]
            above = picture, np.where(np.isin(ids, shown), ids, np.uint8(UNLABELLED))
        sample = self.samples[index]
        image, label = data.augment(
            sample, data.whole_image(sample[0], spec), *size, rng, scales, recipe.light,
            self.floor, pad, above,
        )
        tensor = normalise(image, spec.mean, spec.std, spec.channel_order)
        return tensor, label.astype(np.int64)

    def loss(self, outputs: Tensor, *targets: Tensor) -> Tensor:
        """Return the class-weighted cross entropy, plus the soft Jaccard loss if requested."""
        (labels,) = targets  # (N, H, W)
        logits = functional.interpolate(outputs.float(), labels.shape[-2:], mode='bilinear')
        labelled = labels != UNLABELLED
        if not labelled.any():
            return 0.0 * logits.sum()  # nothing to learn from
        weights = self.class_weights.to(labels.device)
        loss = functional.cross_entropy(logits, labels, weights, ignore_index=UNLABELLED)
        if self.recipe.jaccard:
            loss = loss + self.recipe.jaccard * soft_jaccard_loss(logits, labels, labelled)
        return loss

    def evaluate(self, net: nn.Module) -> Measured:
        """Return mIoU and IoU by class on the validation labels, at the labels' size."""
        if not self.val_pairs:
            return Measured(float('nan'))
        spec = self.spec
        matrix = ConfusionMatrix(len(spec.classes))
        with torch.inference_mode():
            for image_path, label_path in self.val_pairs:
                image, label = read_pair(image_path, label_path)
                logits = net(network_input(image, spec, net))
                ids = logits.argmax(1)[0].to(torch.uint8).cpu().numpy()
                placed = place_image(label.shape, spec.height, spec.width, spec.fit)
                matrix.add(label, ids_on_image(ids, label.shape[0], label.shape[1], placed))
        alarms = by_class(spec.classes, matrix.false_alarms())
        return Measured(
            matrix.miou(), by_class(spec.classes, matrix.iou()),
            {name: share for name, share in alarms.items() if share},
        )


def read_channels(text: str) -> tuple[int, ...]:
    """Return the numbers of a comma-separated list.

    Raises:
        DataError: an element is not a positive integer.
    """
    parts = [part.strip() for part in text.split(',') if part.strip()]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise DataError(f'--decoder-channels is {text!r}, expected numbers such as 64,32,16')
    return tuple(map(int, parts))


def read_classes(text: str, classes: Sequence[str]) -> list[int]:
    """Return the ids of a comma-separated list of class names, each once.

    Raises:
        DataError: a name is not in `classes`.
    """
    names = dict.fromkeys(name.strip() for name in text.split(',') if name.strip())
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise DataError(
            f'--paste names {", ".join(unknown)}, expected classes of the spec: '
            f'{", ".join(classes)}'
        )
    return [classes.index(name) for name in names]


def soft_jaccard_loss(logits: Tensor, labels: Tensor, labelled: Tensor) -> Tensor:
    """Return 1 - mean soft IoU over the classes of a batch, a smooth version of the metric.

    Rahman and Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image
    Segmentation", ISVC 2016.

    Args:
        logits: (N, C, H, W) float.
        labels: (N, H, W) int64 class ids.
        labelled: (N, H, W) bool; other pixels do not count.
    """
    num_classes = logits.shape[1]
    probabilities = logits.permute(0, 2, 3, 1)[labelled].softmax(1)  # (pixels, C)
    ids = labels[labelled]
    true = torch.bincount(ids, minlength=num_classes)
    right = probabilities.gather(1, ids[:, None])[:, 0]
    intersection = torch.zeros_like(probabilities[0]).index_add(0, ids, right)
    union = probabilities.sum(0) + true - intersection
    present = true > 0
    return 1.0 - (intersection[present] / union[present]).mean()


def train(
    folder: Path,
    out: Path,
    spec: ModelSpec,
    recipe: SegmentationRecipe,
    weights: Path | None = None,
    val: Path | None = None,
    resume: bool = False,
    workers: int = 0,
) -> float:
    """Train a UNet; see SegmentationTask and `loop.fit` for the arguments.

    Returns:
        The best mIoU on `val`, 0 to 1; NaN without `val`.

    Raises:
        DataError: a data set cannot be used, or `out` holds another run.
        ModelError: weights or checkpoint cannot be loaded, or the crop size is not divisible by
            the encoder's stride.
        SetupError: `out` cannot be created.
    """
    task = SegmentationTask(folder, spec, recipe, val)
    facts = {
        'images': len(task.pairs),
        'training_list_sha256': hash_list(task.pairs),
        'val_list_sha256': hash_list(task.val_pairs),
    }
    return fit(task, out, recipe, facts, weights, resume, workers)
