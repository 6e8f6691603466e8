"""Accuracy of a segmentation model on a folder of labelled images (`mnv2 evaluate`)."""

from pathlib import Path
import statistics
import time
from typing import Any

from mnv2_perception.dataset import list_pairs, read_pair
from mnv2_perception.errors import DataError
from mnv2_perception.metrics import ConfusionMatrix
from mnv2_perception.pipeline import Segmenter


def evaluate_segmentation(segmenter: Segmenter, folder: Path) -> dict[str, Any]:
    """Run a model over labelled images and compare at the images' own size.

    Args:
        segmenter: the opened model.
        folder: see `dataset`; label ids at or above the class count are ignored.

    Returns:
        `miou`, `per_class` (name: IoU, None where the class never occurs) and
        `pixel_accuracy`, 0 to 1; `ms_per_image`, the median of preprocessing, inference and
        decoding; `images`.

    Raises:
        DataError: the folder cannot be used, or no pixel of it has one of the model's classes.
    """
    classes = segmenter.spec.classes
    matrix = ConfusionMatrix(len(classes))
    times_ms = []
    for image_path, label_path in list_pairs(folder):
        image, label = read_pair(image_path, label_path)
        start_s = time.perf_counter()
        result = segmenter(image)
        times_ms.append((time.perf_counter() - start_s) * 1000.0)
        matrix.add(label, result.class_ids)
    if not matrix.counts.any():
        raise DataError(
            f'{folder}/labels: no pixel has an id below {len(classes)}, the class count of '
            f'{segmenter.spec.name}; are the labels those of this model?'
        )
    iou = matrix.iou().tolist()
    return {
        'model': segmenter.spec.name,
        'engine': segmenter.engine.name,
        'images': len(times_ms),
        'miou': matrix.miou(),
        'per_class': {
            name: None if value != value else value  # NaN is not JSON
            for name, value in zip(classes, iou, strict=True)
        },
        'pixel_accuracy': matrix.pixel_accuracy(),
        'ms_per_image': statistics.median(times_ms),
    }
