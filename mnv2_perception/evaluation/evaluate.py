"""Accuracy of a model on labelled images (`mnv2 evaluate`)."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
import statistics
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.data.coco import read_coco
from mnv2_perception.data.folders import LabelCounts, list_classified, list_pairs, read_pair
from mnv2_perception.data.images import is_bag, read_image
from mnv2_perception.engines import Engine
from mnv2_perception.errors import DataError
from mnv2_perception.evaluation.metrics import (
    average_precision,
    by_class,
    check_pycocotools,
    ConfusionMatrix,
    json_number,
    MOST_CLASSES_LISTED,
    sum_of,
)
from mnv2_perception.model_spec import ModelSpec
from mnv2_perception.tasks.classifier import Classifier
from mnv2_perception.tasks.detector import Detections, detections_from_mask, Detector
from mnv2_perception.tasks.segmenter import Segmenter

MIN_AREA = 40  # pixels of a component that counts as an object
HEADLINE = {'segmentation': 'miou', 'classification': 'top1', 'detection': 'ap'}


def evaluate_model(
    engine: Engine, spec: ModelSpec, data: Path, by_prefix: str = '', labels: str = '',
    topic: str = '',
) -> dict[str, Any]:
    """Measure what a model is for.

    Args:
        engine: the opened model.
        spec: its spec.
        data: see the function of its task; of a segmentation model boxes in COCO's JSON measure
            the objects in its masks, and a bag holds images and their labels.
        by_prefix: what ends the prefix of a file's name, such as `_` of `hall_0012.jpg`; the
            files of each are measured apart too. Empty: all together only.
        labels: topic of a bag's labels; empty takes what looks like it.
        topic: of a bag's images; empty takes what looks like its camera.

    Raises:
        DataError: the data cannot be used.
        BagError: a bag cannot be read.
    """
    if is_bag(data):
        if spec.task != 'segmentation':
            raise DataError(
                f'{data}: a bag has labels for segmentation, and {spec.name} is for {spec.task}; '
                f'give a folder or file of such labels'
            )
        return evaluate_segmentation(Segmenter(engine, spec), data, by_prefix, labels, topic)
    if labels or topic:
        raise DataError(f'{data}: is no bag, and a topic names something in a bag alone')
    if spec.task == 'classification':
        return evaluate_classification(Classifier(engine, spec), data, by_prefix)
    if spec.task == 'detection':
        return evaluate_detection(Detector(engine, spec, min_score=0.0), data, by_prefix)
    if data.suffix == '.json':
        return evaluate_components(Segmenter(engine, spec), data, MIN_AREA, by_prefix)
    return evaluate_segmentation(Segmenter(engine, spec), data, by_prefix)


def prefix_of(path: Path, end: str) -> str:
    """Return a file's name up to `end`, or all of it but the suffix; '' without an `end`."""
    return path.stem.split(end)[0] if end else ''


def evaluate_segmentation(
    segmenter: Segmenter, folder: Path, by_prefix: str = '', labels: str = '', topic: str = ''
) -> dict[str, Any]:
    """Run a model over labelled images and compare at the images' own size.

    Args:
        segmenter: the opened model.
        folder: see `data.folders`; label ids at or above the class count are ignored. Or a bag.
        by_prefix: see `evaluate_model`, as for the next two.
        labels: topic of a bag's labels.
        topic: of a bag's images.

    Returns:
        `miou`, over the classes that the labels have; `per_class` (name: IoU, None where no label
        has the class), `pixel_accuracy` and `false_alarms` (name of a class that no label has:
        the share of pixels taken for it), 0 to 1; `by_prefix` (prefix: the same of its images),
        if asked for; `confusion` (true class: predicted class: pixels); `ms_per_image`, the
        median of preprocessing, inference and decoding; `images`; `unlabelled`, the share of
        pixels of no class, and `absent`, the classes that no pixel has.

    Raises:
        DataError: the folder cannot be used, or no pixel of it has one of the model's classes.
    """
    classes = segmenter.spec.classes
    parts: dict[str, ConfusionMatrix] = {}
    images: Counter[str] = Counter()
    counts = LabelCounts(classes)
    times_ms = []
    for name, image, label in _labelled(folder, labels, topic, classes):
        counts.add(label)
        start_s = time.perf_counter()
        result = segmenter(image)
        times_ms.append((time.perf_counter() - start_s) * 1000.0)
        prefix = prefix_of(Path(name), by_prefix)
        images[prefix] += 1
        parts.setdefault(prefix, ConfusionMatrix(len(classes))).add(label, result.class_ids)
    counts.check(folder)

    def figures(matrix: ConfusionMatrix) -> dict[str, Any]:
        alarms = by_class(classes, matrix.false_alarms())
        return {
            'miou': json_number(matrix.miou()),
            'per_class': by_class(classes, matrix.iou()),
            'false_alarms': {name: share for name, share in alarms.items() if share},
            'pixel_accuracy': json_number(matrix.accuracy()),
        }

    whole = sum_of(parts.values(), len(classes))
    return {
        **_facts(segmenter),
        'images': len(times_ms),
        **figures(whole),
        **counts.facts(),
        **_by_prefix(parts, by_prefix, images, figures),
        'confusion': confusion(whole, classes),
        'ms_per_image': statistics.median(times_ms),
    }


def _labelled(
    data: Path, labels: str, topic: str, classes: tuple[str, ...]
) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield name, image and label of each pair of a folder or a bag."""
    if is_bag(data):
        from mnv2_perception.evaluation.labels import labelled_images  # needs rosbags

        yield from labelled_images(data, labels, topic, classes)
        return
    for image_path, label_path in list_pairs(data):
        yield image_path.name, *read_pair(image_path, label_path)


def evaluate_classification(
    classifier: Classifier, source: Path, by_prefix: str = ''
) -> dict[str, Any]:
    """Run a model over classified images.

    Args:
        classifier: the opened model.
        source: see `data.folders.list_classified`.
        by_prefix: see `evaluate_model`.

    Returns:
        `top1`, the share of images whose likeliest class is right, and with more than five
        classes `top5`, that of images whose class is among the five likeliest (unless the
        classifier's `top_k` is smaller); with at most 50 classes `per_class` (name: recall, None
        where the class never occurs) and `confusion` (true class: predicted class: images);
        `by_prefix` (prefix: the same of its images), if asked for; `ms_per_image`, the median of
        preprocessing, inference and decoding; `images`.

    Raises:
        DataError: the source cannot be used.
    """
    classes = classifier.spec.classes
    listed = len(classes) <= MOST_CLASSES_LISTED
    found = list_classified(source, classes)
    parts: dict[str, ConfusionMatrix] = {}
    images: Counter[str] = Counter()
    in_top5, times_ms = 0, []
    for path, class_id in found:
        image = read_image(path)
        start_s = time.perf_counter()
        result = classifier(image)
        times_ms.append((time.perf_counter() - start_s) * 1000.0)
        best = result.class_ids[0] if len(result.class_ids) else len(classes)  # not sure enough
        in_top5 += class_id in result.class_ids[:5]
        prefix = prefix_of(path, by_prefix)
        images[prefix] += 1
        parts.setdefault(prefix, ConfusionMatrix(len(classes))).add(
            np.array([class_id]), np.array([best])
        )

    def figures(matrix: ConfusionMatrix) -> dict[str, Any]:
        recall = {'per_class': by_class(classes, matrix.recall())} if listed else {}
        return {'top1': matrix.accuracy(), **recall}

    whole = sum_of(parts.values(), len(classes))
    top5 = len(classes) > 5 and classifier.top_k >= 5
    return {
        **_facts(classifier),
        'images': len(found),
        **figures(whole),
        **({'top5': in_top5 / len(found)} if top5 else {}),
        **_by_prefix(parts, by_prefix, images, figures),
        **({'confusion': confusion(whole, classes)} if listed else {}),
        'ms_per_image': statistics.median(times_ms),
    }


def _by_prefix(
    parts: dict[str, ConfusionMatrix],
    by_prefix: str,
    images: Counter[str],
    figures: Callable[[ConfusionMatrix], dict[str, Any]],
) -> dict[str, Any]:
    if not by_prefix:
        return {}
    return {'by_prefix': {
        name: {'images': images[name], **figures(part)} for name, part in sorted(parts.items())
    }}


def confusion(matrix: ConfusionMatrix, classes: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Return true class: predicted class (or `no class`): how many; the true ones that occur."""
    names = (*classes, 'no class')
    return {
        true: {name: count for name, count in zip(names, row, strict=True) if count}
        for true, row in zip(classes, matrix.counts.tolist(), strict=True) if any(row)
    }


def evaluate_detection(
    detector: Detector, path: Path, by_prefix: str = ''
) -> dict[str, Any]:
    """Run a detector over images and compare its boxes.

    Args:
        detector: the opened model; average precision wants a `min_score` of 0.
        path: COCO JSON, see `data.coco.read_coco`; its classes are found by their names.
        by_prefix: see `evaluate_model`.

    Returns:
        `ap`, `ap50` and `ap50_per_class`, see `metrics.AveragePrecision`, None for NaN;
        `by_prefix` (prefix: the same of its images), if asked for;
        `ms_per_image`, the median of preprocessing, inference and decoding; `images`.

    Raises:
        DataError: the file cannot be used, or has a class that the model does not know.
        SetupError: pycocotools is missing.
    """
    check_pycocotools()
    return _facts(detector) | _evaluate_boxes(
        detector, detector.spec.classes, path, by_prefix
    )


def evaluate_components(
    segmenter: Segmenter, path: Path, min_area: int = MIN_AREA, by_prefix: str = ''
) -> dict[str, Any]:
    """Take a mask's connected components for objects: what a detector has to beat.

    Args:
        segmenter: the opened model.
        path: COCO JSON; its classes are found by their names.
        min_area: pixels that a component has at least.
        by_prefix: see `evaluate_model`.

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

    return _facts(segmenter) | _evaluate_boxes(find, names, path, by_prefix)


def _evaluate_boxes(
    find: Callable[[NDArray[np.uint8]], Detections],
    names: tuple[str, ...],
    path: Path,
    by_prefix: str,
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

    def figures(indices: list[int]) -> dict[str, Any]:
        precision = average_precision(
            [samples[index] for index in indices], [found[index] for index in indices],
            len(classes),
        )
        return {
            'images': len(indices),
            'ap': json_number(precision.ap),
            'ap50': json_number(precision.ap50),
            'ap50_per_class': by_class(classes, np.array(precision.ap50_per_class)),
        }

    parts: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        parts.setdefault(prefix_of(sample.image, by_prefix), []).append(index)
    apart = {name: figures(indices) for name, indices in sorted(parts.items())}
    return {
        **figures(list(range(len(samples)))),
        **({'by_prefix': apart} if by_prefix else {}),
        'ms_per_image': statistics.median(times_ms),
    }


def _facts(opened: Segmenter | Classifier | Detector) -> dict[str, str]:
    """Return what was measured."""
    return {
        'model': opened.spec.name,
        'engine': opened.engine.name,
        'precision': opened.engine.precision,
    }
