"""Train a classifier of the MobileNet family."""

from pathlib import Path

import numpy as np
import torch
from torch import nn, Tensor
from torch.nn import functional

from mnv2_perception.data.folders import hash_list, list_classified
from mnv2_perception.data.images import read_image
from mnv2_perception.errors import DataError
from mnv2_perception.evaluation.metrics import by_class, ConfusionMatrix, MOST_CLASSES_LISTED
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.nets.backbones import make_backbone
from mnv2_perception.training import data
from mnv2_perception.training.loop import fit
from mnv2_perception.training.recipe import ClassificationRecipe
from mnv2_perception.training.task import Arrays, Measured, network_input, Task
from mnv2_perception.vision.preprocess import crop_to_aspect, fit_image, normalise


class ClassificationTask(Task):
    """Classification; measured by top-1 accuracy. Images are read when they are needed.

    Args:
        source: class folders or a TSV, see `data.folders.list_classified`.
        spec: spec of the exported model.
        recipe: see ClassificationRecipe.
        val: validation images, in the same form; None for none.

    Raises:
        DataError: a data set cannot be used.
    """

    metric = 'top1'

    def __init__(
        self, source: Path, spec: ModelSpec, recipe: ClassificationRecipe, val: Path | None
    ) -> None:
        self.spec = spec
        self.recipe = recipe
        self.images = list_classified(source, spec.classes)
        self.val_images = list_classified(val, spec.classes) if val else []
        data.check_disjoint(
            [path for path, _ in self.images], [path for path, _ in self.val_images]
        )
        for path, _ in self.val_images:  # report a damaged one now, not after the first epochs
            read_image(path)
        counts = np.bincount([label for _, label in self.images], minlength=len(spec.classes))
        if not counts.all():
            missing = [spec.classes[label] for label in np.flatnonzero(counts == 0)]
            raise DataError(f'{source}: no images of {", ".join(missing)}; every class needs some')
        self.class_weights = torch.from_numpy(data.class_weights(counts, recipe.balance))
        torch.manual_seed(recipe.seed)
        self.architecture = {
            'name': recipe.encoder,
            'width_mult': recipe.width_mult,
            'depth': recipe.encoder_depth,
            'pool': recipe.pool,
        }
        self.net = self.encoder = make_backbone(num_classes=len(spec.classes), **self.architecture)

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, rng: np.random.Generator) -> Arrays:
        """Return an image tensor (3, H, W) float32 and its class id, () int64."""
        path, label = self.images[index]
        image = read_image(path)
        spec = self.spec
        if spec.fit == 'crop':
            image = crop_to_aspect(image, spec.height, spec.width, spec.crop_ratio)
        elif spec.fit == 'letterbox':
            image = fit_image(image, spec.height, spec.width, spec.fit, pad=spec.pad)
        recipe = self.recipe
        image = data.augment_picture(
            image, spec.height, spec.width, recipe.min_crop, rng, recipe.light
        )
        return normalise(image, spec.mean, spec.std, spec.channel_order), np.array(label)

    def loss(self, outputs: Tensor, *targets: Tensor) -> Tensor:
        """Return the class-weighted cross entropy."""
        return functional.cross_entropy(
            outputs.float(), targets[0], self.class_weights.to(outputs.device),
            label_smoothing=self.recipe.label_smoothing,
        )

    def evaluate(self, net: nn.Module) -> Measured:
        """Return top-1 accuracy on the validation images, and the recall of each class."""
        if not self.val_images:
            return Measured(float('nan'))
        spec = self.spec
        matrix = ConfusionMatrix(len(spec.classes))
        with torch.inference_mode():
            for path, label in self.val_images:
                logits = net(network_input(read_image(path), spec, net))
                matrix.add(np.array([label]), logits.argmax(1).cpu().numpy())
        listed = len(spec.classes) <= MOST_CLASSES_LISTED
        return Measured(
            matrix.accuracy(), by_class(spec.classes, matrix.recall()) if listed else {}
        )


def train(
    source: Path,
    out: Path,
    spec: ModelSpec,
    recipe: ClassificationRecipe,
    weights: Path | None = None,
    val: Path | None = None,
    resume: bool = False,
    workers: int = 0,
) -> float:
    """Train a classifier; see ClassificationTask and `loop.fit` for the arguments.

    Returns:
        The best top-1 accuracy on `val`, 0 to 1; NaN without `val`.

    Raises:
        DataError: a data set cannot be used, or `out` holds another run.
        ModelError: weights or checkpoint cannot be loaded.
        SetupError: `out` cannot be created.
    """
    task = ClassificationTask(source, spec, recipe, val)
    facts = {
        'images': len(task),
        'training_list_sha256': hash_list(task.images),
        'val_list_sha256': hash_list(task.val_images),
    }
    return fit(task, out, recipe, facts, weights, resume, workers)
