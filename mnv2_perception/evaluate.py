"""Accuracy of a model on labelled images (`mnv2 evaluate`)."""

from collections.abc import Callable
from pathlib import Path
import statistics
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.dataset import list_pairs, read_coco, read_image, read_pair
from mnv2_perception.errors import DataError
from mnv2_perception.metrics import average_precision, check_pycocotools, ConfusionMatrix
from mnv2_perception.pipeline import Detections, Detector, Segmenter
from mnv2_perception.vision.detections import components

MIN_AREA = 40  # pixels of a component that counts as an object


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


def evaluate_detection(detector: Detector, path: Path) -> dict[str, Any]:
    """Run a detector over images and compare its boxes.

    Args:
        detector: the opened model; average precision wants a `min_score` of 0.
        path: COCO JSON, see `dataset.read_coco`; its classes are found by their names.

    Returns:
        `ap`, `ap50` and `ap50_per_class`, see `metrics.AveragePrecision`, None for NaN;
        `ms_per_image`, the median of preprocessing, inference and decoding; `images`.

    Raises:
        DataError: the file cannot be used, or has a class that the model does not know.
        SetupError: pycocotools is missing.
    """
    check_pycocotools()
    facts = {'model': detector.spec.name, 'engine': detector.engine.name}
    return facts | _evaluate_boxes(detector, detector.spec.classes, path)


def evaluate_components(
    segmenter: Segmenter, path: Path, min_area: int = MIN_AREA
) -> dict[str, Any]:
    """Take a mask's connected components for objects: what a detector has to beat.

    Args:
        segmenter: the opened model.
        path: COCO JSON; its classes are found by their names.
        min_area: pixels that a component has at least.

    Returns:
        See `evaluate_detection`.

    Raises:
        DataError: the file cannot be used, or has a class that the model does not know.
        SetupError: pycocotools is missing.
    """
    check_pycocotools()
    classes, _ = read_coco(path)
    names = segmenter.spec.classes
    wanted = [names.index(name) for name in classes if name in names]

    def find(image: NDArray[np.uint8]) -> Detections:
        mask = segmenter(image)
        return Detections(*components(mask.class_ids, mask.confidence, wanted, min_area)[:3])

    facts = {'model': segmenter.spec.name, 'engine': segmenter.engine.name}
    return facts | _evaluate_boxes(find, names, path)


def _evaluate_boxes(
    find: Callable[[NDArray[np.uint8]], Detections], names: tuple[str, ...], path: Path
) -> dict[str, Any]:
    classes, samples = read_coco(path)
    if unknown := [name for name in classes if name not in names]:
        raise DataError(
            f'{path}: the model does not know {", ".join(unknown)}; it knows {", ".join(names)}'
        )
    # From the model's id to the file's; other classes of the model count for none.
    file_id = np.array([classes.index(name) if name in classes else -1 for name in names])
    times_ms, found = [], []
    for sample in samples:
        image = read_image(sample.image)
        start_s = time.perf_counter()
        result = find(image)
        times_ms.append((time.perf_counter() - start_s) * 1000.0)
        ids = file_id[result.class_ids]
        found.append((result.boxes[ids >= 0], result.scores[ids >= 0], ids[ids >= 0]))
    precision = average_precision(samples, found, len(classes))

    def number(value: float) -> float | None:
        return None if value != value else value  # NaN is not JSON

    return {
        'images': len(samples),
        'ap': number(precision.ap),
        'ap50': number(precision.ap50),
        'ap50_per_class': {
            name: number(value)
            for name, value in zip(classes, precision.ap50_per_class, strict=True)
        },
        'ms_per_image': statistics.median(times_ms),
    }
