"""Accuracy of a model on labelled images (`mnv2 evaluate`)."""

from collections.abc import Callable
from pathlib import Path
import statistics
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.data.coco import read_coco
from mnv2_perception.data.folders import LabelCounts, list_classified, list_pairs, read_pair
from mnv2_perception.data.images import read_image
from mnv2_perception.engines import Engine
from mnv2_perception.errors import DataError
from mnv2_perception.evaluation.metrics import (
    average_precision,
    check_pycocotools,
    ConfusionMatrix,
)
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.tasks.classifier import Classifier
from mnv2_perception.tasks.detector import Detections, detections_from_mask, Detector
from mnv2_perception.tasks.segmenter import Segmenter

MIN_AREA = 40  # pixels of a component that counts as an object
MOST_CLASSES_LISTED = 50
HEADLINE = {'segmentation': 'miou', 'classification': 'top1', 'detection': 'ap'}


def evaluate_model(engine: Engine, spec: ModelSpec, data: Path) -> dict[str, Any]:
    """Measure what a model is for.

    Args:
        engine: the opened model.
        spec: its spec.
        data: see the function of its task; of a segmentation model boxes in COCO's JSON measure
            the objects in its masks.

    Raises:
        DataError: the data cannot be used.
    """
    if spec.task == 'classification':
        return evaluate_classification(Classifier(engine, spec), data)
    if spec.task == 'detection':
        return evaluate_detection(Detector(engine, spec, min_score=0.0), data)
    if data.suffix == '.json':
        return evaluate_components(Segmenter(engine, spec), data)
    return evaluate_segmentation(Segmenter(engine, spec), data)


def evaluate_segmentation(segmenter: Segmenter, folder: Path) -> dict[str, Any]:
    """Run a model over labelled images and compare at the images' own size.

    Args:
        segmenter: the opened model.
        folder: see `data.folders`; label ids at or above the class count are ignored.

    Returns:
        `miou`, `per_class` (name: IoU, None where the class never occurs) and
        `pixel_accuracy`, 0 to 1; `ms_per_image`, the median of preprocessing, inference and
        decoding; `images`; `unlabelled`, the share of pixels of no class, and `absent`, the
        classes that no pixel has.

    Raises:
        DataError: the folder cannot be used, or no pixel of it has one of the model's classes.
    """
    classes = segmenter.spec.classes
    matrix = ConfusionMatrix(len(classes))
    counts = LabelCounts(classes)
    times_ms = []
    for image_path, label_path in list_pairs(folder):
        image, label = read_pair(image_path, label_path)
        counts.add(label)
        start_s = time.perf_counter()
        result = segmenter(image)
        times_ms.append((time.perf_counter() - start_s) * 1000.0)
        matrix.add(label, result.class_ids)
    counts.check(folder)
    return {
        **_facts(segmenter),
        'images': len(times_ms),
        'miou': matrix.miou(),
        'per_class': by_class(classes, matrix.iou()),
        'pixel_accuracy': matrix.accuracy(),
        **counts.facts(),
        'ms_per_image': statistics.median(times_ms),
    }


def evaluate_classification(classifier: Classifier, source: Path) -> dict[str, Any]:
    """Run a model over classified images.

    Args:
        classifier: the opened model.
        source: see `data.folders.list_classified`.

    Returns:
        `top1`, the share of images whose likeliest class is right, and with more than five
        classes `top5`, that of images whose class is among the five likeliest (unless the
        classifier's `top_k` is smaller); `per_class` (name: recall, None where the class never
        occurs) with at most 50 classes; `ms_per_image`, the median of preprocessing, inference
        and decoding; `images`.

    Raises:
        DataError: the source cannot be used.
    """
    classes = classifier.spec.classes
    images = list_classified(source, classes)
    truth = np.array([class_id for _, class_id in images])
    predicted = np.full(len(images), len(classes))  # no class: none was sure enough
    in_top5, times_ms = 0, []
    for index, (path, class_id) in enumerate(images):
        image = read_image(path)
        start_s = time.perf_counter()
        result = classifier(image)
        times_ms.append((time.perf_counter() - start_s) * 1000.0)
        if len(result.class_ids):
            predicted[index] = result.class_ids[0]
        in_top5 += class_id in result.class_ids[:5]
    matrix = ConfusionMatrix(len(classes))
    matrix.add(truth, predicted)
    figures: dict[str, Any] = {
        **_facts(classifier),
        'images': len(images),
        'top1': matrix.accuracy(),
    }
    if len(classes) > 5 and classifier.top_k >= 5:
        figures['top5'] = in_top5 / len(images)
    if len(classes) <= MOST_CLASSES_LISTED:
        figures['per_class'] = by_class(classes, matrix.recall())
    figures['ms_per_image'] = statistics.median(times_ms)
    return figures


def evaluate_detection(detector: Detector, path: Path) -> dict[str, Any]:
    """Run a detector over images and compare its boxes.

    Args:
        detector: the opened model; average precision wants a `min_score` of 0.
        path: COCO JSON, see `data.coco.read_coco`; its classes are found by their names.

    Returns:
        `ap`, `ap50` and `ap50_per_class`, see `metrics.AveragePrecision`, None for NaN;
        `ms_per_image`, the median of preprocessing, inference and decoding; `images`.

    Raises:
        DataError: the file cannot be used, or has a class that the model does not know.
        SetupError: pycocotools is missing.
    """
    check_pycocotools()
    return _facts(detector) | _evaluate_boxes(detector, detector.spec.classes, path)


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
        return detections_from_mask(segmenter(image), wanted, min_area)

    return _facts(segmenter) | _evaluate_boxes(find, names, path)


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

    return {
        'images': len(samples),
        'ap': None if np.isnan(precision.ap) else precision.ap,
        'ap50': None if np.isnan(precision.ap50) else precision.ap50,
        'ap50_per_class': by_class(classes, np.array(precision.ap50_per_class)),
        'ms_per_image': statistics.median(times_ms),
    }


def _facts(opened: Segmenter | Classifier | Detector) -> dict[str, str]:
    """Return what was measured."""
    return {
        'model': opened.spec.name,
        'engine': opened.engine.name,
        'precision': opened.engine.precision,
    }


def by_class(classes: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, float | None]:
    """Return a figure by class name, None for NaN, which is not JSON."""
    return {
        name: None if value != value else value
        for name, value in zip(classes, values.tolist(), strict=True)
    }
