"""Train an SSDLite for detection."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
from torch import nn, Tensor

from mnv2_perception.data.coco import BoxSample, read_coco
from mnv2_perception.data.folders import hash_list
from mnv2_perception.data.images import read_image
from mnv2_perception.errors import DataError
from mnv2_perception.evaluation.metrics import average_precision, by_class, check_pycocotools
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.ssdlite import make_anchors, SSDLite, TopBoxes
from mnv2_perception.nets.unet import check_divisible
from mnv2_perception.training import data
from mnv2_perception.training.boxes import match_anchors, multibox_loss
from mnv2_perception.training.loop import fit
from mnv2_perception.training.recipe import DetectionRecipe
from mnv2_perception.training.task import Arrays, Measured, network_input, Task
from mnv2_perception.vision.detections import boxes_on_image, select_boxes
from mnv2_perception.vision.preprocess import normalise, place_image

NMS_IOU = 0.5
LAST_STRIDE = 64
logger = logging.getLogger(__name__)


class DetectionTask(Task):
    """Detection; measured by COCO's average precision.

    Args:
        path: COCO JSON, see `data.coco.read_coco`.
        spec: spec of the exported model.
        recipe: see DetectionRecipe.
        val: COCO JSON of validation images; None for none.

    Raises:
        DataError: a data set cannot be used, or has other classes than the spec.
        ModelError: the crop size is not divisible by the encoder's stride.
        SetupError: `val` is given and pycocotools is missing.
    """

    metric = 'ap'

    def __init__(
        self, path: Path, spec: ModelSpec, recipe: DetectionRecipe, val: Path | None
    ) -> None:
        check_divisible(recipe.crop_height, recipe.crop_width, 2**recipe.encoder_depth)
        self.spec = spec
        self.recipe = recipe
        self.samples = read_boxes(path, spec)
        self.images = [read_image(sample.image) for sample in self.samples]
        self.val_samples = read_boxes(val, spec) if val else []
        if val:
            check_pycocotools()
        data.check_disjoint(
            [sample.image for sample in self.samples],
            [sample.image for sample in self.val_samples],
        )
        check_boxes(path, self.samples, spec)
        if val:  # report faults now, not after the first epochs
            check_boxes(val, self.val_samples, spec)
            for sample in self.val_samples:
                read_image(sample.image)
        count = (LAST_STRIDE // recipe.finest_stride).bit_length()
        strides = tuple(recipe.finest_stride << level for level in range(count))
        self.anchors = make_anchors(recipe.crop_height, recipe.crop_width, strides)
        torch.manual_seed(recipe.seed)
        self.architecture = {
            'width_mult': recipe.width_mult, 'encoder': recipe.encoder, 'strides': strides,
            'encoder_depth': recipe.encoder_depth,
        }
        self.net = SSDLite(len(spec.classes), **self.architecture)
        self.encoder = self.net.encoder

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int, rng: np.random.Generator) -> Arrays:
        """Return an image tensor (3, H, W) float32, and class id and box for each anchor.

        Class ids are (anchors,) int64 and may be BACKGROUND or IGNORED; boxes are (anchors, 4)
        float32, px.
        """
        recipe, spec = self.recipe, self.spec
        image, found = data.augment_boxes(
            self.images[index], self.samples[index], data.whole_image(self.images[index], spec),
            recipe.crop_height, recipe.crop_width, rng, (recipe.min_scale, recipe.max_scale),
            recipe.light, data.padding(spec),
        )
        matches = match_anchors(
            self.anchors, torch.from_numpy(found.boxes), torch.from_numpy(found.ignored)
        ).numpy()
        positive = matches >= 0
        class_ids, boxes = matches.copy(), np.zeros((len(matches), 4), np.float32)
        class_ids[positive] = found.class_ids[matches[positive]]
        boxes[positive] = found.boxes[matches[positive]]
        tensor = normalise(image, spec.mean, spec.std, spec.channel_order)
        return tensor, class_ids, boxes

    def loss(self, outputs: tuple[Tensor, Tensor], *targets: Tensor) -> Tensor:
        """Return SSD's loss, see `multibox_loss`."""
        class_ids, boxes = targets  # (N, anchors), (N, anchors, 4)
        logits, offsets = outputs
        return multibox_loss(logits, offsets, self.anchors.to(boxes.device), class_ids, boxes)

    def evaluate(self, net: nn.Module) -> Measured:
        """Return COCO's AP on the validation images, and the AP of each class at IoU 0.5."""
        if not self.val_samples:
            return Measured(float('nan'))
        spec = self.spec
        device = next(net.parameters()).device
        top = TopBoxes(spec.height, spec.width, self.architecture['strides']).to(device)
        found = []
        with torch.inference_mode():
            for sample in self.val_samples:
                image = read_image(sample.image)
                outputs = top(net(network_input(image, spec, net)))
                candidates, scores, class_ids = (output[0].cpu().numpy() for output in outputs)
                rows, columns = image.shape[:2]
                placed = place_image(image.shape, spec.height, spec.width, spec.fit)
                boxes = boxes_on_image(candidates, rows, columns, placed=placed)
                kept = select_boxes(boxes, scores, class_ids, 0.0, NMS_IOU)
                found.append((boxes[kept], scores[kept], class_ids[kept]))
        precision = average_precision(self.val_samples, found, len(spec.classes))
        return Measured(
            precision.ap, by_class(spec.classes, np.array(precision.ap50_per_class))
        )


def read_boxes(path: Path, spec: ModelSpec) -> list[BoxSample]:
    """Read a COCO file that has the classes of the spec in the same order.

    Raises:
        DataError: the file cannot be used, or has other classes.
    """
    classes, samples = read_coco(path)
    if classes != spec.classes:
        raise DataError(
            f'{path}: has the categories {", ".join(classes)}, the spec the classes '
            f'{", ".join(spec.classes)}; give a --spec with the categories of the file, in the '
            f'same order'
        )
    return samples


def check_boxes(path: Path, samples: list[BoxSample], spec: ModelSpec) -> None:
    """Log the classes that have no box.

    Raises:
        DataError: there are no boxes at all.
    """
    occurring = {int(class_id) for sample in samples for class_id in sample.class_ids}
    absent = [name for index, name in enumerate(spec.classes) if index not in occurring]
    if not occurring:
        raise DataError(f'{path}: has no box of {", ".join(absent)} that is not marked as ignored')
    if absent:
        logger.warning('%s: no box of %s', path, ', '.join(absent))


def train(
    path: Path,
    out: Path,
    spec: ModelSpec,
    recipe: DetectionRecipe,
    weights: Path | None = None,
    val: Path | None = None,
    resume: bool = False,
    workers: int = 0,
) -> float:
    """Train an SSDLite; see DetectionTask and `loop.fit` for the arguments.

    Returns:
        The best average precision on `val`, 0 to 1; NaN without `val`.

    Raises:
        DataError: a data set cannot be used, or `out` holds another run.
        ModelError: weights or checkpoint cannot be loaded, or the crop size is not divisible by
            the encoder's stride.
        SetupError: `out` cannot be created, or `val` is given and pycocotools is missing.
    """
    task = DetectionTask(path, spec, recipe, val)

    def hash_boxes(source: Path | None, samples: list[BoxSample]) -> str:
        digest = hashlib.sha256(source.read_bytes() if source else b'').digest()
        return hash_list([(sample.image, digest.hex()) for sample in samples])

    facts = {
        'images': len(task),
        'training_list_sha256': hash_boxes(path, task.samples),
        'val_list_sha256': hash_boxes(val, task.val_samples),
    }
    return fit(task, out, recipe, facts, weights, resume, workers)
